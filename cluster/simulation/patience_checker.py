"""Checks that patience falls back after progress, doubles with each view change at most, and has a cap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.simulation.settings import Violation
from cluster.simulation.world import MAX_VIEW_TIMEOUT_MS, VIEW_TIMEOUT_MS
from consensus.effects import Broadcast, Certified, Effect
from consensus.messages import ViewChangeMessage

if TYPE_CHECKING:
    from cluster.simulation.node import Node

LOOK_EVERY = 8
"""A timer is looked at in one of so many steps. (That of a view change under way was set before, so it is only held to the cap.)"""


class PatienceChecker:
    """Counts the view changes of every running node since it last took a certificate."""

    def __init__(self) -> None:
        self._failed: dict[int, tuple[object, int]] = {}
        self._steps = 0

    def stepped(self, node: Node, effects: Sequence[Effect]) -> None:
        """An honest node performed a step."""
        process = node.process
        if process is None:
            return
        session, failed = self._failed.get(node.place, (None, 0))
        if session is not process:
            failed = 0
        for effect in effects:
            if isinstance(effect, Certified):
                failed = 0
            elif isinstance(effect, Broadcast) and isinstance(effect.message, ViewChangeMessage):
                failed += 1
        self._failed[node.place] = (process, failed)
        self._steps += 1
        if self._steps % LOOK_EVERY:
            return
        status = process.replica.status(node.clock.monotonic_ms())
        left_ms = 0 if status.timer_left_ms is None else status.timer_left_ms
        fallen_ms = MAX_VIEW_TIMEOUT_MS if status.changing else VIEW_TIMEOUT_MS << max(0, failed - 1)
        most_ms = min(fallen_ms, MAX_VIEW_TIMEOUT_MS)
        if left_ms > most_ms:
            raise Violation("patience", f"{node.name} waits {left_ms} ms more, at most {most_ms} ms after {failed} view changes in vain")
