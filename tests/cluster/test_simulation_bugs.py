"""A checker that cannot fail is worthless: planted bugs are caught, in worker processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.simulation.bugs import BUGS, Catch, edits_of, find_bug, hunt, hunt_one, markdown_of
from cluster.simulation.exhaustive import BYZANTINE, add_up, explore
from cluster.simulation.habits import HABITS
from cluster.simulation.planted import Bug
from cluster.simulation.planting import PlantError, plant, replaced
from cluster.simulation.runner import Workers, run_many
from cluster.simulation.settings import FAULTS, Settings
from consensus.errors import InputError
from tests.project import ROOT


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_snippets_of_every_bug_are_there_once_and_compile(bug) -> None:
    sources: dict[str, str] = {}
    for module, old, new in edits_of(bug.name):
        source = sources.get(module) or Path(ROOT, module.replace(".", "/") + ".py").read_text(encoding="utf-8")
        sources[module] = replaced(source, old, new, module)
    for module, source in sources.items():
        compile(source, module, "exec")
    assert set(bug.faults) <= set(FAULTS)
    assert set(bug.habits) <= set(HABITS)


def test_the_table_holds_enough_bugs_with_different_names() -> None:
    names = [bug.name for bug in BUGS]
    assert len(names) == len(set(names)) >= 24


SHOWN_BY = {
    "bad-batch-prepared": 20,
    "batch-not-fetched": 10,
    "dedupe-outside-state": 20,
    "lower-view-p": 20,
    "no-null-request": 10,
    "old-epoch-goes-on": 10,
    "snapshot-on-trust": 10,
    "timer-too-early": 50,
}
"""Bugs that the first seeds do not show: from which on ten seeds are tried here. (``gridpact simulate --bugs`` begins with 0.)"""


@pytest.fixture(scope="module")
def catches() -> Iterator[dict[str, Catch]]:
    """How every bug was caught, all of them planted at the beginning, two at a time."""

    def catch(bug: Bug) -> Catch:
        start = SHOWN_BY.get(bug.name, 0)
        return hunt_one(bug, 1, 1, sound, range(start, start + 10))

    with Workers(1) as sound, ThreadPoolExecutor(2) as threads:
        yield {one.bug: one for one in threads.map(catch, BUGS)}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_is_caught(bug: Bug, catches: dict[str, Catch]) -> None:
    assert catches[bug.name].caught > 0
    assert SHOWN_BY.get(bug.name, 0) + 10 <= bug.seeds


def test_a_caught_bug_tells_by_whom_and_how_to_see_it_again() -> None:
    bug = find_bug("sent-before-synced")
    settings = Settings(bug.nodes, bug.faults, plant=bug.name)
    report = run_many((settings,), range(3), 1, lambda done, total, failed: None, edits_of(bug.name))
    assert report.safety_violations == 3
    assert report.failures[0].checker == "write-ahead"
    assert report.failures[0].command.endswith("--plant sent-before-synced")
    with Workers(1, edits_of(bug.name)) as workers:
        replay = workers.replay(settings, 0, shrink=True)
    assert replay.outcome.safety.startswith("write-ahead")
    assert replay.dropped > 0


def test_the_table_as_markdown() -> None:
    report = hunt(1, lambda done, total, name: None, (find_bug("wiped-votes-at-once"),), catches=1)
    lines = markdown_of(report).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| `wiped-votes-at-once` |")


def test_unknown_bugs_and_snippets_are_refused() -> None:
    with pytest.raises(InputError, match="there is no bug 'nonsense'"):
        find_bug("nonsense")
    with pytest.raises(PlantError, match="2 times"):
        replaced("a b a", "a", "c", "module")
    assert "consensus.quorum" in sys.modules
    with pytest.raises(PlantError, match="imported already"):
        plant([("consensus.quorum", "a", "b")])


def test_no_view_change_of_four_replicas_contradicts_a_decision() -> None:
    report = add_up([explore(byzantine) for byzantine in BYZANTINE])
    assert report.good, report
    assert report.schedules > 500_000
    assert report.decided > 1_000


@pytest.mark.parametrize(("name", "byzantine"), [("o-not-recomputed", 1), ("o-loses-last", 2)])
def test_the_exploration_finds_bugs_of_view_changes(name: str, byzantine: int) -> None:
    with Workers(1, edits_of(name)) as workers:
        assert not add_up(workers.explore((byzantine,), most=400)).good
