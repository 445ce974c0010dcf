"""Typed tables over the committed key-value state, with the changes of the block that is being executed.

Law.

1. What was committed is never touched: records are immutable, a change is a new record in the table's overlay.
2. ``discard`` forgets the overlay, ``commit`` makes it the committed state (the host has written it by then). Nothing else does either,
   but ``forget``: then the committed state itself was replaced.
3. A call checks everything before its first ``put``; so a refused call has written nothing and there is nothing to roll back.

Decoded records are kept between blocks, so that a hot record is decoded once, not once per transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

from consensus.application import StateReader
from consensus.codec import Decoder, Wire, encode

T = TypeVar("T", bound=Wire)
MAX_RECORD_BYTES = 16 * 1024 * 1024
_UNKNOWN = object()


class Table(Generic[T]):
    """Records of one type under one key prefix.

    Args:
        reader: the committed state.
        prefix: begins every key of the table; no other table's prefix begins with it.
        kind: type of the records.
        cached: how many decoded records are kept (0: none).
    """

    def __init__(self, reader: StateReader, prefix: bytes, kind: type[T], cached: int = 0) -> None:
        self._reader = reader
        self._prefix = prefix
        self._decode = Decoder(kind, f"state {prefix.decode()}", MAX_RECORD_BYTES)
        self._cached = cached
        self._known: dict[bytes, T | None] = {}
        self._changed: dict[bytes, T | None] = {}

    def get(self, key: bytes) -> T | None:
        """Return the record as this block sees it."""
        value = self._changed.get(key, _UNKNOWN)
        return self.committed(key) if value is _UNKNOWN else cast("T | None", value)

    def committed(self, key: bytes) -> T | None:
        """Return the record as the last committed block left it."""
        value = self._known.get(key, _UNKNOWN)
        if value is not _UNKNOWN:
            return cast("T | None", value)
        raw = self._reader.get(self._prefix + key)
        record = None if raw is None else self._decode(raw)
        if self._cached:
            if len(self._known) >= self._cached:
                self._known.clear()
            self._known[key] = record
        return record

    def put(self, key: bytes, record: T) -> None:
        """Change or add a record."""
        self._changed[key] = record

    def delete(self, key: bytes) -> None:
        """Remove a record, if it is there."""
        self._changed[key] = None

    def scan(self, prefix: bytes = b"") -> list[tuple[bytes, T]]:
        """Return all records whose key (without the table's own prefix) starts with ``prefix``, by rising key, as this block sees them."""
        changed = sorted(key for key in self._changed if key.startswith(prefix))
        if not changed:
            return list(self.scan_committed(prefix))
        merged = dict(self.scan_committed(prefix))
        for key in changed:
            record = self._changed[key]
            if record is None:
                merged.pop(key, None)
            else:
                merged[key] = record
        return sorted(merged.items())

    def scan_committed(self, prefix: bytes = b"") -> Iterator[tuple[bytes, T]]:
        """Yield all committed records whose key starts with ``prefix``, by rising key."""
        skip = len(self._prefix)
        for key, raw in self._reader.scan(self._prefix + prefix):
            yield key[skip:], self._decode(raw)

    def changed(self) -> Iterator[tuple[bytes, T | None, T | None]]:
        """Yield (key, committed record, record now) for everything that this block put or deleted."""
        for key, record in self._changed.items():
            yield key, self.committed(key), record

    def writes(self) -> list[tuple[bytes, bytes | None]]:
        """Return the changed entries, encoded, under their full keys."""
        prefix = self._prefix
        return [
            (prefix + key, None if record is None else encode(record))
            for key, record in self._changed.items()
            if record is not None or self.committed(key) is not None
        ]

    def discard(self) -> None:
        """Forget this block's changes."""
        self._changed = {}

    def commit(self) -> None:
        """Take this block's changes as committed: the reader shows them by now."""
        if self._cached:
            if len(self._known) + len(self._changed) > self._cached:
                self._known = {}
            self._known.update(self._changed)
        self._changed = {}

    def forget(self) -> None:
        """Forget this block's changes and all decoded records."""
        self._known = {}
        self._changed = {}
