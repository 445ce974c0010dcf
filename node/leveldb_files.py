"""LevelDB's files from the outside: a copy that can be opened without touching the original, and checks that LevelDB leaves out.

LevelDB checks the checksums of log records, data blocks and index blocks. It does not notice: a log or manifest whose last record
has a wrong length (it takes it for cut off), a missing log, filter blocks, the padding of log blocks and footers. Those are checked
here, so that every byte is covered. Formats: ``doc/log_format.md``, ``doc/table_format.md``, ``db/version_edit.cc`` of LevelDB.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from consensus.errors import InputError

BLOCK_BYTES = 32 * 1024
RECORD_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
FOOTER_BYTES = 48
TABLE_MAGIC = 0xDB4775248B80FB57
TRAILER = struct.Struct("<BI")
COPY_ATTEMPTS = 20
_LOG_NAME = re.compile(r"^(\d+)\.log$")
_CRC_MASK_DELTA = 0xA282EAD8


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901  the loop variable is what is shifted
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes, crc: int = 0) -> int:
    """Return the CRC-32C (Castagnoli) of ``data``, going on from ``crc``."""
    table = _CRC_TABLE
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a checksum as LevelDB stores it."""
    return ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFFFFFF


class FileDamageError(Exception):
    """A file of the database is not what LevelDB wrote; the text names the file and what is wrong."""


# --------------------------------------------------------------------------------------------------------------- log files


def check_log(name: str, data: bytes) -> None:
    """Check what LevelDB does not check in a log (or manifest): its end, and the padding between blocks.

    A record that was cut off at the end of the file is in order: a crash leaves that.

    Raises:
        FileDamageError: says where.
    """
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        position = 0
        while len(block) - position >= RECORD_HEADER.size:
            checksum, length, kind = RECORD_HEADER.unpack_from(block, position)
            if kind == 0 and length == 0:
                if any(data[start + position :]):
                    raise FileDamageError(f"{name}: an empty record at byte {start + position}")
                return
            end = position + RECORD_HEADER.size + length
            if end > len(block):
                if len(block) == BLOCK_BYTES or _hides_a_record(block[position:], checksum):
                    raise FileDamageError(f"{name}: wrong record length at byte {start + position}")
                return
            position = end
        if len(block) == BLOCK_BYTES and any(block[position:]):
            raise FileDamageError(f"{name}: padding at byte {start + position} is not empty")


def _hides_a_record(rest: bytes, checksum: int) -> bool:
    """Tell whether a shorter length makes the record right: then it was not cut off, its length is wrong."""
    crc = crc32c(rest[6:7])
    if masked(crc) == checksum:
        return True
    for position in range(RECORD_HEADER.size, len(rest)):
        crc = crc32c(rest[position : position + 1], crc)
        if masked(crc) == checksum:
            return True
    return False


def log_records(name: str, data: bytes) -> Iterator[bytes]:
    """Yield the records of a log, checking every checksum; one that is cut off at the end is left out.

    Raises:
        FileDamageError: says where.
    """
    parts: list[bytes] | None = None
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        position = 0
        while len(block) - position >= RECORD_HEADER.size:
            checksum, length, kind = RECORD_HEADER.unpack_from(block, position)
            payload = block[position + RECORD_HEADER.size : position + RECORD_HEADER.size + length]
            if len(payload) < length:
                return
            if masked(crc32c(payload, crc32c(bytes([kind])))) != checksum:
                raise FileDamageError(f"{name}: wrong checksum at byte {start + position}")
            if kind in (FULL, FIRST) and parts is None:
                parts = [payload]
            elif kind in (MIDDLE, LAST) and parts is not None:
                parts.append(payload)
            else:
                raise FileDamageError(f"{name}: a record out of order at byte {start + position}")
            if kind in (FULL, LAST):
                yield b"".join(parts)
                parts = None
            position += RECORD_HEADER.size + length


# ---------------------------------------------------------------------------------------------------------------- manifest


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which files make up the database.

    Attributes:
        log_number: the oldest log that counts.
        tables: numbers of the live table files, with their sizes.
    """

    log_number: int
    tables: dict[int, int]


def read_manifest(name: str, data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        FileDamageError: says where.
    """
    log_number = 0
    tables: dict[int, int] = {}
    try:
        for record in log_records(name, data):
            reader = _Varints(record)
            while reader.more:
                tag = reader.number()
                if tag == 1:
                    reader.text()
                elif tag == 2:
                    log_number = reader.number()
                elif tag in (3, 4, 9):
                    reader.number()
                elif tag == 5:
                    reader.number()
                    reader.text()
                elif tag == 6:
                    reader.number()
                    tables.pop(reader.number(), None)
                elif tag == 7:
                    reader.number()
                    number, size = reader.number(), reader.number()
                    reader.text()
                    reader.text()
                    tables[number] = size
                else:
                    raise FileDamageError(f"{name}: unknown tag {tag}")
    except IndexError as error:
        raise FileDamageError(f"{name}: a record ends too early") from error
    return Manifest(log_number, tables)


class _Varints:
    """Reads LevelDB's variable-length numbers and texts; past the end raises IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    @property
    def more(self) -> bool:
        return self.position < len(self._data)

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def text(self) -> None:
        length = self.number()
        if self.position + length > len(self._data):
            raise IndexError("text")
        self.position += length


# ------------------------------------------------------------------------------------------------------------------ tables


def check_table(path: Path) -> None:
    """Check footer, filter block and the block that names it; LevelDB checks the data and index blocks itself.

    Raises:
        FileDamageError: says what is wrong.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size < FOOTER_BYTES:
        raise FileDamageError(f"{path.name}: is too short")
    with path.open("rb") as file:
        file.seek(size - FOOTER_BYTES)
        footer = file.read(FOOTER_BYTES)
        try:
            reader = _Varints(footer[:40])
            meta_at, meta_size, index_at, index_size = (reader.number() for _ in range(4))
        except IndexError as error:
            raise FileDamageError(f"{path.name}: bad footer") from error
        wanted = b"".join(map(_varint, (meta_at, meta_size, index_at, index_size))).ljust(40, b"\x00") + TABLE_MAGIC.to_bytes(8, "little")
        if (
            footer != wanted
            or index_at + index_size + TRAILER.size != size - FOOTER_BYTES
            or meta_at + meta_size + TRAILER.size != index_at
        ):
            raise FileDamageError(f"{path.name}: bad footer")
        file.seek(meta_at)
        meta = _checked_block(path.name, file.read(meta_size + TRAILER.size))
        filter_at, filter_size = _filter_handle(path.name, meta)
        if filter_at + filter_size + TRAILER.size != meta_at:
            raise FileDamageError(f"{path.name}: bad filter handle")
        file.seek(filter_at)
        _checked_block(path.name, file.read(filter_size + TRAILER.size))


def _filter_handle(name: str, meta: bytes) -> tuple[int, int]:
    """Read where the filter block stands from the meta block, which holds that one entry."""
    try:
        reader = _Varints(meta)
        _, key_bytes, _ = reader.number(), reader.number(), reader.number()
        reader.position += key_bytes
        return reader.number(), reader.number()
    except IndexError as error:
        raise FileDamageError(f"{name}: bad meta block") from error


def _checked_block(name: str, data: bytes) -> bytes:
    content, trailer = data[: -TRAILER.size], data[-TRAILER.size :]
    kind, checksum = TRAILER.unpack(trailer)
    if masked(crc32c(data[: -TRAILER.size + 1])) != checksum or kind != 0:
        raise FileDamageError(f"{name}: wrong checksum of a filter or meta block")
    return content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


# -------------------------------------------------------------------------------------------------------------------- copy


def copy_database(source: Path, target: Path) -> None:
    """Make a copy of a database that may be in use: live tables as hard links (LevelDB never changes them), the rest in full.

    Checks on the way what LevelDB does not check.

    Raises:
        FileDamageError: the database is damaged.
        InputError: there is no database, or it cannot be read.
    """
    for attempt in range(COPY_ATTEMPTS):
        shutil.rmtree(target, ignore_errors=True)
        try:
            target.mkdir(parents=True)
            if _copy(source, target):
                return
        except FileNotFoundError as error:
            if attempt == COPY_ATTEMPTS - 1 or not (source / "CURRENT").exists():
                raise FileDamageError(f"{Path(error.filename or source).name}: is missing") from error
        except OSError as error:
            raise InputError(str(error.filename or source), error.strerror or str(error)) from error
    raise InputError(str(source), "changes too fast to be copied; stop the node first")


def _copy(source: Path, target: Path) -> bool:
    """Copy once; False if the database changed meanwhile in a way that matters."""
    current = (source / "CURRENT").read_bytes()
    try:
        name = current.decode("ascii")
    except UnicodeDecodeError as error:
        raise FileDamageError("CURRENT: names no manifest") from error
    if not re.fullmatch(r"MANIFEST-\d+\n", name):
        raise FileDamageError("CURRENT: names no manifest")
    name = name.strip()
    data = (source / name).read_bytes()
    check_log(name, data)
    manifest = read_manifest(name, data)
    (target / "CURRENT").write_bytes(current)
    (target / name).write_bytes(data)
    for number, size in manifest.tables.items():
        table = _table_path(source, number)
        _link(table, target / table.name)
        if (target / table.name).stat().st_size != size:
            raise FileDamageError(f"{table.name}: has {(target / table.name).stat().st_size} bytes instead of {size}")
        check_table(target / table.name)
    logs = _logs(source, manifest.log_number)
    for log in logs:
        content = (source / log).read_bytes()
        check_log(log, content)
        (target / log).write_bytes(content)
    if f"{manifest.log_number:06d}.log" not in logs:
        raise FileNotFoundError(2, "no such file", str(source / f"{manifest.log_number:06d}.log"))
    return logs == _logs(source, manifest.log_number) and (source / "CURRENT").read_bytes() == current


def _logs(folder: Path, first: int) -> list[str]:
    found = [(int(match[1]), match[0]) for path in folder.iterdir() if (match := _LOG_NAME.match(path.name))]
    return [name for number, name in sorted(found) if number >= first]


def _table_path(folder: Path, number: int) -> Path:
    """Return the path of a table; very old databases call it ``.sst``."""
    old = folder / f"{number:06d}.sst"
    return old if old.exists() else folder / f"{number:06d}.ldb"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
