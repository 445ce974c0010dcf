"""A disk in memory that fails as disks do.

Law. What was synced is there for ever. At a power failure a database loses its unsynced writes, all of them or those after some moment;
a synced write takes all unsynced ones before it to the disk, as the log of LevelDB does. One write is atomic: half of it on the disk is
none of it, since it has one checksum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Write = tuple[str, Any, Any]
"""Table, key and value; None deletes."""
_ABSENT = object()


class Database:
    """Tables of immutable values.

    Args:
        tables: their names.

    Attributes:
        tables: their contents, as a reader sees them; change them with :meth:`write` only.
    """

    def __init__(self, *tables: str) -> None:
        self.tables: dict[str, dict[Any, Any]] = {name: {} for name in tables}
        self._undo: list[list[Write]] = []

    def write(self, writes: Sequence[Write], *, sync: bool) -> None:
        """Write all or nothing; with ``sync`` this and everything before is on the disk for sure."""
        before: list[Write] = []
        for table, key, value in writes:
            rows = self.tables[table]
            if not sync:
                before.append((table, key, rows.get(key, _ABSENT)))
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        if sync:
            self._undo.clear()
        else:
            self._undo.append(before)

    @property
    def unsynced(self) -> int:
        """How many writes a power failure may take away."""
        return len(self._undo)

    def lose(self, keep: int = 0) -> None:
        """The power fails: unsynced writes are gone, but for the first ``keep``."""
        while len(self._undo) > keep:
            for table, key, value in reversed(self._undo.pop()):
                if value is _ABSENT:
                    self.tables[table].pop(key, None)
                else:
                    self.tables[table][key] = value
        self._undo.clear()

    def clear(self) -> None:
        """Forget everything: a new disk."""
        self._undo.clear()
        for rows in self.tables.values():
            rows.clear()
