"""What a fault of a drill is, which there are, and whom they hit when.

How each works is in ``fault_nodes``, ``fault_links``, ``fault_disks`` and ``fault_broker``; what none may bring about in ``inspection``.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from cluster.lab import Lab
from cluster.stage import Stage
from consensus.quorum import quorums

FaultName = Literal[
    "kill", "pause", "partition", "one-way", "wipe", "corrupt", "corrupt-votes", "disk-full", "clock", "certificate", "broker"
]
FAULTS: tuple[FaultName, ...] = get_args(FaultName)
Target = Literal["primary", "backup"]
DOWN_S = 1.0


@dataclass(slots=True)
class Scene:
    """One round as its fault sees it.

    Attributes:
        victims: indices of the nodes to hit; one, but for a partition that a larger cluster must stand.
        random: for what the fault draws by lot.
        notes: what happened, for the details of the round.
        recovery_s: set by a fault whose recovery is another one than that of new transactions.
    """

    stage: Stage
    target: Target
    victims: tuple[int, ...]
    random: random.Random
    notes: list[str] = field(default_factory=list)
    recovery_s: float | None = None

    @property
    def lab(self) -> Lab:
        """The cluster."""
        return self.stage.lab

    @property
    def victim(self) -> int:
        """Index of the node to hit (the first, if there are more)."""
        return self.victims[0]

    @property
    def name(self) -> str:
        """Name of that node."""
        return self.lab.names[self.victim]

    def note(self, text: str) -> None:
        """Note what happened."""
        self.notes.append(text)


class Fault(ABC):
    """One fault, for one round. All methods raise :class:`cluster.options.RunError` when the cluster does not do what it must."""

    @abstractmethod
    async def strike(self, scene: Scene) -> float:
        """Let it happen; return when it took effect, monotonic seconds."""

    async def hold(self, scene: Scene) -> None:
        """Leave it for a while, after transactions became final again, and see that the cluster lives with it."""
        await asyncio.sleep(DOWN_S)

    @abstractmethod
    async def end(self, scene: Scene) -> None:
        """Make everything good again, as an operator would; the node catches up afterwards."""


def parse_faults(texts: Sequence[str]) -> tuple[FaultName, ...]:
    """Return the faults that ``--fault`` names: names with commas between, ``all`` for all, each once, in the order given.

    Raises:
        ValueError: one is not known; it is the error's text.
    """
    chosen: dict[FaultName, None] = {}
    for name in (part.strip() for text in texts for part in text.split(",")):
        known = FAULTS if name == "all" else tuple(fault for fault in FAULTS if fault == name)
        if not known:
            raise ValueError(name)
        chosen.update(dict.fromkeys(known))
    return tuple(chosen)


def fault_of_round(faults: Sequence[FaultName], number: int) -> FaultName:
    """Return the fault of a round: they take turns."""
    return faults[number % len(faults)]


def target_of_round(faults: Sequence[FaultName], number: int) -> Target:
    """Return whom a round is aimed at: primary and backup in turn, and each fault hits the other one the next time."""
    turn, place = divmod(number, len(faults))
    return "primary" if (turn + place) % 2 == 0 else "backup"


def choose_victims(fault: FaultName, target: Target, primary: int, nodes: int, draw: random.Random) -> tuple[int, ...]:
    """Return the indices of the nodes to hit: the primary, or a backup drawn by lot.

    A partition takes as many with it as the cluster must be able to do without.

    Args:
        primary: index of the present primary.
    """
    backups = [index for index in range(nodes) if index != primary]
    draw.shuffle(backups)
    order = [primary, *backups] if target == "primary" else backups
    return tuple(order[: quorums(nodes).faulty if fault == "partition" else 1])
