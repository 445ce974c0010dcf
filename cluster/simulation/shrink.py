"""Replaying a seed in words, and shrinking its schedule to what it takes to fail."""

from __future__ import annotations

import msgspec

from cluster.simulation.schedule import Fault, Schedule, make_schedule
from cluster.simulation.settings import Outcome, Settings
from cluster.simulation.simulation import Simulation
from cluster.simulation.trace import Trace
from cluster.simulation.workload import Sending

MOST_ATTEMPTS = 300


class Replay(msgspec.Struct, frozen=True):
    """One run in words.

    Fields:
        outcome: of the run.
        schedule: its faults and sendings, one line each.
        lines: every step.
        digest: hash over all lines.
        dropped: how many faults and sendings were left out without changing how it fails.
    """

    outcome: Outcome
    schedule: tuple[str, ...]
    lines: tuple[str, ...]
    digest: str
    dropped: int = 0


def replay_seed(settings: Settings, seed: int, *, shrink: bool = False) -> Replay:
    """Run one seed and keep its trace.

    Args:
        shrink: if it fails, look for a smaller schedule that fails in the same way.
    """
    full = schedule = make_schedule(settings, seed)
    if shrink:
        schedule = shrunk(settings, full)
    trace = Trace()
    outcome = Simulation(settings, schedule, trace).run()
    happens = (*map(str, schedule.faults), *map(str, schedule.sendings))
    dropped = len(full.faults) + len(full.sendings) - len(happens)
    return Replay(outcome, happens, tuple(trace.lines), trace.digest, dropped)


def shrunk(settings: Settings, schedule: Schedule) -> Schedule:
    """Return the smallest schedule found by leaving things out that still fails by the same checker; the same one if it does not fail."""
    checker = _checker(settings, schedule)
    if not checker:
        return schedule
    attempts = 0
    before = None
    while before != schedule:
        before = schedule
        for smaller in _smaller(schedule):
            if attempts >= MOST_ATTEMPTS:
                return schedule
            candidate = smaller(schedule)
            if candidate is None:
                continue
            attempts += 1
            if _checker(settings, candidate) == checker:
                schedule = candidate
    return schedule


class _Without:
    """Leaves a part of the faults or of the sendings out."""

    def __init__(self, faults: tuple[Fault, ...] = (), sendings: tuple[Sending, ...] = ()) -> None:
        self._faults = faults
        self._sendings = sendings

    def __call__(self, schedule: Schedule) -> Schedule | None:
        faults = tuple(fault for fault in schedule.faults if fault not in self._faults)
        sendings = tuple(sending for sending in schedule.sendings if sending not in self._sendings)
        if (faults, sendings) == (schedule.faults, schedule.sendings):
            return None
        return msgspec.structs.replace(schedule, faults=faults, sendings=sendings)


def _smaller(schedule: Schedule) -> list[_Without]:
    """Return what can be left out: big parts first, then one after the other."""
    half = len(schedule.sendings) // 2
    parts = [_Without(sendings=schedule.sendings[half:]), _Without(sendings=schedule.sendings[:half])]
    parts += [_Without(faults=(fault,)) for fault in reversed(schedule.faults)]
    parts += [_Without(sendings=(sending,)) for sending in reversed(schedule.sendings)]
    return parts


def _checker(settings: Settings, schedule: Schedule) -> str:
    return Simulation(settings, schedule).run().checker
