"""The clocks of a simulated node: its chain time may be wrong and jump, its monotonic time may run a little fast or slow."""

from __future__ import annotations

from collections.abc import Callable

from cluster.simulation.world import GENESIS_MS

MILLION = 1_000_000


class NodeClock:
    """Both clocks of one node (:class:`node.clock.Clock`).

    Args:
        world_ms: tells the virtual time.
        offset_ms: what its monotonic clock showed when the world began.
        fast_ppm: how much faster than the world its clocks run.

    Attributes:
        most_skew_ms: how much too early its chain time ever was.
    """

    def __init__(self, world_ms: Callable[[], int], offset_ms: int, fast_ppm: int) -> None:
        self._world_ms = world_ms
        self._offset_ms = offset_ms
        self._rate = MILLION + fast_ppm
        self._skew_ms = self.most_skew_ms = 0

    def set_wrong(self, skew_ms: int) -> None:
        """Let chain time be so much too early (below 0: too late)."""
        self._skew_ms, self.most_skew_ms = skew_ms, max(self.most_skew_ms, skew_ms)

    def now_ms(self) -> int:
        """Return chain time as this node believes it to be."""
        return GENESIS_MS + self._world_ms() + self._skew_ms

    def monotonic_ms(self) -> int:
        """Return this node's monotonic time."""
        return self._offset_ms + self._world_ms() * self._rate // MILLION

    def world_ms_at(self, monotonic_ms: int) -> int:
        """Return the first virtual time at which the monotonic clock shows ``monotonic_ms`` or more."""
        return -((self._offset_ms - monotonic_ms) * MILLION // self._rate)
