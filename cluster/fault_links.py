"""Faults of the links between nodes: cut both ways, or one way only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from cluster.faults import Fault, Scene
from cluster.links import Link, around, into, out_of

HOLDS_S = (1.0, 1.0, 3.0, 12.0)
"""How long links stay cut, drawn by lot: nodes hang up after 10 s of silence."""


class Partition(Fault):
    """No byte passes between some nodes and the others."""

    async def strike(self, scene: Scene) -> float:
        """Cut the links."""
        await scene.lab.cut_links(self._links(scene))
        return time.monotonic()

    def _links(self, scene: Scene) -> Collection[Link]:
        return around(scene.victims, len(scene.lab.names))

    async def hold(self, scene: Scene) -> None:
        """Leave them cut for a while: before or after both ends have given up."""
        hold_s = scene.random.choice(HOLDS_S)
        scene.note(f"cut for {hold_s:g} s more")
        await asyncio.sleep(hold_s)

    async def end(self, scene: Scene) -> None:
        """Mend them; connections go on where they stopped, or are cut off."""
        reset = scene.random.random() < 0.5
        if reset:
            scene.note("connections cut off")
        await scene.lab.cut_links((), reset=reset)


class OneWay(Partition):
    """A node that hears nothing but is heard, or the other way round."""

    def _links(self, scene: Scene) -> Collection[Link]:
        is_deaf = scene.random.random() < 0.5
        scene.note("deaf" if is_deaf else "mute")
        return (into if is_deaf else out_of)(scene.victim, len(scene.lab.names))
