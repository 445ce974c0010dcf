"""A traitor: what a Byzantine node sends instead of what its honest software would say. It signs with its own key only.

| habit | what it does |
| --- | --- |
| equivocate | as primary it proposes two batches for one place, one to each half, and votes with each half for its own |
| double | votes for something else now and then, in every kind of vote |
| silent | says nothing to some |
| mute-checkpoint | never signs a header |
| stale-view-change | leaves prepared certificates out of its view-changes, or shows older ones |
| forged-view-change | asks for inflated views, with proofs that prove nothing |
| altered-new-view | as new primary it changes, drops or adds re-proposals |
| replay | says old things again |
| corrupt | flips bytes: of messages, batches, blocks, manifests and chunks |
| lie | claims wrong heights and views in its status |
| flood | votes for places far in the future |
| censor | leaves one member's transactions out |
| bad-proposal | proposes batches that nobody may propose |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from cluster.simulation.dice import Dice
from cluster.simulation.mail import Ask, Share
from cluster.simulation.world import GENESIS_MS, WINDOW
from consensus.block import Batch, CertifiedBlock, batch_digest, decode_batch
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

HABITS = (
    "equivocate",
    "double",
    "silent",
    "mute-checkpoint",
    "stale-view-change",
    "forged-view-change",
    "altered-new-view",
    "replay",
    "corrupt",
    "lie",
    "flood",
    "censor",
    "bad-proposal",
)
MOST_REMEMBERED = 60
Place = tuple[int, int, int]


class Traitor:
    """Alters what one node sends.

    Args:
        node: whose; only its own key is used.
        habits: out of :data:`HABITS`.
        chance: for whatever it feels like.
    """

    def __init__(self, node: Node, habits: Iterable[str], chance: Dice) -> None:
        self._node = node
        self._habits = frozenset(habits)
        self._chance = chance
        self._side = chance.randrange(2)
        self._victim = chance.choice(("north", "east", "south", "west"))
        self._other: dict[Place, tuple[bytes, bytes]] = {}
        self._remembered: list[tuple[str, object]] = []
        self._proofs: list[PreparedProof] = []
        self._stable_seen: list[ViewChangeBody] = []

    def has(self, habit: str) -> bool:
        """Tell whether it does such things."""
        return habit in self._habits

    def censors(self, raw: bytes) -> bool:
        """Tell whether it pretends not to have seen a transaction."""
        if "censor" not in self._habits:
            return False
        try:
            return decode_transaction(raw).body.sender == self._victim
        except DecodeError:
            return False

    # ------------------------------------------------------------------------------------------------------------- sending

    def altered(self, to: str, message: object) -> list[object]:
        """Return what goes out to one node instead of ``message``."""
        if isinstance(message, Share | Ask):
            return [message]
        out: list[object] = []
        if self.has("replay"):
            out += self._replayed(to, message)
        if self.has("silent") and self._is_on_side(to):
            return out
        changed = self._changed(to, message)
        if changed is not None:
            out.append(self._corrupted(changed) if self.has("corrupt") and self._chance.random() < 0.15 else changed)
        if self.has("flood") and self._chance.random() < 0.05:
            out += self._flood()
        return [one for one in out if one is not None]

    def _is_on_side(self, to: str) -> bool:
        place = self._node.world.names.index(to)
        return place % 2 == self._side

    def _changed(self, to: str, message: object) -> object | None:
        handlers: dict[type, Callable[..., object | None]] = {
            PrePrepareMessage: self._pre_prepare,
            VoteMessage: self._vote,
            ViewChangeMessage: self._view_change,
            NewViewMessage: self._new_view,
            StatusMessage: self._status,
            BlocksMessage: self._blocks,
        }
        handler = handlers.get(type(message))
        return message if handler is None else handler(to, message)

    def _is_own(self, vote: Vote) -> bool:
        process = self._node.process
        return process is not None and vote.sender == process.replica.committee.index and vote.epoch == process.replica.committee.epoch

    def _sign(self, like: Vote, *, digest: bytes | None = None, view: int | None = None, sequence: int | None = None) -> Vote:
        """Return an own vote that differs from ``like`` in what is given."""
        domain = Domain(self._node.world.genesis.chain_id, self._node.world.genesis.channel, like.epoch)
        return sign_vote(
            self._node.replica_config.signers[0],
            domain,
            Kind(like.kind),
            like.view if view is None else view,
            like.sequence if sequence is None else sequence,
            like.digest if digest is None else digest,
            like.sender,
        )

    # -------------------------------------------------------------------------------------------------------- single votes

    def _pre_prepare(self, to: str, message: PrePrepareMessage) -> object:
        """Propose another batch to one half, or a bad one to all."""
        vote = message.vote
        if not self._is_own(vote):
            return message
        place = (vote.epoch, vote.view, vote.sequence)
        if place not in self._other:
            other = self._other_batch(message.batch)
            self._other[place] = (batch_digest(other), other)
        digest, other = self._other[place]
        if digest == vote.digest or (not self.has("bad-proposal") and not self._is_on_side(to)):
            return message
        return PrePrepareMessage(self._sign(vote, digest=digest), other)

    def _other_batch(self, batch: bytes) -> bytes:
        """Return another batch for the same place: a good one, or one that nobody may propose."""
        good = decode_batch(batch)
        if self.has("bad-proposal") and self._chance.random() < 0.5:
            return encode(self._chance.choice(_bad_batches(good, self._old_transactions())))
        if self.has("equivocate"):
            fewer = good.transaction_ids[:-1] if good.transaction_ids else ()
            return encode(Batch(good.view, good.proposer, good.time_ms + 1, self._chance.choice((good.transaction_ids, fewer))))
        return batch

    def _old_transactions(self) -> tuple[bytes, ...]:
        """Return ids of transactions that were executed already."""
        process = self._node.process
        return () if process is None else tuple(process.node.disk.chain.tables["places"])[-2:]

    def _vote(self, to: str, message: VoteMessage) -> object | None:
        vote = message.vote
        if not self._is_own(vote):
            return message
        if self.has("mute-checkpoint") and vote.kind == Kind.CHECKPOINT:
            return None
        other = self._other.get((vote.epoch, vote.view, vote.sequence))
        if other is not None and vote.kind == Kind.COMMIT and (self.has("bad-proposal") or self._is_on_side(to)):
            return VoteMessage(self._sign(vote, digest=other[0]))
        if self.has("double") and self._chance.random() < 0.3:
            return VoteMessage(self._sign(vote, digest=bytes([self._chance.randrange(3)]) * 32))
        return message

    def _flood(self) -> list[object]:
        """Return votes for places far away, and for every kind at hand."""
        process = self._node.process
        if process is None or process.replica.committee.index is None:
            return []
        committee = process.replica.committee
        like = Vote(Kind.COMMIT, committee.epoch, process.replica.view, process.store.height, bytes(32), committee.index or 0, b"")
        found: list[object] = []
        for _ in range(12):
            far = process.store.height + self._chance.choice((2, WINDOW, 5 * WINDOW, 10**6, 2**40)) + self._chance.randrange(100)
            view = process.replica.view + self._chance.choice((0, 0, 1, 7))
            kind = self._chance.choice((Kind.PREPARE, Kind.COMMIT, Kind.CHECKPOINT))
            base = Vote(kind, like.epoch, 0 if kind is Kind.CHECKPOINT else view, far, bytes(32), like.sender, b"")
            found.append(VoteMessage(self._sign(base)))
        return found

    # ---------------------------------------------------------------------------------------------------------- view change

    def _view_change(self, to: str, message: ViewChangeMessage) -> object:
        if not self._is_own(message.vote):
            return message
        body = decode_view_change_body(message.body)
        self._proofs = [*self._proofs, *body.prepared][-40:]
        self._stable_seen = [*self._stable_seen, body][-10:]
        if self.has("stale-view-change"):
            return self._signed_view_change(message.vote, self._staler(body))
        if self.has("forged-view-change"):
            return self._signed_view_change(message.vote, self._forged(body))
        return message

    def _signed_view_change(self, like: Vote, body: ViewChangeBody) -> ViewChangeMessage:
        encoded = encode(body)
        return ViewChangeMessage(self._sign(like, digest=body_digest(encoded), view=body.new_view), encoded)

    def _staler(self, body: ViewChangeBody) -> ViewChangeBody:
        """Return a body that is true but tells less: fewer prepared certificates, older ones, an older stable checkpoint."""
        oldest: dict[int, PreparedProof] = {}
        for proof in self._proofs:
            sequence = proof.pre_prepare.sequence
            if sequence not in oldest or proof.pre_prepare.view < oldest[sequence].pre_prepare.view:
                oldest[sequence] = proof
        choice = self._chance.randrange(4)
        if choice == 0:
            return ViewChangeBody(body.new_view, body.stable, ())
        if choice == 1:
            return ViewChangeBody(body.new_view, body.stable, body.prepared[:-1])
        if choice == 2:
            low = body.stable.height if body.stable is not None else 0
            older = tuple(proof for sequence, proof in sorted(oldest.items()) if sequence > low)
            return ViewChangeBody(body.new_view, body.stable, older)
        past = self._stable_seen[0]
        return ViewChangeBody(body.new_view, past.stable, past.prepared)

    def _forged(self, body: ViewChangeBody) -> ViewChangeBody:
        """Return a body that claims what it cannot prove, or asks for a view far away."""
        choice = self._chance.randrange(3)
        if choice == 0:
            return ViewChangeBody(body.new_view + self._chance.choice((1, 2, 1_000, 2**50)), body.stable, body.prepared)
        if choice == 1 and body.prepared:
            first = body.prepared[0]
            thin = PreparedProof(first.pre_prepare, first.prepares[:1] * len(first.prepares))
            return ViewChangeBody(body.new_view, body.stable, (thin, *body.prepared[1:]))
        if body.stable is not None:
            return ViewChangeBody(body.new_view, type(body.stable)(0, body.stable.height + 50, bytes(32), body.stable.votes), ())
        return ViewChangeBody(body.new_view + 1, body.stable, body.prepared)

    def _new_view(self, to: str, message: NewViewMessage) -> object:
        if not self._is_own(message.vote) or not self.has("altered-new-view"):
            return message
        body = decode_new_view_body(message.body)
        votes = list(body.pre_prepares)
        choice = self._chance.randrange(3)
        if choice == 0 and votes:
            place = self._chance.randrange(len(votes))
            votes[place] = self._sign(votes[place], digest=bytes(32))
        elif choice == 1 and votes:
            votes.pop(self._chance.randrange(len(votes)))
        else:
            last = votes[-1].sequence if votes else self._node.disk.chain.tables["meta"].get("head", 0)
            like = Vote(Kind.PRE_PREPARE, message.vote.epoch, message.vote.view, last + 1, bytes(32), message.vote.sender, b"")
            votes.append(self._sign(like))
        encoded = encode(NewViewBody(body.view_changes, tuple(votes)))
        return NewViewMessage(self._sign(message.vote, digest=body_digest(encoded)), encoded)

    # -------------------------------------------------------------------------------------------------------------- others

    def _status(self, to: str, message: StatusMessage) -> object | None:
        body = message.body
        if self.has("forged-view-change") and self._chance.random() < 0.1:
            self._node.simulation.network.send(self._node, to, self._unasked_view_change(message.vote))
        if not self.has("lie"):
            return message
        lie = StatusBody(
            body.view + self._chance.choice((0, 0, 3)),
            body.changing,
            body.executed,
            max(0, body.certified + self._chance.choice((-2, 0, 5, 1_000))),
            self._chance.choice((1, body.first, 10**6)),
            body.certificate,
        )
        return StatusMessage(self._sign(message.vote, digest=body_digest(lie), view=lie.view), lie)

    def _unasked_view_change(self, like: Vote) -> ViewChangeMessage:
        """Return a view-change that nobody has a reason for."""
        view = max(1, like.view + self._chance.choice((1, 1, 2, 50)))
        base = Vote(Kind.VIEW_CHANGE, like.epoch, view, 0, bytes(32), like.sender, b"")
        return self._signed_view_change(base, ViewChangeBody(view, None, ()))

    def _blocks(self, to: str, message: BlocksMessage) -> object | None:
        if not self.has("corrupt"):
            return message
        choice = self._chance.randrange(3)
        if choice == 0:
            return BlocksMessage(tuple(CertifiedBlock(_flipped(one.block, self._chance), one.certificate) for one in message.blocks))
        if choice == 1:
            return BlocksMessage(message.blocks[1:])
        return message

    def _corrupted(self, message: object) -> object | None:
        """Return the message as it reads after some bytes flipped, None if it is none any more."""
        if isinstance(message, BatchMessage):
            return BatchMessage(_flipped(message.batch, self._chance))
        if isinstance(message, ChunkMessage):
            return ChunkMessage(message.height, message.index, _flipped(message.chunk, self._chance))
        if isinstance(message, SnapshotMessage):
            return SnapshotMessage(_flipped(message.manifest, self._chance))
        try:
            return decode_message(_flipped(encode(message), self._chance))
        except DecodeError:
            return None

    def _replayed(self, to: str, message: object) -> list[object]:
        if len(self._remembered) < MOST_REMEMBERED:
            self._remembered.append((to, message))
        if self._chance.random() < 0.1:
            return [self._chance.choice(self._remembered)[1]]
        return []


def _flipped(data: bytes, chance: Dice) -> bytes:
    """Return ``data`` with one byte changed."""
    if not data:
        return b"\x00"
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ chance.randrange(1, 256)]) + data[place + 1 :]


def _bad_batches(good: Batch, old: tuple[bytes, ...]) -> list[Batch]:
    """Return batches that no honest replica may prepare."""
    ids = good.transaction_ids
    return [
        Batch(good.view, good.proposer, good.time_ms + 3_600_000, ids),
        Batch(good.view, good.proposer, GENESIS_MS - 1_000, ids),
        Batch(good.view, good.proposer, good.time_ms, ids * 2),
        Batch(good.view, good.proposer, good.time_ms, ids * 30),
        Batch(good.view + 1, good.proposer, good.time_ms, ids),
        Batch(good.view, good.proposer + 1, good.time_ms, ids),
        Batch(good.view, good.proposer, good.time_ms, (*ids, *old)),
        Batch(good.view, good.proposer, good.time_ms, (*ids, bytes(32))),
    ]


