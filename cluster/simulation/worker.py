"""A worker process: runs seeds, with or without a planted bug.

At the top it imports nothing of the packages in which bugs are planted.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from cluster.simulation.planting import plant

if TYPE_CHECKING:
    from cluster.simulation.exhaustive import Exploration
    from cluster.simulation.settings import Outcome, Settings
    from cluster.simulation.shrink import Replay


def prepare(edits: Sequence[tuple[str, str, str]]) -> None:
    """Begin to work: plant what is to be planted; log nothing, and leave Ctrl-C to the parent.

    Args:
        edits: module, snippet and its replacement, for every place of a bug.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    plant(edits)
    gc.disable()


def run(task: tuple[Settings, Sequence[int]]) -> list[Outcome]:
    """Run seeds.

    What is there before the first run stays, so that picking up after each run looks at what that run left only.

    Args:
        task: settings and seeds.
    """
    from cluster.simulation.simulation import run_seed  # noqa: PLC0415  # after planting

    settings, seeds = task
    if not gc.get_freeze_count():
        gc.freeze()
    outcomes = []
    for seed in seeds:
        outcomes.append(run_seed(settings, seed))
        gc.collect()
    return outcomes


def replay(task: tuple[Settings, int, bool]) -> Replay:
    """Run one seed once more and tell what happens in it.

    Args:
        task: settings, seed, and whether to look for a smaller schedule that fails in the same way.
    """
    from cluster.simulation.shrink import replay_seed  # noqa: PLC0415  # after planting

    settings, seed, shrink = task
    return replay_seed(settings, seed, shrink=shrink)


def explore(byzantine: int | None, most: int | None) -> Exploration:
    """Explore the view changes of the small bounded schedule, with one replica, or none, Byzantine."""
    from cluster.simulation.exhaustive import explore as explore_all  # noqa: PLC0415  # after planting

    return explore_all(byzantine, most)
