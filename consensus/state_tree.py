"""The state commitment: one digest for a whole key-value state, with proofs of presence and absence.

A binary trie over SHA-256 of the keys. A subtree with a single entry is that entry's leaf, standing as high as it can, so the shape
depends on the set of entries alone, never on the order in which they came. Trees are immutable values: applying changes
gives a new tree that shares what did not change, so that the tree of an earlier block stays usable for proofs.

Hashes: empty = 32 zero bytes; leaf = SHA-256(0x00 || SHA-256(key) || SHA-256(value)); inner = SHA-256(0x01 || left || right).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from consensus.codec import Wire

EMPTY_STATE_ROOT = bytes(32)
_TOP_BIT = 255


class _Leaf:
    """One entry: ``path`` is SHA-256(key) as an integer, its bits from the top lead to the leaf."""

    __slots__ = ("hash", "path", "value_hash")

    def __init__(self, key_hash: bytes, value_hash: bytes) -> None:
        self.path = int.from_bytes(key_hash, "big")
        self.value_hash = value_hash
        self.hash = leaf_hash(key_hash, value_hash)


class _Inner:
    """A branch; it has at least two entries below it, so at most one side is empty."""

    __slots__ = ("hash", "left", "right")

    def __init__(self, left: _Node | None, right: _Node | None) -> None:
        self.left = left
        self.right = right
        self.hash = inner_hash(_hash_of(left), _hash_of(right))


_Node = _Leaf | _Inner
_Change = tuple[int, _Leaf | None]


class StateProof(Wire, frozen=True):
    """What stands at one key under a state root.

    Fields:
        siblings: hashes beside the path, from the root downwards.
        other: empty if the path ends in the key's own leaf or in nothing; else ``SHA-256(key) || SHA-256(value)`` of the one
            other entry that the path ends in (which shows that the key is absent).
    """

    siblings: tuple[bytes, ...]
    other: bytes = b""


class StateTree:
    """Merkle commitment to a key-value state; an immutable value."""

    __slots__ = ("_top",)

    def __init__(self, top: _Node | None = None) -> None:
        self._top = top

    @classmethod
    def of(cls, entries: Iterable[tuple[bytes, bytes]]) -> StateTree:
        """Build the tree of a whole state in one go; the values are read one by one and not kept."""
        return cls.under(entries, 0)

    @classmethod
    def under(cls, entries: Iterable[tuple[bytes, bytes]], depth: int) -> StateTree:
        """Build one of the 2^depth subtrees of a whole tree: its root is what stands there, a single entry being its leaf.

        Args:
            entries: all that belong there: their SHA-256(key) must agree in the first ``depth`` bits; the keys must be distinct.
        """
        leaves: list[_Change] = []
        for key, value in entries:
            leaf = _Leaf(sha256(key).digest(), sha256(value).digest())
            leaves.append((leaf.path, leaf))
        leaves.sort(key=_path_of)
        return cls(_update(None, leaves, _TOP_BIT - depth))

    @classmethod
    def joined(cls, parts: Sequence[StateTree]) -> StateTree:
        """Join the 2^depth subtrees that :meth:`under` made, from left to right, into the whole tree."""
        nodes = [part._top for part in parts]
        while len(nodes) > 1:
            nodes = [_join(nodes[at], nodes[at + 1]) for at in range(0, len(nodes), 2)]
        return cls(nodes[0])

    @property
    def root(self) -> bytes:
        """The digest that commits to every entry."""
        return _hash_of(self._top)

    def apply(self, changes: Sequence[tuple[bytes, bytes | None]]) -> StateTree:
        """Return the tree after ``changes``: pairs of key and new value, None to delete; the keys must be distinct."""
        prepared: list[_Change] = []
        for key, value in changes:
            key_hash = sha256(key).digest()
            if value is None:
                prepared.append((int.from_bytes(key_hash, "big"), None))
            else:
                leaf = _Leaf(key_hash, sha256(value).digest())
                prepared.append((leaf.path, leaf))
        prepared.sort(key=_path_of)
        return StateTree(_update(self._top, prepared, _TOP_BIT))

    def prove(self, key: bytes) -> StateProof:
        """Return the proof of what stands at ``key``, be it present or not."""
        path = int.from_bytes(sha256(key).digest(), "big")
        siblings = []
        node, bit = self._top, _TOP_BIT
        while isinstance(node, _Inner):
            goes_right = path >> bit & 1
            siblings.append(_hash_of(node.left if goes_right else node.right))
            node = node.right if goes_right else node.left
            bit -= 1
        if node is None or node.path == path:
            return StateProof(tuple(siblings))
        return StateProof(tuple(siblings), node.path.to_bytes(32, "big") + node.value_hash)


def verify_state(root: bytes, key: bytes, value: bytes | None, proof: StateProof) -> bool:
    """Tell whether ``proof`` shows that ``key`` has ``value`` (None: that it is absent) under ``root``."""
    key_hash = sha256(key).digest()
    path = int.from_bytes(key_hash, "big")
    depth = len(proof.siblings)
    if depth > _TOP_BIT + 1:
        return False
    if value is not None:
        if proof.other:
            return False
        result = leaf_hash(key_hash, sha256(value).digest())
    elif proof.other:
        other_key, other_value = proof.other[:32], proof.other[32:]
        shift = _TOP_BIT + 1 - depth
        if len(proof.other) != 64 or other_key == key_hash or int.from_bytes(other_key, "big") >> shift != path >> shift:
            return False
        result = leaf_hash(other_key, other_value)
    else:
        result = EMPTY_STATE_ROOT
    for level in range(depth - 1, -1, -1):
        sibling = proof.siblings[level]
        result = inner_hash(sibling, result) if path >> _TOP_BIT - level & 1 else inner_hash(result, sibling)
    return result == root


def leaf_hash(key_hash: bytes, value_hash: bytes) -> bytes:
    """Return the hash of one entry, from SHA-256(key) and SHA-256(value)."""
    return sha256(b"\x00" + key_hash + value_hash).digest()


def inner_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a branch."""
    return sha256(b"\x01" + left + right).digest()


def _hash_of(node: _Node | None) -> bytes:
    return node.hash if node is not None else EMPTY_STATE_ROOT


def _path_of(change: _Change) -> int:
    return change[0]


def _update(node: _Node | None, changes: list[_Change], bit: int) -> _Node | None:
    """Return ``node`` after ``changes`` (sorted by path, all of them below this node)."""
    if not changes:
        return node
    if node is None or isinstance(node, _Leaf):
        if len(changes) == 1 and (node is None or node.path == changes[0][0]):
            return changes[0][1]
        if node is not None:
            changes = _with_leaf(changes, node)
        present = [change for change in changes if change[1] is not None]
        if len(present) <= 1:
            return present[0][1] if present else None
        left, right, changes = None, None, present
    else:
        left, right = node.left, node.right
    split = _first_right(changes, bit)
    return _join(_update(left, changes[:split], bit - 1), _update(right, changes[split:], bit - 1))


def _join(left: _Node | None, right: _Node | None) -> _Node | None:
    """Return the node over two siblings: nothing, a single leaf as it is, or a branch."""
    if left is None and not isinstance(right, _Inner):
        return right
    if right is None and not isinstance(left, _Inner):
        return left
    return _Inner(left, right)


def _with_leaf(changes: list[_Change], leaf: _Leaf) -> list[_Change]:
    """Push an existing leaf down among the changes that come to its place, unless one of them replaces it."""
    position = _lower_bound(changes, leaf.path)
    if position < len(changes) and changes[position][0] == leaf.path:
        return changes
    return [*changes[:position], (leaf.path, leaf), *changes[position:]]


def _lower_bound(changes: list[_Change], path: int) -> int:
    low, high = 0, len(changes)
    while low < high:
        middle = (low + high) // 2
        if changes[middle][0] < path:
            low = middle + 1
        else:
            high = middle
    return low


def _first_right(changes: list[_Change], bit: int) -> int:
    """Index of the first change whose path goes right at ``bit`` (all higher bits are alike)."""
    low, high = 0, len(changes)
    while low < high:
        middle = (low + high) // 2
        if changes[middle][0] >> bit & 1:
            high = middle
        else:
            low = middle + 1
    return low
