"""Snapshots of a simulated node: made at fixed heights, served in chunks, staged and adopted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.effects import AdoptSnapshot, Event, ServeChunk, ServeSnapshot, SnapshotFailed, StageChunk, StageSnapshot

if TYPE_CHECKING:
    from cluster.simulation.process import Process


class Snapshots:
    """Makes, serves and adopts snapshots.

    Args:
        process: the software of the node that it belongs to.
    """

    def __init__(self, process: Process) -> None:
        self._process = process

    def certified(self, height: int) -> None:
        """A block has its certificate."""

    def perform(self, effect: ServeSnapshot | ServeChunk | StageSnapshot | StageChunk) -> None:
        """Serve or stage."""

    def adopt(self, effect: AdoptSnapshot) -> Event | None:
        """Make a staged snapshot the state; None if the power failed."""
        return SnapshotFailed(effect.height, "not yet")
