"""A traitor: what a Byzantine node sends instead of what its honest software would say. It signs with its own keys only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from cluster.simulation.dice import Dice
from cluster.simulation.forgeries import bad_batches, flipped, forged_view_change, staler_view_change
from cluster.simulation.impostor import Impostor
from cluster.simulation.mail import Ask, Share
from cluster.simulation.world import MEMBERS, WINDOW
from consensus.block import Batch, batch_digest, decode_batch
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.messages import (
    BatchMessage,
    BlocksMessage,
    ChunkMessage,
    Domain,
    Kind,
    NewViewBody,
    NewViewMessage,
    PreparedProof,
    PrePrepareMessage,
    SnapshotMessage,
    StatusBody,
    StatusMessage,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    decode_message,
    decode_new_view_body,
    decode_view_change_body,
    sign_vote,
)
from consensus.transaction import decode_transaction

if TYPE_CHECKING:
    from cluster.simulation.node import Node

MOST_REMEMBERED = 60
Place = tuple[int, int, int]


class Traitor:
    """Alters what one node sends.

    Args:
        node: whose; only its own keys are used.
        habits: out of :data:`cluster.simulation.habits.HABITS`.
        chance: for whatever it feels like.
    """

    def __init__(self, node: Node, habits: Iterable[str], chance: Dice) -> None:
        self._node = node
        self._habits = frozenset(habits)
        self._chance = chance
        self._side = chance.randrange(2)
        self._victim = chance.choice(MEMBERS)
        self._other: dict[Place, tuple[bytes, bytes]] = {}
        self._remembered: list[object] = []
        self._proofs: list[PreparedProof] = []
        self._bodies: list[ViewChangeBody] = []
        self._impostor = Impostor(node, self._habits, chance, self.sign)
        self._handlers: dict[type, Callable[..., object | None]] = {
            PrePrepareMessage: self._pre_prepare,
            VoteMessage: self._vote,
            ViewChangeMessage: self._view_change,
            NewViewMessage: self._new_view,
            StatusMessage: self._status,
            BlocksMessage: self._impostor.blocks,
        }

    def has(self, habit: str) -> bool:
        """Tell whether it does such things."""
        return habit in self._habits

    def censors(self, raw: bytes) -> bool:
        """Tell whether it pretends not to have seen a transaction."""
        if not self.has("censor"):
            return False
        try:
            return decode_transaction(raw).body.sender == self._victim
        except DecodeError:
            return False

    def sign(self, like: Vote, *, digest: bytes | None = None, view: int | None = None, sequence: int | None = None) -> Vote:
        """Return an own vote that differs from ``like`` in what is given."""
        genesis = self._node.world.genesis
        return sign_vote(
            self._node.seat_signer(like.epoch),
            Domain(genesis.chain_id, genesis.channel, like.epoch),
            Kind(like.kind),
            like.view if view is None else view,
            like.sequence if sequence is None else sequence,
            like.digest if digest is None else digest,
            like.sender,
        )

    # ------------------------------------------------------------------------------------------------- hearing and sending

    def heard(self, sender: str, message: object) -> None:
        """Something came in: answer at once, before the honest software does."""
        for to, answer in self._impostor.answers(sender, message):
            self._node.simulation.network.send(self._node, to, answer)

    def altered(self, to: str, message: object) -> list[object]:
        """Return what goes out to one node instead of ``message``."""
        if isinstance(message, Share | Ask):
            return [message]
        out: list[object | None] = []
        if self.has("replay"):
            out += self._replayed(message)
        if self.has("silent") and self._is_on_side(to):
            return [one for one in out if one is not None]
        handler = self._handlers.get(type(message))
        changed = message if handler is None else handler(to, message)
        if changed is not None:
            out.append(self._corrupted(changed) if self.has("corrupt") and self._chance.random() < 0.15 else changed)
        if self.has("flood") and self._chance.random() < 0.05:
            out += self._flood()
        return [one for one in out if one is not None]

    def _is_on_side(self, to: str) -> bool:
        return self._node.world.names.index(to) % 2 == self._side

    def _is_own(self, vote: Vote) -> bool:
        process = self._node.process
        return process is not None and vote.sender == process.replica.committee.index and vote.epoch == process.replica.committee.epoch

    # -------------------------------------------------------------------------------------------------------- single votes

    def _pre_prepare(self, to: str, message: PrePrepareMessage) -> object | None:
        """Propose another batch to one half, or a bad one to all; then prepare it, too, which a primary may not."""
        vote = message.vote
        if not self._is_own(vote):
            return message
        if self.has("idle"):
            return None
        place = (vote.epoch, vote.view, vote.sequence)
        if place not in self._other:
            other = self._other_batch(message.batch)
            self._other[place] = (batch_digest(other), other)
        digest, other = self._other[place]
        if digest != vote.digest and (self.has("bad-proposal") or self._is_on_side(to)):
            vote, message = self.sign(vote, digest=digest), PrePrepareMessage(self.sign(vote, digest=digest), other)
        if self.has("equivocate"):
            prepare = Vote(Kind.PREPARE, vote.epoch, vote.view, vote.sequence, vote.digest, vote.sender, b"")
            self._node.simulation.network.send(self._node, to, VoteMessage(self.sign(prepare)))
        return message

    def _other_batch(self, batch: bytes) -> bytes:
        """Return another batch for the same place: a good one, or one that nobody may propose."""
        if not batch:
            return batch
        good = decode_batch(batch)
        if self.has("bad-proposal") and self._chance.random() < 0.5:
            return encode(self._chance.choice(bad_batches(good, tuple(self._node.disk.chain.tables["places"])[-2:])))
        if self.has("equivocate"):
            fewer = good.transaction_ids[:-1] if good.transaction_ids else ()
            return encode(Batch(good.view, good.proposer, good.time_ms + 1, self._chance.choice((good.transaction_ids, fewer))))
        return batch

    def _vote(self, to: str, message: VoteMessage) -> object | None:
        vote = message.vote
        if not self._is_own(vote):
            return message
        if self.has("mute-checkpoint") and vote.kind == Kind.CHECKPOINT:
            return None
        other = self._other.get((vote.epoch, vote.view, vote.sequence))
        if other is not None and vote.kind == Kind.COMMIT and (self.has("bad-proposal") or self._is_on_side(to)):
            return VoteMessage(self.sign(vote, digest=other[0]))
        if self.has("double") and self._chance.random() < 0.3:
            return VoteMessage(self.sign(vote, digest=bytes([self._chance.randrange(3)]) * 32))
        return message

    def _flood(self) -> list[object]:
        """Return votes of all kinds for places far away."""
        process = self._node.process
        if process is None or process.replica.committee.index is None:
            return []
        seat, epoch, height = process.replica.committee.index, process.replica.committee.epoch, process.store.height
        found: list[object] = []
        for _ in range(24):
            far = height + self._chance.choice((2, WINDOW, 5 * WINDOW, 10**6, 2**40)) + self._chance.randrange(100)
            view = process.replica.view + self._chance.choice((0, 0, 1, 7))
            kind = self._chance.choice((Kind.PREPARE, Kind.COMMIT, Kind.CHECKPOINT))
            base = Vote(kind, epoch, 0 if kind is Kind.CHECKPOINT else view, far, bytes(32), seat, b"")
            found.append(VoteMessage(self.sign(base)))
        return found

    # ---------------------------------------------------------------------------------------------------------- view change

    def _view_change(self, to: str, message: ViewChangeMessage) -> object:
        if not self._is_own(message.vote):
            return message
        body = decode_view_change_body(message.body)
        self._proofs = [*self._proofs, *body.prepared][-40:]
        self._bodies = [*self._bodies, body][-10:]
        if self.has("stale-view-change"):
            return self._signed_view_change(message.vote, staler_view_change(body, self._proofs, self._bodies[0], self._chance))
        if self.has("forged-view-change"):
            return self._signed_view_change(message.vote, forged_view_change(body, self._chance))
        return message

    def _signed_view_change(self, like: Vote, body: ViewChangeBody) -> ViewChangeMessage:
        encoded = encode(body)
        return ViewChangeMessage(self.sign(like, digest=body_digest(encoded), view=body.new_view), encoded)

    def _new_view(self, to: str, message: NewViewMessage) -> object:
        if not self._is_own(message.vote) or not self.has("altered-new-view"):
            return message
        body = decode_new_view_body(message.body)
        votes = list(body.pre_prepares)
        choice = self._chance.randrange(3)
        if choice == 0 and votes:
            place = self._chance.randrange(len(votes))
            votes[place] = self.sign(votes[place], digest=bytes(32))
        elif choice == 1 and votes:
            votes.pop(self._chance.randrange(len(votes)))
        else:
            last = votes[-1].sequence if votes else self._node.disk.chain.tables["meta"].get("head", 0)
            like = Vote(Kind.PRE_PREPARE, message.vote.epoch, message.vote.view, last + 1, bytes(32), message.vote.sender, b"")
            votes.append(self.sign(like))
        encoded = encode(NewViewBody(body.view_changes, tuple(votes)))
        return NewViewMessage(self.sign(message.vote, digest=body_digest(encoded)), encoded)

    # -------------------------------------------------------------------------------------------------------------- others

    def _status(self, to: str, message: StatusMessage) -> object | None:
        body = message.body
        if self.has("forged-view-change") and self._chance.random() < 0.1:
            view = max(1, body.view + self._chance.choice((1, 1, 2, 50)))
            base = Vote(Kind.VIEW_CHANGE, message.vote.epoch, view, 0, bytes(32), message.vote.sender, b"")
            self._node.simulation.network.send(self._node, to, self._signed_view_change(base, ViewChangeBody(view, None, ())))
        if not self.has("lie") and not self.has("forge-snapshot"):
            return message
        lie = StatusBody(
            body.view + self._chance.choice((0, 0, 3)),
            body.changing,
            body.executed,
            max(0, body.certified + self._chance.choice((-2, 0, 5, 1_000))),
            self._chance.choice((1, body.first, 10**6)),
            body.certificate,
        )
        return StatusMessage(self.sign(message.vote, digest=body_digest(lie), view=lie.view), lie)

    def _corrupted(self, message: object) -> object | None:
        """Return the message as it reads after some bytes flipped, None if it is none any more."""
        if isinstance(message, BatchMessage):
            return BatchMessage(flipped(message.batch, self._chance))
        if isinstance(message, ChunkMessage):
            return ChunkMessage(message.height, message.index, flipped(message.chunk, self._chance))
        if isinstance(message, SnapshotMessage):
            return SnapshotMessage(flipped(message.manifest, self._chance))
        if isinstance(message, BlocksMessage):
            first = message.blocks[0]
            bad = msgspec.structs.replace(first, block=flipped(first.block, self._chance))
            return BlocksMessage((bad, *message.blocks[1:]))
        try:
            return decode_message(flipped(encode(message), self._chance))
        except DecodeError:
            return None

    def _replayed(self, message: object) -> list[object]:
        if len(self._remembered) < MOST_REMEMBERED:
            self._remembered.append(message)
        return [self._chance.choice(self._remembered)] if self._chance.random() < 0.1 else []
