"""How many transactions a proposal of this node names.

A block is executed in one go. On a machine that is slow, or busy with something else, a large one would keep the event loop from everything
else for longer than the others are patient: they would change the view, again and again, and get even less done. So a primary whose
event loop falls behind proposes smaller batches, and larger ones again when it keeps up.
"""

from __future__ import annotations

FEWEST = 16
GROWTH = 1.25


class BatchSize:
    """The present limit.

    Args:
        most: what genesis allows.
        patience_ms: how late the event loop may be.

    Attributes:
        limit: transactions per batch, at most.
    """

    def __init__(self, most: int, patience_ms: int) -> None:
        self._most = most
        self._patience_ms = patience_ms
        self.limit = most

    def note_lateness(self, late_ms: int) -> None:
        """Take into account how late the event loop just was; call it at intervals."""
        if late_ms > self._patience_ms:
            self.limit = max(min(FEWEST, self._most), self.limit // 2)
        else:
            self.limit = min(self._most, int(self.limit * GROWTH) + 1)
