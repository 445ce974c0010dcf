"""Merkle trees over ordered lists (RFC 6962, section 2.1): transactions and receipts of a block.

A leaf hashes as SHA-256(0x00 || leaf), an inner node as SHA-256(0x01 || left || right), so no inner node can pass for a leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from consensus.codec import Wire

EMPTY_ROOT = sha256(b"").digest()


class InclusionProof(Wire, frozen=True):
    """That one leaf stands at ``index`` in a list of ``size`` leaves.

    Fields:
        index: position of the leaf, from 0.
        size: number of leaves in the tree.
        path: sibling hashes from the leaf up to the root.
    """

    index: int
    size: int
    path: tuple[bytes, ...]


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of one leaf."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All levels, leaves first. A node without a sibling moves up unchanged, which yields RFC 6962's left-heavy tree."""
    level = [leaf_hash(leaf) for leaf in leaves]
    levels = [level]
    while len(level) > 1:
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
        levels.append(level)
    return levels


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash of the list (SHA-256 of nothing for an empty one)."""
    return _levels(leaves)[-1][0] if leaves else EMPTY_ROOT


def prove_inclusion(leaves: Sequence[bytes], index: int) -> InclusionProof:
    """Return the audit path of leaf ``index`` (RFC 6962, section 2.1.1).

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    path = []
    position = index
    for level in _levels(leaves)[:-1]:
        sibling = position ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        position //= 2
    return InclusionProof(index, len(leaves), tuple(path))


def verify_inclusion(root: bytes, leaf: bytes, proof: InclusionProof) -> bool:
    """Tell whether ``proof`` shows that ``leaf`` is under ``root`` (RFC 9162, section 2.1.3.2)."""
    if not 0 <= proof.index < proof.size:
        return False
    position, last = proof.index, proof.size - 1
    value = leaf_hash(leaf)
    for sibling in proof.path:
        if last == 0:
            return False
        if position % 2 or position == last:
            value = node_hash(sibling, value)
            while position % 2 == 0 and position:
                position //= 2
                last //= 2
        else:
            value = node_hash(value, sibling)
        position //= 2
        last //= 2
    return last == 0 and value == root
