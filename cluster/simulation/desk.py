"""The bodies of :mod:`node`, fitted to a simulated node, whose executor does not await anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from cluster.simulation.clock import NodeClock
from cluster.simulation.store import ChainStore
from consensus.application import Application
from consensus.block import Batch
from consensus.effects import CheckBatch
from consensus.mempool import Mempool
from contracts.genesis import ConsensusRules
from node import block_store
from node.bodies import Bodies
from node.proposals import ProposalDesk


class SimulatedBodies(Bodies):
    """Finds transactions; the executor says which batch it waits for instead of awaiting it."""

    def __init__(
        self, name: str, mempool: Mempool, store: ChainStore, clock: NodeClock, ask: Callable[[str | None, Sequence[bytes]], None]
    ) -> None:
        super().__init__(name, mempool, cast(block_store.ChannelStore, store), clock, ask)

    def executes(self, batch: Batch | None) -> None:
        """Note the decided batch whose transactions are missing, None if there is none."""
        self._executing = batch


def make_desk(
    rules: ConsensusRules,
    bodies: SimulatedBodies,
    mempool: Mempool,
    application: Application,
    store: ChainStore,
    clock: NodeClock,
    answer: Callable[[CheckBatch, str | None], None],
) -> ProposalDesk:
    """Return the proposal desk of :mod:`node` for a simulated node: the very same code makes and checks proposals."""
    return ProposalDesk(rules, bodies, mempool, application, cast(block_store.ChannelStore, store), clock, answer)
