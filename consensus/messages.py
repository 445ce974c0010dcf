"""What replicas say to each other.

Every statement of a replica is a :class:`Vote`: kind, epoch, view, sequence, digest and sender, signed over bytes that also hold
chain id and channel. A signature from one place can never be used in another, and a vote can be shown to third parties.
Larger statements (view-change, new-view, status) are a body beside a vote whose digest is the body's.

Some messages need no signature, because their content proves itself: a batch by its digest, a block or a snapshot by its certificate.
"""

from __future__ import annotations

from enum import IntEnum

from consensus.block import Certificate, CertificateVote, CertifiedBlock
from consensus.codec import Decoder, Wire, encode
from consensus.crypto import ED25519, Signer, Verify, digest, verify
from consensus.quorum import Quorums, quorums


class Kind(IntEnum):
    """What a vote states (names of Castro and Liskov 1999)."""

    PRE_PREPARE = 1
    PREPARE = 2
    COMMIT = 3
    CHECKPOINT = 4
    VIEW_CHANGE = 5
    NEW_VIEW = 6
    STATUS = 7


class Vote(Wire, frozen=True):
    """One signed statement of one replica.

    Fields:
        kind: a :class:`Kind`.
        epoch: number of the validator set that the sender speaks as a member of.
        view: view of that epoch (0 for a checkpoint: it belongs to none).
        sequence: sequence number = height (0 for view-change, new-view and status).
        digest: of the batch, the block header or the body beside it.
        sender: index of the validator in its epoch's set.
        signature: over :func:`signing_bytes`.
    """

    kind: int
    epoch: int
    view: int
    sequence: int
    digest: bytes
    sender: int
    signature: bytes


class Domain(Wire, frozen=True):
    """Where a vote counts: nowhere else."""

    chain_id: str
    channel: str
    epoch: int


def signing_bytes(domain: Domain, kind: int, view: int, sequence: int, digest_: bytes, sender: int) -> bytes:
    """Return the bytes that a vote's signature covers."""
    return b"GridPact vote\x00" + encode((domain.chain_id, domain.channel, domain.epoch, int(kind), view, sequence, digest_, sender))


def sign_vote(signer: Signer, domain: Domain, kind: Kind, view: int, sequence: int, digest_: bytes, sender: int) -> Vote:
    """Return a signed vote of the validator ``sender``."""
    signature = signer.sign(signing_bytes(domain, kind, view, sequence, digest_, sender))
    return Vote(int(kind), domain.epoch, view, sequence, digest_, sender, signature)


class PreparedProof(Wire, frozen=True):
    """A prepared certificate: a pre-prepare and q - 1 matching prepares from others (Castro and Liskov 1999, section 4.4)."""

    pre_prepare: Vote
    prepares: tuple[Vote, ...]


class ViewChangeBody(Wire, frozen=True):
    """What a replica brings into a new view.

    Fields:
        new_view: the view it wants to enter.
        stable: its last certificate (None at genesis): the paper's C.
        prepared: per sequence above it, by rising sequence, the prepared certificate of the highest view: the paper's P.
    """

    new_view: int
    stable: Certificate | None
    prepared: tuple[PreparedProof, ...]


class StatusBody(Wire, frozen=True):
    """Where a replica stands, so that others can send what it lacks.

    Fields:
        view: its view, or the one it wants to enter.
        changing: whether it waits for the new-view of ``view``.
        executed: last executed sequence.
        certified: last sequence with a certificate.
        first: lowest height that it can serve a block of.
        certificate: its last certificate (None at genesis): the proof of ``certified``.
    """

    view: int
    changing: bool
    executed: int
    certified: int
    first: int
    certificate: Certificate | None


class PrePrepareMessage(Wire, frozen=True, tag="pre-prepare"):
    """The primary's proposal; the batch stands beside the vote on its digest."""

    vote: Vote
    batch: bytes


class VoteMessage(Wire, frozen=True, tag="vote"):
    """A prepare, commit or checkpoint."""

    vote: Vote


class ViewChangeMessage(Wire, frozen=True, tag="view-change"):
    """A view-change; ``vote.view`` is the new view, ``vote.digest`` that of the encoded body."""

    vote: Vote
    body: bytes


class NewViewBody(Wire, frozen=True):
    """Why the new view starts as it does.

    Fields:
        view_changes: q of them, by rising sender: the paper's V.
        pre_prepares: the new primary's, by rising sequence: the paper's O.
    """

    view_changes: tuple[ViewChangeMessage, ...]
    pre_prepares: tuple[Vote, ...]


class NewViewMessage(Wire, frozen=True, tag="new-view"):
    """A new-view; ``vote.digest`` is that of the encoded body."""

    vote: Vote
    body: bytes


class StatusMessage(Wire, frozen=True, tag="status"):
    """A status; ``vote.digest`` is that of the encoded body."""

    vote: Vote
    body: StatusBody


class FetchBatch(Wire, frozen=True, tag="fetch-batch"):
    """Please send the batch with this digest."""

    digest: bytes


class BatchMessage(Wire, frozen=True, tag="batch"):
    """A batch that was asked for; its digest says which."""

    batch: bytes


class FetchBlocks(Wire, frozen=True, tag="fetch-blocks"):
    """Please send certified blocks, from the first height on, as many as you like up to the last."""

    first: int
    last: int


class BlocksMessage(Wire, frozen=True, tag="blocks"):
    """Consecutive certified blocks."""

    blocks: tuple[CertifiedBlock, ...]


class FetchSnapshot(Wire, frozen=True, tag="fetch-snapshot"):
    """Please show the manifest of your newest snapshot, if it is of this height or a later one."""

    height: int


class SnapshotMessage(Wire, frozen=True, tag="snapshot"):
    """The manifest of a snapshot that its sender can serve: an encoded :class:`consensus.snapshot.SnapshotManifest`."""

    manifest: bytes


class FetchChunk(Wire, frozen=True, tag="fetch-chunk"):
    """Please send one chunk of the snapshot of this height."""

    height: int
    index: int


class ChunkMessage(Wire, frozen=True, tag="chunk"):
    """One chunk: an encoded :class:`consensus.snapshot.Chunk`."""

    height: int
    index: int
    chunk: bytes


Message = (
    PrePrepareMessage
    | VoteMessage
    | ViewChangeMessage
    | NewViewMessage
    | StatusMessage
    | FetchBatch
    | BatchMessage
    | FetchBlocks
    | BlocksMessage
    | FetchSnapshot
    | SnapshotMessage
    | FetchChunk
    | ChunkMessage
)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
decode_message: Decoder[Message] = Decoder(Message, "consensus message", MAX_MESSAGE_BYTES)  # type: ignore[arg-type]
decode_view_change_body = Decoder(ViewChangeBody, "view-change", MAX_MESSAGE_BYTES)
decode_new_view_body = Decoder(NewViewBody, "new-view", MAX_MESSAGE_BYTES)


def body_digest(body: Wire | bytes) -> bytes:
    """Return the digest of a statement's body, encoded or not."""
    return digest(b"GridPact body\x00" + (body if isinstance(body, bytes) else encode(body)))


def make_certificate(votes: tuple[Vote, ...]) -> Certificate:
    """Make the certificate of a block from matching checkpoint votes."""
    ordered = sorted(votes, key=lambda vote: vote.sender)
    first = votes[0]
    return Certificate(first.epoch, first.sequence, first.digest, tuple(CertificateVote(vote.sender, vote.signature) for vote in ordered))


class ValidatorSet(Wire, frozen=True):
    """The validators of one epoch.

    Fields:
        domain: chain, channel and epoch that their votes name.
        first_height: the first block that they order and certify.
        names: of the validators, by index.
        public_keys: their Ed25519 keys, by index.
        logs: the ids of their vote logs, by index: a seat belongs to a key and a vote log.
    """

    domain: Domain
    first_height: int
    names: tuple[str, ...]
    public_keys: tuple[bytes, ...]
    logs: tuple[bytes, ...]

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self.domain.epoch

    @property
    def quorums(self) -> Quorums:
        """The thresholds for this number of validators."""
        return quorums(len(self.names))

    @property
    def digest(self) -> bytes:
        """What headers name as the set of the next block."""
        return digest(b"GridPact validators\x00" + encode(self))

    def checks(self, vote: Vote, check: Verify = verify) -> bool:
        """Tell whether ``vote`` is of this epoch and was signed by the validator that it names."""
        if vote.epoch != self.domain.epoch or not 0 <= vote.sender < len(self.public_keys):
            return False
        message = signing_bytes(self.domain, vote.kind, vote.view, vote.sequence, vote.digest, vote.sender)
        return check(ED25519, self.public_keys[vote.sender], message, vote.signature)

    def certifies(self, certificate: Certificate, check: Verify = verify) -> bool:
        """Tell whether q distinct validators of this epoch signed the header."""
        senders = [vote.validator for vote in certificate.votes]
        if certificate.epoch != self.domain.epoch or certificate.height < self.first_height:
            return False
        if len(senders) < self.quorums.quorum or senders != sorted(set(senders)):
            return False
        return all(self.checks(_checkpoint_vote(certificate, vote), check) for vote in certificate.votes)


def _checkpoint_vote(certificate: Certificate, vote: CertificateVote) -> Vote:
    return Vote(Kind.CHECKPOINT, certificate.epoch, 0, certificate.height, certificate.header_hash, vote.validator, vote.signature)
