"""What was fed since the target was made, in a file that is mapped into memory: it outlives the process that writes it."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

SIZE_BYTES = 16 * 1024 * 1024
_USED = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")


class Journal:
    """Writes inputs down before they are tried.

    Args:
        path: of the file, which is made anew.
    """

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(SIZE_BYTES)
            self._map = mmap.mmap(file.fileno(), SIZE_BYTES)
        self._used = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything: the target is new."""
        self._used = _USED.size
        _USED.pack_into(self._map, 0, self._used)

    def add(self, data: bytes) -> bool:
        """Write down an input; tell False if there is no room (then make the target anew, and clear)."""
        end = self._used + _LENGTH.size + len(data)
        if end > SIZE_BYTES:
            return False
        _LENGTH.pack_into(self._map, self._used, len(data))
        self._map[self._used + _LENGTH.size : end] = data
        self._used = end
        _USED.pack_into(self._map, 0, end)
        return True

    def inputs(self) -> list[bytes]:
        """Return what was written since it was last cleared."""
        return _read(self._map)

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()


def read_journal(path: Path) -> list[bytes]:
    """Return what a process wrote into its journal last; nothing if it never made one."""
    if not path.exists() or path.stat().st_size < SIZE_BYTES:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), SIZE_BYTES, access=mmap.ACCESS_READ) as data:
        return _read(data)


def _read(data: mmap.mmap) -> list[bytes]:
    inputs, position = [], _USED.size
    end = min(_USED.unpack_from(data, 0)[0], SIZE_BYTES)
    while position < end:
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(data, position)[0]
        inputs.append(data[start:position])
    return inputs
