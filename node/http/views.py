"""Answers of the API that are not views of the ledger: transactions, blocks, proofs, status. Bytes are shown in hex."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from consensus.block import Certificate, Header, decode_header
from consensus.codec import encode
from consensus.merkle import InclusionProof
from consensus.proofs import TransactionProof
from consensus.validators import EpochChange
from contracts.events import AnyEvent, Billed, decode_receipt
from contracts.views import AccountView, ChangeView, EpochView, MeterView, OffenceView, ValidatorView, View

FULL, BEHIND = "FULL", "BEHIND"
PASSING = frozenset({FULL, BEHIND})
"""Refusals that pass: nothing was kept, try again. FULL: the node has no room now. BEHIND: it does not know the present state."""


class SubmissionView(View, frozen=True):
    """What became of a transaction. Code OK: it is durable on this node and will be ordered; else why not (see :data:`PASSING`)."""

    id: str
    code: str
    detail: str = ""


class ReceiptView(View, frozen=True):
    """Result of one transaction, or (with an empty id) of what fell due in a block."""

    transaction_id: str
    code: str
    detail: str
    events: tuple[AnyEvent, ...]


class HeaderView(View, frozen=True):
    """A block header and its hash; ``next_validators`` is the digest of the set that certifies the next block."""

    hash: str
    version: int
    chain_id: str
    channel: str
    epoch: int
    height: int
    previous_hash: str
    batch_digest: str
    transactions_root: str
    receipts_root: str
    state_root: str
    time_ms: int
    view: int
    proposer: int
    transaction_count: int
    receipt_count: int
    next_validators: str


class SignatureView(View, frozen=True):
    """One validator's signature over a header."""

    validator: int
    name: str
    signature: str


class CertificateView(View, frozen=True):
    """Signatures of a quorum over one header."""

    epoch: int
    height: int
    header_hash: str
    votes: tuple[SignatureView, ...]


class PathView(View, frozen=True):
    """A Merkle path: position of the leaf, number of leaves, sibling hashes upwards."""

    index: int
    size: int
    path: tuple[str, ...]


class ProofView(View, frozen=True):
    """Proof that the chain holds a transaction with its receipt; ``encoded`` is its MessagePack, the rest is for reading."""

    encoded: str
    header: HeaderView
    certificate: CertificateView
    transaction_path: PathView
    receipt_path: PathView


class TransactionView(View, frozen=True):
    """Where a transaction stands. It is final when it is certified; then it has a proof."""

    id: str
    status: Literal["pending", "executed", "unknown"]
    certified: bool = False
    height: int | None = None
    position: int | None = None
    time_ms: int | None = None
    receipt: ReceiptView | None = None
    proof: ProofView | None = None


class BlockView(View, frozen=True):
    """One block. The last receipt may have an empty id: it is of what fell due in the block."""

    header: HeaderView
    proposer_name: str
    certified: bool
    certificate: CertificateView | None
    transactions: tuple[str, ...]
    receipts: tuple[ReceiptView, ...]


class BlockSummary(View, frozen=True):
    """One line of the list of blocks."""

    height: int
    hash: str
    time_ms: int
    view: int
    proposer: int
    proposer_name: str
    transaction_count: int
    certified: bool


class BlocksView(View, frozen=True):
    """Blocks, newest first, one page; ``next_before`` asks for the page after (0: no more).

    Blocks before ``first_height`` are no longer stored on this node (1: it has all).
    """

    blocks: tuple[BlockSummary, ...]
    next_before: int
    first_height: int


class AccountsView(View, frozen=True):
    """Accounts by name, one page; ``next_after`` asks for the page after (empty: no more)."""

    accounts: tuple[AccountView, ...]
    next_after: str


class MetersView(View, frozen=True):
    """Meters by name, one page; ``next_after`` asks for the page after (empty: no more)."""

    meters: tuple[MeterView, ...]
    next_after: str


class ProvenAccountView(AccountView, frozen=True):
    """One account; with ``proof=1`` the MessagePack of the entry proof at the certified head, in hex, and that block's height."""

    proof: str | None = None
    proof_height: int | None = None


class PeriodBillsView(View, frozen=True):
    """All bills of one settled period, by account."""

    period: int
    bills: tuple[Billed, ...]


class InFlightView(View, frozen=True):
    """One sequence number that is being agreed on, and whose votes are in."""

    sequence: int
    view: int
    prepared_by: list[int]
    committed_by: list[int]


class MempoolView(View, frozen=True):
    """What waits to be ordered."""

    transactions: int
    bytes: int


class PeerView(View, frozen=True):
    """One other node as this one sees it."""

    name: str
    connected: bool
    height: int | None = None
    last_seen_ms: int | None = None


class SnapshotProgressView(View, frozen=True):
    """The snapshot that a node fetches to catch up: its height, chunks at hand, and chunks in all."""

    height: int
    chunks: int
    of_chunks: int


class StatusView(View, frozen=True):
    """How one channel of this node does; ``clock_ms`` is the node's chain time now, ``time_ms`` the head's.

    Fields:
        epoch: number of the validator set that agrees on blocks now; ``members`` are its validators by index.
        index: this node's place among them; null if it only follows. ``voting`` says whether it has one.
        vote_log: id of this node's vote log (hex; empty: of a folder that was new): a seat belongs to a key and a log.
        next_epoch_height: first block of the next set, once one is announced.
        wants_view: members that asked for the view being entered.
        first_height: first block that is stored in full on this node (1: it has all).
        snapshot: while the node catches up by one.
    """

    chain_id: str
    channel: str
    node: str
    index: int | None
    voting: bool
    epoch: int
    members: list[str]
    next_epoch_height: int | None
    view: int
    next_view: int
    primary: str
    changing: bool
    wants_view: list[str]
    timer_left_ms: int | None
    height: int
    certified: int
    first_height: int
    snapshot: SnapshotProgressView | None
    head_hash: str
    state_root: str
    time_ms: int
    clock_ms: int
    in_flight: list[InFlightView]
    mempool: MempoolView
    peers: list[PeerView]
    diverged: bool
    websockets: int
    vote_log: str = ""


class HealthView(View, frozen=True):
    """Answer of a node that is fit to serve."""

    status: Literal["ok"]
    height: int


class DoubleVote(View, frozen=True):
    """Two signed votes of one validator that an honest one never signs both, each as MessagePack in hex: ``first`` and ``second``.

    They are for one place: epoch, kind of vote, view, sequence number. ``on_ledger``: the chain has recorded it.
    """

    validator: str
    epoch: int
    kind: str
    view: int
    sequence: int
    first: str
    second: str
    on_ledger: bool


class EvidenceView(View, frozen=True):
    """Double signing that this node saw."""

    evidence: list[DoubleVote]


class KeyView(View, frozen=True):
    """One validator of a set, and its Ed25519 key in hex."""

    name: str
    public_key: str


class ProvenEpochView(View, frozen=True):
    """One validator set, its first block, and the proof of it for whoever knows the set before.

    ``change`` is the MessagePack of the last header of the epoch before with its certificate and the set, in hex; the rest is for reading.
    """

    epoch: int
    first_height: int
    validators: tuple[KeyView, ...]
    change: str


class EpochsView(View, frozen=True):
    """Proofs of validator sets by rising epoch, one page; ``next_after`` asks for the page after (0: no more). Epoch 0 is in genesis."""

    epochs: tuple[ProvenEpochView, ...]
    next_after: int


class ValidatorSetsView(View, frozen=True):
    """Who validates.

    Fields:
        present: the set that validates the next block; announced: those that follow.
        changes: changes of the set that are not decided.
        validators: of all sets, former ones too, by name, one page; ``next_after`` asks for the page after (empty: no more).
        offences: proven double signings of these, as many as fit on a page; those of one validator are under its own path.
    """

    present: EpochView
    announced: tuple[EpochView, ...]
    changes: tuple[ChangeView, ...]
    validators: tuple[ValidatorView, ...]
    offences: tuple[OffenceView, ...]
    next_after: str


class ValidatorDetailView(ValidatorView, frozen=True, kw_only=True):
    """One validator, of any set, with its proven double signings by place, one page."""

    proven: tuple[OffenceView, ...]


class EventView(View, frozen=True):
    """One message of the event stream: its kind; the other fields depend on it."""

    event: str


def header_view(header: Header) -> HeaderView:
    """Return a header for reading."""
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    shown: dict[str, Any] = {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}
    return HeaderView(hash=header.hash.hex(), **shown)


def receipt_view(encoded: bytes) -> ReceiptView:
    """Return an encoded receipt for reading."""
    receipt = decode_receipt(encoded)
    return ReceiptView(receipt.transaction_id.hex(), receipt.code, receipt.detail, receipt.events)


def certificate_view(certificate: Certificate, names: Sequence[str]) -> CertificateView:
    """Return a certificate for reading; ``names`` are those of its epoch's validators, by index."""
    votes = tuple(SignatureView(vote.validator, names[vote.validator], vote.signature.hex()) for vote in certificate.votes)
    return CertificateView(certificate.epoch, certificate.height, certificate.header_hash.hex(), votes)


def proof_view(proof: TransactionProof, names: Sequence[str]) -> ProofView:
    """Return a proof, encoded and for reading; ``names`` are those of its epoch's validators, by index."""
    return ProofView(
        encoded=encode(proof).hex(),
        header=header_view(decode_header(proof.header)),
        certificate=certificate_view(proof.certificate, names),
        transaction_path=_path_view(proof.transaction_path),
        receipt_path=_path_view(proof.receipt_path),
    )


def proven_epoch_view(change: EpochChange, encoded: bytes) -> ProvenEpochView:
    """Return the proof of an epoch, encoded and for reading."""
    validators = change.validators
    keys = tuple(KeyView(name, key.hex()) for name, key in zip(validators.names, validators.public_keys, strict=True))
    return ProvenEpochView(validators.epoch, validators.first_height, keys, encoded.hex())


def to_json(value: object) -> bytes:
    """Return ``value`` as JSON."""
    return msgspec.json.encode(value)


def next_name(names: Sequence[str], limit: int) -> str:
    """Return where the page after starts: after the last name, if the page is full."""
    return names[-1] if len(names) == limit else ""


def _path_view(path: InclusionProof) -> PathView:
    return PathView(path.index, path.size, tuple(sibling.hex() for sibling in path.path))
