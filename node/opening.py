"""From the disk of one channel to what the running parts start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from consensus.crypto import Signer
from consensus.errors import InvariantViolation
from consensus.recovery import Recovered
from consensus.state import ReplicaConfig
from consensus.state_tree import StateTree
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.block_store import ChannelStore
from node.genesis_block import start_store
from node.snapshots import SnapshotShelf
from node.vote_log import VoteLog

log = structlog.get_logger("gridpact.opening")
SILENCE_FACTOR = 4
"""A primary that says nothing for so many first view time-outs is replaced."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is.

    Attributes:
        name: as validator sets and certificates name it.
        signers: its validator keys (the next one too while a change of keys is under way); none for a node that only follows.
    """

    name: str
    signers: Sequence[Signer]


@dataclass(frozen=True, slots=True)
class ChannelDisk:
    """The opened databases and folders of one channel.

    Attributes:
        shelf: its snapshots.
        retain_blocks: how many of the last blocks are kept; 0 keeps all.
        snapshot_every: a snapshot is made whenever the height is a multiple of it; the same on all nodes, so that several can serve the
            same one.
        fetch_snapshots: whether this node takes a snapshot of others if it is far behind; else it executes every block.
    """

    store: ChannelStore
    votes: VoteLog
    shelf: SnapshotShelf
    retain_blocks: int = 0
    snapshot_every: int = 1_000
    fetch_snapshots: bool = True


def open_ledger(genesis: Genesis, store: ChannelStore) -> LedgerApplication:
    """Return the ledger over the store's state; an empty store gets height 0 from genesis.

    Raises:
        InputError: the store belongs to another genesis.
        InvariantViolation: its state does not hash to the head's root.
    """
    start_store(genesis, store)
    head = store.head()
    if head is None:
        raise InvariantViolation(f"{store.path}: holds no block 0 after it was begun")
    tree = StateTree.of(store.entries())
    if tree.root != head.state_root:
        raise InvariantViolation(f"{store.path}: the stored state does not hash to the state root of block {head.height}")
    return LedgerApplication(genesis, store.state, tree)


def replica_config(genesis: Genesis, identity: Identity, disk: ChannelDisk) -> ReplicaConfig:
    """Return the replica's configuration."""
    rules = genesis.consensus
    return ReplicaConfig(
        name=identity.name,
        signers=tuple(identity.signers),
        window=rules.window,
        max_in_flight=rules.max_in_flight,
        view_timeout_ms=rules.view_timeout_ms,
        max_view_timeout_ms=rules.max_view_timeout_ms,
        silence_ms=SILENCE_FACTOR * rules.view_timeout_ms,
        snapshot_gap=max(disk.snapshot_every, rules.window) if disk.fetch_snapshots else None,
    )


def match_votes(store: ChannelStore, votes: VoteLog) -> None:
    """Begin the vote log anew if the store does not reach up to where votes were dropped from it.

    Then this node follows, and asks for a seat that belongs to the new log.
    """
    if votes.was_copy:
        log.warning("the vote log is a copy, as of a backup: this node has no vote until an epoch names its new vote log")
    certificate = store.last_certificate()
    certified = certificate.height if certificate is not None else 0
    if not votes.is_whole_above(certified):
        log.warning("the block store lost blocks, or is an old copy: this node has no vote until an epoch names its new vote log")
        votes.begin_anew()


def found_on(store: ChannelStore, votes: VoteLog, application: LedgerApplication) -> Recovered:
    """Return what the disk holds for the replica."""
    head = store.head()
    height = head.height if head is not None else 0
    certificate = store.last_certificate()
    certified = certificate.height if certificate is not None else 0
    above = [header for one in range(certified + 1, height + 1) if (header := store.header(one)) is not None]
    return Recovered(
        epochs=application.epochs(),
        log=votes.id,
        first=store.first_height,
        executed=height,
        certificate=certificate,
        headers={header.height: header.hash for header in above},
        batches={header.height: header.batch_digest for header in above},
        records=tuple(votes.records()),
    )
