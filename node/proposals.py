"""Batches and the transactions they name: making proposals, checking those of others, finding missing bodies.

Law. A batch names transactions by id. A replica votes for a batch only while it holds every one of them; what it has once resolved for a
batch it keeps until the batch's block is certified. Missing ones are asked for, from the proposer first, then from everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.application import Application
from consensus.block import NULL_BATCH, Batch, batch_digest, decode_batch
from consensus.codec import encode
from consensus.effects import CheckBatch
from consensus.errors import DecodeError
from consensus.mempool import Mempool
from consensus.transaction import Transaction, decode_transaction
from contracts.genesis import ConsensusRules
from node.block_store import ChannelStore
from node.clock import Clock

COALESCE_MS = 20
FETCH_AGAIN_MS = 300
MAX_FETCH = 500


@dataclass(slots=True)
class _OpenCheck:
    effect: CheckBatch
    batch: Batch


class ProposalDesk:
    """Knows which transactions every batch in flight stands for.

    Args:
        index: this validator.
        rules: limits from genesis.
        mempool, application, store, clock: of the channel.
        ask: sends a request for transactions (ids) to one validator, None for all.
        answer: takes the answer to a check: the effect, and the reason against it or None.
    """

    def __init__(
        self,
        index: int,
        rules: ConsensusRules,
        mempool: Mempool,
        application: Application,
        store: ChannelStore,
        clock: Clock,
        ask: Callable[[int | None, Sequence[bytes]], None],
        answer: Callable[[CheckBatch, str | None], None],
    ) -> None:
        self._index = index
        self._rules = rules
        self._mempool = mempool
        self._application = application
        self._store = store
        self._clock = clock
        self._ask = ask
        self._answer = answer
        self._resolved: dict[bytes, tuple[int, tuple[Transaction, ...]]] = {}
        self._times: dict[int, int] = {}
        self._open: dict[int, _OpenCheck] = {}
        self._wanted: dict[bytes, int] = {}
        self._executing: Batch | None = None
        self._arrived = asyncio.Event()

    # ------------------------------------------------------------------------------------------------------------ making

    def make_batch(self, view: int, in_flight: int) -> bytes | None:
        """Return the next proposal, or None while waiting is wiser (nothing to order, or others are in flight and more will come)."""
        candidates = self._mempool.select(self._rules.max_batch_transactions, self._rules.max_batch_bytes)
        now_ms = self._clock.now_ms()
        if not candidates:
            deadline_ms = self._application.next_deadline_ms()
            if in_flight or deadline_ms is None or deadline_ms > now_ms:
                return None
        elif in_flight and len(candidates) < self._rules.max_batch_transactions // 2:
            since_ms, _ = self._mempool.waiting(0, 0)
            if since_ms is not None and self._clock.monotonic_ms() - since_ms < COALESCE_MS:
                return None
        time_ms = max(now_ms, self._last_time_ms() + 1)
        chosen = self._admissible(candidates, time_ms)
        if candidates and not chosen:
            return None
        batch = encode(Batch(view, self._index, time_ms, tuple(transaction.id for transaction in chosen)))
        self._resolved[batch_digest(batch)] = (0, tuple(chosen))
        return batch

    def _admissible(self, candidates: list[Transaction], time_ms: int) -> list[Transaction]:
        """Drop what this replica itself would refuse to prepare."""
        if self._application.process_proposal(candidates, time_ms).ok:
            return candidates
        bad = {transaction.id for transaction in self.drop_inadmissible(candidates, time_ms)}
        good = [transaction for transaction in candidates if transaction.id not in bad]
        return good if self._application.process_proposal(good, time_ms).ok else good[:1]

    def drop_inadmissible(self, candidates: Sequence[Transaction], time_ms: int) -> list[Transaction]:
        """Forget those that no batch may name any more (expired, nonce spent, key replaced), and return them."""
        bad = [one for one in candidates if not self._application.process_proposal([one], time_ms).ok]
        self._mempool.discard(transaction.id for transaction in bad)
        self._store.drop_pending([transaction.id for transaction in bad])
        return bad

    def proposed(self, sequence: int, batch: bytes) -> None:
        """Note that an own batch is in flight."""
        digest = batch_digest(batch)
        transactions = self._resolved[digest][1]
        self._accept(sequence, digest, decode_batch(batch).time_ms, transactions)

    # ---------------------------------------------------------------------------------------------------------- checking

    def check(self, effect: CheckBatch) -> None:
        """Answer a check as soon as every transaction is here."""
        try:
            batch = decode_batch(effect.batch)
        except DecodeError as error:
            self._answer(effect, str(error))
            return
        reason = self._objection_to_batch(effect, batch) if effect.fresh else None
        if reason is not None:
            self._answer(effect, reason)
            return
        self._open[effect.sequence] = _OpenCheck(effect, batch)
        self._try(effect.sequence, effect.proposer)

    def _objection_to_batch(self, effect: CheckBatch, batch: Batch) -> str | None:
        rules = self._rules
        if (batch.view, batch.proposer) != (effect.view, effect.proposer):
            return f"batch of view {batch.view}, proposer {batch.proposer}"
        if len(batch.transaction_ids) > rules.max_batch_transactions:
            return f"{len(batch.transaction_ids)} transactions, at most {rules.max_batch_transactions} are allowed"
        drift_ms = batch.time_ms - self._clock.now_ms()
        if abs(drift_ms) > rules.max_drift_ms:
            return f"its time is {drift_ms} ms from this node's clock, at most {rules.max_drift_ms} ms are allowed"
        head = self._store.head()
        before_ms = self._times.get(effect.sequence - 1, head.time_ms if head is not None else 0)
        if batch.time_ms <= before_ms:
            return f"its time {batch.time_ms} is not after {before_ms}"
        if self._mempool.reserved_elsewhere(batch.transaction_ids, effect.sequence):
            return "it names a transaction of another batch in flight"
        return None

    def _try(self, sequence: int, ask_first: int | None) -> None:
        waiting = self._open[sequence]
        effect = waiting.effect
        transactions = self.find_all(effect.digest, waiting.batch)
        if transactions is None:
            self._want(waiting.batch, ask_first)
            return
        del self._open[sequence]
        reason = self._objection_to_transactions(transactions, waiting.batch) if effect.fresh else None
        if reason is None:
            self._accept(sequence, effect.digest, waiting.batch.time_ms, transactions)
        self._answer(effect, reason)

    def _objection_to_transactions(self, transactions: Sequence[Transaction], batch: Batch) -> str | None:
        size = sum(len(transaction.raw) for transaction in transactions)
        if size > self._rules.max_batch_bytes:
            return f"{size} bytes of transactions, at most {self._rules.max_batch_bytes} are allowed"
        verdict = self._application.process_proposal(transactions, batch.time_ms)
        return None if verdict.ok else f"{verdict.code}: {verdict.detail}"

    def _accept(self, sequence: int, digest: bytes, time_ms: int, transactions: tuple[Transaction, ...]) -> None:
        self._resolved[digest] = (sequence, transactions)
        self._times[sequence] = time_ms
        self._mempool.reserve((transaction.id for transaction in transactions), sequence)

    # ----------------------------------------------------------------------------------------------------------- finding

    def find(self, transaction_id: bytes) -> Transaction | None:
        """Return a transaction that waits or was executed."""
        held = self._mempool.get(transaction_id)
        if held is not None:
            return held
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

    async def transactions_of(self, batch: bytes) -> tuple[Transaction, ...]:
        """Return the transactions of a decided batch, however long it takes to get hold of them."""
        if batch == NULL_BATCH:
            return ()
        decoded, digest = decode_batch(batch), batch_digest(batch)
        self._executing = decoded
        while (found := self.find_all(digest, decoded)) is None:
            self._want(decoded, decoded.proposer)
            self._arrived.clear()
            await self._arrived.wait()
        self._executing = None
        return found

    def raws_of(self, digest: bytes) -> tuple[bytes, ...]:
        """Return the raw transactions of a batch that was proposed or accepted."""
        return tuple(transaction.raw for transaction in self._resolved[digest][1])

    def restore(self, sequence: int, digest: bytes, raws: Sequence[bytes]) -> None:
        """Take back from the vote log what a batch stood for."""
        self._resolved[digest] = (sequence, tuple(decode_transaction(raw) for raw in raws))

    def _want(self, batch: Batch, ask_first: int | None) -> None:
        missing = [one for one in batch.transaction_ids if one not in self._wanted and self.find(one) is None]
        now_ms = self._clock.monotonic_ms()
        for transaction_id in missing:
            self._wanted[transaction_id] = now_ms
        for start in range(0, len(missing), MAX_FETCH):
            self._ask(ask_first if ask_first != self._index else None, missing[start : start + MAX_FETCH])

    def wants(self, transaction_id: bytes) -> bool:
        """Tell whether a proposal names this transaction and it is not here yet."""
        return transaction_id in self._wanted

    def arrived(self, transaction_ids: Sequence[bytes]) -> None:
        """Note that transactions came in; answer the checks that waited for them."""
        relevant = False
        for transaction_id in transaction_ids:
            relevant = self._wanted.pop(transaction_id, None) is not None or relevant
        if relevant:
            self._arrived.set()
            for sequence in sorted(self._open):
                self._try(sequence, None)

    def ask_again(self) -> None:
        """Ask everybody for what is missing for too long."""
        now_ms = self._clock.monotonic_ms()
        late = [one for one, asked_ms in self._wanted.items() if now_ms - asked_ms >= FETCH_AGAIN_MS]
        for transaction_id in late:
            self._wanted[transaction_id] = now_ms
        for start in range(0, len(late), MAX_FETCH):
            self._ask(None, late[start : start + MAX_FETCH])

    # ------------------------------------------------------------------------------------------------------------ ending

    def view_entered(self) -> None:
        """Forget the checks of the view that was left; proposals of the new one reserve their transactions anew."""
        self._open.clear()
        self._mempool.release_all()

    def certified(self, height: int) -> None:
        """Forget what belongs to certified heights."""
        self._times = {sequence: time_ms for sequence, time_ms in self._times.items() if sequence >= height}
        self._resolved = {digest: entry for digest, entry in self._resolved.items() if entry[0] > height}
        self._open = {sequence: entry for sequence, entry in self._open.items() if sequence > height}
        if self._wanted:
            batches = [entry.batch for entry in self._open.values()] + ([self._executing] if self._executing is not None else [])
            needed = {one for batch in batches for one in batch.transaction_ids}
            self._wanted = {one: asked_ms for one, asked_ms in self._wanted.items() if one in needed}

    def _last_time_ms(self) -> int:
        head = self._store.head()
        return max([head.time_ms if head is not None else 0, *self._times.values()])
