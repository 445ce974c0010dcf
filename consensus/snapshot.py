"""State snapshots: the whole state after one certified block, cut into chunks that can be checked one by one.

The state is cut by the first ``depth`` bits of SHA-256(key): chunk ``i`` is what stands in the ``i``-th subtree at that depth of
the state tree (:mod:`consensus.state_tree`). The manifest's table has one :class:`ChunkMark` per chunk. Folding the table gives
the state root, which the block's certificate covers; so whoever knows the validators needs to trust nobody:

1. :func:`verify_snapshot` checks header, certificate and table. A table that passes holds the *true* hash of every chunk: each fold
   is a hash over its two halves, and what is folded without a hash (nothing, or one entry that stands higher than its chunk) is named
   by the mark in full.
2. :func:`chunk_objection` checks one chunk against its mark. Because of 1, a chunk that fails is always the fault of its sender.

How deep to cut follows from the state alone (:func:`choose_depth`), so all honest replicas cut the same chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from consensus.block import Certificate, Header
from consensus.codec import Decoder, Wire, encode
from consensus.crypto import Verify, verify
from consensus.errors import InputError
from consensus.messages import ValidatorSet
from consensus.proofs import certified_header
from consensus.state_tree import EMPTY_STATE_ROOT, StateTree, inner_hash, leaf_hash
from consensus.validators import decode_epoch_change, follow

MAX_DEPTH = 16
TARGET_CHUNK_BYTES = 512 * 1024
"""Chunks are at most this large on average."""
MAX_CHUNK_BYTES = 8 * 1024 * 1024
"""Entries of one chunk, as :func:`entry_bytes` counts them: fits well into one message."""
MAX_MANIFEST_BYTES = 15 * 1024 * 1024
"""Fits into one message. The table takes 5 MiB of it at most; the rest are proofs of some thousands of epochs (1 to 2 KiB each with seven
validators). A chain beyond that has no more snapshots: who joins it needs all blocks."""
_HASH_BYTES = 32
_FRAME_BYTES = 11
_PREFIX_BYTES = 2


class ChunkMark(Wire, frozen=True):
    """What the table says of one chunk.

    Fields:
        count: how many entries it has. That there are none, one or more is certified by the root; the exact number is a hint, for
            progress.
        hash: of the subtree of its entries: the empty root, the leaf of the only entry, or a branch.
        leaf: ``SHA-256(key) || SHA-256(value)`` of the only entry, else empty.
    """

    count: int
    hash: bytes
    leaf: bytes


class SnapshotManifest(Wire, frozen=True):
    """All that is needed to check chunks of one snapshot.

    Fields:
        header: encoded header of the block after which the state was so.
        certificate: of that block.
        depth: the state is cut into 2^depth chunks.
        chunks: the table, by rising prefix.
        epochs: encoded values that prove the validator sets since genesis.
    """

    header: bytes
    certificate: Certificate
    depth: int
    chunks: tuple[ChunkMark, ...]
    epochs: tuple[bytes, ...]


class Chunk(Wire, frozen=True):
    """The entries of one chunk, by rising key."""

    entries: tuple[tuple[bytes, bytes], ...]


decode_manifest = Decoder(SnapshotManifest, "snapshot manifest", MAX_MANIFEST_BYTES)
decode_chunk = Decoder(Chunk, "snapshot chunk", MAX_CHUNK_BYTES + 16)

# ---------------------------------------------------------------------------------------------------------------- checking


def verify_snapshot(
    epochs: Sequence[ValidatorSet], manifest: SnapshotManifest, check: Verify = verify
) -> tuple[Header, tuple[ValidatorSet, ...]]:
    """Check a manifest with nothing but the validator sets that are known: that of genesis will do.

    Args:
        epochs: known sets from epoch 0 on.
        check: how signatures are checked.

    Returns:
        The header of the block after which the state was so, and all sets that are known or proven now.

    Raises:
        InputError: says what does not fit.
    """
    try:
        known = follow(tuple(epochs), manifest.epochs, check)
        header = certified_header(known, manifest.header, manifest.certificate, check)
    except InputError as error:
        raise InputError(f"snapshot: {error.field.removeprefix('proof: ')}", error.reason) from error
    proven = [decode_epoch_change(raw).validators.epoch for raw in manifest.epochs]
    if proven != list(range(1, len(proven) + 1)) or len(proven) < header.epoch:
        raise InputError("snapshot: epochs", f"proves {proven} and not all from 1 to {header.epoch}")
    objection = manifest_objection(manifest, header.state_root)
    if objection is not None:
        raise InputError("snapshot", objection)
    return header, known


def manifest_objection(manifest: SnapshotManifest, state_root: bytes) -> str | None:
    """Tell why the table is not that of the state with this root; None if it is."""
    depth, marks = manifest.depth, manifest.chunks
    if not 0 <= depth <= MAX_DEPTH:
        return f"depth: {depth} is not within 0 to {MAX_DEPTH}"
    if len(marks) != 1 << depth:
        return f"chunks: there are {len(marks)}, a depth of {depth} makes {1 << depth}"
    for index, mark in enumerate(marks):
        objection = _mark_objection(mark, index, depth)
        if objection is not None:
            return f"chunks: {index}: {objection}"
    if fold(marks) != state_root:
        return "chunks: the table does not fold to the state root of the header"
    return None


def fold(marks: Sequence[ChunkMark]) -> bytes:
    """Return the state root of a table of 2^depth marks."""
    level = [(mark.count, mark.hash) for mark in marks]
    while len(level) > 1:
        level = [_fold_two(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    return level[0][1]


def chunk_objection(manifest: SnapshotManifest, index: int, entries: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Tell why ``entries`` are not the chunk ``index`` of a checked manifest; None if they are.

    Nothing is missing, added, changed or in another chunk if there is no objection.
    """
    if not 0 <= index < len(manifest.chunks):
        return f"chunk {index}: there are only {len(manifest.chunks)}"
    size_bytes = 0
    before: bytes | None = None
    for key, value in entries:
        size_bytes += entry_bytes(key, value)
        if size_bytes > MAX_CHUNK_BYTES:
            return f"chunk {index}: has more than {MAX_CHUNK_BYTES} bytes"
        if before is not None and key <= before:
            return f"chunk {index}: the keys do not rise"
        if chunk_of(key, manifest.depth) != index:
            return f"chunk {index}: the key {key[:64]!r} belongs to another chunk"
        before = key
    if StateTree.under(entries, manifest.depth).root != manifest.chunks[index].hash:
        return f"chunk {index}: the entries do not hash to what the manifest says"
    return None


def _mark_objection(mark: ChunkMark, index: int, depth: int) -> str | None:
    """Tell what is wrong with one mark on its own."""
    if len(mark.hash) != _HASH_BYTES:
        return f"the hash has {len(mark.hash)} bytes"
    if not 0 <= mark.count <= MAX_CHUNK_BYTES:
        return f"count: {mark.count} is out of range"
    if mark.count == 0 and mark.hash != EMPTY_STATE_ROOT:
        return "has no entry, but a hash"
    if (mark.count == 1) != (len(mark.leaf) == 2 * _HASH_BYTES) or (mark.count != 1 and mark.leaf):
        return "a leaf belongs to a single entry, and only there"
    if mark.count == 1:
        key_hash, value_hash = mark.leaf[:_HASH_BYTES], mark.leaf[_HASH_BYTES:]
        if leaf_hash(key_hash, value_hash) != mark.hash:
            return "the leaf does not give the hash"
        if _prefix(key_hash, depth) != index:
            return "the leaf belongs to another chunk"
    return None


def _fold_two(left: tuple[int, bytes], right: tuple[int, bytes]) -> tuple[int, bytes]:
    count = left[0] + right[0]
    if count == 0:
        return 0, EMPTY_STATE_ROOT
    if count == 1:
        return left if left[0] else right
    return count, inner_hash(left[1], right[1])


# ------------------------------------------------------------------------------------------------------------------ making


def chunk_of(key: bytes, depth: int) -> int:
    """Return which of the 2^depth chunks a key belongs to."""
    return _prefix(sha256(key).digest(), depth)


def entry_bytes(key: bytes, value: bytes) -> int:
    """Return what an entry counts for the size of a chunk: never less than its encoding."""
    return len(key) + len(value) + _FRAME_BYTES


def choose_depth(sizes: Sequence[int]) -> int:
    """Return how deep to cut a state.

    Args:
        sizes: per chunk of a cut at :data:`MAX_DEPTH`, the sum of :func:`entry_bytes`.

    Raises:
        InputError: it cannot be cut into chunks that are small enough.
    """
    total = sum(sizes)
    for depth in range(MAX_DEPTH + 1):
        span = 1 << MAX_DEPTH - depth
        if total >> depth <= TARGET_CHUNK_BYTES and all(
            sum(sizes[start : start + span]) <= MAX_CHUNK_BYTES for start in range(0, len(sizes), span)
        ):
            return depth
    raise InputError("state", f"cannot be cut into chunks of at most {MAX_CHUNK_BYTES} bytes")


def mark_of(entries: Sequence[tuple[bytes, bytes]], root: bytes) -> ChunkMark:
    """Return the mark of one chunk.

    Args:
        entries: all of the chunk.
        root: of ``StateTree.under(entries, depth)``.
    """
    leaf = sha256(entries[0][0]).digest() + sha256(entries[0][1]).digest() if len(entries) == 1 else b""
    return ChunkMark(len(entries), root, leaf)


def make_snapshot(
    header: Header,
    certificate: Certificate,
    entries: Iterable[tuple[bytes, bytes]],
    epochs: tuple[bytes, ...] = (),
    depth: int | None = None,
) -> tuple[SnapshotManifest, tuple[Chunk, ...]]:
    """Cut a state that fits into memory.

    Args:
        entries: the whole state after the block.
        epochs: for the manifest.
        depth: how deep to cut; None: as all replicas do it.

    Raises:
        InputError: it cannot be cut into chunks that are small enough.
    """
    ordered = sorted(entries)
    if depth is None:
        sizes = [0] * (1 << MAX_DEPTH)
        for key, value in ordered:
            sizes[chunk_of(key, MAX_DEPTH)] += entry_bytes(key, value)
        depth = choose_depth(sizes)
    parts: list[list[tuple[bytes, bytes]]] = [[] for _ in range(1 << depth)]
    for key, value in ordered:
        parts[chunk_of(key, depth)].append((key, value))
    marks = tuple(mark_of(part, StateTree.under(part, depth).root) for part in parts)
    manifest = SnapshotManifest(encode(header), certificate, depth, marks, epochs)
    return manifest, tuple(Chunk(tuple(part)) for part in parts)


def _prefix(key_hash: bytes, depth: int) -> int:
    return int.from_bytes(key_hash[:_PREFIX_BYTES], "big") >> MAX_DEPTH - depth
