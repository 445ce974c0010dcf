"""From bytes that somebody sent to a checked, stored, shared transaction in the mempool, by the rules of :mod:`node.intake`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.simulation.clock import NodeClock
from cluster.simulation.store import ChainStore
from consensus.crypto import Verify
from consensus.errors import DecodeError
from consensus.mempool import ADDED, KNOWN, Mempool
from consensus.transaction import Transaction, decode_transaction
from contracts.application import LedgerApplication
from node.bodies import Bodies


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

    def submit(self, raw: bytes) -> None:
        """Take what a client sends: durable before it is shared."""
        transaction = self._admitted(raw)
        if transaction is None:
            return
        if not self._sync(lambda: self._store.add_pending((transaction,))):
            return
        if self._keep(transaction):
            self._share((raw,))

    def take(self, raws: Sequence[bytes]) -> None:
        """Take what a peer shares."""
        for raw in raws:
            transaction = self._admitted(raw)
            if transaction is not None:
                self._keep(transaction)

    def restore(self) -> None:
        """Take the transactions back that were taken in before a stop and not executed."""
        gone = []
        for transaction_id, raw in self._store.pending():
            transaction = decode_transaction(raw)
            if self._application.process_proposal([transaction], self._clock.now_ms()).ok:
                self._mempool.add(transaction, self._clock.monotonic_ms(), forced=True)
            else:
                gone.append(transaction_id)
        if gone:
            self._store.drop_pending(gone)

    def _admitted(self, raw: bytes) -> Transaction | None:
        """Return the transaction if it is new, well signed, and could execute now."""
        try:
            transaction = decode_transaction(raw)
        except DecodeError:
            return None
        wanted = self._bodies.wants(transaction.id)
        if transaction.id in self._mempool or (self._store.locate(transaction.id) is not None and not wanted):
            return None
        envelope = transaction.envelope
        if self._application.sender_key(transaction.body.sender) not in (None, envelope.public_key):
            return None
        if not wanted:
            verdict = self._application.check_transaction(transaction, self._clock.now_ms())
            if not verdict.ok or self._mempool.room_for(transaction) != ADDED:
                return None
        if not self._check(envelope.scheme, envelope.public_key, envelope.body, envelope.signature):
            return None
        return transaction

    def _keep(self, transaction: Transaction) -> bool:
        forced = self._bodies.wants(transaction.id)
        if self._mempool.add(transaction, self._clock.monotonic_ms(), forced=forced) not in (ADDED, KNOWN):
            return False
        self._arrived((transaction.id,))
        return True
