"""Which transactions a node shares with the others once more.

A share may get lost with a link, and then only this node knows the transaction; so what waits is shared again. Everybody shares what
waits, though: if many wait because the nodes have too much to do, that must not make it worse. So each one is shared at growing intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.transaction import Transaction

FIRST_PAUSE_MS = 1_000
MAX_PAUSE_MS = 4_000


class Reminders:
    """When each waiting transaction is shared again."""

    def __init__(self) -> None:
        self._due: dict[bytes, tuple[int, int]] = {}

    def due(self, waiting: Sequence[Transaction], now_ms: int) -> list[Transaction]:
        """Return those to share now; what waits no more is forgotten.

        Args:
            waiting: all that may be shared again, since they wait for long.
            now_ms: monotonic time.
        """
        before, self._due = self._due, {}
        chosen = []
        for transaction in waiting:
            due_ms, pause_ms = before.get(transaction.id, (now_ms, FIRST_PAUSE_MS))
            if due_ms <= now_ms:
                chosen.append(transaction)
                due_ms, pause_ms = now_ms + pause_ms, min(2 * pause_ms, MAX_PAUSE_MS)
            self._due[transaction.id] = (due_ms, pause_ms)
        return chosen
