"""The proposal desk and the bodies of :mod:`node`, fitted to a simulated node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from cluster.simulation.clock import NodeClock
from cluster.simulation.store import ChainStore
from consensus.application import Application
from consensus.block import Batch, batch_digest
from consensus.codec import encode
from consensus.effects import CheckBatch
from consensus.mempool import Mempool
from contracts.genesis import ConsensusRules
from node import block_store
from node.bodies import Bodies
from node.proposals import ProposalDesk

NOBODY = -1
"""Seat of a node that follows without a vote: it proposes nothing."""


class SimulatedBodies(Bodies):
    """Finds transactions; the executor says which batch it waits for instead of awaiting it."""

    def __init__(self, mempool: Mempool, store: ChainStore, clock: NodeClock, ask: Callable[[int | None, Sequence[bytes]], None]) -> None:
        super().__init__(NOBODY, mempool, cast(block_store.ChannelStore, store), clock, ask)

    def sit(self, seat: int | None) -> None:
        """Take a seat among the validators, or none."""
        self._index = NOBODY if seat is None else seat

    def executes(self, batch: Batch | None) -> None:
        """Note the decided batch whose transactions are missing, None if there is none."""
        self._executing = batch


class SimulatedDesk(ProposalDesk):
    """Makes and checks proposals."""

    def __init__(
        self,
        rules: ConsensusRules,
        bodies: SimulatedBodies,
        mempool: Mempool,
        application: Application,
        store: ChainStore,
        clock: NodeClock,
        answer: Callable[[CheckBatch, str | None], None],
    ) -> None:
        super().__init__(NOBODY, rules, bodies, mempool, application, cast(block_store.ChannelStore, store), clock, answer)

    def sit(self, seat: int | None) -> None:
        """Take a seat among the validators, or none."""
        self._index = NOBODY if seat is None else seat

    def make_empty(self, view: int) -> bytes:
        """Return a proposal without transactions: the chain must go on."""
        time_ms = max(self._clock.now_ms(), self._last_time_ms() + 1)
        batch = encode(Batch(view, self._index, time_ms, ()))
        self._bodies.keep(0, batch_digest(batch), ())
        return batch
