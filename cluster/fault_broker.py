"""The fault of the MQTT broker: killed, and later started again on the same port with nothing that it knew."""

from __future__ import annotations

import asyncio
import time

from cluster.faults import Fault, Scene
from cluster.lab_meters import LabMeters
from cluster.options import RunError

OUTAGE_S = 3.0


class Broker(Fault):
    """Meters can publish nothing for a while. The rest goes on; every reading of that time must reach the chain later.

    Its recovery is the time from the broker's return until a reading that each meter took without it is confirmed.
    """

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    async def strike(self, scene: Scene) -> float:
        """Kill the broker."""
        struck_s = time.monotonic()
        await asyncio.to_thread(scene.lab.kill_broker)
        self._taken = _meters(scene).taken
        return struck_s

    async def hold(self, scene: Scene) -> None:
        """Leave the meters without it."""
        await asyncio.sleep(OUTAGE_S)

    async def end(self, scene: Scene) -> None:
        """Start it."""
        await scene.lab.start_broker()
        started_s = time.monotonic()

        async def confirmed() -> bool:
            known = _meters(scene).confirmed
            return all(taken + 1 in known[meter] for meter, taken in self._taken.items())

        await scene.stage.wait(confirmed, "readings of the time without a broker were not confirmed")
        scene.recovery_s = time.monotonic() - started_s


def _meters(scene: Scene) -> LabMeters:
    if scene.stage.meters is None:
        raise RunError("this lab has no meters")
    return scene.stage.meters
