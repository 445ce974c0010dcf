"""LevelDB's log format (logs and manifests): reading it, and what LevelDB itself does not check in it. See ``doc/log_format.md`` there."""

from __future__ import annotations

import struct
from collections.abc import Iterator

BLOCK_BYTES = 32 * 1024
RECORD_HEADER = struct.Struct("<IHB")
BATCH_HEADER = struct.Struct("<QI")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
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

    A crash may cut the last record off, which nobody was promised: that is in order, and LevelDB leaves the record out. But LevelDB takes
    any record whose length passes the end of the file for such a one, and drops all that follows it without a word. Here it counts as
    damage if the file shows that the length is wrong: a shorter one makes its checksum right, or a whole record follows that continues
    it. So no single wrong byte (or bit) goes unnoticed, wherever it is.

    What cannot be told from a crash: bytes that are gone from the end of the file (or zeros in their place), and a last record with
    wrong contents *and* a length that passes the end. A disk that does this to bytes which it said were safe goes unnoticed.

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
                if len(block) == BLOCK_BYTES or _hides_a_record(block[position:], checksum) or _is_continued(block[position:]):
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


def _is_continued(rest: bytes) -> bool:
    """Tell whether a whole record follows whose batch of writes has the number that comes after those of the first batch."""
    if len(rest) < RECORD_HEADER.size + BATCH_HEADER.size:
        return False
    sequence, count = BATCH_HEADER.unpack_from(rest, RECORD_HEADER.size)
    following = (sequence + count).to_bytes(16, "little")[:8]
    place = rest.find(following, 2 * RECORD_HEADER.size)
    while place >= 0:
        checksum, length, kind = RECORD_HEADER.unpack_from(rest, place - RECORD_HEADER.size)
        payload = rest[place : place + length]
        if kind == FULL and len(payload) == length and masked(crc32c(payload, crc32c(bytes([kind])))) == checksum:
            return True
        place = rest.find(following, place + 1)
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
