"""Placeholder replaced on merge."""

from __future__ import annotations

from consensus.block import Certificate
from consensus.codec import Decoder, Wire


class ChunkMark(Wire, frozen=True):
    count: int
    size_bytes: int
    hash: bytes


class SnapshotManifest(Wire, frozen=True):
    header: bytes
    certificate: Certificate
    depth: int
    chunks: tuple[ChunkMark, ...]
    epochs: tuple[bytes, ...]


class Chunk(Wire, frozen=True):
    entries: tuple[tuple[bytes, bytes], ...]


decode_manifest = Decoder(SnapshotManifest, "snapshot")
decode_chunk = Decoder(Chunk, "chunk")


def manifest_objection(manifest: SnapshotManifest, state_root: bytes) -> str | None:
    raise NotImplementedError


def chunk_objection(manifest: SnapshotManifest, index: int, chunk: Chunk) -> str | None:
    raise NotImplementedError
