"""Every view change of a small bounded schedule: four real replicas, one sequence number, from view 0 to view 1.

All choices are tried: who is Byzantine (nobody, the first primary, the second one, a backup), which pre-prepare each honest replica gets,
which prepares and which commits, which q view-changes the second primary takes, and what the Byzantine replica puts into its own.
Then view 1 runs to its end. Whatever was decided in view 0 must be decided in view 1.

A replica's state after a phase depends only on what that replica got. So every set of messages is given to every replica once, states
that are alike are kept once with the number of ways that lead to them, and the products of these are the schedules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import msgspec

from cluster.simulation.second_view import SecondView
from cluster.simulation.table_of_four import BATCHES, Four, Player, Votes

SEATS = (0, 1, 2, 3)
BYZANTINE: tuple[int | None, ...] = (None, 0, 1, 2)
FIRST_PRIMARY = 0
MOST_CONTRADICTIONS = 10
State = tuple[Player | None, ...]
"""A player per seat; None for the Byzantine one."""


class Contradiction(msgspec.Struct, frozen=True):
    """A decision of view 0 that view 1 contradicts."""

    byzantine: int | None
    what: str


class Exploration(msgspec.Struct, frozen=True):
    """What the exploration found.

    Fields:
        schedules: ways of delivering messages that were covered in view 0.
        states: different states of all replicas that these lead to.
        view_changes: view changes that were run from these, each to the end of view 1.
        decided: in how many of these somebody had decided in view 0.
        contradictions: the first few decisions that did not hold; there must be none.
        stuck: view changes after which view 1 decided nothing although something was proposed as it should be; there must be none.
    """

    schedules: int
    states: int
    view_changes: int
    decided: int
    contradictions: tuple[Contradiction, ...]
    stuck: int

    @property
    def good(self) -> bool:
        """Whether everything decided stayed decided."""
        return not self.contradictions and not self.stuck


def explore(byzantine: int | None, most: int | None = None) -> Exploration:
    """Explore all schedules with one replica, or none, Byzantine.

    Args:
        most: run only so many view changes; None: all.
    """
    four = Four(byzantine)
    ends = _view_zero(four)
    second = SecondView(four)
    decided = stuck = 0
    found: list[Contradiction] = []
    for state, _ in ends.values():
        if most is not None and second.count >= most:
            break
        for finish in second.finishes(state):
            decided += finish.was_decided
            stuck += finish.is_stuck
            if finish.contradiction and len(found) < MOST_CONTRADICTIONS:
                found.append(Contradiction(byzantine, finish.contradiction))
    return Exploration(sum(ways for _, ways in ends.values()), len(ends), second.count, decided, tuple(found), stuck)


def add_up(parts: Sequence[Exploration]) -> Exploration:
    """Return several explorations as one."""
    return Exploration(
        schedules=sum(part.schedules for part in parts),
        states=sum(part.states for part in parts),
        view_changes=sum(part.view_changes for part in parts),
        decided=sum(part.decided for part in parts),
        contradictions=tuple(one for part in parts for one in part.contradictions),
        stuck=sum(part.stuck for part in parts),
    )


def _view_zero(four: Four) -> dict[object, tuple[State, int]]:
    """Return all states after view 0, with the number of ways that lead to each."""
    ends: dict[object, tuple[State, int]] = {}
    for start in _after_pre_prepares(four):
        prepares = four.prepares(start)
        for state, ways in _delivered(four, start, prepares):
            for end, more in _delivered(four, state, four.commits(state)):
                key = tuple(None if player is None else player.key for player in end)
                known = ends.get(key)
                ends[key] = (end, ways * more) if known is None else (known[0], known[1] + ways * more)
    return ends


def _after_pre_prepares(four: Four) -> Iterator[State]:
    """Yield the states after every choice of pre-prepares: of two batches or none if the primary is Byzantine, else its own or none."""
    batches = BATCHES[:2] if four.byzantine == FIRST_PRIMARY else BATCHES[:1]
    backups = [seat for seat in SEATS if seat not in (FIRST_PRIMARY, four.byzantine)]
    for choice in product((None, *batches), repeat=len(backups)):
        players = dict.fromkeys(SEATS, None) | {seat: four.fresh(seat) for seat in SEATS if seat != four.byzantine}
        first = players[FIRST_PRIMARY]
        if first is not None:
            players[FIRST_PRIMARY] = first.proposes(batches[0])
        for seat, batch in zip(backups, choice, strict=True):
            player = players[seat]
            if player is not None and batch is not None:
                players[seat] = player.gets(four.pre_prepare(players[FIRST_PRIMARY], batch))
        yield tuple(players[seat] for seat in SEATS)


def _delivered(four: Four, state: State, votes: Votes) -> Iterator[tuple[State, int]]:
    """Yield all states that the votes of a phase lead to, whichever of them every replica gets, with the number of ways."""
    outcomes: list[list[tuple[Player | None, int]]] = []
    for seat, player in zip(SEATS, state, strict=True):
        if player is None:
            outcomes.append([(None, 1)])
            continue
        alike: dict[object, tuple[Player, int]] = {}
        for choice in votes.choices(seat):
            after = player.gets(*choice)
            known = alike.get(after.key)
            alike[after.key] = (after, 1) if known is None else (known[0], known[1] + 1)
        outcomes.append(list(alike.values()))
    for combination in product(*outcomes):
        ways = 1
        for _, count in combination:
            ways *= count
        yield tuple(player for player, _ in combination), ways
