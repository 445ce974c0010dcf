"""What links refuse: every case is counted, and each kind of trouble with each node is told once in a while."""

from __future__ import annotations

from collections import Counter

import structlog

from node.clock import monotonic_ms

TELL_AGAIN_MS = 600_000
MAX_TOLD = 1_000

_log = structlog.get_logger("gridpact.links")


class Refusals:
    """Counts and tells.

    Attributes:
        counts: by kind of trouble, since the start.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told_ms: dict[tuple[str, str], int] = {}

    def note(self, why: str, who: str, detail: str = "") -> None:
        """Count a case, and log it unless the same was logged lately: nobody can fill the disk with what is wrong with him.

        Args:
            why: kind of trouble, one of few.
            who: name of the node, or its address as long as the name is not known.
            detail: of this case.
        """
        self.counts[why] += 1
        now_ms = monotonic_ms()
        told_ms = self._told_ms.get((why, who))
        if told_ms is not None and now_ms - told_ms < TELL_AGAIN_MS:
            return
        if len(self._told_ms) >= MAX_TOLD:
            self._told_ms.clear()
        self._told_ms[why, who] = now_ms
        _log.warning("connection refused", why=why, who=who, detail=detail, times=self.counts[why])
