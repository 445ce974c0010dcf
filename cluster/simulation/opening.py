"""Opening a simulated node's disk: the ledger over the stored state, and what the replica finds of itself."""

from __future__ import annotations

from typing import cast

from cluster.simulation.store import ChainStore, VoteLog
from cluster.simulation.world import World
from consensus.block import genesis_header
from consensus.errors import InvariantViolation
from consensus.recovery import Recovered
from consensus.state_tree import StateTree
from contracts.application import LedgerApplication
from node import block_store, vote_log
from node.opening import found_on


def open_ledger(world: World, store: ChainStore) -> LedgerApplication:
    """Return the ledger over the store's state; an empty store gets height 0 from genesis.

    Raises:
        InvariantViolation: the stored state does not hash to the root of the last block.
    """
    genesis, head = world.genesis, store.head()
    if head is None:
        application = LedgerApplication(genesis, store.state, check=world.keys.check)
        finalized = application.init_chain()
        root = finalized.tree.root
        header = genesis_header(genesis.chain_id, genesis.channel, genesis.time_ms, genesis.digest, root, world.first_set.digest)
        store.begin(header, finalized)
        application.commit()
        return application
    tree = StateTree.of(store.state.scan(b""))
    if tree.root != head.state_root:
        raise InvariantViolation(f"the stored state does not hash to the state root of block {head.height}")
    return LedgerApplication(genesis, store.state, tree, world.keys.check)


def what_is_found(store: ChainStore, votes: VoteLog, application: LedgerApplication) -> Recovered:
    """Return what the disk holds for the replica, as :mod:`node.opening` finds it."""
    return found_on(cast(block_store.ChannelStore, store), cast(vote_log.VoteLog, votes), application)
