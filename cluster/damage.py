"""Damages the files of a LevelDB database that nobody has open."""

from __future__ import annotations

import random
from pathlib import Path

from node.leveldb_logs import BLOCK_BYTES, RECORD_HEADER

FILES, FLIPS = 3, 8
LENGTH_HIGH_BYTE = 5
"""Where the higher byte of its length stands in a record's header, after the checksum."""


def flip_bytes(folder: Path, draw: random.Random) -> list[Path]:
    """Change some bytes of some of the tables and logs; return which files."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".ldb", ".log") and path.stat().st_size)
    chosen = sorted(draw.sample(files, min(FILES, len(files))))
    for path in chosen:
        data = bytearray(path.read_bytes())
        for place in draw.sample(range(len(data)), min(FLIPS, len(data))):
            data[place] ^= draw.randrange(1, 256)
        path.write_bytes(data)
    return chosen


def newest_log(folder: Path) -> Path | None:
    """Return the log that was written last and is not empty."""
    return max((path for path in folder.glob("*.log") if path.stat().st_size), key=lambda path: int(path.stem), default=None)


def lengthen_record(path: Path, draw: random.Random) -> bool:
    """Flip one bit in the length of a record in the last block of a log; tell False if it has none that others follow.

    LevelDB by itself takes the record for one that a crash has cut off, and forgets all that follow it, without a word.
    """
    data = bytearray(path.read_bytes())
    places, position = [], (len(data) - 1) // BLOCK_BYTES * BLOCK_BYTES
    while position + RECORD_HEADER.size <= len(data):
        _, length, kind = RECORD_HEADER.unpack_from(data, position)
        if not length and not kind:
            break
        places.append(position)
        position += RECORD_HEADER.size + length
    if len(places) <= 1:
        return False
    data[draw.choice(places[:-1]) + LENGTH_HIGH_BYTE] ^= 0x80
    path.write_bytes(data)
    return True
