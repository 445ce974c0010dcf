"""The chain of the rehearsal: all replicas execute the same batches, so each is executed once; and a replica to execute it."""

from __future__ import annotations

from typing import NamedTuple

from cluster.fuzz.world import VALIDATORS, signer_of
from consensus.application import FinalizedBlock
from consensus.block import (
    NO_PROPOSER,
    NULL_BATCH,
    Batch,
    Block,
    Certificate,
    Header,
    block_time_ms,
    decode_batch,
    genesis_header,
    make_header,
)
from consensus.codec import encode
from consensus.effects import Executed
from consensus.errors import InvariantViolation
from consensus.messages import ValidatorSet
from consensus.recovery import Recovered
from consensus.replica import Replica
from consensus.snapshot import Chunk, SnapshotManifest, make_snapshot
from consensus.state import ReplicaConfig
from consensus.transaction import Transaction
from consensus.validators import EpochChange, set_at
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.audit_replay import MemoryState

SNAPSHOT_HEIGHT = 20
"""The block after which the state is kept as a snapshot: it is of epoch 1, so the manifest has a proof."""
SNAPSHOT_DEPTH = 2
SNAPSHOT_GAP = 6
"""A replica that is so far behind asks for the snapshot."""


class Made(NamedTuple):
    """One block of the only chain there is."""

    block: Block
    finalized: FinalizedBlock


class Chain:
    """The ledger of all replicas: they execute the same batches, so each is executed once."""

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.state = MemoryState()
        self.application = LedgerApplication(genesis, self.state)
        self.first: FinalizedBlock = self.application.init_chain()
        self._commit(self.first)
        self.made: list[Made] = []
        self.transactions: dict[bytes, Transaction] = {}
        self._entries: list[tuple[bytes, bytes]] = []

    @property
    def headers(self) -> list[Header]:
        """All headers, genesis first."""
        genesis = self.genesis
        root, validators = self.first.tree.root, genesis.validator_set.digest
        zero = genesis_header(genesis.chain_id, genesis.channel, genesis.time_ms, genesis.digest, root, validators)
        return [zero, *(made.block.header for made in self.made)]

    def epochs(self, height: int) -> tuple[ValidatorSet, ...]:
        """Return all validator sets that the state after the block at ``height`` knows."""
        announced = [one for made in self.made[:height] for one in made.finalized.announced]
        return (self.genesis.validator_set, *announced)

    def executed(self, height: int) -> Executed:
        """Return what a host says when it has executed the block at ``height``."""
        made = self.made[height - 1]
        return Executed(height, made.block.header.hash, made.finalized.announced)

    def epoch_changes(self, certificates: dict[int, Certificate]) -> tuple[bytes, ...]:
        """Return the proofs of all validator sets that took effect."""
        headers = self.headers
        sets = [one for one in self.epochs(len(self.made))[1:] if one.first_height <= len(self.made)]
        pairs = [(headers[one.first_height - 1], one) for one in sets]
        return tuple(encode(EpochChange(encode(last), certificates[last.height], one)) for last, one in pairs)

    def snapshot(self, certificates: dict[int, Certificate]) -> tuple[SnapshotManifest, tuple[Chunk, ...]]:
        """Return the snapshot of the state after the block at :data:`SNAPSHOT_HEIGHT`."""
        header, certificate = self.headers[SNAPSHOT_HEIGHT], certificates[SNAPSHOT_HEIGHT]
        return make_snapshot(header, certificate, self._entries, self.epoch_changes(certificates), SNAPSHOT_DEPTH)

    def execute(self, height: int, batch: bytes) -> Block:
        """Return the block that ``batch`` makes at ``height``.

        Raises:
            InvariantViolation: another batch was executed there.
        """
        if height > len(self.made):
            self._make(batch)
        made = self.made[height - 1]
        if made.block.batch != batch:
            raise InvariantViolation(f"two batches at height {height}")
        return made.block

    def _make(self, batch: bytes) -> None:
        head = self.headers[-1]
        decoded = Batch(0, NO_PROPOSER, 0, ()) if batch == NULL_BATCH else decode_batch(batch)
        named = [self.transactions[one] for one in decoded.transaction_ids]
        time_ms = block_time_ms(head, batch)
        finalized = self.application.finalize_block(head.height + 1, time_ms, decoded.proposer, named)
        included = [named[position] for position in finalized.included]
        epochs, height = self.epochs(head.height), head.height + 1
        ids, following = [one.id for one in included], set_at(epochs, height + 1).digest
        header = make_header(head, batch, ids, finalized.receipts, finalized.tree.root, set_at(epochs, height).epoch, following)
        self.made.append(Made(Block(header, batch, tuple(one.raw for one in included), finalized.receipts), finalized))
        self._commit(finalized)
        if height == SNAPSHOT_HEIGHT:
            self._entries = list(self.state.scan(b""))

    def _commit(self, finalized: FinalizedBlock) -> None:
        self.state.apply(finalized.writes)
        self.application.commit()


def replica_config(genesis: Genesis, index: int) -> ReplicaConfig:
    """Return the configuration of a validator's replica."""
    rules, name = genesis.consensus, VALIDATORS[index]
    return ReplicaConfig(
        name, (signer_of(name),), window=rules.window, max_in_flight=rules.max_in_flight, snapshot_gap=SNAPSHOT_GAP
    )  # fmt: skip


def make_replica(genesis: Genesis, index: int) -> Replica:
    """Return a validator's replica on an empty disk."""
    return Replica(replica_config(genesis, index), Recovered((genesis.validator_set,)))
