"""What a meter still owes to the chain: its readings on disk until each is proven.

Law: a reading leaves the outbox only when it is settled by a proof (or on a proven refusal); a full outbox refuses new readings loudly and
overwrites nothing. SQLite in WAL mode with ``synchronous=FULL``: what ``append`` has returned from survives a power cut. The file is locked
for one process, since two would give the same sequence number to different readings.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from consensus.errors import GridPactError
from meters.reading import SignedReading

CAPACITY_READINGS = 90 * 86_400 // 15
"""90 days at one reading every 15 s."""
_FORMAT = 1
_APPLICATION = 0x47504F42
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE readings (
    sequence INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, nonce INTEGER NOT NULL, valid_until_ms INTEGER NOT NULL,
    id BLOB NOT NULL, call BLOB NOT NULL, raw BLOB NOT NULL);
CREATE TABLE signed (id BLOB PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX signed_by_sequence ON signed (sequence);
"""


class OutboxError(GridPactError):
    """The outbox cannot be used: it is damaged, of another meter, in use by another process, or its disk fails."""


class OutboxFullError(OutboxError):
    """There is no room for more readings until some are proven."""


class Totals(NamedTuple):
    """Counts over the outbox's whole life.

    Attributes:
        taken: readings ever appended.
        proven: settled by a proof that the chain accepted them.
        refused: settled by a proof that the chain refused them.
    """

    taken: int
    proven: int
    refused: int

    @property
    def pending(self) -> int:
        """Readings that wait for their proof."""
        return self.taken - self.proven - self.refused


class Outbox:
    """The outbox of one meter; blocking, safe to use from several threads.

    Args:
        path: the SQLite file; it is made if it does not exist.
        owner: chain, channel and meter, in any form; a file of another owner is refused.
        capacity: most readings that may wait.

    Raises:
        OutboxError: the file cannot be used.
    """

    def __init__(self, path: Path, owner: str, capacity: int = CAPACITY_READINGS) -> None:
        self._path = path
        self._capacity = capacity
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise OutboxError(f"{path}: {error}") from error
        try:
            self._open(owner)
        except (sqlite3.Error, OutboxError) as error:
            self._database.close()
            raise error if isinstance(error, OutboxError) else OutboxError(f"{path}: {error}") from error

    def _open(self, owner: str) -> None:
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        with self._transaction():
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                names = {"owner": owner, "sequence": 0, "nonce": 0, "time_ms": -1, "proven": 0, "refused": 0}
                self._database.executemany("INSERT INTO meta VALUES (?, ?)", names.items())
                self._database.execute(f"PRAGMA application_id={_APPLICATION}")
                self._database.execute(f"PRAGMA user_version={_FORMAT}")
            elif version != _FORMAT:
                raise OutboxError(f"{self._path}: format {version} is not known, this is format {_FORMAT}")
        meta = dict(self._database.execute("SELECT name, value FROM meta").fetchall())
        if meta["owner"] != owner:
            raise OutboxError(f"{self._path}: belongs to {meta['owner']}, not to {owner}")
        self._sequence, self._nonce, self._time_ms = int(meta["sequence"]), int(meta["nonce"]), int(meta["time_ms"])
        self._proven, self._refused = int(meta["proven"]), int(meta["refused"])

    @property
    def next_sequence(self) -> int:
        """Sequence number of the next reading."""
        return self._sequence + 1

    @property
    def next_nonce(self) -> int:
        """Lowest nonce that was never used; that of the next reading's transaction."""
        return self._nonce + 1

    @property
    def last_time_ms(self) -> int | None:
        """Time of the last reading; None before the first."""
        return self._time_ms if self._time_ms >= 0 else None

    @property
    def totals(self) -> Totals:
        """Counts over the outbox's whole life."""
        return Totals(self._sequence, self._proven, self._refused)

    @property
    def room(self) -> int:
        """How many readings can be appended before some are proven."""
        return max(0, self._capacity - self.totals.pending)

    def append(self, readings: Sequence[SignedReading]) -> None:
        """Store new readings, all or none, in one synced transaction.

        Args:
            readings: their sequences and nonces follow on from ``next_sequence`` and ``next_nonce``.

        Raises:
            OutboxFullError: they do not all fit; nothing was stored.
            OutboxError: the disk failed, or the numbers do not follow on; nothing was stored.
        """
        with self._lock:
            if not readings:
                return
            count = len(readings)
            if count > self.room:
                raise OutboxFullError(f"{self._path}: full with {self.totals.pending} readings that are not proven yet")
            numbers = [(reading.sequence, reading.nonce) for reading in readings]
            if numbers != [(self._sequence + 1 + place, self._nonce + 1 + place) for place in range(count)]:
                raise OutboxError(f"{self._path}: sequence or nonce does not follow on")
            last = readings[-1]
            with self._transaction():
                self._database.executemany("INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)", readings)
                self._database.executemany("INSERT INTO signed VALUES (?, ?)", [(reading.id, reading.sequence) for reading in readings])
                self._put({"sequence": last.sequence, "nonce": last.nonce, "time_ms": last.time_ms})
            self._sequence, self._nonce, self._time_ms = last.sequence, last.nonce, last.time_ms

    def unproven(self, after: int = 0, limit: int = 1000) -> list[SignedReading]:
        """Return readings that wait for their proof, by rising sequence, from above ``after`` on.

        Raises:
            OutboxError: the disk failed.
        """
        with self._lock, self._failures():
            rows = self._database.execute("SELECT * FROM readings WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit))
            return [SignedReading(*row) for row in rows.fetchall()]

    def replace(self, readings: Sequence[SignedReading]) -> None:
        """Store readings that were signed again, with new nonces; proofs of the earlier transactions still settle them.

        Raises:
            OutboxError: the disk failed, or a nonce was used before; nothing was stored.
        """
        with self._lock:
            if [reading.nonce for reading in readings] != list(range(self._nonce + 1, self._nonce + 1 + len(readings))):
                raise OutboxError(f"{self._path}: a nonce does not follow on")
            with self._transaction():
                for reading in readings:
                    self._database.execute(
                        "UPDATE readings SET nonce = ?, valid_until_ms = ?, id = ?, raw = ? WHERE sequence = ?",
                        (reading.nonce, reading.valid_until_ms, reading.id, reading.raw, reading.sequence),
                    )
                    self._database.execute("INSERT INTO signed VALUES (?, ?)", (reading.id, reading.sequence))
                self._put({"nonce": self._nonce + len(readings)})
            self._nonce += len(readings)

    def sequence_of(self, transaction_id: bytes) -> int | None:
        """Return which waiting reading a transaction carries; None if it is settled or not of this meter.

        Raises:
            OutboxError: the disk failed.
        """
        with self._lock, self._failures():
            row = self._database.execute("SELECT sequence FROM signed WHERE id = ?", (transaction_id,)).fetchone()
            return None if row is None else int(row[0])

    def settle(self, accepted: Sequence[int], refused: Sequence[int] = ()) -> None:
        """Delete readings that are proven, in one transaction; sequences that do not wait are left out.

        Args:
            accepted: sequences that the chain took.
            refused: sequences that the chain refused for good.

        Raises:
            OutboxError: the disk failed; nothing was deleted.
        """
        with self._lock:
            with self._transaction():
                proven, declined = self._proven + self._delete(accepted), self._refused + self._delete(refused)
                self._put({"proven": proven, "refused": declined})
            self._proven, self._refused = proven, declined

    def close(self) -> None:
        """Close the file; what was appended is on disk already."""
        with self._lock:
            self._database.close()

    def _delete(self, sequences: Sequence[int]) -> int:
        deleted = 0
        for sequence in sequences:
            deleted += self._database.execute("DELETE FROM readings WHERE sequence = ?", (sequence,)).rowcount
            self._database.execute("DELETE FROM signed WHERE sequence = ?", (sequence,))
        return deleted

    def _put(self, values: dict[str, int]) -> None:
        self._database.executemany("UPDATE meta SET value = ? WHERE name = ?", [(value, name) for name, value in values.items()])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._failures():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OutboxError(f"{self._path}: {error}") from error
