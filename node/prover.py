"""Proofs from the store: what clients and meters check against genesis."""

from __future__ import annotations

from typing import Protocol

from consensus.codec import encode
from consensus.merkle import prove_inclusion
from consensus.proofs import EntryProof, TransactionProof
from consensus.state_tree import StateTree
from node.block_store import ChannelStore
from node.event_hub import EventHub


class Committed(Protocol):
    """Who knows the commitment to the present state."""

    @property
    def tree(self) -> StateTree:
        """Commitment to the committed state."""


class Prover:
    """Makes proofs for one channel.

    Args:
        store: of the channel.
        ledger: the application.
        events: announces certified blocks.
    """

    def __init__(self, store: ChannelStore, ledger: Committed, events: EventHub) -> None:
        self._store = store
        self._ledger = ledger
        self._events = events

    def transaction_proof(self, transaction_id: bytes) -> TransactionProof | None:
        """Return the proof of an executed transaction, None while its block is not certified."""
        store, place = self._store, self._store.locate(transaction_id)
        if place is None:
            return None
        height, position = place
        header, certificate = store.header(height), store.certificate(height)
        ids, receipts = store.transaction_ids(height), store.receipts(height)
        if header is None or certificate is None or ids is None or receipts is None:
            return None
        return TransactionProof(
            encode(header), certificate, receipts[position], prove_inclusion(ids, position), prove_inclusion(receipts, position)
        )

    async def entry_proof(self, key: bytes, timeout_s: float = 2.0) -> EntryProof | None:
        """Return the proof of a state entry at the present head, None if that is not certified in time."""
        head = self._store.head()
        if head is None or head.state_root != self._ledger.tree.root:
            await self._events.wait_for("block", timeout_s)
            head = self._store.head()
        if head is None or head.height == 0 or head.state_root != self._ledger.tree.root:
            return None
        value, path = self._store.state.get(key), self._ledger.tree.prove(key)
        certificate = self._store.certificate(head.height)
        if certificate is None:
            await self._events.wait_for("block", timeout_s)
            certificate = self._store.certificate(head.height)
        return None if certificate is None else EntryProof(encode(head), certificate, key, value, path)
