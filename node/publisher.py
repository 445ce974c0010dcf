"""Tells subscribers what is final: blocks, what happened in them, and receipts for meters.

Law. Nothing is announced before its block is certified: what a subscriber sees can be proven and never goes away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from consensus.application import FinalizedBlock
from consensus.block import Header
from consensus.codec import encode
from consensus.proofs import TransactionProof
from consensus.transaction import Transaction
from contracts.genesis import Genesis
from contracts.topics import ReceiptNotice
from node.block_store import ChannelStore
from node.epochs import EpochBook
from node.event_hub import EventHub
from node.metrics import ChannelMetrics

MAX_UNCERTIFIED = 4_096
FindProof = Callable[[bytes], TransactionProof | None]


class Publisher:
    """Holds what executed blocks did until their certificates are there.

    Args:
        events: where to publish.
        store: of the channel.
        genesis: names meters.
        epochs: names validators.
        metrics: of the channel.

    Attributes:
        send_receipt: set by whoever has a broker: takes a meter's id and an encoded ``ReceiptNotice``.
    """

    def __init__(self, events: EventHub, store: ChannelStore, genesis: Genesis, epochs: EpochBook, metrics: ChannelMetrics) -> None:
        self._events = events
        self._store = store
        self._epochs = epochs
        self._meters = frozenset(meter.meter for meter in genesis.meters)
        self._metrics = metrics
        self._held: dict[int, tuple[Header, tuple[object, ...], list[tuple[str, bytes]]]] = {}
        self.send_receipt: Callable[[str, bytes], None] | None = None

    def executed(self, header: Header, included: Sequence[Transaction], finalized: FinalizedBlock) -> None:
        """Note an executed block."""
        self._metrics.blocks.inc()
        self._metrics.transactions_executed.inc(len(included))
        self._metrics.height.set(header.height)
        readings = [(one.body.sender, one.id) for one in included if one.body.sender in self._meters]
        self._held[header.height] = (header, finalized.events, readings)
        while len(self._held) > MAX_UNCERTIFIED:
            del self._held[next(iter(self._held))]

    def certified(self, height: int, find_proof: FindProof | None) -> None:
        """Announce a block that is final now.

        Args:
            find_proof: given on the node that proposed the block: it sends the meters their receipts.
        """
        held = self._held.pop(height, None)
        if held is None:
            return
        header, events, readings = held
        if find_proof is not None and self.send_receipt is not None:
            for meter, transaction_id in readings:
                proof = find_proof(transaction_id)
                if proof is not None:
                    self.send_receipt(meter, encode(ReceiptNotice(transaction_id, proof)))
        for event in events:
            if self._events.wants(_kind(event)):
                self._events.publish(_kind(event), {**msgspec.to_builtins(event), "height": height})
        self._events.publish(
            "block",
            {
                "height": height,
                "hash": header.hash.hex(),
                "time_ms": header.time_ms,
                "transactions": header.transaction_count,
                "proposer": self._epochs.proposer(height, header.proposer),
            },
        )


def _kind(event: object) -> str:
    """Return the tag under which an event of the contracts is published."""
    tag = type(event).__struct_config__.tag if isinstance(event, msgspec.Struct) else None
    return tag if isinstance(tag, str) else type(event).__name__
