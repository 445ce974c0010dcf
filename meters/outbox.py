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
NONCE_SPAN = 900
"""How far beyond the highest proven nonce new ones go: a chain takes none that lies more than a window (1,024) ahead of its own."""
_FORMAT = 1
_APPLICATION = 0x47504F42
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE readings (
    sequence INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, nonce INTEGER NOT NULL, valid_until_ms INTEGER NOT NULL,
    id BLOB NOT NULL, call BLOB NOT NULL, raw BLOB NOT NULL);
CREATE TABLE signed (id BLOB PRIMARY KEY, sequence INTEGER NOT NULL, nonce INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX signed_by_sequence ON signed (sequence);
"""


class OutboxError(GridPactError):
    """The outbox cannot be used: it is damaged, of another meter, in use by another process, or its disk fails."""


class OutboxFullError(OutboxError):
    """There is no room for more readings until some are proven."""


class Sent(NamedTuple):
    """A transaction that carries a waiting reading: the nonce it uses, and how often the reading was signed in all."""

    sequence: int
    nonce: int
    versions: int


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


class _File:
    """One SQLite file: transactions, and its failures in our words."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self.failures():
            self.database = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Apply all or nothing."""
        with self.failures():
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.database.execute("COMMIT")
            except BaseException:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Say which file it was."""
        try:
            yield
        except sqlite3.Error as error:
            raise OutboxError(f"{self._path}: {error}") from error


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
        self._file = _File(path)
        self._database = self._file.database
        try:
            self._open(owner)
        except (sqlite3.Error, OutboxError) as error:
            self._database.close()
            raise error if isinstance(error, OutboxError) else OutboxError(f"{path}: {error}") from error

    def _open(self, owner: str) -> None:
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        with self._file.transaction():
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                names: dict[str, object] = {
                    "owner": owner,
                    "sequence": 0,
                    "nonce": 0,
                    "time_ms": -1,
                    "proven": 0,
                    "refused": 0,
                    "proven_nonce": 0,
                }
                self._database.executemany("INSERT INTO meta VALUES (?, ?)", names.items())
                self._database.execute(f"PRAGMA application_id={_APPLICATION}")
                self._database.execute(f"PRAGMA user_version={_FORMAT}")
            elif version != _FORMAT:
                raise OutboxError(f"{self._path}: format {version} is not known, this is format {_FORMAT}")
        meta = dict(self._database.execute("SELECT name, value FROM meta").fetchall())
        if meta["owner"] != owner:
            raise OutboxError(f"{self._path}: belongs to {meta['owner']}, not to {owner}")
        self._sequence, self._nonce, self._time_ms = int(meta["sequence"]), int(meta["nonce"]), int(meta["time_ms"])
        self._proven, self._refused, self._proven_nonce = int(meta["proven"]), int(meta["refused"]), int(meta["proven_nonce"])
        self._epochs = bytes(meta.get("epochs", b""))

    @property
    def next_sequence(self) -> int:
        """Sequence number of the next reading."""
        return self._sequence + 1

    @property
    def next_nonce(self) -> int:
        """Lowest nonce that was never used."""
        return self._nonce + 1

    @property
    def free_nonces(self) -> int:
        """How many new nonces may be used before a transaction with one of the latest is proven."""
        return max(0, self._proven_nonce + NONCE_SPAN - self._nonce)

    @property
    def last_time_ms(self) -> int | None:
        """Time of the last reading; None before the first."""
        return self._time_ms if self._time_ms >= 0 else None

    @property
    def totals(self) -> Totals:
        """Counts over the outbox's whole life."""
        return Totals(self._sequence, self._proven, self._refused)

    @property
    def epochs(self) -> bytes:
        """What :meth:`keep_epochs` stored last; empty before the first time."""
        return self._epochs

    def keep_epochs(self, saved: bytes) -> None:
        """Store what was proven to the meter about the chain's validators, so that it knows it again after a restart.

        Raises:
            OutboxError: the disk failed; what was stored before is still there.
        """
        with self._lock:
            with self._file.transaction():
                self._database.execute("INSERT OR REPLACE INTO meta VALUES ('epochs', ?)", (saved,))
            self._epochs = saved

    @property
    def room(self) -> int:
        """How many readings can be appended before some are proven."""
        return max(0, self._capacity - self.totals.pending)

    def append(self, readings: Sequence[SignedReading]) -> None:
        """Store new readings, all or none, in one synced transaction.

        Args:
            readings: their sequences follow on from ``next_sequence``, and the nonces of those that are signed from ``next_nonce``.

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
            signed = [reading for reading in readings if reading.raw]
            nonce = self._following([reading.nonce for reading in signed])
            if [reading.sequence for reading in readings] != list(range(self._sequence + 1, self._sequence + 1 + count)):
                raise OutboxError(f"{self._path}: a sequence does not follow on")
            last = readings[-1]
            with self._file.transaction():
                self._database.executemany("INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)", readings)
                self._note(signed)
                self._put({"sequence": last.sequence, "nonce": nonce, "time_ms": last.time_ms})
            self._sequence, self._nonce, self._time_ms = last.sequence, nonce, last.time_ms

    def unproven(self, after: int = 0, limit: int = 1000) -> list[SignedReading]:
        """Return readings that wait for their proof, by rising sequence, from above ``after`` on.

        Raises:
            OutboxError: the disk failed.
        """
        with self._lock, self._file.failures():
            rows = self._database.execute("SELECT * FROM readings WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit))
            return [SignedReading(*row) for row in rows.fetchall()]

    def replace(self, readings: Sequence[SignedReading]) -> None:
        """Store waiting readings that were signed, for the first time or again; proofs of earlier transactions still settle them.

        Args:
            readings: each has a nonce that it had before, or a new one; the new ones follow on from ``next_nonce``.

        Raises:
            OutboxError: the disk failed, or a new nonce does not follow on; nothing was stored.
        """
        with self._lock:
            nonce = self._following([reading.nonce for reading in readings if reading.nonce > self._nonce])
            with self._file.transaction():
                for reading in readings:
                    self._database.execute(
                        "UPDATE readings SET nonce = ?, valid_until_ms = ?, id = ?, raw = ? WHERE sequence = ?",
                        (reading.nonce, reading.valid_until_ms, reading.id, reading.raw, reading.sequence),
                    )
                self._note(readings)
                self._put({"nonce": nonce})
            self._nonce = nonce

    def sent(self, transaction_id: bytes) -> Sent | None:
        """Return which waiting reading a transaction carries; None if it is settled or not of this meter.

        Raises:
            OutboxError: the disk failed.
        """
        with self._lock, self._file.failures():
            row = self._database.execute(
                "SELECT sequence, nonce, (SELECT count(*) FROM signed AS other WHERE other.sequence = signed.sequence) FROM signed"
                " WHERE id = ?",
                (transaction_id,),
            ).fetchone()
            return None if row is None else Sent(*row)

    def settle(self, accepted: Sequence[int], refused: Sequence[int] = (), proven_nonce: int = 0) -> None:
        """Delete readings that are proven, in one transaction; sequences that do not wait are left out.

        Args:
            accepted: sequences that the chain took.
            refused: sequences that the chain refused for good.
            proven_nonce: highest nonce that the proofs show as used.

        Raises:
            OutboxError: the disk failed; nothing was deleted.
        """
        with self._lock:
            with self._file.transaction():
                proven, declined = self._proven + self._delete(accepted), self._refused + self._delete(refused)
                highest = max(proven_nonce, self._proven_nonce)
                self._put({"proven": proven, "refused": declined, "proven_nonce": highest})
            self._proven, self._refused, self._proven_nonce = proven, declined, highest

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

    def _following(self, nonces: Sequence[int]) -> int:
        """Return the last of new nonces, having checked that they follow on."""
        if list(nonces) != list(range(self._nonce + 1, self._nonce + 1 + len(nonces))):
            raise OutboxError(f"{self._path}: a nonce does not follow on")
        return self._nonce + len(nonces)

    def _note(self, signed: Sequence[SignedReading]) -> None:
        rows = [(reading.id, reading.sequence, reading.nonce) for reading in signed]
        self._database.executemany("INSERT OR IGNORE INTO signed VALUES (?, ?, ?)", rows)

    def _put(self, values: dict[str, int]) -> None:
        self._database.executemany("UPDATE meta SET value = ? WHERE name = ?", [(value, name) for name, value in values.items()])
