"""From bytes that somebody sent to a checked, stored, shared transaction in the mempool, by the rules of :mod:`node.intake`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.simulation.clock import NodeClock
from cluster.simulation.store import ChainStore
from consensus.application import OK
from consensus.crypto import Verify
from consensus.errors import DecodeError
from consensus.mempool import ADDED, FULL, KNOWN, Mempool
from consensus.transaction import Transaction, decode_transaction
from contracts.application import LedgerApplication
from node.bodies import Bodies
from node.overdue import Overdue


class Intake:
    """Takes transactions in for one node.

    Args:
        application, store, mempool, bodies, clock: of the node.
        check: how signatures are checked.
        sync: makes a write of the chain's database durable; False if the power failed.
        share: gives raw transactions to the other nodes.
        arrived: told which transactions are in the mempool now.
    """

    def __init__(
        self,
        application: LedgerApplication,
        store: ChainStore,
        mempool: Mempool,
        bodies: Bodies,
        clock: NodeClock,
        check: Verify,
        sync: Callable[[Callable[[], None]], bool],
        share: Callable[[Sequence[bytes]], None],
        arrived: Callable[[Sequence[bytes]], None],
    ) -> None:
        self._application = application
        self._store = store
        self._mempool = mempool
        self._bodies = bodies
        self._clock = clock
        self._check = check
        self._sync = sync
        self._share = share
        self._arrived = arrived

    def submit(self, raw: bytes) -> str:
        """Take what a client sends, durable before it is shared; return OK, or why it is refused."""
        try:
            transaction = decode_transaction(raw)
        except DecodeError:
            return "BAD_TRANSACTION"
        if self._store.locate(transaction.id) is not None or self._store.is_pending(transaction.id):
            return OK
        why = self._objection(transaction)
        if why:
            return why
        if not self._sync(lambda: self._store.add_pending((transaction,))):
            return FULL
        why = self._keep(transaction)
        if why:
            self._store.drop_pending((transaction.id,))
            return why
        self._share((raw,))
        return OK

    def take(self, raws: Sequence[bytes]) -> None:
        """Take what a peer shares."""
        for raw in raws:
            try:
                transaction = decode_transaction(raw)
            except DecodeError:
                continue
            if transaction.id not in self._mempool and self._store.locate(transaction.id) is None and not self._objection(transaction):
                self._keep(transaction)

    def restore(self, overdue: Overdue) -> None:
        """Take the transactions back that were taken in before a stop and not executed."""
        gone = []
        for transaction_id, raw in self._store.pending():
            transaction = decode_transaction(raw)
            if overdue.is_good_now(transaction):
                self._mempool.add(transaction, self._clock.monotonic_ms(), forced=True)
            elif not overdue.take(transaction):
                gone.append(transaction_id)
        if gone:
            self._store.drop_pending(gone)

    def _objection(self, transaction: Transaction) -> str:
        """Say why a transaction is refused: it is badly signed, could not execute now, or there is no room; nothing if it is good."""
        envelope = transaction.envelope
        if self._application.sender_key(transaction.body.sender) not in (None, envelope.public_key):
            return "WRONG_KEY"
        if transaction.id not in self._mempool and not self._bodies.wants(transaction.id):
            verdict = self._application.check_transaction(transaction, self._clock.now_ms())
            if not verdict.ok:
                return verdict.code
            room = self._mempool.room_for(transaction)
            if room != ADDED:
                return room
        is_signed = self._check(envelope.scheme, envelope.public_key, envelope.body, envelope.signature)
        return "" if is_signed else "BAD_SIGNATURE"

    def _keep(self, transaction: Transaction) -> str:
        """Put a good transaction into the mempool; return why that is refused, if it is."""
        forced = self._bodies.wants(transaction.id)
        state = self._mempool.add(transaction, self._clock.monotonic_ms(), forced=forced)
        if state not in (ADDED, KNOWN):
            return state
        self._arrived((transaction.id,))
        return ""
