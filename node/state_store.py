"""The committed contract state of one channel, as the application reads it.

Reads go to a snapshot, so that nobody sees half a block: :meth:`StateStore.publish` moves on to the next one. A bounded cache stands in
front; it is updated by what a block wrote, so it never shows anything older than the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock

from node.key_value import Database, KeyValue, Write

STATE_PREFIX = b"s/"
_MISSING = b"no entry in the cache"
_ENTRY_BYTES = 200
"""What an entry costs beside its key and value, about."""


class StateStore:
    """State entries under their prefix of a channel's database: a :class:`consensus.application.StateReader`.

    Args:
        database: the channel's.
        cache_bytes: bound of the cache.
    """

    def __init__(self, database: Database, cache_bytes: int = 16 << 20) -> None:
        self._database = database
        self._cache: dict[bytes, bytes | None] = {}
        self._cache_bytes = 0
        self._max_cache_bytes = cache_bytes
        self._lock = Lock()
        self._snapshot: KeyValue = database.snapshot()

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``.

        Raises:
            StoreError: the database is damaged or closed.
        """
        value = self._cache.get(key, _MISSING)
        if value is not _MISSING:
            return value
        snapshot = self._snapshot
        value = snapshot.get(STATE_PREFIX + key)
        with self._lock:
            if snapshot is self._snapshot and key not in self._cache:
                self._remember(key, value)
        return value

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all pairs whose key starts with ``prefix``, by rising key, as they are at the call.

        Raises:
            StoreError: the database is damaged or closed.
        """
        return self._scan(self._snapshot, prefix)

    def _scan(self, snapshot: KeyValue, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        cut = len(STATE_PREFIX)
        for key, value in snapshot.scan(STATE_PREFIX + prefix):
            yield key[cut:], value

    def publish(self, writes: Sequence[Write]) -> None:
        """Show what was written to the database since the last call.

        Args:
            writes: these changes, without the prefix.
        """
        snapshot = self._database.snapshot()
        with self._lock:
            self._snapshot = snapshot
            for key, value in writes:
                self._forget(key)
                self._remember(key, value)

    def _remember(self, key: bytes, value: bytes | None) -> None:
        cost = _cost(key, value)
        if cost > self._max_cache_bytes // 16:
            return
        self._cache[key] = value
        self._cache_bytes += cost
        while self._cache_bytes > self._max_cache_bytes:
            self._forget(next(iter(self._cache)))

    def _forget(self, key: bytes) -> None:
        if key in self._cache:
            self._cache_bytes -= _cost(key, self._cache.pop(key))


def state_key(key: bytes) -> bytes:
    """Return where a state entry stands in the channel's database."""
    return STATE_PREFIX + key


def _cost(key: bytes, value: bytes | None) -> int:
    return _ENTRY_BYTES + len(key) + (len(value) if value is not None else 0)
