"""Many runs on all cores, and what they come to."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import msgspec

from cluster.simulation import worker
from cluster.simulation.exhaustive import Exploration
from cluster.simulation.planting import PlantError
from cluster.simulation.settings import FAULTS, Outcome, Settings
from cluster.simulation.shrink import Replay

CHUNK = 10
MOST_WAITING = 16
Edits = Sequence[tuple[str, str, str]]
Progress = Callable[[int, int, int], None]
"""Takes runs done, runs in all, violations so far."""


class Failure(msgspec.Struct, frozen=True):
    """One run that violated something.

    Fields:
        command: replays it.
    """

    nodes: int
    seed: int
    checker: str
    what: str
    command: str


class Report(msgspec.Struct, frozen=True):
    """What many runs came to.

    Fields:
        runs, events: how many; simulated_s: virtual time of all together.
        faults: how often each struck; safety_violations, liveness_violations: how many runs; failing_seeds: which.
        nodes: the cluster sizes; cores: how many worked.
        blocks, transactions, view_changes: what the runs came to (view_changes: highest views, summed).
    """

    runs: int
    events: int
    simulated_s: float
    wall_s: float
    faults: dict[str, int]
    safety_violations: int
    liveness_violations: int
    failing_seeds: tuple[int, ...]
    nodes: tuple[int, ...]
    cores: int
    runs_per_s_per_core: float
    simulated_h_per_wall_h: float
    blocks: int
    transactions: int
    view_changes: int
    failures: tuple[Failure, ...]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Workers:
    """Worker processes; use it as a context manager.

    Args:
        count: how many.
        edits: what is planted in them.
    """

    def __init__(self, count: int, edits: Edits = ()) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, spawn, worker.prepare, (tuple(edits),))

    def __enter__(self) -> Workers:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End: what has not begun is given up."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def outcomes(self, settings: Sequence[Settings], seeds: range) -> Iterator[list[Outcome]]:
        """Yield the outcomes of all seeds under all settings, chunk by chunk, in order.

        Raises:
            PlantError: the bug cannot be planted.
        """
        waiting: deque[Future[list[Outcome]]] = deque()
        for start in range(0, len(seeds), CHUNK):
            for one in settings:
                waiting.append(self._submit((one, list(seeds[start : start + CHUNK]))))
            while len(waiting) >= MOST_WAITING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def some(self, task: tuple[Settings, list[int]]) -> list[Outcome]:
        """Return the outcomes of a few seeds."""
        return self._submit(task).result() if task[1] else []

    def _submit(self, task: tuple[Settings, list[int]]) -> Future[list[Outcome]]:
        try:
            return self._pool.submit(worker.run, task)
        except BrokenProcessPool as error:
            raise PlantError("the worker processes could not begin") from error

    def replay(self, settings: Settings, seed: int, *, shrink: bool) -> Replay:
        """Run one seed again and return its trace."""
        return self._pool.submit(worker.replay, (settings, seed, shrink)).result()

    def explore(self, byzantine: Sequence[int | None], most: int | None = None) -> list[Exploration]:
        """Explore the small bounded schedule, one part for each who may be Byzantine."""
        parts = [self._pool.submit(worker.explore, one, most) for one in byzantine]
        return [part.result() for part in parts]


def run_many(settings: Sequence[Settings], seeds: range, jobs: int, progress: Progress, edits: Edits = ()) -> Report:
    """Run all seeds under all settings.

    Args:
        jobs: worker processes.
        progress: told after every chunk.
    """
    began = time.monotonic()
    done: list[Outcome] = []
    total, failed = len(seeds) * len(settings), 0
    with Workers(jobs, edits) as workers:
        for outcomes in workers.outcomes(settings, seeds):
            done += outcomes
            failed += sum(outcome.failed for outcome in outcomes)
            progress(len(done), total, failed)
    return make_report(settings, done, time.monotonic() - began, jobs)


def make_report(settings: Sequence[Settings], outcomes: Sequence[Outcome], wall_s: float, jobs: int) -> Report:
    """Add up what runs came to, in an order that does not depend on who was ready first."""
    ordered = sorted(outcomes, key=lambda outcome: (outcome.nodes, outcome.seed))
    by_nodes = {one.nodes: one for one in settings}
    faults: dict[str, int] = {}
    for outcome in ordered:
        for name, count in sorted(outcome.faults.items()):
            faults[name] = faults.get(name, 0) + count
    failures = tuple(_failure(by_nodes[outcome.nodes], outcome) for outcome in ordered if outcome.failed)
    simulated_s = sum(outcome.virtual_ms for outcome in ordered) / 1000
    return Report(
        runs=len(ordered),
        events=sum(outcome.events for outcome in ordered),
        simulated_s=simulated_s,
        wall_s=round(wall_s, 3),
        faults=dict(sorted(faults.items())),
        safety_violations=sum(bool(outcome.safety) for outcome in ordered),
        liveness_violations=sum(bool(outcome.liveness) for outcome in ordered),
        failing_seeds=tuple(sorted({failure.seed for failure in failures})),
        nodes=tuple(sorted(by_nodes)),
        cores=jobs,
        runs_per_s_per_core=round(len(ordered) / wall_s / jobs, 2),
        simulated_h_per_wall_h=round(simulated_s / wall_s, 1),
        blocks=sum(outcome.blocks for outcome in ordered),
        transactions=sum(outcome.transactions for outcome in ordered),
        view_changes=sum(outcome.views for outcome in ordered),
        failures=failures,
    )


def _failure(settings: Settings, outcome: Outcome) -> Failure:
    what = outcome.safety or outcome.liveness
    return Failure(outcome.nodes, outcome.seed, outcome.checker, what, replay_command(settings, outcome.seed))


def replay_command(settings: Settings, seed: int) -> str:
    """Return the command that replays a run."""
    plain = Settings()
    parts = [f"gridpact simulate --nodes {settings.nodes} --replay {seed}"]
    if settings.faults != FAULTS:
        parts.append(f"--faults {','.join(settings.faults) or 'none'}")
    if settings.byzantine is not None:
        parts.append(f"--byzantine {settings.byzantine}")
    if settings.habits:
        parts.append(f"--habits {','.join(settings.habits)}")
    if settings.calm_ms != plain.calm_ms:
        parts.append(f"--ticks {settings.calm_ms}")
    if settings.real_signatures:
        parts.append("--signatures real")
    if settings.plant:
        parts.append(f"--plant {settings.plant}")
    return " ".join(parts)
