"""MessagePack as trees that can be changed, and a writer that also knows the encodings that no honest writer makes.

A tree is what a plain decoder gives (None, bool, int, float, str, bytes, list, dict) and four things more: bytes that hold MessagePack
themselves are taken apart as well (:class:`Nested`), bytes can be put in as they are (:class:`Literal`), an array can lie about its length
(:class:`Miscounted`), and every length and number can be written longer than it must be.
"""

from __future__ import annotations

import struct
from random import Random
from typing import TypeAlias

import msgspec

MAX_DEPTH, MAX_NESTED_DEPTH = 60, 12
_INT64 = 2**63
_ARRAY_STARTS = frozenset((*range(0x91, 0xA0), 0xDC, 0xDD))


class Nested:
    """Bytes that hold an encoded value. (No dataclass, like the two below: the quick encoder would take it for a map.)

    Attributes:
        inner: the value.
    """

    __slots__ = ("inner",)

    def __init__(self, inner: Tree) -> None:
        self.inner = inner

    def __eq__(self, other: object) -> bool:
        """Tell whether another one holds the same value."""
        return isinstance(other, Nested) and self.inner == other.inner

    __hash__ = None  # type: ignore[assignment]


class Literal:
    """Bytes that stand in the output as they are.

    Attributes:
        data: the bytes.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Miscounted:
    """An array whose header claims another number of items.

    Attributes:
        items: that it has.
        claimed: how many it says there are.
    """

    __slots__ = ("claimed", "items")

    def __init__(self, items: list[Tree], claimed: int) -> None:
        self.items = items
        self.claimed = claimed


Tree: TypeAlias = "bool | int | float | str | bytes | list[Tree] | dict[Tree, Tree] | Nested | Literal | Miscounted | None"

_decoder = msgspec.msgpack.Decoder()
_encoder = msgspec.msgpack.Encoder()


def _stand_in(part: object) -> object:
    """Return what the quick encoder writes for a part that it does not know.

    Raises:
        TypeError: such a part cannot stand in a tree.
    """
    if isinstance(part, Nested):
        return write(part.inner)
    if isinstance(part, Literal):
        return msgspec.Raw(part.data)
    if isinstance(part, Miscounted):
        out = bytearray()
        _write(part, out, None)
        return msgspec.Raw(bytes(out))
    raise TypeError(type(part).__name__)


_quick = msgspec.msgpack.Encoder(enc_hook=_stand_in)


def read(data: bytes) -> Tree | None:
    """Return the tree of ``data``; None if it is no MessagePack, or nested too deeply to be changed."""
    try:
        return _opened(_decoder.decode(data), 0)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, TypeError):
        return None


def _opened(value: Tree, depth: int) -> Tree:
    """Take apart the bytes in a decoded value that hold arrays themselves.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, list):
        for position, item in enumerate(value):
            if isinstance(item, bytes | list | dict):
                value[position] = _opened(item, depth + 1)
    elif isinstance(value, dict):
        for item in value.values():
            _opened(item, depth + 1)
    elif isinstance(value, bytes) and len(value) > 2 and value[0] in _ARRAY_STARTS and depth < MAX_NESTED_DEPTH:
        inner = read(value)
        if inner is not None:
            return Nested(inner)
    return value


def write(tree: Tree, sloppy: Random | None = None) -> bytes:
    """Return the bytes of a tree; with ``sloppy`` some lengths and numbers are longer than they must be."""
    if sloppy is None:
        try:
            return _quick.encode(tree)
        except (OverflowError, UnicodeEncodeError, TypeError):
            pass  # a number, a text or a key that only the writer below knows how to write
    out = bytearray()
    _write(tree, out, sloppy)
    return bytes(out)


def _write(tree: Tree, out: bytearray, sloppy: Random | None) -> None:
    if isinstance(tree, int) and not isinstance(tree, bool):
        _write_int(tree, out, sloppy)
    elif isinstance(tree, bytes):
        _write_length(len(tree), out, sloppy, None, (0xC4, 0xC5, 0xC6))
        out += tree
    elif isinstance(tree, str):
        data = tree.encode("utf-8", "surrogatepass")
        _write_length(len(data), out, sloppy, (0xA0, 32), (0xD9, 0xDA, 0xDB))
        out += data
    elif isinstance(tree, Literal):
        out += tree.data
    elif isinstance(tree, Nested):
        _write(write(tree.inner, sloppy), out, sloppy)
    elif isinstance(tree, Miscounted):
        _write_length(tree.claimed, out, None, (0x90, 16), (None, 0xDC, 0xDD))
        for item in tree.items:
            _write(item, out, sloppy)
    elif isinstance(tree, list):
        _write_length(len(tree), out, sloppy, (0x90, 16), (None, 0xDC, 0xDD))
        for item in tree:
            _write(item, out, sloppy)
    elif isinstance(tree, dict):
        _write_length(len(tree), out, sloppy, (0x80, 16), (None, 0xDE, 0xDF))
        for key, item in tree.items():
            _write(key, out, sloppy)
            _write(item, out, sloppy)
    else:
        out += _encoder.encode(tree)


def _write_length(
    length: int, out: bytearray, sloppy: Random | None, fixed: tuple[int, int] | None, codes: tuple[int | None, int, int]
) -> None:
    """Write a header: ``fixed`` is the short form and what it is for, ``codes`` are those with one, two and four bytes of length."""
    least = 0 if fixed is not None and length < fixed[1] else 1 if length < 256 else 2 if length < 65_536 else 3
    width = least if sloppy is None or sloppy.random() < 0.8 else sloppy.randint(least, 3)
    if width == 0 and fixed is not None:
        out.append(fixed[0] | length)
        return
    first = codes[0]
    if width == 1 and first is not None:
        out += bytes((first, length))
    elif width <= 2:
        out += struct.pack(">BH", codes[1], length)
    else:
        out += struct.pack(">BI", codes[2], min(length, 2**32 - 1))


def _write_int(number: int, out: bytearray, sloppy: Random | None) -> None:
    number = max(-_INT64, min(number, 2 * _INT64 - 1))
    width = 0 if sloppy is None or sloppy.random() < 0.8 else sloppy.randint(0, 4)
    if number >= 0:
        if width == 0 and number < 128:
            out.append(number)
            return
        least = 1 if number < 256 else 2 if number < 65_536 else 3 if number < 2**32 else 4
        width = max(width, least)
        out.append(0xCB + width)
    else:
        if width == 0 and number >= -32:
            out.append(number & 0xFF)
            return
        least = 1 if number >= -128 else 2 if number >= -32_768 else 3 if number >= -(2**31) else 4
        width = max(width, least)
        out.append(0xCF + width)
    out += number.to_bytes(1 << width - 1, "big", signed=number < 0)
