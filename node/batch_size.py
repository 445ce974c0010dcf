"""How many transactions a proposal of this node names.

A block is executed in one go. On a machine that is slow, or busy with something else, a large one would keep the event loop from everything
else for longer than the others are patient: they would change the view, again and again, and get even less done. So a primary begins
with small batches, makes them larger as long as its event loop keeps up, and smaller when it falls behind.
"""

from __future__ import annotations

FEWEST, FIRST = 16, 200
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
        self._executed = 0
        self.limit = min(FIRST, most)

    def note_block(self, transactions: int) -> None:
        """Take into account that a block with so many transactions was executed (whoever proposed it)."""
        self._executed = max(self._executed, transactions)

    def note_lateness(self, late_ms: int) -> None:
        """Take into account how late the event loop just was; call it at intervals.

        Only blocks that were executed in time show that larger ones may be.
        """
        largest, self._executed = self._executed, 0
        if late_ms > self._patience_ms:
            borne = max(largest, self.limit) * self._patience_ms // late_ms
            self.limit = max(min(FEWEST, self._most), min(self.limit // 2, borne))
        elif 2 * largest >= self.limit:
            self.limit = min(self._most, int(self.limit * GROWTH) + 1)
