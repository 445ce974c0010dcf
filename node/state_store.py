"""The committed contract state of one channel, as the application reads it.

Reads go to a snapshot of the database, so that nobody sees half a block: :meth:`StateStore.publish` moves on to the next one. A bounded
cache stands in front; it is updated by what a block wrote, so it never shows anything older than the snapshot.

The state of a snapshot from elsewhere is staged beside the present one, under the next generation (:mod:`node.store_layout`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock

from consensus.errors import InvariantViolation
from node.key_value import COMPACT_BYTES, Database, KeyValue, Range, StoreDamagedError, Write, after_prefix
from node.store_layout import GENERATION_KEY, GENERATIONS, HEAD_KEY, HEIGHT, next_generation, state_prefix

_MISSING = b"no entry in the cache"
_ENTRY_BYTES = 200
"""What an entry costs beside its key and value, about."""


class PinnedState:
    """The state after one block, for as long as somebody holds it: a :class:`consensus.application.StateReader`.

    Args:
        snapshot: of the channel's database.
        generation: of the state that counts in it.
    """

    def __init__(self, snapshot: KeyValue, generation: int) -> None:
        self._snapshot = snapshot
        self._prefix = state_prefix(generation)
        self.generation = generation

    @property
    def path(self) -> Path:
        """Folder of the database."""
        return self._snapshot.path

    def height(self) -> int | None:
        """Return the height of the block after which the state was so (None: before genesis).

        Raises:
            StoreError: the database is damaged or closed.
        """
        raw = self._snapshot.get(HEAD_KEY)
        if raw is not None and len(raw) != HEIGHT.size:
            raise StoreDamagedError(self.path, "the head mark is malformed")
        return HEIGHT.unpack(raw)[0] if raw is not None else None

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``.

        Raises:
            StoreError: the database is damaged or closed.
        """
        return self._snapshot.get(self._prefix + key)

    def scan(self, prefix: bytes, *, fill_cache: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Yield all pairs whose key starts with ``prefix``, by rising key.

        Args:
            fill_cache: whether blocks read stay in the database's cache (not for long scans).

        Raises:
            StoreError: the database is damaged or closed.
        """
        cut = len(self._prefix)
        for key, value in self._snapshot.scan(self._prefix + prefix, fill_cache=fill_cache):
            yield key[cut:], value


class StateStore:
    """State entries of a channel's database: a :class:`consensus.application.StateReader`.

    Args:
        database: the channel's.
        cache_bytes: bound of the cache.

    Attributes:
        generation: where new entries go.

    Raises:
        StoreDamagedError: the mark of the generation is malformed.
    """

    def __init__(self, database: Database, cache_bytes: int = 16 << 20) -> None:
        self._database = database
        self._cache: dict[bytes, bytes | None] = {}
        self._cache_bytes = 0
        self._max_cache_bytes = cache_bytes
        self._lock = Lock()
        self._staged: int | None = None
        self._staging = Lock()
        self.generation = _read_generation(database)
        self._pinned = PinnedState(database.snapshot(), self.generation)

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``.

        Raises:
            StoreError: the database is damaged or closed.
        """
        value = self._cache.get(key, _MISSING)
        if value is not _MISSING:
            return value
        pinned = self._pinned
        value = pinned.get(key)
        with self._lock:
            if pinned is self._pinned and key not in self._cache:
                self._remember(key, value)
        return value

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all pairs whose key starts with ``prefix``, by rising key, as they are at the call.

        Raises:
            StoreError: the database is damaged or closed.
        """
        return self._pinned.scan(prefix)

    def pinned(self) -> PinnedState:
        """Return the state as it is shown now: it stays so while blocks go on. Hold it only as long as it is needed."""
        return self._pinned

    def publish(self, writes: Sequence[Write]) -> None:
        """Show what was written to the database since the last call.

        Args:
            writes: these changes, without the prefix (nothing for an adopted snapshot).
        """
        pinned = PinnedState(self._database.snapshot(), self.generation)
        with self._lock:
            if pinned.generation != self._pinned.generation:
                self._cache.clear()
                self._cache_bytes = 0
            self._pinned = pinned
            for key, value in writes:
                self._forget(key)
                self._remember(key, value)

    def refresh(self) -> bool:
        """Show the same state from a younger snapshot of the database: an old one keeps what was deleted since on the disk.

        Returns:
            whether that could be done; not while a block is written that is not published yet.

        Raises:
            StoreError: the database is damaged or closed.
        """
        before = self._pinned
        younger = PinnedState(self._database.snapshot(), before.generation)
        if self.generation != before.generation or younger.height() != before.height():
            return False
        with self._lock:
            if self._pinned is before:
                self._pinned = younger
        return True

    def key(self, key: bytes) -> bytes:
        """Return where an entry stands in the channel's database."""
        return state_prefix(self.generation) + key

    # ----------------------------------------------------------------------------------------------------------- staging

    def stage_begin(self) -> None:
        """Begin to stage another state; what was staged before is dropped.

        Raises:
            StoreError: the disk refused it.
        """
        with self._staging:
            self._staged = None
        generation = next_generation(self.generation)
        for _ in self._wipe(generation):
            pass
        with self._staging:
            self._staged = generation

    def stage_put(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Stage entries, without waiting for the disk.

        Raises:
            InvariantViolation: nothing was begun.
            StoreError: the disk refused it.
        """
        prefix = state_prefix(self._staged_generation())
        self._database.write(((prefix + key, value) for key, value in entries), sync=False)

    def stage_drop(self) -> None:
        """Give up what is staged; :meth:`sweep` deletes it."""
        with self._staging:
            self._staged = None

    def staged(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield what is staged, read back from the database, by rising key.

        Raises:
            InvariantViolation: nothing was begun.
            StoreError: the database is damaged or closed.
        """
        prefix = state_prefix(self._staged_generation())
        cut = len(prefix)
        for key, value in self._database.scan(prefix, fill_cache=False):
            yield key[cut:], value

    def adoption(self) -> Write:
        """Return the write that makes the staged state the one that counts.

        Raises:
            InvariantViolation: nothing was begun.
        """
        return GENERATION_KEY, bytes([self._staged_generation()])

    def adopted(self) -> None:
        """Note that :meth:`adoption` is on disk; :meth:`publish` shows the new state."""
        self.generation, self._staged = self._staged_generation(), None

    def sweep(self) -> Generator[int, None, list[Range]]:
        """Delete all other generations, slice by slice, but the one that is being staged; safe beside everything else.

        Yields:
            after every slice how many entries it had.

        Returns:
            where so much went that the files are worth sorting anew.

        Raises:
            StoreError: the database is damaged or closed.
        """
        emptied = []
        for generation in range(GENERATIONS):
            start = state_prefix(generation)
            place = (start, after_prefix(start))
            size_bytes = self._database.size_bytes(*place)
            deleted = 0
            for deleted in self._wipe(generation):
                yield deleted
            if deleted and size_bytes >= COMPACT_BYTES:
                emptied.append(place)
        return emptied

    # ---------------------------------------------------------------------------------------------------------- internal

    def _wipe(self, generation: int) -> Iterator[int]:
        """Delete a generation, slice by slice; stop if it is, or comes, in use."""
        start = state_prefix(generation)
        slices = self._database.delete(start, after_prefix(start))
        while True:
            with self._staging:
                if generation in (self.generation, self._staged):
                    return
                deleted = next(slices, 0)
            if not deleted:
                return
            yield deleted

    def _staged_generation(self) -> int:
        if self._staged is None:
            raise InvariantViolation(f"{self._database.path}: no state is being staged")
        return self._staged

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


def _read_generation(database: Database) -> int:
    raw = database.get(GENERATION_KEY)
    if raw is None or len(raw) != 1:
        raise StoreDamagedError(database.path, "the mark of the state's generation is missing or malformed")
    return raw[0]


def _cost(key: bytes, value: bytes | None) -> int:
    return _ENTRY_BYTES + len(key) + (len(value) if value is not None else 0)
