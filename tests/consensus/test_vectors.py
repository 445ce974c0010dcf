"""Golden bytes: the wire of this version must be that of every other, and others must be able to read and check it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consensus.messages import decode_message
from consensus.proofs import check_entry_proof, check_transaction_proof, decode_entry_proof, decode_transaction_proof
from consensus.transaction import decode_transaction, signature_is_valid
from contracts.calls import Call, decode_call
from contracts.events import AnyEvent, decode_receipt
from tests.vectors.cases import CALLS, EVENTS, FILES, LATER_EVENTS, VALIDATOR_CALLS, VALIDATORS, signer

FOLDER = Path(__file__).parent.parent / "vectors"
ALL_CALLS = CALLS | VALIDATOR_CALLS
HOW = "the wire changed; if that is on purpose: python -m tests.vectors, and say so in the changelog"


def golden(name: str) -> dict[str, Any]:
    return {case["name"]: case for case in json.loads((FOLDER / name).read_text(encoding="utf-8"))}


def plain(text: str) -> list[Any]:
    return msgpack.unpackb(bytes.fromhex(text), raw=False)


@pytest.mark.parametrize("name", FILES)
def test_the_wire_has_not_changed(name: str) -> None:
    assert json.loads((FOLDER / name).read_text(encoding="utf-8")) == FILES[name](), HOW


def test_no_file_of_vectors_is_left_unread() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.json")) == sorted(FILES)


@pytest.mark.parametrize("name", ALL_CALLS)
def test_golden_transactions_with_other_libraries(name: str) -> None:
    case = golden("transactions.json")[name]
    _, public_key, body, signature = plain(case["raw"])
    assert body.hex() == case["body"]
    assert sha256(body).hexdigest() == case["id"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"]))
    assert key.public_key().public_bytes_raw() == public_key
    assert key.sign(body) == signature
    assert msgpack.packb(plain(case["body"])[5], use_bin_type=True).hex() == case["call"]


@pytest.mark.parametrize("name", ALL_CALLS)
def test_golden_transactions_still_decode(name: str) -> None:
    transaction = decode_transaction(bytes.fromhex(golden("transactions.json")[name]["raw"]))
    assert signature_is_valid(transaction)
    assert decode_call(bytes(transaction.body.call)) == ALL_CALLS[name]


def test_golden_header_hashes_and_certificate_with_other_libraries() -> None:
    cases = golden("blocks.json")
    for name in ("genesis header", "header", "header of a null request"):
        assert sha256(b"GridPact header\x00" + bytes.fromhex(cases[name]["bytes"])).hexdigest() == cases[name]["hash"]
    assert plain(cases["header"]["bytes"])[5].hex() == cases["genesis header"]["hash"], "hash-linked"
    assert plain(cases["header of a null request"]["bytes"])[5].hex() == cases["header"]["hash"], "hash-linked"
    epoch, height, header_hash, votes = plain(cases["certificate"]["bytes"])
    assert (epoch, height, header_hash.hex()) == (0, 1, cases["header"]["hash"])
    for validator, signature in votes:
        signed = b"GridPact vote\x00" + msgpack.packb(["golden", "main", 0, 4, 0, 1, header_hash, validator], use_bin_type=True)
        Ed25519PublicKey.from_public_bytes(signer(validator).public_key).verify(signature, signed)


def test_golden_messages_still_decode_and_every_kind_is_there() -> None:
    tags = set()
    for name, case in golden("messages.json").items():
        data = bytes.fromhex(case["bytes"])
        assert decode_message(data) is not None, name
        tags.add(msgpack.unpackb(data, raw=False)[0])
    assert tags == {"pre-prepare", "vote", "view-change", "new-view", "status", "fetch-batch", "batch", "fetch-blocks", "blocks"} | {
        "fetch-snapshot",
        "snapshot",
        "fetch-chunk",
        "chunk",
    }


def test_golden_receipts_still_decode() -> None:
    for name, events in (("all events", EVENTS), ("later events", LATER_EVENTS)):
        assert decode_receipt(bytes.fromhex(golden("receipts.json")[name]["bytes"])).events == events


def test_every_call_and_every_event_has_golden_bytes() -> None:
    assert {type(call) for call in ALL_CALLS.values()} == set(get_args(Call))
    assert {type(event) for event in (*EVENTS, *LATER_EVENTS)} == set(get_args(AnyEvent))


def test_golden_proofs_still_check() -> None:
    known = [VALIDATORS]
    cases = {name: bytes.fromhex(case["bytes"]) for name, case in golden("proofs.json").items()}
    transaction_id = bytes.fromhex(golden("transactions.json")["reading"]["id"])
    assert check_transaction_proof(known, transaction_id, decode_transaction_proof(cases["transaction"])).height == 1
    assert check_entry_proof(known, decode_entry_proof(cases["entry"])).height == 1
    assert check_entry_proof(known, decode_entry_proof(cases["absent entry"])).height == 1
