"""Transactions: the envelope under garbage, truncation and flipped bits, and against independent libraries."""

from __future__ import annotations

from hashlib import sha256

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import example, given
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.crypto import ED25519, Ed25519Signer
from consensus.errors import DecodeError
from consensus.transaction import MAX_TRANSACTION_BYTES, Body, Envelope, decode_transaction, sign_transaction, signature_is_valid
from contracts.calls import Transfer, decode_call
from tests.wire_values import values_of

SIGNER = Ed25519Signer(b"a seed for tests of transactions"[:32])


def signed(call: object = Transfer("bob", 5, "lunch"), **changes: object) -> bytes:
    fields = {"chain_id": "demo", "channel": "main", "sender": "alice", "nonce": 7, "valid_until_ms": 1_000} | changes
    return sign_transaction(SIGNER, call=call, **fields)  # type: ignore[arg-type]


RAW = signed()


def test_what_is_signed_is_what_comes_out() -> None:
    transaction = decode_transaction(RAW)
    assert transaction.raw == RAW
    assert transaction.body == Body("demo", "main", "alice", 7, 1_000, transaction.body.call)
    assert decode_call(bytes(transaction.body.call)) == Transfer("bob", 5, "lunch")
    assert transaction.envelope.scheme == ED25519
    assert signature_is_valid(transaction)


def test_other_libraries_read_and_check_it() -> None:
    scheme, public_key, body, signature = msgpack.unpackb(RAW)
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, body)
    assert scheme == 1
    assert msgpack.unpackb(body) == ["demo", "main", "alice", 7, 1_000, ["transfer", "bob", 5, "lunch"]]
    assert decode_transaction(RAW).id == sha256(body).digest()


@given(values_of(Body))
def test_any_body_survives_the_way(body: Body) -> None:
    raw = encode(Envelope(ED25519, SIGNER.public_key, encode(body), SIGNER.sign(encode(body))))
    transaction = decode_transaction(raw)
    assert transaction.body == body
    assert signature_is_valid(transaction)


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x94\x01\xc4\x00\xc4\x00\xc4\x00")
def test_garbage_never_crashes(data: bytes) -> None:
    try:
        transaction = decode_transaction(data)
    except DecodeError:
        return
    assert not signature_is_valid(transaction)


@given(st.binary(max_size=100))
def test_a_garbage_body_in_a_well_signed_envelope_is_refused_or_itself(body: bytes) -> None:
    raw = encode(Envelope(ED25519, SIGNER.public_key, body, SIGNER.sign(body)))
    try:
        transaction = decode_transaction(raw)
    except DecodeError:
        return
    assert transaction.envelope.body == body
    assert transaction.id == sha256(body).digest()


@pytest.mark.parametrize("size", range(0, len(RAW), 3))
def test_every_truncation_is_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        decode_transaction(RAW[:size])


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_gives_another_valid_transaction(bit: int) -> None:
    for place in range(len(RAW)):
        flipped = bytearray(RAW)
        flipped[place] ^= 1 << bit
        try:
            transaction = decode_transaction(bytes(flipped))
        except DecodeError:
            continue
        assert not signature_is_valid(transaction), f"byte {place}"


@given(st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_no_changed_bytes_give_another_valid_transaction(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(RAW)
    for place, value in changes:
        changed[place] = value
    try:
        transaction = decode_transaction(bytes(changed))
    except DecodeError:
        return
    assert bytes(changed) == RAW or not signature_is_valid(transaction)


@pytest.mark.parametrize(
    "respelled",
    [
        b"\xdc\x00\x04" + RAW[1:],
        RAW[:1] + b"\xcc\x01" + RAW[2:],
        RAW[:1] + b"\xd3\x00\x00\x00\x00\x00\x00\x00\x01" + RAW[2:],
        RAW.replace(b"\xc4\x20", b"\xc5\x00\x20", 1),
        RAW.replace(b"\xc4\x40", b"\xc6\x00\x00\x00\x40", 1),
    ],
    ids=["array 16", "uint 8", "int 64", "bin 16", "bin 32"],
)
def test_the_same_envelope_in_other_words_is_refused(respelled: bytes) -> None:
    assert msgpack.unpackb(respelled) == msgpack.unpackb(RAW), "the same to any other reader"
    with pytest.raises(DecodeError, match="shortest"):
        decode_transaction(respelled)


def test_the_id_does_not_depend_on_the_signature() -> None:
    other = Ed25519Signer(bytes(32))
    body = decode_transaction(RAW).envelope.body
    again = decode_transaction(encode(Envelope(ED25519, other.public_key, body, other.sign(body))))
    assert again.id == decode_transaction(RAW).id
    assert again.raw != RAW


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": "demo2"},
        {"channel": "energy"},
        {"sender": "bob"},
        {"nonce": 8},
        {"valid_until_ms": 1_001},
        {"call": Transfer("eve", 5)},
    ],
)
def test_a_signature_is_for_one_body_only(change: dict[str, object]) -> None:
    original, other = decode_transaction(RAW), decode_transaction(signed(**change))  # type: ignore[arg-type]
    assert other.id != original.id
    grafted = Envelope(ED25519, SIGNER.public_key, other.envelope.body, original.envelope.signature)
    assert not signature_is_valid(decode_transaction(encode(grafted)))


@pytest.mark.parametrize("scheme", [0, 2, 255, -1])
def test_an_unknown_scheme_is_no_valid_signature(scheme: int) -> None:
    envelope = decode_transaction(RAW).envelope
    raw = encode(Envelope(scheme, envelope.public_key, envelope.body, envelope.signature))
    assert not signature_is_valid(decode_transaction(raw))


def test_a_huge_transaction_is_refused_unread() -> None:
    huge = signed(Transfer("bob", 1, "x" * MAX_TRANSACTION_BYTES))
    with pytest.raises(DecodeError, match="more than the limit"):
        decode_transaction(huge)


def test_a_body_begins_unlike_anything_that_validators_sign() -> None:
    body = decode_transaction(RAW).envelope.body
    assert body[0] == 0x96
    with pytest.raises(DecodeError):
        decode_transaction(encode(Envelope(ED25519, SIGNER.public_key, b"GridPact vote\x00" + body, bytes(64))))
