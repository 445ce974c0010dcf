"""A snapshot as one file, to be carried from one host to another.

A magic line; then frames of a length (4 bytes, big endian) and so many bytes of MessagePack: the manifest, then every chunk in order;
then the SHA-256 digest of everything before it. The digest finds accidents (a file that was cut off, a flipped bit). Against a forger
help the certificate in the manifest and the hashes in its table (:mod:`consensus.snapshot`).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from consensus.block import Header, decode_header
from consensus.crypto import DIGEST_BYTES
from consensus.errors import DecodeError, InputError
from consensus.snapshot import (
    MAX_CHUNK_BYTES,
    MAX_MANIFEST_BYTES,
    SnapshotManifest,
    chunk_objection,
    decode_chunk,
    decode_manifest,
    manifest_objection,
)
from node.block_store import ChannelStore
from node.snapshots import StoredSnapshot

MAGIC = b"GridPact snapshot 1\n"
_LENGTH = struct.Struct(">I")
_BLOCK_BYTES = 1 << 20
_MAX_FRAME_BYTES = max(MAX_MANIFEST_BYTES, MAX_CHUNK_BYTES + 16)
Entry = tuple[bytes, bytes]
Step = Callable[[int, int], None]
"""Called with the chunks that are done and how many there are."""


def write_snapshot_file(path: Path, snapshot: StoredSnapshot, step: Step) -> None:
    """Write a snapshot into the file ``path``, whole or not at all; it is on disk when this returns.

    Raises:
        StoreDamagedError: the snapshot is not what was written.
        InputError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    manifest = snapshot.manifest()
    total = len(manifest.chunks)
    hasher = hashlib.sha256()
    try:
        with partial.open("wb") as file:

            def put(data: bytes) -> None:
                hasher.update(data)
                file.write(data)

            def put_frame(data: bytes) -> None:
                put(_LENGTH.pack(len(data)))
                put(data)

            put(MAGIC)
            put_frame(snapshot.manifest_bytes())
            for index in range(total):
                put_frame(snapshot.chunk_bytes(index))
                step(index + 1, total)
            file.write(hasher.digest())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        partial.unlink(missing_ok=True)


class SnapshotFile:
    """A snapshot file that is whole: it ends with the digest of its contents. That it tells the truth is checked while it is read.

    Args:
        path: of the file.

    Attributes:
        manifest: as it stands there; its table folds to the state root of its header.
        header: decoded.
        size_bytes: of the file.

    Raises:
        InputError: it cannot be read, is no snapshot file, or not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as file:
            self.size_bytes = self._check_digest(file)
            file.seek(len(MAGIC))
            try:
                self.manifest: SnapshotManifest = decode_manifest(self._frame(file))
                self.header: Header = decode_header(self.manifest.header)
            except DecodeError as error:
                raise InputError(str(path), str(error)) from error
        objection = manifest_objection(self.manifest, self.header.state_root)
        if objection is not None:
            raise InputError(str(path), objection)

    def chunks(self, step: Step) -> Iterator[tuple[Entry, ...]]:
        """Yield the entries of every chunk in order, each checked against the manifest.

        Raises:
            InputError: a chunk is not what the manifest says; or the file cannot be read.
        """
        total = len(self.manifest.chunks)
        with self._opened() as file:
            file.seek(len(MAGIC))
            self._frame(file)
            for index in range(total):
                try:
                    entries = decode_chunk(self._frame(file)).entries
                except DecodeError as error:
                    raise InputError(str(self.path), f"chunk {index}: {error}") from error
                objection = chunk_objection(self.manifest, index, entries)
                if objection is not None:
                    raise InputError(str(self.path), objection)
                yield entries
                step(index + 1, total)
            if file.tell() != self.size_bytes - DIGEST_BYTES:
                raise InputError(str(self.path), "goes on after the last chunk")

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise InputError(str(self.path), f"cannot be read: {(error.strerror or str(error)).lower()}") from error

    def _check_digest(self, file: BinaryIO) -> int:
        """Check magic line and digest; return the size."""
        size = os.fstat(file.fileno()).st_size
        head = file.read(len(MAGIC))
        if head != MAGIC:
            raise InputError(str(self.path), "is no GridPact snapshot of a version that this program knows")
        hasher = hashlib.sha256(head)
        left = size - len(MAGIC) - DIGEST_BYTES
        while left > 0 and (data := file.read(min(left, _BLOCK_BYTES))):
            hasher.update(data)
            left -= len(data)
        if left < 0 or file.read(DIGEST_BYTES) != hasher.digest():
            raise InputError(str(self.path), "is damaged or cut off: its digest is not that of its contents")
        return size

    def _frame(self, file: BinaryIO) -> bytes:
        raw = file.read(_LENGTH.size)
        length = _LENGTH.unpack(raw)[0] if len(raw) == _LENGTH.size else _MAX_FRAME_BYTES + 1
        if length > min(_MAX_FRAME_BYTES, self.size_bytes - DIGEST_BYTES - file.tell()):
            raise InputError(str(self.path), "has a part that is longer than it can be")
        return file.read(length)


def adopt_snapshot_file(store: ChannelStore, file: SnapshotFile, header: Header, step: Step) -> int:
    """Make the state of a file the state of a store, or change nothing; return the number of entries.

    Args:
        store: has begun, and its head is below the snapshot.
        header: of the file, checked against genesis by :func:`consensus.snapshot.verify_snapshot`.
        step: called after every chunk.

    Raises:
        InputError: the file does not tell the truth.
        StoreError: the disk refused it.
    """
    count = 0
    store.stage_begin()
    try:
        for entries in file.chunks(step):
            store.stage_put(entries)
            count += len(entries)
    except InputError:
        store.stage_drop()
        _sweep(store)
        raise
    store.put_epoch_changes(file.manifest.epochs)
    store.adopt_snapshot(header, file.manifest.certificate)
    _sweep(store)
    return count


def _sweep(store: ChannelStore) -> None:
    for _ in store.sweep():
        pass
