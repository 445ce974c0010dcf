"""Opens LevelDB databases and turns what goes wrong in them into typed errors.

Every database is opened with paranoid checks: a log or manifest with a bad checksum is refused instead of silently losing what
follows, and so is one that LevelDB would cut short for a wrong length (:func:`node.leveldb_files.check_database`). A log whose last
record was cut off by a crash opens: nobody was promised that record. Every read checks the checksum of the blocks that it loads.

After a write that failed a database takes no more. The log may end in a part of that write, and whatever came after it would be lost
with it at the next start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import plyvel

from consensus.errors import GridPactError
from node.leveldb_files import check_database
from node.leveldb_logs import FileDamageError

Write = tuple[bytes, bytes | None]
"""A key and its new value, None to delete."""
Range = tuple[bytes, bytes | None]
"""The first key, and the first one after (None: there is none)."""
SLICE_ENTRIES = 1_000
"""Entries that are deleted in one go."""
COMPACT_BYTES = 32 << 20
"""Whoever deleted so much sorts the files anew at once; for less, LevelDB does it by itself in time."""
_LAST_KEY = b"\xff" * 16


class StoreError(GridPactError):
    """A database on disk cannot be opened, read or written.

    Args:
        path: folder of the database.
        reason: what is wrong, one short sentence without a full stop.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class StoreBusyError(StoreError):
    """Another process has the database open."""


class StoreDamagedError(StoreError):
    """Bytes on disk are not what was written."""


class _Reader(Protocol):
    def get(self, key: bytes, *, verify_checksums: bool) -> bytes | None: ...

    def iterator(
        self,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        prefix: bytes | None = None,
        reverse: bool = False,
        include_value: bool = True,
        verify_checksums: bool,
        fill_cache: bool = True,
    ) -> Iterator[Any]: ...


class KeyValue:
    """One open LevelDB database, or a snapshot of one. Safe to use from several threads.

    Args:
        path: folder of the database.
        reader: the plyvel database or snapshot that reads go to.
    """

    def __init__(self, path: Path, reader: _Reader) -> None:
        self.path = path
        self._reader = reader

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``, None if there is none.

        Raises:
            StoreError: the database is damaged or closed.
        """
        try:
            return self._reader.get(key, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise _store_error(self.path, error) from error

    def scan(self, prefix: bytes, *, start: bytes = b"", reverse: bool = False, fill_cache: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Yield pairs whose key starts with ``prefix``, by rising (or falling) key.

        Args:
            start: what follows the prefix in the first key wanted.
            fill_cache: whether blocks read stay in the cache (not for long scans).

        Raises:
            StoreError: the database is damaged or closed.
        """
        try:
            yield from self._reader.iterator(
                start=prefix + start, stop=after_prefix(prefix), reverse=reverse, verify_checksums=True, fill_cache=fill_cache
            )
        except (plyvel.Error, RuntimeError) as error:
            raise _store_error(self.path, error) from error

    def keys(self, start: bytes, stop: bytes | None) -> Iterator[bytes]:
        """Yield the keys from ``start`` up to, and without, ``stop`` (None: to the last), rising.

        Raises:
            StoreError: the database is damaged or closed.
        """
        try:
            yield from self._reader.iterator(start=start, stop=stop, include_value=False, verify_checksums=True, fill_cache=False)
        except (plyvel.Error, RuntimeError) as error:
            raise _store_error(self.path, error) from error


class Database(KeyValue):
    """An open database that can be written; make it with :func:`open_database`."""

    def __init__(self, path: Path, database: object) -> None:
        super().__init__(path, cast(_Reader, database))
        self._database = cast("plyvel.DB", database)
        self._failed: StoreError | None = None

    def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        """Apply all ``writes`` at once.

        Args:
            sync: whether they must be on disk before this returns.

        Raises:
            StoreError: nothing was written; or an earlier write failed, see above.
        """
        if self._failed is not None:
            raise StoreError(self.path, f"takes nothing more after a write that failed ({self._failed.reason})")
        try:
            batch = self._database.write_batch(sync=sync)
            put, delete = batch.put, batch.delete
            for key, value in writes:
                if value is None:
                    delete(key)
                else:
                    put(key, value)
            batch.write()
        except plyvel.Error as error:
            self._failed = _store_error(self.path, error)
            raise self._failed from error
        except RuntimeError as error:
            raise _store_error(self.path, error) from error

    def snapshot(self) -> KeyValue:
        """Return the database as it is now: later writes do not show in it.

        Raises:
            StoreError: the database is closed.
        """
        try:
            return KeyValue(self.path, self._database.snapshot())
        except (plyvel.Error, RuntimeError) as error:
            raise _store_error(self.path, error) from error

    def delete(self, start: bytes, stop: bytes | None) -> Iterator[int]:
        """Delete the entries from ``start`` up to, and without, ``stop``, slice by slice, without waiting for the disk.

        Yields:
            after every slice how many entries it had.

        Raises:
            StoreError: the database is damaged or closed.
        """
        keys = self.keys(start, stop)
        while found := list(islice(keys, SLICE_ENTRIES)):
            self.write(((key, None) for key in found), sync=False)
            yield len(found)

    def compact(self, start: bytes | None = None, stop: bytes | None = None) -> None:
        """Sort the files with keys from ``start`` to ``stop`` anew, without what was deleted: so the disk gets smaller.

        Raises:
            StoreError: the database is closed.
        """
        try:
            self._database.compact_range(start=start, stop=stop)
        except (plyvel.Error, RuntimeError) as error:
            raise _store_error(self.path, error) from error

    def size_bytes(self, start: bytes, stop: bytes | None) -> int:
        """Return about how much of the disk the entries from ``start`` to ``stop`` take; what was written last does not count yet.

        Raises:
            StoreError: the database is closed.
        """
        try:
            return cast(int, self._database.approximate_size(start, stop if stop is not None else _LAST_KEY))
        except (plyvel.Error, RuntimeError) as error:
            raise _store_error(self.path, error) from error

    def flush(self) -> None:
        """Bring everything written so far to disk, also what was written without waiting.

        A synced write alone does not: it syncs the log that it goes to, and what came before may stand in an older log.

        Raises:
            StoreError: the database is closed.
        """
        self.compact(b"", b"")

    def close(self) -> None:
        """Close the database; a second time does nothing. Later reads and writes raise :class:`StoreError`."""
        self._database.close()


def open_database(path: Path, *, create: bool = True, write_buffer_bytes: int = 8 << 20, cache_bytes: int = 16 << 20) -> Database:
    """Open the LevelDB database in the folder ``path``.

    Args:
        create: make it (and its parents) if it is not there.
        write_buffer_bytes: how much is collected in memory (and the log) before a sorted file is written.
        cache_bytes: memory for blocks read.

    Raises:
        StoreBusyError: another process has it open.
        StoreDamagedError: a checksum or a length is wrong, or a file is missing.
        StoreError: anything else (not there, no permission, disk full).
    """
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        check_database(path)
        database = plyvel.DB(
            str(path),
            create_if_missing=create,
            paranoid_checks=True,
            write_buffer_size=write_buffer_bytes,
            lru_cache_size=cache_bytes,
            bloom_filter_bits=10,
        )
    except FileDamageError as error:
        raise StoreDamagedError(path, f"is damaged ({error})") from error
    except (plyvel.Error, OSError) as error:
        raise _store_error(path, error) from error
    return Database(path, database)


def after_prefix(prefix: bytes) -> bytes | None:
    """Return the least key above all keys that start with ``prefix`` (None: there is none)."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def _store_error(path: Path, error: Exception) -> StoreError:
    text = (str(error) or type(error).__name__).removeprefix("b'").removesuffix("'")
    if isinstance(error, plyvel.CorruptionError):
        return StoreDamagedError(path, f"is damaged ({text})")
    if "lock" in text.lower() and ("Resource temporarily unavailable" in text or "already held" in text):
        return StoreBusyError(path, "another process has it open")
    if isinstance(error, RuntimeError):
        return StoreError(path, "is closed")
    return StoreError(path, text)
