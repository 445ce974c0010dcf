"""The hunt for planted bugs: every bug of the table is planted in worker processes of its own, and must be caught there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from cluster.simulation import planted_surroundings, planted_views, planted_votes
from cluster.simulation.planted import Bug
from cluster.simulation.runner import Workers
from cluster.simulation.settings import Outcome, Settings
from consensus.errors import InputError

BUGS: tuple[Bug, ...] = (*planted_votes.BUGS, *planted_views.BUGS, *planted_surroundings.BUGS)
"""The table: each is a known trap of PBFT and its surroundings, and each must be caught within a stated number of seeds."""
CATCHES = 5
"""How often a bug is caught for the median, if the allowed seeds do for that."""


class Catch(msgspec.Struct, frozen=True):
    """How one bug was caught.

    Fields:
        checkers: that caught it, the most frequent first.
        caught: in how many of the ``tried`` seeds.
        first: how many seeds it took until the first time; 0: never.
        median: how many seeds it took on the median, from one catch to the next.
        allowed: within how many it must be caught.
    """

    bug: str
    trap: str
    nodes: int
    checkers: tuple[str, ...]
    caught: int
    tried: int
    first: int
    median: float
    allowed: int

    @property
    def good(self) -> bool:
        """Whether it was caught in time."""
        return 0 < self.first <= self.allowed


class BugReport(msgspec.Struct, frozen=True):
    """What became of all planted bugs."""

    bugs: tuple[Catch, ...]
    missed: tuple[str, ...]


def find_bug(name: str) -> Bug:
    """Return the planted bug of that name.

    Raises:
        InputError: there is none.
    """
    for bug in BUGS:
        if bug.name == name:
            return bug
    raise InputError("--plant", f"there is no bug {name[:40]!r}; there are {', '.join(bug.name for bug in BUGS)}")


def edits_of(name: str) -> tuple[tuple[str, str, str], ...]:
    """Return what to plant for a bug; nothing for no name."""
    return tuple((edit.module, edit.old, edit.new) for edit in find_bug(name).edits) if name else ()


def settings_of(bug: Bug) -> Settings:
    """Return the runs that look for a bug."""
    byzantine = 1 if bug.habits else None
    return Settings(bug.nodes, bug.faults, byzantine, bug.habits, bug.calm_ms, False, bug.name)


def hunt(jobs: int, progress: Callable[[int, int, str], None], bugs: Sequence[Bug] = BUGS, catches: int = CATCHES) -> BugReport:
    """Plant one bug after the other and look for it.

    Args:
        jobs: worker processes.
        progress: told how many bugs are done, of how many, and which is next.
        catches: how often each is to be caught before the next one's turn.
    """
    found = []
    with Workers(1) as sound:
        for number, bug in enumerate(bugs):
            progress(number, len(bugs), bug.name)
            found.append(hunt_one(bug, jobs, catches, sound, range(bug.seeds)))
    return BugReport(tuple(found), tuple(catch.bug for catch in found if not catch.good))


def hunt_one(bug: Bug, jobs: int, catches: int, sound: Workers, seeds: range) -> Catch:
    """Look for one bug. A run that fails without it, too, catches nothing.

    Args:
        jobs, catches: as for :func:`hunt`.
        sound: a worker without the bug.
        seeds: to try at most.
    """
    settings, outcomes, caught = settings_of(bug), list[Outcome](), 0
    with Workers(jobs, edits_of(bug.name)) as workers:
        for chunk in workers.outcomes((settings,), seeds):
            failing = [outcome.seed for outcome in chunk if outcome.failed]
            unsound = [outcome.seed for outcome in sound.some((msgspec.structs.replace(settings, plant=""), failing)) if outcome.failed]
            outcomes += [outcome for outcome in chunk if outcome.seed not in unsound]
            caught += len(failing) - len(unsound)
            if caught >= catches:
                break
    return _sum_up(bug, outcomes)


def _sum_up(bug: Bug, outcomes: list[Outcome]) -> Catch:
    steps, since = list[int](), 0
    by_checker: dict[str, int] = {}
    for outcome in outcomes:
        since += 1
        if outcome.failed:
            steps.append(since)
            since = 0
            by_checker[outcome.checker] = by_checker.get(outcome.checker, 0) + 1
    checkers = tuple(sorted(by_checker, key=lambda name: (-by_checker[name], name)))
    first = next((place for place, outcome in enumerate(outcomes, 1) if outcome.failed), 0)
    return Catch(
        bug.name, bug.trap, bug.nodes, checkers, len(steps), len(outcomes), first, float(median(steps)) if steps else 0.0, bug.seeds
    )


def markdown_of(report: BugReport) -> str:
    """Return the table for a document."""
    lines = ["| bug | what it is | n | caught by | first seed | median | allowed |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for catch in report.bugs:
        caught = ", ".join(catch.checkers) or "nobody"
        lines.append(
            f"| `{catch.bug}` | {catch.trap} | {catch.nodes} | {caught} | {catch.first or '-'} | {catch.median:g} | {catch.allowed} |"
        )
    return "\n".join(lines) + "\n"
