from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import InputError
from contracts.events import Billed, Receipt, decode_receipt
from contracts.genesis import Genesis, Tariff, check_genesis, read_genesis, write_genesis
from tests.contracts.world import GENESIS_MS, make_genesis

GENESIS = make_genesis()
MONDAY_MS = 4 * 86_400_000
"""1970-01-05."""


def test_a_genesis_file_reads_back_and_its_digest_does_not_depend_on_the_layout() -> None:
    text = write_genesis(GENESIS)
    assert read_genesis(text) == GENESIS
    assert read_genesis(msgspec.json.encode(msgspec.json.decode(text))).digest == GENESIS.digest
    assert msgspec.structs.replace(GENESIS, chain_id="other").digest != GENESIS.digest
    assert GENESIS.validator_set.quorums.quorum == 3 and len(GENESIS.validator_set.public_keys) == 4


def replaced(part: str, place: int, **changes: object) -> Genesis:
    items = list(getattr(GENESIS, part))
    items[place] = msgspec.structs.replace(items[place], **changes)
    return msgspec.structs.replace(GENESIS, **{part: tuple(items)})


def market(**changes: int) -> Genesis:
    return msgspec.structs.replace(GENESIS, market=msgspec.structs.replace(GENESIS.market, **changes))


@pytest.mark.parametrize(
    ("genesis", "place"),
    [
        (msgspec.structs.replace(GENESIS, validators=GENESIS.validators[:3]), "nodes"),
        (replaced("participants", 6, account="B"), "participants"),
        (replaced("validators", 0, name="node1"), "validators"),
        (replaced("validators", 0, public_key=GENESIS.validators[1].public_key), "public_key"),
        (replaced("validators", 0, account="nobody"), "node0"),
        (replaced("meters", 0, meter="A"), "senders"),
        (replaced("validators", 0, name="A"), "senders"),
        (replaced("validators", 0, name="m-A"), "senders"),
        (replaced("meters", 0, account="nobody"), "m-A"),
        (replaced("meters", 0, account="GRID"), "m-A"),
        (replaced("participants", 0, role="consumer"), "role grid"),
        (replaced("participants", 6, role="operator"), "role operator"),
        (market(gate_closure_before_ms=3_600_000), "gate_closure_before_ms"),
        (market(open_before_ms=10**10), "open_before_ms"),
        (market(first_period=1), "first_period"),
        (market(first_period=2**53), "first_period: starts after the last time"),
        (market(first_period=2**64), "first_period: starts after the last time"),
        (market(max_orders_per_period=110_000), "max_orders_per_period"),
        (
            msgspec.structs.replace(
                GENESIS,
                meters=tuple(msgspec.structs.replace(meter, fuse_w=10_000_000) for meter in GENESIS.meters),
                tariff=Tariff((10**9,) * 24, (10**9,) * 24, 0),
            ),
            "fuse_w",
        ),
        (
            msgspec.structs.replace(
                GENESIS,
                participants=tuple(msgspec.structs.replace(part, balance_micro=10**18) for part in GENESIS.participants),
            ),
            "balance_micro",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(genesis: Genesis, place: str) -> None:
    with pytest.raises(InputError, match=place):
        check_genesis(genesis)


def test_a_genesis_names_at_most_64_validators() -> None:
    check_genesis(make_genesis(validators=64))
    with pytest.raises(InputError, match="validators: 65"):
        make_genesis(validators=65)


@pytest.mark.parametrize("share_ppm", [0, 499_999, 1_000_001])
def test_no_minority_and_nothing_above_everybody_may_decide_on_validators(share_ppm: int) -> None:
    text = write_genesis(GENESIS).replace(b'"approval_ppm": 666667', b'"approval_ppm": %d' % share_ppm)
    with pytest.raises(InputError, match="approval_ppm"):
        read_genesis(text)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"\xff", b"[" * 100_000, write_genesis(GENESIS).replace(b'"version": 1', b'"version": 1, "hat": 2')]
)
def test_a_file_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InputError, match=r"gen\.json"):
        read_genesis(text, "gen.json")


@given(st.binary(max_size=100))
def test_garbage_is_one_clear_error(text: bytes) -> None:
    with pytest.raises(InputError):
        read_genesis(text)
    with pytest.raises(InputError):
        decode_receipt(text + b"\xc1")


def test_the_tariff_knows_hours_and_weekends() -> None:
    tariff = Tariff(tuple(range(24)), tuple(range(100, 124)), 5)
    assert tariff.buy_micro_per_kwh(MONDAY_MS) == 0
    assert tariff.buy_micro_per_kwh(MONDAY_MS + 86_399_999) == 23
    assert tariff.buy_micro_per_kwh(MONDAY_MS - 1) == 123
    assert tariff.buy_micro_per_kwh(MONDAY_MS - 2 * 86_400_000) == 100
    assert tariff.buy_micro_per_kwh(MONDAY_MS - 2 * 86_400_000 - 1) == 23
    assert tariff.buy_micro_per_kwh(GENESIS_MS) in range(124)


def test_receipts_explain_themselves() -> None:
    bill = Billed("A", 1, *range(11))
    receipt = Receipt(b"", "OK", "", (bill,))
    text = msgspec.msgpack.encode(receipt)
    assert decode_receipt(text) == receipt
    assert b"saving_micro" in text and b"billed" in text
