"""Height 0: what every node makes for itself from the genesis file."""

from __future__ import annotations

from consensus.application import FinalizedBlock
from consensus.block import Header, genesis_header
from consensus.errors import InputError
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.block_store import ChannelStore


def genesis_block(genesis: Genesis, application: LedgerApplication) -> tuple[Header, FinalizedBlock]:
    """Return header and state of height 0; ``application.commit()`` adopts it."""
    finalized = application.init_chain()
    root, validators = finalized.tree.root, genesis.validator_set.digest
    return genesis_header(genesis.chain_id, genesis.channel, genesis.time_ms, genesis.digest, root, validators), finalized


def start_store(genesis: Genesis, store: ChannelStore) -> None:
    """Write height 0 into an empty store; a store that has begun must have begun with the same.

    Raises:
        InputError: the store belongs to another genesis.
        StoreError: nothing was written.
    """
    if store.head() is None:
        store.start(*genesis_block(genesis, LedgerApplication(genesis, store.state)))
    first = store.header(0)
    if first is None or first.previous_hash != genesis.digest:
        raise InputError(str(store.path), "belongs to another genesis")
