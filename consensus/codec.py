"""MessagePack through msgspec: the one way from values to bytes and back.

Law: all wire and stored types are frozen ``array_like`` structs, so equal values have equal bytes, and strict
decoding is the first check of any input. Reading back never repairs: what does not fit raises :class:`DecodeError`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from consensus.errors import DecodeError

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of every type that is signed, sent or stored: an immutable MessagePack array."""


def encode(value: object) -> bytes:
    """Return the MessagePack bytes of ``value`` (deterministic for :class:`Wire` types)."""
    return _encoder.encode(value)


class Decoder(Generic[T]):
    """Strict decoder for one type.

    Args:
        kind: the type to decode into.
        name: what the value is called in error messages.
        max_bytes: longer input is refused unread.
    """

    def __init__(self, kind: type[T], name: str, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._name = name
        self._max_bytes = max_bytes

    def __call__(self, data: bytes) -> T:
        """Decode ``data``.

        Raises:
            DecodeError: it is too long, not MessagePack, or not a value of the type.
        """
        if len(data) > self._max_bytes:
            raise DecodeError(self._name, f"{len(data)} bytes, more than the limit of {self._max_bytes}")
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise DecodeError(self._name, str(error)) from error
