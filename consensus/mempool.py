"""Transactions that wait to be ordered, in the order in which they came.

Law. Bounded in count, bytes and per sender: what does not fit is refused ("FULL"), never dropped in silence. A transaction is *waiting*
(free to be proposed) or *reserved* (named by a batch in flight); it leaves when it was executed, became void, or expired.

A value machine like the rest of the core: times are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consensus.transaction import Transaction

ADDED, KNOWN, FULL, NONCE_IN_USE = "ADDED", "KNOWN", "FULL", "NONCE_IN_USE"


@dataclass(frozen=True, slots=True)
class MempoolLimits:
    """Bounds of a mempool."""

    max_transactions: int = 50_000
    max_bytes: int = 32 * 1024 * 1024
    max_per_sender: int = 10_000


@dataclass(slots=True)
class _Entry:
    transaction: Transaction
    arrival_ms: int
    reserved_by: int | None = None


class Mempool:
    """Checked transactions by id.

    Args:
        limits: bounds; bodies that a proposal names are taken in beyond them (``forced``), since the proposal itself is bounded.
    """

    def __init__(self, limits: MempoolLimits | None = None) -> None:
        self._limits = limits or MempoolLimits()
        self._entries: dict[bytes, _Entry] = {}
        self._nonces: dict[tuple[str, int], bytes] = {}
        self._per_sender: dict[str, int] = {}
        self._bytes = 0
        self._last_executed_arrival_ms = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, transaction_id: bytes) -> bool:
        return transaction_id in self._entries

    @property
    def size_bytes(self) -> int:
        """Bytes of all transactions held."""
        return self._bytes

    def get(self, transaction_id: bytes) -> Transaction | None:
        """Return a held transaction."""
        entry = self._entries.get(transaction_id)
        return entry.transaction if entry is not None else None

    def room_for(self, transaction: Transaction) -> str:
        """Tell what :meth:`add` would answer: ADDED, KNOWN, FULL or NONCE_IN_USE."""
        if transaction.id in self._entries:
            return KNOWN
        body, limits = transaction.body, self._limits
        if (body.sender, body.nonce) in self._nonces:
            return NONCE_IN_USE
        if (
            len(self._entries) >= limits.max_transactions
            or self._bytes + len(transaction.raw) > limits.max_bytes
            or self._per_sender.get(body.sender, 0) >= limits.max_per_sender
        ):
            return FULL
        return ADDED

    def add(self, transaction: Transaction, now_ms: int, *, forced: bool = False) -> str:
        """Take a checked transaction in, unless it is known or there is no room.

        Args:
            now_ms: monotonic time of its arrival.
            forced: a proposal names it, so it is needed whatever the limits say.
        """
        answer = self.room_for(transaction)
        if answer == ADDED or (forced and answer != KNOWN):
            body = transaction.body
            self._entries[transaction.id] = _Entry(transaction, now_ms)
            self._nonces.setdefault((body.sender, body.nonce), transaction.id)
            self._per_sender[body.sender] = self._per_sender.get(body.sender, 0) + 1
            self._bytes += len(transaction.raw)
            return ADDED
        return answer

    def select(self, max_transactions: int, max_bytes: int, time_ms: int = 0) -> list[Transaction]:
        """Return the oldest waiting transactions that fit into one batch (each costs its raw bytes) and may execute at ``time_ms``."""
        chosen: list[Transaction] = []
        total = 0
        for entry in self._entries.values():
            if entry.reserved_by is not None or entry.transaction.body.valid_until_ms < time_ms:
                continue
            size = len(entry.transaction.raw)
            if len(chosen) >= max_transactions or total + size > max_bytes:
                break
            chosen.append(entry.transaction)
            total += size
        return chosen

    def reserve(self, transaction_ids: Iterable[bytes], sequence: int) -> None:
        """Mark transactions as named by the batch in flight at ``sequence``."""
        for transaction_id in transaction_ids:
            entry = self._entries.get(transaction_id)
            if entry is not None:
                entry.reserved_by = sequence

    def reserved_elsewhere(self, transaction_ids: Iterable[bytes], sequence: int) -> bool:
        """Tell whether one of them is named by a batch in flight at another sequence number."""
        for transaction_id in transaction_ids:
            entry = self._entries.get(transaction_id)
            if entry is not None and entry.reserved_by is not None and entry.reserved_by != sequence:
                return True
        return False

    def release_all(self) -> None:
        """A new view begins: every transaction is free again; re-proposals reserve theirs anew, and who overtook whom is forgotten."""
        self._last_executed_arrival_ms = 0
        for entry in self._entries.values():
            entry.reserved_by = None

    def executed(self, transaction_ids: Iterable[bytes]) -> None:
        """Forget transactions that a block executed or found void."""
        for transaction_id in transaction_ids:
            entry = self._entries.get(transaction_id)
            if entry is not None:
                self._last_executed_arrival_ms = max(self._last_executed_arrival_ms, entry.arrival_ms)
                self._remove(entry.transaction)

    def discard(self, transaction_ids: Iterable[bytes]) -> None:
        """Forget transactions that can never execute."""
        for transaction_id in transaction_ids:
            entry = self._entries.get(transaction_id)
            if entry is not None:
                self._remove(entry.transaction)

    def drop_spent(self, pairs: Iterable[tuple[str, int]]) -> list[bytes]:
        """Forget transactions whose (sender, nonce) another transaction has spent; return their ids."""
        dropped = []
        for pair in pairs:
            transaction_id = self._nonces.get(pair)
            if transaction_id is not None:
                dropped.append(transaction_id)
                self._remove(self._entries[transaction_id].transaction)
        return dropped

    def waiting(self, patience_ms: int, time_ms: int) -> tuple[int | None, bool]:
        """Tell since when the oldest waiting transaction waits, and whether it was overtaken.

        A transaction is overtaken if one that came more than ``patience_ms`` later was executed before it: then the primary leaves it out.
        One that can no longer execute at block time ``time_ms`` waits for nothing.
        """
        for entry in self._entries.values():
            if entry.reserved_by is None and entry.transaction.body.valid_until_ms >= time_ms:
                return entry.arrival_ms, entry.arrival_ms + patience_ms < self._last_executed_arrival_ms
        return None, False

    def waiting_since(self, arrived_by_ms: int, most: int) -> list[Transaction]:
        """Return at most ``most`` waiting transactions that came by then, oldest first."""
        found: list[Transaction] = []
        for entry in self._entries.values():
            if len(found) >= most or entry.arrival_ms > arrived_by_ms:
                break
            if entry.reserved_by is None:
                found.append(entry.transaction)
        return found

    def _remove(self, transaction: Transaction) -> None:
        del self._entries[transaction.id]
        body = transaction.body
        if self._nonces.get((body.sender, body.nonce)) == transaction.id:
            del self._nonces[(body.sender, body.nonce)]
        left = self._per_sender[body.sender] - 1
        if left:
            self._per_sender[body.sender] = left
        else:
            del self._per_sender[body.sender]
        self._bytes -= len(transaction.raw)
