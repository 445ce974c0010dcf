"""How inputs are changed: at the level of bytes, and at the level of the values that they encode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar, cast

from cluster.fuzz.trees import Literal, Miscounted, Nested, Tree, read, write

MAX_INPUT_BYTES = 256 * 1024
_STAY = 0.3
T = TypeVar("T")

NUMBERS = (
    0, 1, -1, 2, 7, 8, 31, 32, 63, 64, 127, 128, 255, 256, 1023, 1024, 1025, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40,
    2**53, 2**53 + 1, 10**12, 10**15, 10**15 + 1, 10**18, 2**63 - 1, 2**63, 2**64 - 1, -32, -33, -128, -129, -(2**31), -(2**53), -(2**63),
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "a\nb", "é" * 3, "\u202e", "\U0001f50c", "\ud800", "A" * 64, "A" * 65, "A" * 141, "A" * 5_000, "GRID", "OPERATOR",
    "main", "pv", "buy", "sell", "ntp", "transfer", "order", "reading", "cancel", "meter-reset", "vote", "validator-vote",
    "seat-renewal", "double-signing", "add", "remove", "replace", "dc1", "dc5", "../..", "%s", "-1",
)  # fmt: skip
LITERALS = (
    b"\xc1", b"\xd4\x01\x00", b"\xd6\xff\x00\x00\x00\x00", b"\xc7\x0c\xff" + bytes(12), b"\xd9\xff", b"\xdb\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdc\x00\x01", b"\x9f", b"\x8f",
    b"\x82\x01\x01\x01\x02", b"\xa2\xc3\x28", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xca\x00\x00\x00\x00",
)  # fmt: skip


class ByteMutator:
    """Changes inputs as bytes, whatever they hold.

    Args:
        random: where all chance comes from.
        donor: gives another input, to take parts from.
    """

    def __init__(self, random: Random, donor: Callable[[], bytes]) -> None:
        self.random = random
        self._donor = donor

    def pick(self, values: Sequence[T]) -> T:
        """Return one of ``values``."""
        return values[int(self.random.random() * len(values))]

    def chance(self, share: float) -> bool:
        """Tell True in this share of cases."""
        return self.random.random() < share

    def raw(self, data: bytes) -> bytes:
        """Return ``data`` with some bytes changed, left out, doubled or taken from elsewhere."""
        changed = bytearray(data)
        for _ in range(self._rounds()):
            self._change_bytes(changed)
        return bytes(changed[:MAX_INPUT_BYTES])

    def _rounds(self) -> int:
        rounds = 1
        while rounds < 12 and self.random.random() < 0.4:
            rounds += 1
        return rounds

    def _change_bytes(self, data: bytearray) -> None:
        random = self.random
        place = int(random.random() * (len(data) + 1))
        match int(random.random() * 9):
            case 0 | 1 if place < len(data):
                data[place] ^= 1 << int(random.random() * 8)
            case 2 if place < len(data):
                data[place] = int(random.random() * 256)
            case 3:
                del data[place : place + _length(random)]
            case 4:
                data[place:place] = random.randbytes(_length(random))
            case 5:
                donor = self._donor()
                start = int(random.random() * (len(donor) + 1))
                data[place : place + _length(random)] = donor[start : start + _length(random)]
            case 6:
                data[place:place] = data[place : place + _length(random)]
            case 7:
                width = self.pick((1, 2, 4, 8))
                number = self.pick(NUMBERS) & (1 << 8 * width) - 1
                data[place : place + width] = number.to_bytes(width, self.pick(("big", "little")))
            case _:
                del data[place:]


class Mutator(ByteMutator):
    """Changes inputs as the values that they encode, and as bytes."""

    def change(self, data: bytes) -> bytes:
        """Return ``data`` changed: a value in it for another of its type, its values altogether, or its bytes."""
        way = self.random.random()
        return self.gentle(data) if way < 0.35 else self.value(data) if way < 0.7 else self.raw(data)

    def value(self, data: bytes) -> bytes:
        """Return ``data`` with parts of its value changed; as bytes if it is no MessagePack."""
        tree = read(data)
        if tree is None:
            return self.raw(data)
        holder: list[Tree] = [tree]
        for _ in range(self._rounds()):
            self.change_tree(holder)
        sloppy = self.random if self.random.random() < 0.1 else None
        return write(holder[0], sloppy)[:MAX_INPUT_BYTES]

    def gentle(self, data: bytes) -> bytes:
        """Return ``data`` with one value in it changed for another of the same type."""
        tree = read(data)
        if tree is None:
            return self.raw(data)
        holder: list[Tree] = [tree]
        self.change_leaf(holder)
        return write(holder[0])

    def change_leaf(self, holder: list[Tree]) -> None:
        """Change one number, text or byte string somewhere in the trees that ``holder`` holds, for another of its type."""
        items, place = self._place(holder, stay=0.0)
        leaf = items[place]
        if isinstance(leaf, bytes) and self.random.random() < 0.7:
            items[place] = _same_length(self.random, leaf)
        elif isinstance(leaf, int | str | bytes):
            items[place] = self._same_type(leaf)
        else:
            items[place] = self._changed(leaf)

    def _same_type(self, leaf: int | str | bytes) -> Tree:
        if isinstance(leaf, bool):
            return not leaf
        if isinstance(leaf, int):
            return self.number(leaf)
        return self.text(leaf) if isinstance(leaf, str) else self.raw(leaf)

    def change_tree(self, holder: list[Tree]) -> None:
        """Change something somewhere in the trees that ``holder`` holds."""
        items, place = self._place(holder)
        items[place] = self._changed(items[place])

    def _place(self, holder: list[Tree], stay: float = _STAY) -> tuple[list[Tree], int]:
        """Walk down at random; return a list and a position in it. ``stay`` is how likely the walk stops at each step."""
        random = self.random
        items, place = holder, int(random.random() * len(holder))
        while random.random() >= stay:
            below: Tree = items[place]
            while isinstance(below, Nested):
                below = below.inner
            if not isinstance(below, list) or not below:
                break
            items, place = below, int(random.random() * len(below))
        return items, place

    def _changed(self, tree: Tree) -> Tree:
        if self.random.random() < 0.15:
            return self.strange()
        if isinstance(tree, int | str | bytes):
            return self._same_type(tree)
        if isinstance(tree, list):
            return self._list(tree)
        if isinstance(tree, Nested):
            return self._nested(tree)
        return self.strange()

    def number(self, number: int) -> int:
        """Return another integer: near, or at a bound of some type."""
        match int(self.random.random() * 5):
            case 0:
                return number + 1
            case 1:
                return number - 1
            case 2:
                return number + self.pick(NUMBERS)
            case 3:
                return number ^ 1 << int(self.random.random() * 63)
            case _:
                return self.pick(NUMBERS)

    def text(self, text: str) -> str:
        """Return another text."""
        place = int(self.random.random() * (len(text) + 1))
        match int(self.random.random() * 4):
            case 0:
                return text[:place] + self.pick(TEXTS) + text[place:]
            case 1:
                return text[:place] + text[place + 1 :]
            case 2:
                return text.swapcase()
            case _:
                return self.pick(TEXTS)

    def _list(self, items: list[Tree]) -> Tree:
        place = int(self.random.random() * (len(items) + 1))
        match int(self.random.random() * 9):
            case 0:
                return items[:place] + items[place + 1 :]
            case 1:
                return items[:place] + items[max(0, place - 1) :]
            case 2:
                return [*items[:place], self.strange(), *items[place:]]
            case 3:
                return Miscounted(items, max(0, len(items) + self.pick((-1, 1, 2, 14, 70_000, 2**32 - 1))))
            case 4 if len(items) > 1:
                other = int(self.random.random() * len(items))
                place = min(place, len(items) - 1)
                items[place], items[other] = items[other], items[place]
                return items
            case 5 if items:
                return items[:place] + items[-1:] * self.pick((2, 3, 17, 300))
            case 6:
                return self._from_donor()
            case 7:
                return [items]
            case _:
                return items[:place]

    def _nested(self, nested: Nested) -> Tree:
        """Return the bytes changed as bytes: a walk into them changes them as a value."""
        match int(self.random.random() * 3):
            case 0:
                return nested.inner
            case 1:
                return Nested(self.strange())
            case _:
                return self.raw(write(nested.inner))

    def _from_donor(self) -> Tree:
        tree = read(self._donor())
        holder: list[Tree] = [tree]
        items, place = self._place(holder)
        return items[place]

    def strange(self) -> Tree:
        """Return a value that hardly belongs where it comes to stand."""
        random = self.random
        match int(random.random() * 12):
            case 0 | 1 | 2:
                return self.pick(NUMBERS)
            case 3 | 4:
                return self.pick(TEXTS)
            case 5:
                return random.randbytes(self.pick((0, 1, 31, 32, 33, 63, 64, 65, 300)))
            case 6:
                return bytes(self.pick((0, 1, 31, 32, 33, 64, 4096)))
            case 7:
                return Literal(self.pick(LITERALS))
            case 8:
                return Literal(self.pick((b"\x91", b"\x81\x01", b"\x91")) * self.pick((20, 200, 1_000, 5_000, 60_000)) + b"\xc0")
            case 9:
                return cast("Tree", self.pick((None, True, False, [], {}, {1: 2}, {"a": {}}, [[]], [0] * 20)))
            case 10:
                return cast("Tree", self.pick((0.0, -0.0, 1.5, 1e308, float("inf"), float("nan"))))
            case _:
                return self._from_donor()


def _same_length(random: Random, data: bytes) -> bytes:
    """Return other bytes of the same number: a key, a digest or a signature stays one for the decoder."""
    if not data:
        return data
    place = int(random.random() * len(data))
    return data[:place] + bytes((data[place] ^ 1 << int(random.random() * 8),)) + data[place + 1 :]


def _length(random: Random) -> int:
    return 1 + int(random.random() ** 4 * 64)
