"""The shelf: snapshots of a channel's state on disk, made beside the work and kept to be served.

::

    snapshots/HEIGHT/manifest, 00000, 00001, ...      one file per chunk
    snapshots/.new-HEIGHT                             being made; removed at the next start

A file is a digest (32 bytes) and what it is of; the digest also covers height and name, so that no file passes for another. A snapshot
stands under its height when all of it is on disk, and not before. What is damaged is dropped, never served.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar

import structlog

from consensus.block import Certificate, Header
from consensus.codec import Decoder, encode
from consensus.crypto import DIGEST_BYTES, digest
from consensus.errors import DecodeError, InputError, InvariantViolation
from consensus.snapshot import (
    MAX_CHUNK_BYTES,
    MAX_MANIFEST_BYTES,
    Chunk,
    ChunkMark,
    SnapshotManifest,
    decode_chunk,
    decode_manifest,
    fold,
    mark_of,
)
from consensus.state_tree import StateTree
from node.key_value import StoreDamagedError, StoreError
from node.pace import Pace, StoppedError
from node.snapshot_buckets import Buckets
from node.state_store import PinnedState

log = structlog.get_logger("gridpact.snapshots")
SNAPSHOTS_FOLDER = "snapshots"
"""Name of the shelf inside a channel's folder."""
MANIFEST_FILE = "manifest"
BEING_MADE = ".new-"
"""What names on the shelf begin with that the next start removes."""
_BEING_DROPPED, _SPOOL = ".old-", "spool"
_MAX_FILE_BYTES = max(MAX_CHUNK_BYTES, MAX_MANIFEST_BYTES) + 1024
T = TypeVar("T")


class StoredSnapshot:
    """One snapshot on a shelf, for reading.

    Args:
        path: its folder, named by its height.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.height = int(path.name)

    def manifest_bytes(self) -> bytes:
        """Return the encoded manifest.

        Raises:
            StoreDamagedError: it is not what was written.
        """
        return _checked(self.path, self.height, MANIFEST_FILE)

    def manifest(self) -> SnapshotManifest:
        """Return the manifest.

        Raises:
            StoreDamagedError: it is not what was written.
        """
        return self._decoded(decode_manifest, MANIFEST_FILE)

    def has_chunk(self, index: int) -> bool:
        """Tell whether the file of a chunk is there."""
        return (self.path / _chunk_file(index)).exists()

    def chunk_bytes(self, index: int) -> bytes:
        """Return an encoded chunk.

        Raises:
            StoreDamagedError: it is not what was written.
        """
        return _checked(self.path, self.height, _chunk_file(index))

    def chunk(self, index: int) -> Chunk:
        """Return a chunk.

        Raises:
            StoreDamagedError: it is not what was written.
        """
        return self._decoded(decode_chunk, _chunk_file(index))

    def _decoded(self, decoder: Decoder[T], name: str) -> T:
        try:
            return decoder(_checked(self.path, self.height, name))
        except DecodeError as error:
            raise StoreDamagedError(self.path / name, str(error)) from error


def stored_snapshots(folder: Path) -> list[StoredSnapshot]:
    """Return the snapshots on the shelf in ``folder`` by rising height; none if there is no shelf. Changes nothing on it."""
    if not folder.is_dir():
        return []
    found = [StoredSnapshot(path) for path in folder.iterdir() if path.name.isdecimal() and path.name.isascii()]
    return sorted(found, key=lambda one: one.height)


class SnapshotShelf:
    """The shelf of a running node. One thread makes; any may read meanwhile.

    Args:
        folder: of the shelf; it is made if it is not there.
        keep: how many snapshots stay; the oldest go first.

    Raises:
        StoreError: the folder cannot be made or cleaned.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self._keep = keep
        self._stop = Event()
        self._making = Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.name.startswith((BEING_MADE, _BEING_DROPPED)):
                    shutil.rmtree(path)
        except OSError as error:
            raise _store_error(folder, error) from error

    def close(self) -> None:
        """Let a snapshot that is being made end soon, unmade."""
        self._stop.set()

    # ------------------------------------------------------------------------------------------------------------ serving

    @property
    def newest_height(self) -> int:
        """Height of the newest snapshot, 0 if there is none."""
        return max((one.height for one in stored_snapshots(self.folder)), default=0)

    def manifest(self, minimum_height: int = 0) -> bytes | None:
        """Return the encoded manifest of the newest snapshot, None if it is below ``minimum_height`` or there is none."""
        for one in reversed(stored_snapshots(self.folder)):
            if one.height < minimum_height:
                break
            try:
                return one.manifest_bytes()
            except StoreDamagedError as error:
                self._drop_damaged(one, error)
        return None

    def chunk(self, height: int, index: int) -> bytes | None:
        """Return an encoded chunk, None if there is no such snapshot or chunk (any more)."""
        if height < 0 or index < 0:
            return None
        one = StoredSnapshot(self.folder / str(height))
        try:
            if not one.has_chunk(index) and (not one.path.is_dir() or index >= len(one.manifest().chunks)):
                return None
            return one.chunk_bytes(index)
        except StoreDamagedError as error:
            self._drop_damaged(one, error)
            return None

    # ------------------------------------------------------------------------------------------------------------- making

    def make(
        self,
        state: PinnedState,
        header: Header,
        certificate: Certificate,
        epochs: tuple[bytes, ...] = (),
        share_percent: int = 50,
    ) -> bool:
        """Make a snapshot. Blocks for long: call it in a thread.

        Args:
            state: as it was after the block.
            header, certificate: of the block.
            epochs: for the manifest.
            share_percent: how much of the time this thread works; it rests in between.

        Returns:
            whether it is on the shelf now; False if one at least as new is there, another is being made, or the shelf was closed.

        Raises:
            InvariantViolation: the state is not that of the block.
            InputError: it cannot be cut, or the manifest is larger than others would take.
            StoreError: the state cannot be read, or the disk refused the files; nothing is left of them.
        """
        if not self._making.acquire(blocking=False):
            return False
        try:
            if header.height <= self.newest_height:
                return False
            self._make(state, header, certificate, epochs, Pace(share_percent, self._stop))
        except StoppedError:
            return False
        except OSError as error:
            raise _store_error(self.folder, error) from error
        finally:
            shutil.rmtree(self._new_folder(header.height), ignore_errors=True)
            self._making.release()
        return True

    def _make(self, state: PinnedState, header: Header, certificate: Certificate, epochs: tuple[bytes, ...], pace: Pace) -> None:
        height = header.height
        if state.height() != height or (certificate.height, certificate.header_hash) != (height, header.hash):
            raise InvariantViolation(f"{state.path}: state, header and certificate of a snapshot belong to different blocks")
        folder = self._new_folder(height)
        shutil.rmtree(folder, ignore_errors=True)
        buckets = Buckets(folder / _SPOOL)
        (folder / _SPOOL).mkdir(parents=True)
        for key, value in pace.through(state.scan(b"", fill_cache=False)):
            buckets.add(key, value)
        depth = buckets.depth()
        marks: list[ChunkMark] = []
        for entries in buckets.chunks(depth, pace.through):
            marks.append(mark_of(entries, StateTree.under(pace.through(entries), depth).root))
            _write(folder, height, _chunk_file(len(marks) - 1), encode(Chunk(tuple(entries))))
        if fold(marks) != header.state_root:
            raise InvariantViolation(f"{state.path}: the stored state does not hash to the state root of block {height}")
        manifest = encode(SnapshotManifest(encode(header), certificate, depth, tuple(marks), epochs))
        if len(manifest) > MAX_MANIFEST_BYTES:
            raise InputError(
                "manifest", f"has {len(manifest)} bytes with the proofs of {len(epochs)} epochs, {MAX_MANIFEST_BYTES} are allowed"
            )
        _write(folder, height, MANIFEST_FILE, manifest)
        shutil.rmtree(folder / _SPOOL)
        _sync_folder(folder)
        folder.rename(self.folder / str(height))
        _sync_folder(self.folder)
        for old in stored_snapshots(self.folder)[: -self._keep]:
            self._drop(old)

    def _new_folder(self, height: int) -> Path:
        return self.folder / f"{BEING_MADE}{height}"

    def _drop_damaged(self, one: StoredSnapshot, error: StoreDamagedError) -> None:
        if one.path.is_dir():
            log.error("dropped a damaged snapshot", height=one.height, reason=str(error))
            self._drop(one)

    def _drop(self, one: StoredSnapshot) -> None:
        """Take a snapshot off the shelf: out of sight first, so that nobody finds half of it."""
        gone = self.folder / f"{_BEING_DROPPED}{one.height}"
        try:
            shutil.rmtree(gone, ignore_errors=True)
            one.path.rename(gone)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _store_error(one.path, error) from error
        shutil.rmtree(gone, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------------- files


def _chunk_file(index: int) -> str:
    return f"{index:05d}"


def _file_digest(height: int, name: str, content: bytes) -> bytes:
    return digest(f"GridPact snapshot file {height} {name}\0".encode() + content)


def _write(folder: Path, height: int, name: str, content: bytes) -> None:
    with (folder / name).open("wb") as file:
        file.write(_file_digest(height, name, content))
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _checked(folder: Path, height: int, name: str) -> bytes:
    path = folder / name
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise StoreDamagedError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    content = data[DIGEST_BYTES:]
    if data[:DIGEST_BYTES] != _file_digest(height, name, content):
        raise StoreDamagedError(path, "is not what was written")
    return content


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _store_error(path: Path, error: OSError) -> StoreError:
    return StoreError(Path(error.filename) if isinstance(error.filename, str) else path, (error.strerror or str(error)).lower())
