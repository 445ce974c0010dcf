"""Checkers of what nodes sign and decide: every vote of every honest node is remembered across all restarts and wipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from cluster.simulation.settings import Violation
from cluster.simulation.signatures import Keys
from cluster.simulation.view_checker import check_new_view
from consensus.block import Certificate, batch_digest
from consensus.effects import Evidence, LogRecord
from consensus.messages import (
    BlocksMessage,
    FetchBatch,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    NewViewMessage,
    PreparedProof,
    PrePrepareMessage,
    StatusMessage,
    ValidatorSet,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    decode_new_view_body,
    decode_view_change_body,
    signing_bytes,
)
from consensus.ordering import decode_prepared

if TYPE_CHECKING:
    from cluster.simulation.node import Node

Place = tuple[int, int, int, int]
"""Epoch, kind, view and sequence of a vote."""
_VOTES = (VoteMessage, PrePrepareMessage, ViewChangeMessage, NewViewMessage)
MOST_REQUESTS = 80
"""How often a node may ask for the same within one second, of all others together."""
SCHEME = 1


def quorum_of(nodes: int) -> int:
    """Return how many of ``nodes`` validators make a quorum: any two of them share an honest one."""
    faulty = (nodes - 1) // 3
    return -(-(nodes + faulty + 1) // 2)


class VoteChecker:
    """Checks votes.

    Args:
        keys: of everybody.
        sets: validator set by epoch; grows during the run.
        certified: told of every certificate that a node sends.
    """

    def __init__(self, keys: Keys, sets: dict[int, ValidatorSet], certified: Callable[[Node, Certificate], None]) -> None:
        self._keys = keys
        self._sets = sets
        self._certified = certified
        self._traitors: frozenset[str] = frozenset()
        self._votes: dict[str, dict[Place, bytes]] = {}
        self._logged: dict[str, dict[Place, None]] = {}
        self._prepared: dict[str, dict[tuple[int, int], tuple[int, bytes]]] = {}
        self._commits: dict[tuple[int, int, bytes], dict[str, None]] = {}
        self._separated: dict[tuple[str, int], None] = {}
        self._view_changes: dict[ViewChangeMessage, None] = {}
        self._second = 0
        self._requests: dict[tuple[str, object], int] = {}

    def trust(self, honest: Sequence[str], everybody: Sequence[str]) -> None:
        """Say who is honest."""
        self._traitors = frozenset(everybody) - frozenset(honest)
        for name in honest:
            self._votes[name] = {}
            self._logged[name] = {}
            self._prepared[name] = {}

    def is_traitor(self, name: str) -> bool:
        """Tell whether a node is not honest."""
        return name in self._traitors

    def is_own_view_change(self, message: ViewChangeMessage) -> bool:
        """Tell whether an honest node sent this view-change."""
        return message in self._view_changes

    # ---------------------------------------------------------------------------------------------------------- durability

    def persisted(self, node: Node, records: Sequence[LogRecord]) -> None:
        """A node made votes durable."""
        if not node.honest:
            return
        logged = self._logged[node.name]
        for record in records:
            logged[(record.epoch, record.kind, record.view, record.sequence)] = None
            if record.kind == Kind.NEW_VIEW:
                validators = self._sets[record.epoch]
                check_new_view(node.name, validators, record.data, quorum_of(len(validators.names)))
            if record.kind == Kind.COMMIT:
                prepared = decode_prepared(record.data)
                self._check_prepared(node, prepared.commit, prepared.proof)
                place = (record.epoch, record.sequence, prepared.commit.digest)
                self._commits.setdefault(place, {})[node.name] = None
                self._prepared[node.name][(record.epoch, record.sequence)] = (record.view, prepared.commit.digest)

    def wiped(self, node: Node) -> None:
        """A node lost its disk."""
        if node.honest:
            self._logged[node.name].clear()
            self._prepared[node.name].clear()

    def _check_prepared(self, node: Node, commit: Vote, proof: PreparedProof) -> None:
        """Check the prepared certificate that a commit rests on: a pre-prepare and prepares of q distinct validators for one digest."""
        validators = self._sets[commit.epoch]
        votes = (proof.pre_prepare, *proof.prepares)
        place = (commit.epoch, commit.view, commit.sequence, commit.digest)
        good = {
            vote.sender
            for vote in votes
            if (vote.epoch, vote.view, vote.sequence, vote.digest) == place and self._is_signed(validators, vote)
        }
        if len(good) < quorum_of(len(validators.names)):
            raise Violation("certificate", f"{node.name} takes {len(good)} votes for a prepared certificate: {_words(commit)}")

    def _is_signed(self, validators: ValidatorSet, vote: Vote) -> bool:
        if not 0 <= vote.sender < len(validators.names):
            return False
        message = signing_bytes(validators.domain, vote.kind, vote.view, vote.sequence, vote.digest, vote.sender)
        return self._keys.check(SCHEME, validators.public_keys[vote.sender], message, vote.signature)

    # ------------------------------------------------------------------------------------------------------------- deciding

    def decided(self, node: Node, epoch: int, sequence: int, batch: bytes) -> None:
        """A node is about to execute a batch that it holds for decided: q validators must have committed to it, traitors included."""
        if not node.honest:
            return
        validators, digest = self._sets[epoch], batch_digest(batch)
        honest = self._commits.get((epoch, sequence, digest), {})
        traitors = sum(name in self._traitors for name in validators.names)
        if len(honest) + traitors < quorum_of(len(validators.names)):
            raise Violation("decision", f"{node.name} executes batch {sequence} that {len(honest)} honest nodes committed to")

    # -------------------------------------------------------------------------------------------------------------- saying

    def said(self, node: Node, message: object) -> None:
        """A node is about to send a message."""
        if not node.honest:
            return
        if isinstance(message, _VOTES):
            self._own_vote(node, message.vote)
            if isinstance(message, ViewChangeMessage):
                self._view_changes[message] = None
                self._check_view_change(node, message)
            if isinstance(message, NewViewMessage):
                for vote in decode_new_view_body(message.body).pre_prepares:
                    self._own_vote(node, vote, inside=message.vote)
        elif isinstance(message, StatusMessage):
            if message.body.certificate is not None:
                self._certified(node, message.body.certificate)
        elif isinstance(message, BlocksMessage):
            for block in message.blocks:
                if len(block.certificate.votes) > 1:
                    self._certified(node, block.certificate)
                else:
                    self._check_vouching(node, block.certificate)
        elif isinstance(message, FetchBlocks | FetchSnapshot | FetchChunk | FetchBatch):
            self._asked(node, message)

    def _check_vouching(self, node: Node, own: Certificate) -> None:
        """Check that a node that sends a block without a certificate vouches for it: with its own checkpoint vote, which it sent before."""
        if self._votes[node.name].get((own.epoch, Kind.CHECKPOINT, 0, own.height)) != own.header_hash:
            raise Violation("certificate", f"{node.name} sends block {own.height} that it never signed, without a certificate")

    def _check_view_change(self, node: Node, message: ViewChangeMessage) -> None:
        """Check that a node's own view-change tells of everything that it ever committed to above its stable checkpoint."""
        body, vote = decode_view_change_body(message.body), message.vote
        names = self._sets[vote.epoch].names
        if not 0 <= vote.sender < len(names) or names[vote.sender] != node.name:
            return
        told = {proof.pre_prepare.sequence: proof.pre_prepare for proof in body.prepared}
        low = body.stable.height if body.stable is not None else 0
        for (epoch, sequence), (view, digest) in self._prepared[node.name].items():
            if epoch != vote.epoch or sequence <= low or view >= vote.view:
                continue
            proof = told.get(sequence)
            if proof is None or proof.view < view or (proof.view == view and proof.digest != digest):
                raise Violation("view-change", f"{node.name} prepared sequence {sequence} in view {view} and hides it: {_words(vote)}")

    def _asked(self, node: Node, message: object) -> None:
        """Count what a node asks for: the same again and again within a second is a storm."""
        now_s = node.simulation.now_ms // 1_000
        if now_s != self._second:
            self._second = now_s
            self._requests.clear()
        times = self._requests.get((node.name, message), 0) + 1
        if times > MOST_REQUESTS:
            raise Violation("storm", f"{node.name} asks for the same {times} times in a second: {message}")
        self._requests[(node.name, message)] = times

    def _own_vote(self, node: Node, vote: Vote, inside: Vote | None = None) -> None:
        """Check a vote that a node sends, if it is its own.

        Args:
            inside: the new-view that holds it, and with which it was made durable.
        """
        validators = self._sets.get(vote.epoch)
        if validators is None or not 0 <= vote.sender < len(validators.names) or validators.names[vote.sender] != node.name:
            return
        place = (vote.epoch, vote.kind, vote.view, vote.sequence)
        votes = self._votes[node.name]
        known = votes.get(place)
        if known is None:
            if validators.logs[vote.sender] != node.log:
                raise Violation("mute", f"{node.name} signed {_words(vote)} although its seat belongs to another vote log")
            written = vote if inside is None else inside
            if (written.epoch, written.kind, written.view, written.sequence) not in self._logged[node.name]:
                raise Violation("write-ahead", f"{node.name} sent {_words(vote)} before it was durable")
            votes[place] = vote.digest
            self._check_separation(node, validators, vote)
        elif known != vote.digest:
            raise Violation("double-sign", f"{node.name} signed two different votes: {_words(vote)}")

    def _check_separation(self, node: Node, validators: ValidatorSet, vote: Vote) -> None:
        """Check that the first signature of every kind means nothing in another place: not as another kind, epoch, view, and so on."""
        if (node.name, vote.kind) in self._separated:
            return
        self._separated[(node.name, vote.kind)] = None
        elsewhere = [
            (validators.domain, vote.kind + 1, vote.view, vote.sequence, vote.digest),
            (validators.domain, vote.kind - 1, vote.view, vote.sequence, vote.digest),
            (validators.domain, vote.kind, vote.view + 1, vote.sequence, vote.digest),
            (validators.domain, vote.kind, vote.view, vote.sequence + 1, vote.digest),
            (validators.domain, vote.kind, vote.view, vote.sequence, vote.digest[::-1] + b"?"),
            (msgspec.structs.replace(validators.domain, epoch=vote.epoch + 1), vote.kind, vote.view, vote.sequence, vote.digest),
            (msgspec.structs.replace(validators.domain, channel="other"), vote.kind, vote.view, vote.sequence, vote.digest),
        ]
        for domain, kind, view, sequence, value in elsewhere:
            message = signing_bytes(domain, kind, view, sequence, value, vote.sender)
            if self._keys.check(SCHEME, validators.public_keys[vote.sender], message, vote.signature):
                raise Violation("separation", f"the signature of {node.name} under {_words(vote)} is good for something else, too")

    def evidence(self, node: Node, effect: Evidence) -> None:
        """A node says that it saw two votes for one place."""
        vote = effect.first
        validators = self._sets.get(vote.epoch)
        if not node.honest or validators is None:
            return
        name = validators.names[vote.sender]
        if name not in self._traitors:
            raise Violation("evidence", f"{node.name} accuses {name}, which is honest, of two votes: {_words(vote)}")


def _words(vote: Vote) -> str:
    try:
        kind = Kind(vote.kind).name.lower()
    except ValueError:
        kind = f"kind {vote.kind}"
    return f"{kind} of epoch {vote.epoch}, view {vote.view}, sequence {vote.sequence}"
