"""Sorts a state into chunks in bounded memory: entries come by key, chunks are by SHA-256(key)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from consensus.snapshot import MAX_DEPTH, choose_depth, chunk_of, entry_bytes

BUCKET_BITS = 8
SPOOL_BYTES = 64 << 20
"""What is held in memory before it goes to files. Reading back needs a 256th of the state, or one chunk."""
_LENGTHS = struct.Struct(">II")

Entry = tuple[bytes, bytes]


class Buckets:
    """Entries by the first bits of SHA-256(key).

    Args:
        folder: for files, which are made only when the state is large; the caller makes and removes it.
        spool_bytes: what may be held in memory.
    """

    def __init__(self, folder: Path, spool_bytes: int = SPOOL_BYTES) -> None:
        self._folder = folder
        self._spool_bytes = spool_bytes
        self._held_bytes = 0
        self._buckets = [bytearray() for _ in range(1 << BUCKET_BITS)]
        self._sizes = [0] * (1 << MAX_DEPTH)

    def add(self, key: bytes, value: bytes) -> None:
        """Take an entry.

        Raises:
            OSError: the disk refused it.
        """
        key_hash = sha256(key).digest()
        self._sizes[key_hash[0] << 8 | key_hash[1]] += entry_bytes(key, value)
        bucket = self._buckets[key_hash[0]]
        bucket += _LENGTHS.pack(len(key), len(value))
        bucket += key
        bucket += value
        self._held_bytes += _LENGTHS.size + len(key) + len(value)
        if self._held_bytes > self._spool_bytes:
            self._spool()

    def depth(self) -> int:
        """Return how deep to cut.

        Raises:
            InputError: it cannot be cut.
        """
        return choose_depth(self._sizes)

    def chunks(self, depth: int, through: Callable[[Iterable[Entry]], Iterable[Entry]] = iter) -> Iterator[list[Entry]]:
        """Yield the entries of every chunk, by rising key, in the order of the chunks.

        Args:
            through: what all entries go through when they are read back; may rest in between.

        Raises:
            OSError: a file cannot be read.
        """
        if depth <= BUCKET_BITS:
            span = 1 << BUCKET_BITS - depth
            for first in range(0, 1 << BUCKET_BITS, span):
                yield sorted(entry for number in range(first, first + span) for entry in through(self._entries(number)))
            return
        for number in range(1 << BUCKET_BITS):
            parts: list[list[Entry]] = [[] for _ in range(1 << depth - BUCKET_BITS)]
            for entry in through(self._entries(number)):
                parts[chunk_of(entry[0], depth) & len(parts) - 1].append(entry)
            for part in parts:
                part.sort()
                yield part

    def _spool(self) -> None:
        for number, bucket in enumerate(self._buckets):
            if bucket:
                with self._file(number).open("ab") as file:
                    file.write(bucket)
                bucket.clear()
        self._held_bytes = 0

    def _entries(self, number: int) -> Iterator[Entry]:
        path = self._file(number)
        data = (path.read_bytes() if path.exists() else b"") + bytes(self._buckets[number])
        position = 0
        while position < len(data):
            key_bytes, value_bytes = _LENGTHS.unpack_from(data, position)
            position += _LENGTHS.size
            key = data[position : position + key_bytes]
            position += key_bytes
            yield key, data[position : position + value_bytes]
            position += value_bytes

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:03d}"
