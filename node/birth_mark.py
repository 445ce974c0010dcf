"""Birth marks: files that tell a folder from a copy of it.

A copy has the content of what it is of, but no file system lets it have the same time of birth: neither ``cp -a`` nor ``rsync`` nor a
backup can set that. It stays when the folder is moved within its file system, when owner or mode change, and when the machine starts again.
The number of the inode must be the same too: two files that are made one right after the other can have the same time. Where no time of
birth is known, that number stands alone.

An image of a whole disk (of a virtual machine, say) that is put back looks the same as before. Nothing on the disk can tell that.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_BIRTH = struct.Struct(">qIQ")
_STATX_BYTES, _MASK_AT, _BIRTH_AT = 256, 0, 80
_AT_FDCWD, _STATX_BTIME = -100, 0x800
_MASK, _TIME = struct.Struct("=I"), struct.Struct("=qI")


def lay(mark: Path) -> bytes:
    """Make the file anew, durably, and return its birth.

    Raises:
        OSError: the disk refused it.
    """
    mark.unlink(missing_ok=True)
    descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(mark.parent)
    return birth_of(mark)


def is_born(mark: Path, birth: bytes) -> bool:
    """Tell whether the file is the one that :func:`lay` made, and no copy.

    Raises:
        OSError: it cannot be read.
    """
    if len(birth) != _BIRTH.size or not mark.exists():
        return False
    laid, found = _BIRTH.unpack(birth), _BIRTH.unpack(birth_of(mark))
    both_have_times = any(laid[:2]) and any(found[:2])
    return laid[2] == found[2] and (laid[:2] == found[:2] or not both_have_times)


def birth_of(path: Path) -> bytes:
    """Return time of birth (0 where it is not known) and inode of a file.

    Raises:
        OSError: it is not there.
    """
    return _BIRTH.pack(*_read_time(path), path.stat().st_ino)


def _read_time(path: Path) -> tuple[int, int]:
    """Return seconds and nanoseconds of a file's birth, from statx(2); 0 if system or file system do not know it."""
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is None:
        return 0, 0
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    failed = statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer)
    if failed or not _MASK.unpack_from(buffer.raw, _MASK_AT)[0] & _STATX_BTIME:
        return 0, 0
    seconds, nanoseconds = _TIME.unpack_from(buffer.raw, _BIRTH_AT)
    return seconds, nanoseconds


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder has.

    Raises:
        OSError: the disk refused it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
