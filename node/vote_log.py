"""The vote log: what this replica signed, durable before it is sent. A LevelDB database of its own.

Keys sort by sequence number, epoch, view and kind (big endian). Beside the votes stand the transaction bodies of batches that this replica
prepared, so that it can serve and execute them after a restart.

A log has an id, and a validator has its seat with the key *and the log* that the validator set names (:mod:`consensus.validators`). The
log of a node that is set up for a new chain or as a new validator has the empty id: the folder then holds :data:`FIRST_START`, which
the first start takes away. Any other new log, as after a lost disk, gets a random id. So does a log that was cut above the last certified
block of the store: that store lost blocks, or is an old copy. And so does a log that is a copy of another (:mod:`node.birth_mark`), as
after a backup was put back: who knows what the original signed since.

How far it was cut stands in a mark with a checksum: a lower one would hide that the store lost blocks, and let votes be signed twice.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from consensus.codec import Decoder, encode
from consensus.crypto import digest
from consensus.effects import LogRecord
from consensus.errors import DecodeError, InvariantViolation
from consensus.messages import Vote
from node import birth_mark
from node.key_value import Database, StoreDamagedError, StoreError, Write, open_database

VOTES_FOLDER = "votes"
"""Name of this database's folder inside a channel's folder."""
FIRST_START = "first-start"
"""Name of the file in a channel's folder that says: no vote was ever signed with this folder."""
BIRTH_MARK = "birth-mark"
"""Name of the file in the database's folder that tells it from a copy."""
FORMAT = b"GridPact votes 3"
FORMAT_KEY, ID_KEY, CUT_KEY, BIRTH_KEY, RECORD_PREFIX, BODIES_PREFIX = b"m/format", b"m/id", b"m/cut", b"m/birth", b"r/", b"b/"
EVIDENCE_PREFIX = b"e/"
MAX_EVIDENCE = 1_000
"""So many pairs are kept per validator and epoch: one that fills it hides no other."""
ID_BYTES = 16
RECORD_KEY = struct.Struct(">QQQB")
SEQUENCE = struct.Struct(">Q")
BODIES_KEY = struct.Struct(">Q32s")
_CHECKSUM_BYTES = 8

decode_record = Decoder(LogRecord, "vote log record", 64 * 1024 * 1024)
decode_evidence: Decoder[tuple[Vote, Vote]] = Decoder(tuple[Vote, Vote], "evidence", 4096)
decode_raws: Decoder[tuple[bytes, ...]] = Decoder(tuple[bytes, ...], "bodies of a batch", 64 * 1024 * 1024)


class VoteLog:
    """The vote log of one channel; make it with :meth:`open`.

    Attributes:
        id: which log this is.
        was_copy: whether it was found to be a copy, and begun anew.

    Raises:
        StoreDamagedError: a mark is none.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        try:
            self.id, self._cut = read_marks(database.get(ID_KEY), database.get(CUT_KEY))
        except DecodeError as error:
            raise StoreDamagedError(database.path, str(error)) from error
        self._truncated = 0
        self.was_copy = False

    @classmethod
    def open(cls, path: Path) -> VoteLog:
        """Open the log in the folder ``path``; an empty one is made if there is none, with an id (see the module).

        Raises:
            StoreError: another process has it open, it is damaged, or it is no vote log of this version.
        """
        database = open_database(path, write_buffer_bytes=8 << 20, cache_bytes=4 << 20)
        try:
            written = database.get(FORMAT_KEY)
            if written is None:
                if next(database.scan(b""), None) is not None:
                    raise StoreDamagedError(path, "holds entries but no format mark")
                is_first = (path.parent / FIRST_START).exists()
                birth = birth_mark.lay(path / BIRTH_MARK)
                new_id = b"" if is_first else os.urandom(ID_BYTES)
                marks = (FORMAT_KEY, FORMAT), (ID_KEY, new_id), (CUT_KEY, cut_mark(new_id, 0)), (BIRTH_KEY, birth)
                database.write(marks, sync=True)
            elif written != FORMAT:
                raise StoreError(path, f"has the format {written!r}, this program knows {FORMAT!r}")
            _forget_first_start(path.parent)
            votes = cls(database)
            votes._check_birth()
        except (StoreError, OSError):
            database.close()
            raise
        return votes

    def _check_birth(self) -> None:
        """Begin anew if this is a copy of another log. (One that an older program made has no mark yet.)"""
        birth = self._database.get(BIRTH_KEY)
        mark = self.path / BIRTH_MARK
        if birth is not None and birth_mark.is_born(mark, birth):
            return
        if birth is not None:
            self.begin_anew()
            self.was_copy = True
        self._database.write([(BIRTH_KEY, birth_mark.lay(mark))], sync=True)

    def close(self) -> None:
        """Close the database; a second time does nothing."""
        self._database.close()

    @property
    def path(self) -> Path:
        """Folder of the database."""
        return self._database.path

    def append(self, records: Sequence[LogRecord], bodies: Sequence[tuple[int, bytes, tuple[bytes, ...]]] = ()) -> None:
        """Write records and bodies in one synced batch: they are on disk when this returns.

        Args:
            records: a later one with the same (sequence, epoch, view, kind) replaces an earlier one.
            bodies: sequence, batch digest and raw transactions of batches.

        Raises:
            InvariantViolation: a number does not fit into its key (this replica never signs such a vote).
            StoreError: nothing was written.
        """
        try:
            writes: list[Write] = [(record_key(record), encode(record)) for record in records]
            writes.extend((BODIES_PREFIX + SEQUENCE.pack(sequence) + digest, encode(raws)) for sequence, digest, raws in bodies)
        except struct.error as error:
            raise InvariantViolation(f"{self.path}: {error}") from error
        self._database.write(writes, sync=True)
        sequences = [record.sequence for record in records] + [sequence for sequence, _, _ in bodies]
        self._truncated = min([self._truncated, *(sequence - 1 for sequence in sequences if sequence)])

    def truncate(self, sequence: int, epoch: int, view: int) -> None:
        """Delete what no longer matters, without waiting for the disk.

        Args:
            sequence: records and bodies up to this sequence number go.
            epoch, view: records without a sequence number (view-change, new-view) of earlier ones go.
        """
        doomed: list[Write] = []
        for key, _ in self._database.scan(RECORD_PREFIX + SEQUENCE.pack(0)):
            if RECORD_KEY.unpack(key[len(RECORD_PREFIX) :])[1:3] >= (epoch, view):
                break
            doomed.append((key, None))
        after = SEQUENCE.pack(self._truncated + 1)
        for prefix in (RECORD_PREFIX, BODIES_PREFIX):
            for key, _ in self._database.scan(prefix, start=after):
                if SEQUENCE.unpack_from(key, len(prefix))[0] > sequence:
                    break
                doomed.append((key, None))
        if doomed:
            self._cut = max(self._cut, sequence)
            self._database.write([*doomed, (CUT_KEY, cut_mark(self.id, self._cut))], sync=False)
        self._truncated = max(self._truncated, sequence)

    def is_whole_above(self, certified: int) -> bool:
        """Tell whether this log holds all votes above the last certified block of the store; not if the store lost blocks since."""
        return certified >= self._cut

    def begin_anew(self) -> None:
        """Forget all votes and take another id: without its blocks nobody can tell what the votes that were dropped said."""
        doomed: list[Write] = [(key, None) for prefix in (RECORD_PREFIX, BODIES_PREFIX) for key, _ in self._database.scan(prefix)]
        self.id, self._cut, self._truncated = os.urandom(ID_BYTES), 0, 0
        self._database.write([*doomed, (CUT_KEY, cut_mark(self.id, 0)), (ID_KEY, self.id)], sync=True)

    def records(self) -> list[LogRecord]:
        """Return all records by (sequence, epoch, view, kind).

        Raises:
            StoreError: one does not decode, or stands at the wrong place.
        """
        result = []
        for key, value in self._database.scan(RECORD_PREFIX):
            try:
                result.append(read_record(key, value))
            except DecodeError as error:
                raise StoreDamagedError(self.path, str(error)) from error
        return result

    def bodies(self) -> Iterator[tuple[int, bytes, tuple[bytes, ...]]]:
        """Yield sequence, batch digest and raw transactions of every batch kept.

        Raises:
            StoreError: one does not decode, or stands at no place for one.
        """
        for key, value in self._database.scan(BODIES_PREFIX):
            try:
                yield (*bodies_place(key), decode_raws(value))
            except DecodeError as error:
                raise StoreDamagedError(self.path, str(error)) from error

    def add_evidence(self, first: Vote, second: Vote) -> bool:
        """Keep two votes that contradict each other; False if there is proof for that place already, or too much of the same validator."""
        place = (first.epoch, first.sender, first.kind, first.view, first.sequence)
        key = EVIDENCE_PREFIX + encode(place)
        offender = key[: len(EVIDENCE_PREFIX) + len(encode(place[:2]))]
        if self._database.get(key) is not None or sum(1 for _ in self._database.scan(offender)) >= MAX_EVIDENCE:
            return False
        self._database.write([(key, encode((first, second)))], sync=True)
        return True

    def evidence(self) -> Iterator[tuple[Vote, Vote]]:
        """Yield all pairs of contradicting votes.

        Raises:
            StoreError: one does not decode.
        """
        for _, value in self._database.scan(EVIDENCE_PREFIX):
            try:
                yield decode_evidence(value)
            except DecodeError as error:
                raise StoreDamagedError(self.path, str(error)) from error


def record_key(record: LogRecord) -> bytes:
    """Return where a record stands in the database."""
    return RECORD_PREFIX + RECORD_KEY.pack(record.sequence, record.epoch, record.view, record.kind)


def read_record(key: bytes, value: bytes) -> LogRecord:
    """Return the record that stands at ``key``.

    Raises:
        DecodeError: it does not decode, holds a number that no key can hold, or stands at another key than its own.
    """
    record = decode_record(value)
    place = f"sequence {record.sequence}, epoch {record.epoch}, view {record.view}, kind {record.kind}"
    try:
        expected = record_key(record)
    except struct.error as error:
        raise DecodeError("vote log record", f"{place}: a number is out of range") from error
    if expected != key:
        raise DecodeError("vote log record", f"{place}: stands at the wrong key, {key.hex()}")
    return record


def bodies_place(key: bytes) -> tuple[int, bytes]:
    """Return sequence and batch digest of the bodies that stand at ``key``.

    Raises:
        DecodeError: no bodies can stand there.
    """
    place = key[len(BODIES_PREFIX) :]
    if len(place) != BODIES_KEY.size:
        raise DecodeError("bodies of a batch", f"stand at the malformed key {key.hex()}")
    sequence, batch_digest = BODIES_KEY.unpack(place)
    return sequence, batch_digest


def cut_mark(log: bytes, sequence: int) -> bytes:
    """Return the mark that says up to where votes were dropped from the log with the id ``log``, with its checksum."""
    place = SEQUENCE.pack(sequence)
    return place + digest(b"GridPact votes cut" + log + place)[:_CHECKSUM_BYTES]


def read_marks(log: bytes | None, cut: bytes | None) -> tuple[bytes, int]:
    """Return the id of a log, and up to where votes were dropped from it.

    Raises:
        DecodeError: a mark is missing or malformed, or the checksum of the cut does not fit.
    """
    if log is None or len(log) not in (0, ID_BYTES):
        raise DecodeError("id of the vote log", "is missing or malformed")
    if cut is None or len(cut) != SEQUENCE.size + _CHECKSUM_BYTES:
        raise DecodeError("mark up to where votes were dropped", "is missing or malformed")
    sequence: int = SEQUENCE.unpack_from(cut)[0]
    if cut != cut_mark(log, sequence):
        raise DecodeError("mark up to where votes were dropped", f"says {sequence}, which its checksum contradicts")
    return log, sequence


def _forget_first_start(folder: Path) -> None:
    """Take the mark of a first start away, for good."""
    mark = folder / FIRST_START
    if mark.exists():
        mark.unlink()
        birth_mark.sync_folder(folder)
