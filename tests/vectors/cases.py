"""The values behind the golden bytes, made from fixed seeds. Add cases freely; a changed one breaks every chain that exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from consensus.block import NULL_BATCH, Batch, Block, Certificate, CertifiedBlock, Header, batch_digest, genesis_header, make_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.merkle import merkle_root, prove_inclusion
from consensus.messages import (
    BatchMessage,
    BlocksMessage,
    ChunkMessage,
    Domain,
    FetchBatch,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    NewViewBody,
    NewViewMessage,
    PreparedProof,
    PrePrepareMessage,
    SnapshotMessage,
    StatusBody,
    StatusMessage,
    ValidatorSet,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    make_certificate,
    sign_vote,
)
from consensus.proofs import EntryProof, TransactionProof
from consensus.snapshot import make_snapshot
from consensus.state_tree import StateTree
from consensus.transaction import decode_transaction, sign_transaction
from consensus.validators import EpochChange
from contracts.calls import (
    Call,
    CancelOrder,
    PlaceOrder,
    RenewSeat,
    ReportDoubleSigning,
    ResetMeter,
    SubmitReading,
    Transfer,
    VoteOnValidators,
)
from contracts.events import (
    Billed,
    DebtRecorded,
    Defaulted,
    DoubleSigningRecorded,
    Member,
    MeterMissing,
    MeterReset,
    OrderAccepted,
    OrderCancelled,
    PeriodCleared,
    PeriodSettled,
    ReadingAccepted,
    ReadingQuarantined,
    Receipt,
    SeatRenewed,
    Traded,
    Transferred,
    ValidatorsChanged,
    ValidatorVoted,
)

Case = dict[str, Any]
DOMAIN = Domain("golden", "main", 0)
CALLS: dict[str, Call] = {
    "transfer": Transfer("bob", 1_250_000, "for the cable"),
    "transfer without memo": Transfer("bob", 1),
    "reading": SubmitReading(41, 1_470_528_900_000, 123_456, 7_890, "ntp", "boot-1", 3_600_000),
    "order": PlaceOrder(1_633_920, "sell", "pv", 1_200, 150_000, 90_000),
    "cancel": CancelOrder(sha256(b"an order").digest()),
    "meter-reset": ResetMeter("meter-B01", 0, 0, "meter replaced"),
}
EVENTS = (
    Transferred("alice", "bob", 5),
    ReadingAccepted("meter-B01", 41, 1_633_920, 123_456, 7_890),
    ReadingQuarantined("meter-B01", 42, "COUNTER_FELL"),
    MeterReset("meter-B01", 0, 0, "meter replaced"),
    OrderAccepted("ab" * 32, "B01", 1_633_920, "sell", "pv", 1_200, 150_000),
    OrderCancelled("ab" * 32, "B01", 1_633_920),
    Traded(1_633_920, 0, "B02", "B01", "cd" * 32, "ab" * 32, "pv", 1_200, 149_999, 2),
    PeriodCleared(1_633_920, 2, 1, 1_200, 149_999),
    MeterMissing("meter-B02", 1_633_920),
    Billed("B01", 1_633_920, 10, 1_210, 0, 1_200, 10, 10, 2_000, 180_000, 0, 900, 84_000),
    PeriodSettled(1_633_920, 2, 1_200, 20, 1_800, "DC1"),
)


def signer(index: int) -> Ed25519Signer:
    """Return the key pair of validator ``index``: its seed is 32 times the byte index + 1."""
    return Ed25519Signer(bytes([index + 1]) * 32)


VALIDATORS = ValidatorSet(
    DOMAIN,
    1,
    tuple(f"dc{index}" for index in range(4)),
    tuple(signer(index).public_key for index in range(4)),
    tuple(sha256(b"log of %d" % index).digest() for index in range(4)),
)
FOLLOWING = ValidatorSet(
    Domain("golden", "main", 1), 2, VALIDATORS.names, (*VALIDATORS.public_keys[:3], signer(4).public_key), VALIDATORS.logs
)


def vote(kind: Kind, view: int, sequence: int, digest: bytes, sender: int) -> Vote:
    """Return a signed vote of the golden chain."""
    return sign_vote(signer(sender), DOMAIN, kind, view, sequence, digest, sender)


VALIDATOR_CALLS: dict[str, Call] = {
    "validator-vote": VoteOnValidators(2, "add", "dc4", signer(4).public_key, "DC5", "dc4.example", 9_000),
    "validator-vote for a known vote log": VoteOnValidators(
        2, "add", "dc4", signer(4).public_key, "DC5", log=sha256(b"log of 4").digest()[:16]
    ),
    "validator-vote withdrawn": VoteOnValidators(2, "remove", "dc3", approve=False),
    "seat-renewal": RenewSeat(2, sha256(b"new log").digest()[:16]),
    "double-signing": ReportDoubleSigning(
        vote(Kind.PREPARE, 3, 7, sha256(b"one").digest(), 2), vote(Kind.PREPARE, 3, 7, sha256(b"other").digest(), 2)
    ),
}
"""What validators send; not in the golden block, which is older."""
LATER_EVENTS = (
    Defaulted("B01", 1_633_920, 0, "under-delivery", 1_200, 900, 20_000),
    DebtRecorded("B01", 1_633_920, 7_000),
    ValidatorVoted("dc1", "ab" * 32, 2, "add", "dc4", True, 2, 3),
    SeatRenewed("dc3", "cd" * 16),
    ValidatorsChanged(3, 200, (Member("dc0", "ef" * 32, "DC1"), Member("dc4", "01" * 32, "DC5", "dc4.example", 9_000, "cd" * 16))),
    DoubleSigningRecorded("dc2", "DC3", 0, "prepare", 3, 7, 1, "dc0"),
)


def raw_transactions(calls: Mapping[str, Call] = CALLS) -> list[bytes]:
    """One signed transaction per kind of call."""
    return [
        sign_transaction(
            signer(9), chain_id="golden", channel="main", sender="alice", nonce=nonce, valid_until_ms=1_470_529_000_000, call=call
        )
        for nonce, call in enumerate(calls.values())
    ]


def transactions() -> list[Case]:
    """Envelopes, their bodies and ids."""
    found = []
    calls = CALLS | VALIDATOR_CALLS
    for name, raw in zip(calls, raw_transactions(calls), strict=True):
        decoded = decode_transaction(raw)
        envelope = decoded.envelope
        found.append(
            {
                "name": name,
                "seed": (bytes([10]) * 32).hex(),
                "raw": raw.hex(),
                "body": envelope.body.hex(),
                "call": bytes(decoded.body.call).hex(),
                "id": decoded.id.hex(),
                "signature": envelope.signature.hex(),
            }
        )
    return found


def receipts() -> list[Case]:
    """Receipts, one with every event."""
    ok = Receipt(sha256(b"a transaction").digest(), "OK", "", EVENTS)
    refused = Receipt(sha256(b"another").digest(), "BAD_QTY", "energy_wh: 0 is not above 0", ())
    due = Receipt(b"", "OK", "", EVENTS[6:])
    later = Receipt(sha256(b"a later one").digest(), "OK", "", LATER_EVENTS)
    values = (("all events", ok), ("refused", refused), ("due", due), ("later events", later))
    return [{"name": name, "bytes": encode(value).hex()} for name, value in values]


def start_header() -> Header:
    """Header 0."""
    return genesis_header("golden", "main", 1_470_528_000_000, sha256(b"genesis").digest(), sha256(b"state 0").digest(), VALIDATORS.digest)


def golden_state() -> list[tuple[bytes, bytes]]:
    """What stands in the state after the golden block."""
    return [(b"balance/%d" % number, b"%d" % (number * number)) for number in range(10)]


def golden_block() -> tuple[Block, StateTree]:
    """One block over all golden transactions, the last one of epoch 0."""
    raws = raw_transactions()
    ids = [decode_transaction(raw).id for raw in raws]
    results = [encode(Receipt(transaction_id, "OK", "", ())) for transaction_id in ids] + [encode(Receipt(b"", "OK", "", EVENTS[6:]))]
    tree = StateTree.of(golden_state())
    batch = encode(Batch(0, 0, 1_470_528_901_000, tuple(ids)))
    header = make_header(start_header(), batch, ids, results, tree.root, 0, FOLLOWING.digest)
    return Block(header, batch, tuple(raws), tuple(results)), tree


def golden_certificate(*senders: int) -> Certificate:
    """The certificate of the golden block."""
    header_hash = golden_block()[0].header.hash
    return make_certificate(tuple(vote(Kind.CHECKPOINT, 0, 1, header_hash, sender) for sender in senders))


def blocks() -> list[Case]:
    """Batches, headers, a block and its certificate."""
    block, _ = golden_block()
    start, certificate = start_header(), golden_certificate(2, 0, 1)
    null = make_header(block.header, NULL_BATCH, [], [], block.header.state_root, 1, FOLLOWING.digest)
    change = EpochChange(encode(block.header), certificate, FOLLOWING)
    return [
        {"name": "genesis header", "bytes": encode(start).hex(), "hash": start.hash.hex()},
        {"name": "header", "bytes": encode(block.header).hex(), "hash": block.header.hash.hex()},
        {"name": "header of a null request", "bytes": encode(null).hex(), "hash": null.hash.hex()},
        {"name": "batch", "bytes": block.batch.hex(), "hash": batch_digest(block.batch).hex()},
        {"name": "null batch", "bytes": "", "hash": batch_digest(NULL_BATCH).hex()},
        {"name": "block", "bytes": encode(block).hex()},
        {"name": "certificate", "bytes": encode(certificate).hex()},
        {"name": "validators", "bytes": encode(VALIDATORS).hex(), "hash": VALIDATORS.digest.hex()},
        {"name": "next validators", "bytes": encode(FOLLOWING).hex(), "hash": FOLLOWING.digest.hex()},
        {"name": "epoch change", "bytes": encode(change).hex()},
    ]


def messages() -> list[Case]:
    """One message of every kind."""
    block, _ = golden_block()
    digest = batch_digest(block.batch)
    certificate = golden_certificate(0, 1, 2)
    proposal = vote(Kind.PRE_PREPARE, 0, 2, digest, 0)
    prepared = PreparedProof(proposal, (vote(Kind.PREPARE, 0, 2, digest, 1), vote(Kind.PREPARE, 0, 2, digest, 2)))
    body = encode(ViewChangeBody(1, certificate, (prepared,)))
    changes = tuple(ViewChangeMessage(vote(Kind.VIEW_CHANGE, 1, 0, body_digest(body), sender), body) for sender in (1, 2, 3))
    new_view = encode(NewViewBody(changes, (vote(Kind.PRE_PREPARE, 1, 2, digest, 1),)))
    status, first_status = StatusBody(1, True, 2, 1, 1, certificate), StatusBody(0, False, 0, 0, 1, None)
    change = encode(EpochChange(encode(block.header), certificate, FOLLOWING))
    manifest, chunks = make_snapshot(block.header, certificate, golden_state(), (change,), depth=1)
    values = {
        "pre-prepare": PrePrepareMessage(proposal, block.batch),
        "prepare": VoteMessage(vote(Kind.PREPARE, 0, 2, digest, 1)),
        "commit": VoteMessage(vote(Kind.COMMIT, 0, 2, digest, 3)),
        "checkpoint": VoteMessage(vote(Kind.CHECKPOINT, 0, 1, block.header.hash, 3)),
        "view-change": changes[0],
        "new-view": NewViewMessage(vote(Kind.NEW_VIEW, 1, 0, body_digest(new_view), 1), new_view),
        "status": StatusMessage(vote(Kind.STATUS, 1, 0, body_digest(status), 2), status),
        "status at genesis": StatusMessage(vote(Kind.STATUS, 0, 0, body_digest(first_status), 2), first_status),
        "fetch-batch": FetchBatch(digest),
        "batch": BatchMessage(block.batch),
        "fetch-blocks": FetchBlocks(1, 64),
        "blocks": BlocksMessage((CertifiedBlock(encode(block), certificate),)),
        "fetch-snapshot": FetchSnapshot(1),
        "snapshot": SnapshotMessage(encode(manifest)),
        "fetch-chunk": FetchChunk(1, 0),
        "chunk": ChunkMessage(1, 0, encode(chunks[0])),
    }
    return [{"name": name, "bytes": encode(value).hex()} for name, value in values.items()]


def trees() -> list[Case]:
    """Roots of lists and states, and proofs."""
    leaves = [b"leaf %d" % number for number in range(9)]
    lists: list[Case] = [{"name": f"list of {size}", "root": merkle_root(leaves[:size]).hex()} for size in range(10)]
    states: list[Case] = []
    for size in range(6):
        tree = StateTree.of([(b"key %d" % number, b"value %d" % number) for number in range(size)])
        states.append({"name": f"state of {size}", "root": tree.root.hex(), "proof of key 0": encode(tree.prove(b"key 0")).hex()})
    return lists + states


def proofs() -> list[Case]:
    """Proofs of a transaction, of an entry and of an absent entry under the golden block."""
    block, tree = golden_block()
    ids = [decode_transaction(raw).id for raw in block.transactions]
    certificate = golden_certificate(0, 1, 2)
    header = encode(block.header)
    transaction = TransactionProof(header, certificate, block.receipts[2], prove_inclusion(ids, 2), prove_inclusion(block.receipts, 2))
    present = EntryProof(header, certificate, b"balance/3", b"9", tree.prove(b"balance/3"))
    absent = EntryProof(header, certificate, b"balance/x", None, tree.prove(b"balance/x"))
    values = {"transaction": transaction, "entry": present, "absent entry": absent}
    return [{"name": name, "bytes": encode(value).hex()} for name, value in values.items()]


FILES: dict[str, Callable[[], list[Case]]] = {
    "transactions.json": transactions,
    "receipts.json": receipts,
    "blocks.json": blocks,
    "messages.json": messages,
    "trees.json": trees,
    "proofs.json": proofs,
}
