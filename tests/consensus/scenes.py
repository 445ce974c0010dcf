"""Scenes for tests at the boundary of ``Replica.step``: one real replica whose peers the test plays itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from consensus.block import Certificate, CertifiedBlock, decode_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.effects import Certified, Received
from consensus.errors import Suspicion
from consensus.messages import (
    BlocksMessage,
    ChunkMessage,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    Message,
    SnapshotMessage,
    StatusBody,
    StatusMessage,
    ValidatorSet,
    Vote,
    body_digest,
    make_certificate,
    sign_vote,
)
from consensus.replica import Replica, ReplicaStatus
from consensus.validators import set_at
from tests.consensus.plain_ledger import Seat, signer, validator_set
from tests.consensus.virtual_cluster import NEVER, Host, VirtualCluster, name
from tests.consensus.virtual_disk import Disk

M = TypeVar("M")


def seat(host: Host) -> Seat:
    """The seat that a node would take with its newest key and its vote log."""
    return Seat(host.name, host.signers[-1].public_key, host.disk.log)


def in_epoch(cluster: VirtualCluster, epoch: int, hosts: list[Host] | None = None) -> Callable[[], bool]:
    """Whether all these nodes are up and in this epoch."""
    return lambda: all(host.up and host.replica.committee.epoch == epoch for host in (hosts or cluster.hosts))


class Chain:
    """What the others have: blocks with certificates, made with everybody's keys."""

    def __init__(self, n: int = 4, snapshot_every: int = 0) -> None:
        self.disk = Disk(validator_set(n))
        self.snapshot_every = snapshot_every
        self.keys = {signer(index).public_key: signer(index) for index in range(10)}

    @property
    def height(self) -> int:
        return self.disk.height

    @property
    def epochs(self) -> tuple[ValidatorSet, ...]:
        return self.disk.ledger.epochs

    def signer(self, validators: ValidatorSet, index: int) -> Ed25519Signer:
        return self.keys[validators.public_keys[index]]

    def vote(self, kind: Kind, view: int, sequence: int, digest: bytes, sender: int, validators: ValidatorSet | None = None) -> Vote:
        """A vote of a validator of the epoch of ``sequence``, or of another set."""
        validators = validators or set_at(self.epochs, sequence)
        return sign_vote(self.signer(validators, sender), validators.domain, kind, view, sequence, digest, sender)

    def certificate(self, height: int, header_hash: bytes, validators: ValidatorSet | None = None, votes: int | None = None) -> Certificate:
        validators = validators or set_at(self.epochs, height)
        senders = range(validators.quorums.quorum if votes is None else votes)
        return make_certificate(tuple(self.vote(Kind.CHECKPOINT, 0, height, header_hash, sender, validators) for sender in senders))

    def extend(self, *batches: bytes) -> None:
        for batch in batches:
            result = self.disk.ledger.finalize(batch)
            height = result.header.height
            draft = bool(self.snapshot_every) and height % self.snapshot_every == 0
            self.disk.append(result, batch, draft=draft)
            epoch = set_at(self.epochs, height).epoch
            self.disk.certified(Certified(self.certificate(height, result.header.hash), height, epoch, 0))

    def extend_to(self, height: int) -> None:
        self.extend(*(b"filler %d" % at for at in range(self.height + 1, height + 1)))

    def blocks(self, first: int, last: int) -> tuple[CertifiedBlock, ...]:
        return self.disk.certified_blocks(first, last)

    def status(self, sender: int, *, first: int = 1, certified: int | None = None, certificate: Certificate | None = None) -> StatusMessage:
        """What a validator of the epoch that the chain is in says about itself."""
        certified = self.height if certified is None else certified
        certificate = certificate or self.disk.certificates.get(certified)
        body = StatusBody(0, False, certified, certified, first, certificate)
        validators = set_at(self.epochs, self.height + 1)
        vote = sign_vote(self.signer(validators, sender), validators.domain, Kind.STATUS, 0, 0, body_digest(body), sender)
        return StatusMessage(vote, body)


class Lone:
    """One running replica; the test plays its peers. What it says is kept in ``said``, with the index of whom it says it to.

    Attributes:
        answer: what a peer says to a message.

    Args:
        index: of the node; from ``n`` on it has no seat at first.
        gap: from how far behind on it asks for a snapshot.
        disk: to start from.
        signers: its keys.
    """

    def __init__(
        self,
        index: int = 3,
        n: int = 4,
        *,
        gap: int | None = NEVER,
        disk: Disk | None = None,
        signers: tuple[Ed25519Signer, ...] | None = None,
    ) -> None:
        self.cluster = VirtualCluster(n, extra=10 - n, snapshot_gap=gap)
        self.host = self.cluster.hosts[index]
        self.said: list[tuple[int, Message]] = []
        self.answer: Callable[[int, Message], Sequence[Message]] = lambda to, message: ()
        self.cluster.intercept = self._keep
        if disk is not None:
            self.host.disk = disk
            self.cluster.check_epochs(disk.ledger.epochs)
            for height, header in disk.headers.items():
                self.cluster.witness.block(self.host.name, height, header.hash)
        if signers is not None:
            self.host.signers = signers
        self.host.start()

    @property
    def replica(self) -> Replica:
        return self.host.replica

    @property
    def status(self) -> ReplicaStatus:
        return self.replica.status(self.cluster.now_ms)

    def hear(self, peer: int, *messages: Message) -> None:
        """Messages come in over the link of a peer."""
        for message in messages:
            self.host.step(Received(name(peer), message))
        self.cluster.run(3)

    def wait(self, ms: int, until: Callable[[], bool] = lambda: False) -> bool:
        return self.cluster.run(ms, until)

    def take(self, chain: Chain, height: int | None = None, peer: int = 0) -> None:
        """Let it catch up by the blocks of one honest peer."""
        wanted = chain.height if height is None else height
        before, self.answer = self.answer, honest(chain, wanted)
        while self.host.disk.height < wanted or self.status.certified < wanted:
            self.hear(peer, chain.status(peer, certified=wanted))
            self.wait(250)
        self.answer = before

    def say(self, kind: type[M], since: int = 0) -> list[tuple[int, M]]:
        """What it said of one kind of message, with whom it was for."""
        return [(to, message) for to, message in self.said[since:] if isinstance(message, kind)]

    def votes(self, since: int = 0) -> list[Vote]:
        """All different votes of its own that it sent, but statuses."""
        votes = [message.vote for _, message in self.said[since:] if hasattr(message, "vote")]
        return [vote for vote in dict.fromkeys(votes) if vote.kind != Kind.STATUS and self._is_own(vote)]

    def _is_own(self, vote: Vote) -> bool:
        names = self.cluster.witness.sets[vote.epoch].names
        return names[vote.sender] == self.host.name

    @property
    def faults(self) -> list[tuple[str, Suspicion]]:
        return [(fault.fault.peer, fault.fault.code) for fault in self.host.faults]

    def _keep(self, sender: int, to: int, message: Message) -> Message | None:
        if sender == self.host.index:
            self.said.append((to, message))
            for answer in self.answer(to, message):
                self.cluster.later(self.host, 1, Received(name(to), answer))
        return None


def honest(chain: Chain, height: int | None = None) -> Callable[[int, Message], Sequence[Message]]:
    """Peers that serve a chain, up to a height."""

    def answer(_: int, message: Message) -> Sequence[Message]:
        snapshot = chain.disk.snapshot
        if isinstance(message, FetchBlocks):
            return [BlocksMessage(chain.blocks(message.first, min(message.last, chain.height if height is None else height)))]
        if snapshot is None:
            return ()
        at = decode_header(snapshot.manifest.header).height
        if isinstance(message, FetchSnapshot) and message.height <= at:
            return [SnapshotMessage(encode(snapshot.manifest))]
        if isinstance(message, FetchChunk) and message.height == at and message.index < len(snapshot.chunks):
            return [ChunkMessage(at, message.index, encode(snapshot.chunks[message.index]))]
        return ()

    return answer
