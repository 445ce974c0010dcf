"""Batches, headers and certificates, their hashes recomputed with nothing of the project."""

from __future__ import annotations

from hashlib import sha256

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.block import (
    NO_PROPOSER,
    NULL_BATCH,
    NULL_DIGEST,
    Batch,
    Header,
    batch_digest,
    block_time_ms,
    decode_header,
    genesis_header,
    make_header,
)
from consensus.codec import encode
from consensus.errors import DecodeError
from tests.consensus.test_merkle import rfc_root
from tests.wire_values import values_of

NOW, NEXT = b"\x44" * 32, b"\x55" * 32
START = genesis_header("demo", "main", 5_000, b"\x11" * 32, b"\x22" * 32, NOW)
hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=9)


@given(values_of(Header))
def test_the_hash_is_sha_256_over_a_tag_and_the_wire(header: Header) -> None:
    wire = msgpack.packb([getattr(header, name) for name in Header.__struct_fields__], use_bin_type=True)
    assert header.hash == sha256(b"GridPact header\x00" + wire).digest()


@given(values_of(Header), values_of(Header), st.sampled_from(Header.__struct_fields__))
def test_every_field_is_in_the_hash(header: Header, other: Header, name: str) -> None:
    changed = Header(*(getattr(other if field == name else header, field) for field in Header.__struct_fields__))
    assert (changed.hash == header.hash) == (changed == header)


def test_genesis_header_is_height_0_and_names_the_genesis_file() -> None:
    assert (START.height, START.previous_hash, START.state_root, START.time_ms) == (0, b"\x11" * 32, b"\x22" * 32, 5_000)
    assert (START.proposer, START.transaction_count, START.receipt_count) == (NO_PROPOSER, 0, 0)
    assert (START.epoch, START.next_validators) == (0, NOW)
    assert genesis_header("demo", "main", 5_000, b"\x12" * 32, b"\x22" * 32, NOW).hash != START.hash
    assert genesis_header("demo", "main", 5_000, b"\x11" * 32, b"\x22" * 32, NEXT).hash != START.hash


@given(hashes, st.lists(st.binary(max_size=30), max_size=9), st.integers(0, 9), st.integers(0, 3), st.integers(0, 10_000))
def test_a_header_links_counts_and_commits(ids: list[bytes], receipts: list[bytes], view: int, proposer: int, time_ms: int) -> None:
    batch = encode(Batch(view, proposer, time_ms, tuple(ids)))
    header = make_header(START, batch, ids, receipts, b"\x33" * 32, 3, NEXT)
    assert header.previous_hash == START.hash
    assert (header.height, header.epoch, header.chain_id, header.channel) == (1, 3, "demo", "main")
    assert (header.state_root, header.next_validators) == (b"\x33" * 32, NEXT)
    assert (header.view, header.proposer) == (view, proposer)
    assert header.time_ms == block_time_ms(START, batch) == max(5_000, time_ms)
    assert (header.transactions_root, header.receipts_root) == (rfc_root(ids), rfc_root(receipts))
    assert (header.transaction_count, header.receipt_count) == (len(ids), len(receipts))
    assert header.batch_digest == sha256(b"GridPact batch\x00" + batch).digest()
    assert decode_header(encode(header)) == header


def test_a_null_request_makes_an_empty_block_in_no_time() -> None:
    header = make_header(START, NULL_BATCH, [], [], START.state_root, 0, NOW)
    assert (header.proposer, header.view, header.time_ms) == (NO_PROPOSER, START.view, START.time_ms)
    assert header.batch_digest == NULL_DIGEST == batch_digest(NULL_BATCH) == bytes(32)
    assert header.hash != START.hash


def test_the_view_in_the_header_is_that_of_the_first_proposal() -> None:
    """So that replicas which commit one batch in different views make the same block."""
    batch = encode(Batch(2, 2, 6_000, ()))
    later = make_header(START, batch, [], [], b"", 0, NOW)
    assert make_header(later, NULL_BATCH, [], [], b"", 0, NOW).view == later.view == 2


def test_a_batch_that_is_none_is_refused() -> None:
    for bad in (b"\x00", b"garbage", encode((1, 2, 3))):
        with pytest.raises(DecodeError):
            make_header(START, bad, [], [], b"", 0, NOW)
        with pytest.raises(DecodeError):
            block_time_ms(START, bad)
