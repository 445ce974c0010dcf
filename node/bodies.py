"""Bodies: which transactions every batch in flight stands for, and how missing ones are found.

Law. What was once resolved for a batch is kept until the batch's block is certified. Missing transactions are asked for, from the
proposer first, then from everybody, again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from consensus.block import NULL_BATCH, Batch, batch_digest, decode_batch
from consensus.mempool import Mempool
from consensus.transaction import Transaction, decode_transaction
from node.block_store import ChannelStore
from node.clock import Clock

FETCH_AGAIN_MS = 300
MAX_FETCH = 500
KEEP_VOID_HEIGHTS = 1_000


class Bodies:
    """Finds transactions by id, for proposals, for execution and for peers.

    Args:
        name: of this node.
        mempool, store, clock: of the channel.
        ask: sends a request for transactions (ids) to one validator, None for all.
    """

    def __init__(
        self, name: str, mempool: Mempool, store: ChannelStore, clock: Clock, ask: Callable[[str | None, Sequence[bytes]], None]
    ) -> None:
        self._name = name
        self._mempool = mempool
        self._store = store
        self._clock = clock
        self._ask = ask
        self._resolved: dict[bytes, tuple[int, tuple[Transaction, ...]]] = {}
        self._wanted: dict[bytes, int] = {}
        self._executing: Batch | None = None
        self._void: dict[bytes, tuple[int, Transaction]] = {}
        self._arrived = asyncio.Event()

    def keep(self, sequence: int, digest: bytes, transactions: tuple[Transaction, ...]) -> None:
        """Keep what a batch stands for until its height is certified."""
        self._resolved[digest] = (sequence, transactions)

    def restore(self, sequence: int, digest: bytes, raws: Sequence[bytes]) -> None:
        """Take back from the vote log what a batch stood for."""
        self._resolved[digest] = (sequence, tuple(decode_transaction(raw) for raw in raws))

    def reserve_in_flight(self, height: int) -> None:
        """After a restart: mark the transactions of the batches above ``height`` as named, so that no other batch names them."""
        for sequence, transactions in self._resolved.values():
            if sequence > height:
                self._mempool.reserve((transaction.id for transaction in transactions), sequence)

    def raws_of(self, digest: bytes) -> tuple[bytes, ...] | None:
        """Return the raw transactions of a batch that was proposed or accepted, None if its height is certified by now."""
        kept = self._resolved.get(digest)
        return tuple(transaction.raw for transaction in kept[1]) if kept is not None else None

    def find(self, transaction_id: bytes) -> Transaction | None:
        """Return a transaction that waits or was executed."""
        held = self._mempool.get(transaction_id)
        if held is not None:
            return held
        if transaction_id in self._void:
            return self._void[transaction_id][1]
        place = self._store.locate(transaction_id)
        if place is None:
            return None
        raws = self._store.transactions(place[0])
        return decode_transaction(raws[place[1]]) if raws is not None else None

    def find_all(self, digest: bytes, batch: Batch) -> tuple[Transaction, ...] | None:
        """Return every transaction of a batch, None while one is missing."""
        known = self._resolved.get(digest)
        if known is not None:
            return known[1]
        found = []
        for transaction_id in batch.transaction_ids:
            transaction = self.find(transaction_id)
            if transaction is None:
                return None
            found.append(transaction)
        return tuple(found)

    async def transactions_of(self, batch: bytes, proposer: str) -> tuple[Transaction, ...] | None:
        """Return the transactions of a decided batch, however long it takes to get hold of them; None if :meth:`give_up` ended that.

        Args:
            proposer: the node to ask first for missing ones.
        """
        if batch == NULL_BATCH:
            return ()
        decoded, digest = decode_batch(batch), batch_digest(batch)
        self._executing = decoded
        while (found := self.find_all(digest, decoded)) is None and self._executing is not None:
            self.want(decoded, proposer)
            self._arrived.clear()
            await self._arrived.wait()
        self._executing = None
        return found

    @property
    def is_waiting(self) -> bool:
        """Whether the execution of a decided batch waits for transactions."""
        return self._executing is not None

    def give_up(self) -> None:
        """Stop waiting for the transactions of the decided batch: its block came from a peer."""
        self._executing = None
        self._arrived.set()

    def void(self, height: int, transactions: Iterable[Transaction]) -> None:
        """Keep transactions that their block left out, for those who have yet to execute the batch that names them."""
        for transaction in transactions:
            self._void[transaction.id] = (height, transaction)

    def want(self, batch: Batch, ask_first: str | None) -> None:
        """Ask for the missing transactions of a batch, if they are not asked for already."""
        missing = [one for one in batch.transaction_ids if one not in self._wanted and self.find(one) is None]
        now_ms = self._clock.monotonic_ms()
        for transaction_id in missing:
            self._wanted[transaction_id] = now_ms
        for start in range(0, len(missing), MAX_FETCH):
            self._ask((ask_first or None) if ask_first != self._name else None, missing[start : start + MAX_FETCH])

    def wants(self, transaction_id: bytes) -> bool:
        """Tell whether a proposal names this transaction and it is not here yet."""
        return transaction_id in self._wanted

    def arrived(self, transaction_ids: Sequence[bytes]) -> bool:
        """Note that transactions came in; tell whether somebody waited for one of them."""
        relevant = False
        for transaction_id in transaction_ids:
            relevant = self._wanted.pop(transaction_id, None) is not None or relevant
        if relevant:
            self._arrived.set()
        return relevant

    def ask_again(self) -> None:
        """Ask everybody for what is missing for too long."""
        now_ms = self._clock.monotonic_ms()
        late = [one for one, asked_ms in self._wanted.items() if now_ms - asked_ms >= FETCH_AGAIN_MS]
        for transaction_id in late:
            self._wanted[transaction_id] = now_ms
        for start in range(0, len(late), MAX_FETCH):
            self._ask(None, late[start : start + MAX_FETCH])

    def certified(self, height: int, open_batches: Iterable[Batch]) -> None:
        """Forget what belongs to certified heights, and want only what is still needed."""
        self._resolved = {digest: entry for digest, entry in self._resolved.items() if entry[0] > height}
        if self._void:
            self._void = {one: entry for one, entry in self._void.items() if entry[0] > height - KEEP_VOID_HEIGHTS}
        if self._wanted:
            batches = [*open_batches, *([self._executing] if self._executing is not None else [])]
            needed = {one for batch in batches for one in batch.transaction_ids}
            self._wanted = {one: asked_ms for one, asked_ms in self._wanted.items() if one in needed}
