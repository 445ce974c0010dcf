"""Transactions that are over by this node's clock, but not by the chain's.

Law. What a node acknowledged is forgotten only when no block can hold it any more, and what counts for that is the time of the last block:
the node's own clock may be wrong. Until then such a transaction leaves the mempool, so that it holds up nothing and its sender may use
the nonce again, but it stays in the store, and comes back if the clock is put right.
"""

from __future__ import annotations

from consensus.application import Application
from consensus.mempool import Mempool
from consensus.transaction import Transaction
from node.block_store import ChannelStore
from node.clock import Clock

MAX_OVERDUE = 20_000


class Overdue:
    """Keeps them.

    Args:
        application, mempool, store, clock: of the channel.
    """

    def __init__(self, application: Application, mempool: Mempool, store: ChannelStore, clock: Clock) -> None:
        self._application = application
        self._mempool = mempool
        self._store = store
        self._clock = clock
        self._kept: dict[bytes, Transaction] = {}

    def is_good_now(self, transaction: Transaction) -> bool:
        """Tell whether a batch may name a transaction, by the own clock."""
        return self._application.process_proposal([transaction], self._clock.now_ms()).ok

    def take(self, transaction: Transaction) -> bool:
        """Keep a transaction that is not good now; tell False if it never will be, or there is no room."""
        if len(self._kept) >= MAX_OVERDUE or not self._may_execute(transaction):
            return False
        self._kept[transaction.id] = transaction
        return True

    def review(self) -> list[Transaction]:
        """Let those come back that are good now, and return those that never will be: they may be forgotten."""
        gone = [one for one in self._kept.values() if not self._may_execute(one)]
        back = [one for one in self._kept.values() if self._may_execute(one) and self.is_good_now(one)]
        for transaction in (*gone, *back):
            del self._kept[transaction.id]
        for transaction in back:
            self._mempool.add(transaction, self._clock.monotonic_ms(), forced=True)
        return gone

    def _may_execute(self, transaction: Transaction) -> bool:
        head = self._store.head()
        return self._application.process_proposal([transaction], head.time_ms if head is not None else 0).ok
