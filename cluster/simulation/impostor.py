"""The part of a traitor that answers: forged blocks and snapshots for those who ask, and votes of others under another label."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from cluster.simulation.dice import Dice
from cluster.simulation.forgeries import cut, forged_block, forged_header, forged_state, weak_certificate
from consensus.block import Certificate, Header
from consensus.codec import encode
from consensus.messages import (
    BlocksMessage,
    ChunkMessage,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    SnapshotMessage,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
)
from consensus.snapshot import Chunk
from consensus.state_tree import StateTree

if TYPE_CHECKING:
    from cluster.simulation.node import Node

Answer = tuple[str, object]


class Impostor:
    """Makes up answers.

    Args:
        node: whose.
        habits: of the traitor.
        chance: for whatever it feels like.
        sign: signs an own vote.
    """

    def __init__(self, node: Node, habits: frozenset[str], chance: Dice, sign: Callable[[Vote], Vote]) -> None:
        self._node = node
        self._habits = habits
        self._chance = chance
        self._sign = sign
        self._chunks: dict[int, tuple[Chunk, ...]] = {}

    def answers(self, sender: str, message: object) -> list[Answer]:
        """Return what goes out because ``message`` came in, and to whom (traitors do not answer each other: that would never end)."""
        if isinstance(message, VoteMessage | ViewChangeMessage) and self._node.simulation.checker.votes.is_traitor(sender):
            return []
        if isinstance(message, ViewChangeMessage) and "forged-view-change" in self._habits and self._chance.random() < 0.8:
            return self._bad_view_change(message.vote)
        if isinstance(message, VoteMessage | ViewChangeMessage) and "relabel" in self._habits and self._chance.random() < 0.5:
            return self._relabelled(message)
        if isinstance(message, FetchBlocks) and "forge-blocks" in self._habits:
            return self._own_block(sender, message.first)
        if isinstance(message, FetchSnapshot) and "forge-snapshot" in self._habits:
            return self._own_snapshot(sender, message.height)
        if isinstance(message, FetchChunk) and message.height in self._chunks:
            chunks = self._chunks[message.height]
            if 0 <= message.index < len(chunks):
                return [(sender, ChunkMessage(message.height, message.index, encode(chunks[message.index])))]
        return []

    def blocks(self, to: str, message: BlocksMessage) -> object | None:
        """Return what goes out instead of blocks that were asked for: nothing, if the own ones went out already."""
        if "forge-blocks" in self._habits:
            return None
        return BlocksMessage(message.blocks[1:]) if "corrupt" in self._habits and self._chance.random() < 0.3 else message

    def _bad_view_change(self, other: Vote) -> list[Answer]:
        """Answer a view-change with an own one that proves nothing."""
        process = self._node.process
        seat = None if process is None else process.replica.committee.index
        if seat is None:
            return []
        body = b"no view-change"
        vote = self._sign(Vote(Kind.VIEW_CHANGE, other.epoch, other.view, 0, body_digest(body), seat, b""))
        return [(name, ViewChangeMessage(vote, body)) for name in self._node.others]

    def _relabelled(self, message: VoteMessage | ViewChangeMessage) -> list[Answer]:
        """Send a vote of somebody else on: as another kind, or as one of another epoch."""
        vote = message.vote
        if isinstance(message, ViewChangeMessage):
            later = msgspec.structs.replace(vote, epoch=vote.epoch + self._chance.choice((1, 1, -1)))
            forged: object = ViewChangeMessage(later, message.body)
        elif self._chance.random() < 0.7:
            other = {Kind.PREPARE: Kind.COMMIT, Kind.COMMIT: Kind.PREPARE}.get(Kind(vote.kind), Kind.COMMIT)
            forged = VoteMessage(msgspec.structs.replace(vote, kind=int(other)))
        else:
            forged = VoteMessage(msgspec.structs.replace(vote, epoch=vote.epoch + 1))
        return [(name, forged) for name in self._node.others]

    def _certificate(self, header: Header) -> Certificate | None:
        """Return a certificate of an own header with one good signature."""
        process = self._node.process
        if process is None or process.replica.committee.index is None:
            return None
        committee = process.replica.committee
        like = Vote(Kind.CHECKPOINT, header.epoch, 0, header.height, header.hash, committee.index or 0, b"")
        return weak_certificate(header.epoch, header, self._sign(like), len(committee.validators.names), self._chance)

    def _own_block(self, to: str, height: int) -> list[Answer]:
        previous = self._node.disk.chain.tables["headers"].get(height - 1)
        if previous is None:
            return []
        header = forged_header(previous)
        certificate = self._certificate(header)
        return [] if certificate is None else [(to, BlocksMessage((forged_block(header, certificate),)))]

    def _own_snapshot(self, to: str, height: int) -> list[Answer]:
        process = self._node.process
        head = process.store.head() if process is not None else None
        if head is None:
            return []
        entries = forged_state(sorted(self._node.disk.chain.tables["state"].items()))
        root = StateTree.of(entries).root
        header = msgspec.structs.replace(head, height=max(height, head.height) + 1, state_root=root)
        certificate = self._certificate(header)
        if certificate is None or process is None:
            return []
        manifest, self._chunks[header.height] = cut(header, certificate, entries, process.snapshots.proofs())
        return [(to, SnapshotMessage(encode(manifest)))]
