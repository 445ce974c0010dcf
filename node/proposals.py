"""Proposals: making batches, and checking those of others.

Law. A batch names transactions by id. A replica votes for a batch only while it holds every one of them (:mod:`node.bodies`), and for a
new one only if nothing in it breaks a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.application import Application
from consensus.block import Batch, batch_digest, decode_batch
from consensus.codec import encode
from consensus.effects import CheckBatch
from consensus.errors import DecodeError
from consensus.mempool import Mempool
from consensus.transaction import Transaction
from contracts.genesis import ConsensusRules
from node.batch_size import BatchSize
from node.block_store import ChannelStore
from node.bodies import Bodies
from node.clock import Clock
from node.overdue import Overdue

COALESCE_MS = 20


@dataclass(slots=True)
class _OpenCheck:
    effect: CheckBatch
    batch: Batch


class ProposalDesk:
    """Knows which transactions every batch in flight stands for.

    Args:
        rules: limits from genesis.
        bodies, mempool, application, store, clock: of the channel.
        answer: takes the answer to a check: the effect, and the reason against it or None.

    Attributes:
        size: of own proposals.
        overdue: what is over by the own clock only.
    """

    def __init__(
        self,
        rules: ConsensusRules,
        bodies: Bodies,
        mempool: Mempool,
        application: Application,
        store: ChannelStore,
        clock: Clock,
        answer: Callable[[CheckBatch, str | None], None],
    ) -> None:
        self._rules = rules
        self._bodies = bodies
        self._mempool = mempool
        self._application = application
        self._store = store
        self._clock = clock
        self._answer = answer
        self._times: dict[int, int] = {}
        self._open: dict[int, _OpenCheck] = {}
        self.overdue = Overdue(application, mempool, store, clock)
        self.size = BatchSize(rules.max_batch_transactions, rules.view_timeout_ms // 2)

    # ------------------------------------------------------------------------------------------------------------ making

    def make_batch(self, seat: int, view: int, in_flight: int, wants_block: bool) -> bytes | None:
        """Return the next proposal, or None while waiting is wiser (nothing to order, or others are in flight and more will come).

        Args:
            seat: of this validator in the present epoch.
            wants_block: a block is wanted even if it is empty.
        """
        now_ms = self._clock.now_ms()
        candidates = self._mempool.select(self.size.limit, self._rules.max_batch_bytes, now_ms)
        if not candidates:
            deadline_ms = self._application.next_deadline_ms()
            is_due = deadline_ms is not None and deadline_ms <= now_ms
            if in_flight or not (is_due or wants_block):
                return None
        elif in_flight and len(candidates) < self.size.limit // 2:
            since_ms, _ = self._mempool.waiting(0, 0)
            if since_ms is not None and self._clock.monotonic_ms() - since_ms < COALESCE_MS:
                return None
        time_ms = max(now_ms, self._last_time_ms(None) + 1)
        chosen = self._admissible(candidates, time_ms)
        if candidates and not chosen:
            return None
        batch = encode(Batch(view, seat, time_ms, tuple(transaction.id for transaction in chosen)))
        self._bodies.keep(0, batch_digest(batch), tuple(chosen))
        return batch

    def _admissible(self, candidates: list[Transaction], time_ms: int) -> list[Transaction]:
        """Leave out what this replica itself would refuse to prepare."""
        if self._application.process_proposal(candidates, time_ms).ok:
            return candidates
        good = [transaction for transaction in candidates if self._application.process_proposal([transaction], time_ms).ok]
        return good if self._application.process_proposal(good, time_ms).ok else good[:1]

    def drop_inadmissible(self, candidates: Sequence[Transaction]) -> list[Transaction]:
        """Put aside those that no batch may name now (expired, nonce spent, key replaced); return what is forgotten for good.

        That includes what was put aside before and may never come back.
        """
        bad = [one for one in candidates if not self.overdue.is_good_now(one)]
        self._mempool.discard(transaction.id for transaction in bad)
        gone = [one for one in bad if not self.overdue.take(one)] + self.overdue.review()
        self._store.drop_pending([transaction.id for transaction in gone])
        return gone

    def proposed(self, sequence: int, batch: bytes) -> None:
        """Note that an own batch is in flight."""
        digest = batch_digest(batch)
        decoded = decode_batch(batch)
        self._accept(sequence, digest, decoded.time_ms, self._bodies.find_all(digest, decoded) or ())

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
        if not effect.fresh:
            self._times[effect.sequence] = batch.time_ms
        self._open[effect.sequence] = _OpenCheck(effect, batch)
        self._try(effect.sequence, effect.peer)

    def _objection_to_batch(self, effect: CheckBatch, batch: Batch) -> str | None:
        rules = self._rules
        if (batch.view, batch.proposer) != (effect.view, effect.proposer):
            return f"batch of view {batch.view}, proposer {batch.proposer}"
        if len(batch.transaction_ids) > rules.max_batch_transactions:
            return f"{len(batch.transaction_ids)} transactions, at most {rules.max_batch_transactions} are allowed"
        drift_ms = batch.time_ms - self._clock.now_ms()
        if abs(drift_ms) > rules.max_drift_ms:
            return f"its time is {drift_ms} ms from this node's clock, at most {rules.max_drift_ms} ms are allowed"
        before_ms = self._last_time_ms(effect.sequence)
        if batch.time_ms <= before_ms:
            return f"its time {batch.time_ms} is not after {before_ms}"
        if self._mempool.reserved_elsewhere(batch.transaction_ids, effect.sequence):
            return "it names a transaction of another batch in flight"
        return None

    def _try(self, sequence: int, ask_first: str | None) -> None:
        waiting = self._open[sequence]
        effect = waiting.effect
        transactions = self._bodies.find_all(effect.digest, waiting.batch)
        if transactions is None:
            self._bodies.want(waiting.batch, ask_first)
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
        self._bodies.keep(sequence, digest, transactions)
        self._times[sequence] = time_ms
        self._mempool.reserve((transaction.id for transaction in transactions), sequence)

    def retry(self) -> None:
        """Answer the checks whose missing transactions have come in."""
        for sequence in sorted(self._open):
            self._try(sequence, None)

    # ------------------------------------------------------------------------------------------------------------ ending

    def snapshot_adopted(self) -> None:
        """Everything in flight is over: another state took the place of the own one."""
        self._times.clear()
        self._open.clear()
        self._mempool.release_all()

    def view_entered(self) -> None:
        """Forget the checks and times of the view that was left; proposals of the new one reserve their transactions anew.

        A batch that does not come again must not hold the next ones to its time.
        """
        self._times.clear()
        self._open.clear()
        self._mempool.release_all()

    def certified(self, height: int) -> None:
        """Forget what belongs to certified heights."""
        self._times = {sequence: time_ms for sequence, time_ms in self._times.items() if sequence >= height}
        self._open = {sequence: entry for sequence, entry in self._open.items() if sequence > height}
        self._bodies.certified(height, [entry.batch for entry in self._open.values()])

    def _last_time_ms(self, sequence: int | None) -> int:
        """Return the time that the batch at ``sequence`` must be after; None: one after all that are in flight."""
        head = self._store.head()
        before = (time_ms for at, time_ms in self._times.items() if sequence is None or at < sequence)
        return max((head.time_ms if head is not None else 0, *before))
