"""What a process has used so far, from /proc."""

from __future__ import annotations

import os
import stat
from pathlib import Path

BLOCK_BYTES = 512
"""Unit of ``st_blocks``."""
_UTIME_FIELD, _STIME_FIELD = 11, 12
"""Positions in /proc/PID/stat, counted from the field after the command's name."""


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, user and system; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[_UTIME_FIELD]) + int(fields[_STIME_FIELD])) / os.sysconf("SC_CLK_TCK")


def peak_rss_mb(pid: int) -> float:
    """Return the largest resident memory that a process ever had, MB; 0 if it is gone."""
    return _memory_mb(pid, "VmHWM:")


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process now, MB; 0 if it is gone."""
    return _memory_mb(pid, "VmRSS:")


def _memory_mb(pid: int, field: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    sizes = [int(line.split()[1]) for line in lines if line.startswith(field)]
    return sizes[0] / 1024 if sizes else 0.0


def folder_bytes(folder: Path) -> int:
    """Return how much of the disk the files of a folder take; those that go meanwhile count for nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(found.st_mode):
            total += found.st_blocks * BLOCK_BYTES
    return total


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
