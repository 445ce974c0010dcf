"""Answers of the API that are not views of the ledger: transactions, blocks, proofs, status. Bytes are shown in hex."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from consensus.block import Certificate, Header, decode_header
from consensus.codec import encode
from consensus.merkle import InclusionProof
from consensus.proofs import TransactionProof
from contracts.events import AnyEvent, Billed, decode_receipt
from contracts.genesis import Genesis
from contracts.views import AccountView, MeterView, View


class SubmissionView(View, frozen=True):
    """What became of a transaction. Code OK: it is durable on this node and will be ordered; else why not."""

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
    """A block header and its hash."""

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
    """Blocks, newest first, one page; ``next_before`` asks for the page after (0: no more)."""

    blocks: tuple[BlockSummary, ...]
    next_before: int


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


class StatusView(View, frozen=True):
    """How one channel of this node does; ``clock_ms`` is the node's chain time now, ``time_ms`` the head's."""

    chain_id: str
    channel: str
    node: str
    index: int
    view: int
    next_view: int
    primary: str
    changing: bool
    timer_left_ms: int | None
    height: int
    certified: int
    head_hash: str
    state_root: str
    time_ms: int
    clock_ms: int
    in_flight: list[InFlightView]
    mempool: MempoolView
    peers: list[PeerView]
    diverged: bool
    websockets: int


class HealthView(View, frozen=True):
    """Answer of a node that is fit to serve."""

    status: Literal["ok"]
    height: int


class DoubleVote(View, frozen=True):
    """Two signed votes of one validator that an honest one never signs both, each as MessagePack in hex."""

    validator: str
    first: str
    second: str


class EvidenceView(View, frozen=True):
    """Recorded misbehaviour of validators."""

    evidence: list[DoubleVote]


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


def certificate_view(certificate: Certificate, genesis: Genesis) -> CertificateView:
    """Return a certificate for reading, with the validators' names."""
    votes = tuple(
        SignatureView(vote.validator, validator_name(genesis, vote.validator), vote.signature.hex()) for vote in certificate.votes
    )
    return CertificateView(certificate.epoch, certificate.height, certificate.header_hash.hex(), votes)


def proof_view(proof: TransactionProof, genesis: Genesis) -> ProofView:
    """Return a proof, encoded and for reading."""
    return ProofView(
        encoded=encode(proof).hex(),
        header=header_view(decode_header(proof.header)),
        certificate=certificate_view(proof.certificate, genesis),
        transaction_path=_path_view(proof.transaction_path),
        receipt_path=_path_view(proof.receipt_path),
    )


def validator_name(genesis: Genesis, index: int) -> str:
    """Return the name of a validator of epoch 0, or "" for none (a block without a proposer)."""
    return genesis.validators[index].name if 0 <= index < len(genesis.validators) else ""


def to_json(value: object) -> bytes:
    """Return ``value`` as JSON."""
    return msgspec.json.encode(value)


def next_name(names: Sequence[str], limit: int) -> str:
    """Return where the page after starts: after the last name, if the page is full."""
    return names[-1] if len(names) == limit else ""


def _path_view(path: InclusionProof) -> PathView:
    return PathView(path.index, path.size, tuple(sibling.hex() for sibling in path.path))
