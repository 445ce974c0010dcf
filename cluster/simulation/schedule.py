"""The schedule of a run: which faults strike when, and who sends what. Made from the seed alone; a part can be left out to shrink it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.simulation.dice import Dice, dice
from cluster.simulation.habits import HABITS
from cluster.simulation.settings import Settings
from cluster.simulation.workload import Sending, make_sendings

SHORTEST_MS, LONGEST_MS = 1_000, 6_000
KINDS = ("pre-prepare", "prepare", "commit", "checkpoint", "view-change", "new-view")
"""Kinds of messages that may get lost while others come through."""
LATE = 0.4
"""How often a primary dies only when all other faults have stopped: patience must have fallen back by then."""
NOBODY_YET = -1
PER_MILLE = 1_000
STORM = 0.3
"""How often lost messages make view follow view."""
AIMED = 0.7
"""How often messages that get lost because of their kind are only those to, or from, some nodes: so one alone prepares, or is not heard."""
BURST = 0.3
"""How often links fail many times in a row, for a short time each: that is what makes views change half-way."""


class Fault(msgspec.Struct, frozen=True):
    """One fault.

    Fields:
        name: one of :data:`cluster.simulation.settings.FAULTS`.
        at_ms, until_ms: from when to when (``until_ms`` of a crash: when the node starts again).
        nodes: whom it strikes, by place; empty: everybody.
        amount: how much: per mille, milliseconds, or a count, as the fault has it.
        words: which kinds of it (of a loss: which messages, and whether those to or from ``nodes``).
    """

    name: str
    at_ms: int
    until_ms: int
    nodes: tuple[int, ...] = ()
    amount: int = 0
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        whom = f" on {', '.join(str(node) for node in self.nodes)}" if self.nodes else ""
        kinds = f" ({', '.join(self.words)})" if self.words else ""
        return f"{self.name}{whom} from {self.at_ms} to {self.until_ms} ms, amount {self.amount}{kinds}"


class Schedule(msgspec.Struct, frozen=True):
    """Everything that happens to a cluster in one run.

    Fields:
        seed: also decides delays and other small things during the run.
        spares: nodes that follow without a vote.
        calm_from_ms: when the faults stop.
        base_delay_ms: usual way of a message.
        block_ms: usual time to make a block durable.
        retain_blocks: how many of the last blocks nodes keep; 0: all.
        faults: by rising time.
        sendings: by rising time.
    """

    seed: int
    spares: int
    calm_from_ms: int
    base_delay_ms: int
    block_ms: int
    retain_blocks: int
    faults: tuple[Fault, ...]
    sendings: tuple[Sending, ...]

    @property
    def over_ms(self) -> int:
        """When the last fault has begun and the last transaction was sent first."""
        return max([self.calm_from_ms, *(fault.at_ms for fault in self.faults), *(sending.at_ms for sending in self.sendings)])


class _Maker:
    """Draws the faults of one schedule."""

    def __init__(self, settings: Settings, chance: Dice, end_ms: int, nodes: int) -> None:
        self.settings = settings
        self.chance = chance
        self.end_ms = end_ms
        self.nodes = nodes
        self.faults: list[Fault] = []
        self.bad: list[int] = []

    def span(self, shortest: int = 100, longest: int = 2_500) -> tuple[int, int]:
        """Return a piece of the time before the calm."""
        start = self.chance.randrange(self.end_ms)
        return start, min(self.end_ms, start + self.chance.randrange(shortest, longest))

    def add(self, name: str, nodes: tuple[int, ...] = (), amount: int = 0, words: tuple[str, ...] = (), longest: int = 2_500) -> None:
        """Add one fault somewhere in time."""
        start, end = self.span(longest=longest)
        self.faults.append(Fault(name, start, end, nodes, amount, words))

    def some(self, most: int) -> tuple[int, ...]:
        """Return one to ``most`` nodes."""
        return tuple(sorted(self.chance.sample(range(self.nodes), self.chance.randint(1, max(1, most)))))


def _storm(maker: _Maker) -> None:
    """Let view follow view: nothing commits for a while, one replica prepares alone, and the view-change of one is not heard."""
    at_ms = maker.chance.randrange(maker.end_ms)
    for _ in range(maker.chance.randint(3, 6)):
        until_ms = min(maker.end_ms, at_ms + maker.chance.choice((350, 500, 800, 1_200)))
        lucky, other = maker.chance.sample(range(maker.settings.nodes), 2)
        unlucky = tuple(node for node in range(maker.nodes) if node != lucky)
        unheard = (maker.chance.choice((lucky, other)),)
        maker.faults.append(Fault("loss", at_ms, until_ms, (), PER_MILLE, ("commit",)))
        maker.faults.append(Fault("loss", at_ms, until_ms, unlucky, PER_MILLE, ("prepare", "to")))
        maker.faults.append(Fault("loss", at_ms, until_ms, unheard, PER_MILLE, ("view-change", "from")))
        at_ms = until_ms
        if at_ms >= maker.end_ms:
            return


def _loss(maker: _Maker) -> None:
    if maker.chance.random() < STORM:
        _storm(maker)
    elif maker.chance.random() < BURST:
        for _ in range(maker.chance.randint(2, 6)):
            kinds = tuple(sorted(maker.chance.sample(KINDS, maker.chance.randint(1, 2))))
            nodes: tuple[int, ...] = ()
            if maker.chance.random() < AIMED:
                nodes, kinds = maker.some(maker.nodes - 1), (*kinds, maker.chance.choice(("to", "from")))
            maker.add("loss", nodes, maker.chance.choice((400, 700, 1_000)), kinds, longest=1_500)
    else:
        maker.add("loss", amount=maker.chance.choice((20, 100, 300, 600)))


def _duplication(maker: _Maker) -> None:
    maker.add("duplication", amount=maker.chance.choice((50, 200, 500)))


def _reordering(maker: _Maker) -> None:
    maker.add("reordering", amount=maker.chance.choice((20, 80, 400)))


def _delay(maker: _Maker) -> None:
    maker.add("delay", maker.some(maker.nodes), maker.chance.choice((30, 120, 500)))


def _partition(maker: _Maker) -> None:
    if maker.chance.random() < BURST:
        for _ in range(maker.chance.randint(5, 12)):
            maker.add("partition", maker.some(maker.nodes - 1), longest=500)
    else:
        maker.add("partition", maker.some(maker.nodes - 1), longest=4_000)


def _one_way(maker: _Maker) -> None:
    for _ in range(maker.chance.randint(4, 10) if maker.chance.random() < BURST else 1):
        maker.add("one-way", maker.some(2), words=(maker.chance.choice(("deaf", "dumb")),), longest=1_500)


def _crash(maker: _Maker) -> None:
    most = maker.nodes if maker.chance.random() < 0.3 else 2
    maker.add("crash", maker.some(most), maker.chance.randrange(3))


def _torn(maker: _Maker) -> None:
    maker.add("torn", maker.some(2), maker.chance.randrange(1, 12), (maker.chance.choice(("before", "after")),), longest=1_500)


def _wipe(maker: _Maker) -> None:
    maker.add("wipe", (maker.chance.randrange(maker.nodes),), words=(maker.chance.choice(("all", "all", "blocks")),))


def _slow_disk(maker: _Maker) -> None:
    maker.add("slow-disk", maker.some(2), maker.chance.choice((5, 40, 250)))


def _clock_skew(maker: _Maker) -> None:
    maker.add("clock-skew", maker.some(maker.nodes), maker.chance.randint(-700, 700))


def _clock_jump(maker: _Maker) -> None:
    maker.add("clock-jump", (maker.chance.randrange(maker.nodes),), maker.chance.choice((-60_000, -3_000, 3_000, 3_600_000)))


def _lag(maker: _Maker) -> None:
    maker.faults.append(Fault("lag", maker.chance.randrange(300), maker.end_ms, (maker.chance.randrange(maker.nodes),)))


def _dead(maker: _Maker) -> None:
    if len(maker.bad) >= maker.settings.faulty:
        return
    if maker.chance.random() < LATE:
        maker.bad.append(NOBODY_YET)
        start = maker.end_ms + maker.chance.randrange(1_500)
        maker.faults.append(Fault("dead", start, start, words=("primary",)))
        return
    victim = maker.chance.choice([node for node in range(maker.settings.nodes) if node not in maker.bad])
    maker.bad.append(victim)
    start = maker.chance.randrange(maker.end_ms + 1)
    maker.faults.append(Fault("dead", start, start, (victim,)))


def _membership(maker: _Maker) -> None:
    action = maker.chance.choice(("add", "remove", "rotate"))
    nodes = (maker.settings.nodes,) if action == "add" else (maker.chance.randrange(maker.settings.nodes),)
    maker.add("membership", nodes, words=(action,))


_MAKERS: dict[str, Callable[[_Maker], None]] = {
    "loss": _loss,
    "duplication": _duplication,
    "reordering": _reordering,
    "delay": _delay,
    "partition": _partition,
    "one-way": _one_way,
    "crash": _crash,
    "torn": _torn,
    "wipe": _wipe,
    "slow-disk": _slow_disk,
    "clock-skew": _clock_skew,
    "clock-jump": _clock_jump,
    "lag": _lag,
    "dead": _dead,
    "membership": _membership,
}


def _add_traitors(maker: _Maker) -> None:
    """Choose the Byzantine nodes and the twins; together with the dead they are never more than f."""
    settings, chance = maker.settings, maker.chance
    room = settings.faulty
    count = settings.byzantine
    if count is None:
        count = chance.randint(0, room) if "byzantine" in settings.faults else 0
    order = chance.sample(range(settings.nodes), room)
    for victim in order[:count]:
        habits = tuple(sorted(chance.sample(HABITS, chance.randint(1, 4))))
        habits = settings.habits or habits
        maker.bad.append(victim)
        maker.faults.append(Fault("byzantine", 0, maker.end_ms, (victim,), words=habits))
    if count < room and "twins" in settings.faults and chance.random() < 0.3:
        maker.bad.append(order[count])
        maker.faults.append(Fault("twins", 0, maker.end_ms, (order[count],)))


def make_schedule(settings: Settings, seed: int) -> Schedule:
    """Return the schedule of one seed."""
    chance = dice(seed, f"schedule/{settings.nodes}")
    end_ms = chance.randrange(SHORTEST_MS, LONGEST_MS)
    spares = 1 if chance.random() < 0.25 or "membership" in settings.faults else 0
    maker = _Maker(settings, chance, end_ms, settings.nodes + spares)
    _add_traitors(maker)
    names = [name for name in _MAKERS if name in settings.faults]
    if names:
        chosen = chance.sample(names, min(len(names), chance.randint(1, 5)))
        for name in chosen:
            for _ in range(chance.randint(1, 3)):
                _MAKERS[name](maker)
    return Schedule(
        seed=seed,
        spares=spares,
        calm_from_ms=end_ms,
        base_delay_ms=chance.choice((1, 2, 5, 20, 60)),
        block_ms=chance.choice((0, 1, 5)),
        retain_blocks=chance.choice((0, 1, 1, 8)),
        faults=tuple(sorted(maker.faults, key=lambda fault: (fault.at_ms, fault.name, fault.nodes))),
        sendings=make_sendings(dice(seed, "sendings"), settings, end_ms, max([end_ms, *(fault.at_ms for fault in maker.faults)])),
    )
