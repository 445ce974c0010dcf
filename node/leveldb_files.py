"""LevelDB's files from the outside: a copy that can be opened without touching the original, and checks that LevelDB leaves out.

LevelDB checks the checksums of log records, data blocks and index blocks. It does not notice: a log or manifest in whose last block a
length is wrong (it takes the record for cut off), a missing log, a missing ``CURRENT``, filter blocks, the padding of log blocks and
footers. Those are checked here, so that every byte is covered; before a database is opened, those without which something could be
lost (:func:`check_database`). Formats: ``doc/log_format.md``, ``doc/table_format.md``, ``db/version_edit.cc`` of LevelDB.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from consensus.errors import InputError
from node.leveldb_logs import FileDamageError, check_log, crc32c, log_records, masked

FOOTER_BYTES = 48
TABLE_MAGIC = 0xDB4775248B80FB57
TRAILER = struct.Struct("<BI")
COPY_ATTEMPTS = 20
_LOG_NAME = re.compile(r"^(\d+)\.log$")

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


# ----------------------------------------------------------------------------------------------------------------- opening


def check_database(folder: Path) -> None:
    """Check, before LevelDB opens a database, that it would not drop anything without a word: ``CURRENT``, manifest and logs.

    Nothing is in order too: LevelDB begins a new database then. What a table lacks LevelDB finds itself when it reads it.

    Raises:
        FileDamageError: names the file and what is wrong.
        OSError: a file cannot be read.
    """
    for attempt in range(COPY_ATTEMPTS):
        before = _names(folder)
        try:
            _check(folder, before)
        except (FileDamageError, FileNotFoundError) as error:
            if _names(folder) != before and attempt < COPY_ATTEMPTS - 1:
                continue  # another process has it open, and went on to other files meanwhile
            if isinstance(error, FileNotFoundError):
                raise FileDamageError(f"{Path(error.filename or folder).name}: is missing") from error
            raise
        return


def _check(folder: Path, names: frozenset[str]) -> None:
    if "CURRENT" not in names:
        # A crash while the database was made leaves a manifest and nothing else.
        if any(_LOG_NAME.match(name) or name.endswith((".ldb", ".sst")) for name in names):
            raise FileDamageError("CURRENT: is missing")
        return
    _, _, manifest = _manifest(folder)
    for log in _logs(folder, manifest.log_number):
        check_log(log, (folder / log).read_bytes())
    if manifest.log_number and not (folder / _log_name(manifest.log_number)).exists():
        raise FileNotFoundError(2, "no such file", _log_name(manifest.log_number))


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _manifest(folder: Path) -> tuple[str, bytes, Manifest]:
    """Return name, contents and meaning of the manifest that counts.

    Raises:
        FileDamageError: it is damaged, or ``CURRENT`` does not name one.
        OSError: it cannot be read.
    """
    try:
        name = (folder / "CURRENT").read_bytes().decode("ascii")
    except UnicodeDecodeError as error:
        raise FileDamageError("CURRENT: names no manifest") from error
    if not re.fullmatch(r"MANIFEST-\d+\n", name):
        raise FileDamageError("CURRENT: names no manifest")
    name = name.strip()
    data = (folder / name).read_bytes()
    check_log(name, data)
    return name, data, read_manifest(name, data)


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
    name, data, manifest = _manifest(source)
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
    if _log_name(manifest.log_number) not in logs:
        raise FileNotFoundError(2, "no such file", str(source / _log_name(manifest.log_number)))
    return logs == _logs(source, manifest.log_number) and (source / "CURRENT").read_bytes() == current


def _log_name(number: int) -> str:
    return f"{number:06d}.log"


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
