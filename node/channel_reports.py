"""What a channel tells: its state, its proofs, its validators, and what it saw others do wrong."""

from __future__ import annotations

from consensus.codec import encode
from consensus.mempool import Mempool
from consensus.messages import Kind
from consensus.proofs import EntryProof, TransactionProof
from consensus.replica import Replica
from contracts.application import LedgerApplication
from contracts.events import Member
from contracts.genesis import Genesis
from node.block_store import ChannelStore
from node.channel_status import status_of
from node.clock import Clock
from node.epochs import EpochBook
from node.peers import PeerDoor
from node.prover import Prover
from node.vote_log import VoteLog

LEVEL_BLOCKS = 2
"""So many blocks behind the others a node still counts as level."""


class ChannelReports:
    """The reading side of :class:`node.channel.Channel`, which sets all of these.

    Attributes:
        name, node: of the channel, of this node.
        stopped_because: why the channel stopped by itself; None while it works.
    """

    name: str
    node: str
    genesis: Genesis
    clock: Clock
    store: ChannelStore
    application: LedgerApplication
    stopped_because: str | None
    _epochs: EpochBook
    _mempool: Mempool
    _prover: Prover
    _door: PeerDoor
    _votes: VoteLog
    _replica: Replica

    def find(self, transaction_id: bytes) -> str | None:
        """Return "pending" if the transaction waits to be ordered."""
        return "pending" if transaction_id in self._mempool else None

    def transaction_proof(self, transaction_id: bytes) -> TransactionProof | None:
        """Return the proof of an executed transaction, None while its block is not certified."""
        return self._prover.transaction_proof(transaction_id)

    async def entry_proof(self, key: bytes, timeout_s: float = 2.0) -> EntryProof | None:
        """Return the proof of a state entry at the present head, None if that is not certified in time."""
        return await self._prover.entry_proof(key, timeout_s)

    def status(self) -> dict[str, object]:
        """Return how the channel does, ready for JSON."""
        status = self._replica.status(self.clock.monotonic_ms())
        head, first = self.store.head(), self.store.first_height
        now_ms, log = self.clock.now_ms(), self._votes.id
        return status_of(self, self.genesis.chain_id, status, head, self._mempool, self._door, now_ms, first, log)

    @property
    def epochs(self) -> EpochBook:
        """The validator sets that this node knows."""
        return self._epochs

    def epoch_changes(self) -> tuple[bytes, ...]:
        """Return the proofs of all epochs that the chain has reached, from epoch 1 on: encoded ``EpochChange`` values."""
        return self.store.epoch_changes()

    def members(self) -> dict[str, Member]:
        """Return the validators of the present and of all announced epochs, by name (of one in several, as the last one names it)."""
        present = self._replica.committee.epoch
        return {member.name: member for epoch in self.application.view.epochs() if epoch.number >= present for member in epoch.members}

    def evidence(self) -> list[dict[str, object]]:
        """Return recorded double signing, ready for JSON."""
        found: list[dict[str, object]] = []
        for first, second in self._votes.evidence():
            names = next((one.names for one in self._epochs.all if one.epoch == first.epoch), ())
            found.append(
                {
                    "validator": names[first.sender] if first.sender < len(names) else "",
                    "epoch": first.epoch,
                    "kind": Kind(first.kind).name.lower().replace("_", "-"),
                    "view": first.view,
                    "sequence": first.sequence,
                    "first": encode(first).hex(),
                    "second": encode(second).hex(),
                }
            )
        return found

    def is_level(self) -> bool:
        """Whether this node knows the present state: it has what at least one honest validator says it has (a liar may say anything)."""
        status = self._replica.status(self.clock.monotonic_ms())
        members = self._replica.committee.validators.names
        heights = sorted((height for name, height in status.peer_heights.items() if name in members), reverse=True)
        weak = self._replica.committee.quorums.weak
        return len(heights) >= weak and status.executed + LEVEL_BLOCKS >= heights[weak - 1]
