"""The wire, read by an independent decoder, and every decoder under garbage."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import Decoder, Wire, encode
from consensus.errors import DecodeError, InputError
from contracts.calls import Transfer, decode_call
from tests.wire_values import decoders, values_of, wire_types

TYPES = wire_types()
DECODERS = decoders()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_type_is_an_array_that_msgpack_reads_and_writes_the_same(kind: type[Wire]) -> None:
    @given(values_of(kind))
    def check(value: Wire) -> None:
        data = encode(value)
        plain = msgpack.unpackb(data, raw=False, strict_map_key=False)
        assert isinstance(plain, list)
        assert msgpack.packb(plain, use_bin_type=True) == data
        assert Decoder(kind, "value")(data) == value

    check()


@pytest.mark.parametrize(("name", "decoder"), DECODERS, ids=[name for name, _ in DECODERS])
def test_garbage_gives_one_clear_error(name: str, decoder: Decoder[Any]) -> None:
    @given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        try:
            value = decoder(data)
        except DecodeError as error:
            assert error.field
            assert error.reason
            assert isinstance(error, InputError)
        else:
            assert decoder(encode(value)) == value

    check()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_truncated_and_extended_values_are_refused(kind: type[Wire]) -> None:
    decoder = Decoder(kind, "value")

    @given(values_of(kind), st.data())
    def check(value: Wire, data: st.DataObject) -> None:
        encoded = encode(value)
        cut = data.draw(st.integers(0, len(encoded) - 1))
        for bad in (encoded[:cut], encoded + b"\x00", encoded + encoded):
            with pytest.raises(DecodeError):
                decoder(bad)

    check()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_an_unknown_field_is_refused(kind: type[Wire]) -> None:
    @given(values_of(kind))
    def check(value: Wire) -> None:
        plain = msgpack.unpackb(encode(value), raw=False, strict_map_key=False)
        with pytest.raises(DecodeError):
            Decoder(kind, "value")(msgpack.packb([*plain, None], use_bin_type=True))

    check()


@pytest.mark.parametrize(("name", "decoder"), DECODERS, ids=[name for name, _ in DECODERS])
@pytest.mark.parametrize("opener", [b"\x91", b"\xdc\x00\x01", b"\x81\xa1k", b"\x96" + b"\xa1x" * 3 + b"\x01\x02" + b"\x91"])
def test_deep_nesting_is_refused(name: str, decoder: Decoder[Any], opener: bytes) -> None:
    with pytest.raises(DecodeError):
        decoder((opener[:-1] + opener[-1:] * 3000 if len(opener) > 3 else opener * 3000) + b"\xc0")


def test_too_long_input_is_refused_unread() -> None:
    decoder = Decoder(Transfer, "thing", max_bytes=10)
    with pytest.raises(DecodeError, match="11 bytes, more than the limit of 10"):
        decoder(b"\xff" * 11)


@pytest.mark.parametrize(
    "huge",
    [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"],
    ids=["array", "map", "bin", "str"],
)
@pytest.mark.parametrize(("name", "decoder"), DECODERS, ids=[name for name, _ in DECODERS])
def test_a_promise_of_four_billion_elements_costs_nothing(name: str, decoder: Decoder[Any], huge: bytes) -> None:
    with pytest.raises(DecodeError):
        decoder(huge + b"\x01")


@pytest.mark.parametrize("amount", [True, 1.0, "1", None, b"1", -1, 0, 10**15 + 1])
def test_wrong_types_and_ranges_are_refused(amount: object) -> None:
    with pytest.raises(DecodeError):
        decode_call(msgpack.packb(["transfer", "bob", amount, ""], use_bin_type=True))
    assert decode_call(msgpack.packb(["transfer", "bob", 1, ""], use_bin_type=True)) == Transfer("bob", 1)


@pytest.mark.parametrize("name", ["", "a/b", "bob\n", "\nbob", "bob\x00", "-bob", "b" * 65, "böb", "+", "#"])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        decode_call(encode(("transfer", name, 1, "")))


def test_wire_values_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Transfer("bob", 1).amount_micro = 2  # type: ignore[misc]


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(DecodeError, match="call"):
        decode_call(encode(("print-money", "bob", 1)))
