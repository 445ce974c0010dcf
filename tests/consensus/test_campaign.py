"""Random campaigns (see ``campaign.py`` and ``upheaval.py``). Seeds that ever failed stay here for ever, with their cause."""

from __future__ import annotations

import pytest

from tests.consensus import upheaval
from tests.consensus.campaign import run

SIZES = (4, 5, 6, 7)

SPLIT_VIEWS = [(7, 5001, False), (4, 5002, False), (5, 5007, False), (7, 5010, False), (4, 5013, False), (4, 5015, False)]
SPLIT_VIEWS += [(5, 9004, True), (4, 9013, True), (4, 9014, True)]
"""Found with f replicas dead and one a view ahead of the others: the timer waited for q view-changes in one's own view, for ever."""


@pytest.mark.parametrize(("n", "seed", "byzantine"), SPLIT_VIEWS)
def test_seeds_that_failed_once(n: int, seed: int, byzantine: bool) -> None:
    assert run(n, seed, byzantine=byzantine) is None


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("byzantine", [False, True], ids=["crashes", "byzantine"])
def test_campaigns_neither_fork_nor_stall(n: int, seed: int, byzantine: bool) -> None:
    assert run(n, seed, byzantine=byzantine) is None


UPHEAVALS = [
    (4, 1000, False),  # all restarted between the announcement of an epoch and its beginning: nobody drove the idle chain there
    (5, 10, True),  # a block that was fetched before a snapshot was adopted was never executed after it
    (4, 1075, True),  # two that lagged asked each other for the same blocks at the speed of the network, for ever
    (4, 9, False),  # a named validator without its vote log took a pre-prepare and stopped: it had no seat to prepare with
]


@pytest.mark.parametrize(("n", "seed", "byzantine"), UPHEAVALS)
def test_upheavals_that_failed_once(n: int, seed: int, byzantine: bool) -> None:
    assert upheaval.run(n, seed, byzantine=byzantine) is None


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("byzantine", [False, True], ids=["wipes", "byzantine"])
def test_upheavals_neither_fork_nor_stall(n: int, seed: int, byzantine: bool) -> None:
    assert upheaval.run(n, seed, byzantine=byzantine) is None
