"""What links refuse: every case is counted, and each kind of trouble with each node is told once in a while."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog

from node.clock import monotonic_ms

TELL_AGAIN_MS = 600_000
MAX_TOLD = 1_000

_log = structlog.get_logger("gridpact.links")


class Told:
    """Remembers what was told lately: nobody can fill the disk with what is wrong with him.

    Args:
        again_ms: so long the same is not told again.
        clock_ms: monotonic time.
    """

    def __init__(self, again_ms: int, clock_ms: Callable[[], int]) -> None:
        self._again_ms = again_ms
        self._clock_ms = clock_ms
        self._told_ms: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._told_ms)

    def is_due(self, why: str, who: str) -> bool:
        """Tell whether this is to be told now; then it counts as told."""
        now_ms = self._clock_ms()
        told_ms = self._told_ms.get((why, who))
        if told_ms is not None and now_ms - told_ms < self._again_ms:
            return False
        if len(self._told_ms) >= MAX_TOLD:
            self._told_ms.clear()
        self._told_ms[why, who] = now_ms
        return True


class Refusals:
    """Counts and tells.

    Attributes:
        counts: by kind of trouble, since the start.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told = Told(TELL_AGAIN_MS, monotonic_ms)

    def note(self, why: str, who: str, detail: str = "") -> None:
        """Count a case, and log it unless the same was logged lately.

        Args:
            why: kind of trouble, one of few.
            who: name of the node, or its address as long as the name is not known.
            detail: of this case.
        """
        self.counts[why] += 1
        if self._told.is_due(why, who):
            _log.warning("connection refused", why=why, who=who, detail=detail, times=self.counts[why])
