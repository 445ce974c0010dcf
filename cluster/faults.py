"""Faults on real node processes, and how each ends. Whom they hit is decided in the drill, what they must not do in the checkers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

FaultName = Literal["kill", "pause"]
FAULTS: tuple[FaultName, ...] = get_args(FaultName)
Target = Literal["primary", "backup"]


class Nodes(Protocol):
    """What a fault can do to node processes; :class:`cluster.lab.Lab` does it."""

    def kill(self, index: int) -> None:
        """Kill a node at once (signal 9)."""

    def start(self, index: int) -> None:
        """Start a node that does not run."""

    def pause(self, index: int) -> None:
        """Stop a node's process where it is."""

    def resume(self, index: int) -> None:
        """Let a paused process go on."""


async def inject(fault: FaultName, nodes: Nodes, index: int) -> None:
    """Let the fault happen."""
    if fault == "kill":
        await asyncio.to_thread(nodes.kill, index)
    else:
        nodes.pause(index)


def end(fault: FaultName, nodes: Nodes, index: int) -> None:
    """Let the node work again."""
    if fault == "kill":
        nodes.start(index)
    else:
        nodes.resume(index)


def target_of_round(number: int) -> Target:
    """Return whom a round is aimed at: primary and backup in turn, the primary first."""
    return "primary" if number % 2 == 0 else "backup"


def choose_victim(target: Target, primary: int, nodes: int, number: int) -> int:
    """Return the index of the node to hit.

    Args:
        primary: index of the present primary.
        number: of the round; backups are hit in turn.
    """
    if target == "primary":
        return primary
    return (primary + 1 + number // 2 % (nodes - 1)) % nodes


def fault_of_round(faults: Sequence[FaultName], number: int) -> FaultName:
    """Return the fault of a round: each fault hits a primary and a backup before the next one's turn."""
    return faults[number // 2 % len(faults)]
