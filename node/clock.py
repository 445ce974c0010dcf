"""Two clocks: chain time, which may be replayed and which blocks carry, and monotonic time, which timeouts use."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from consensus.errors import InputError

LOOK_AGAIN_MS = 100


class Clock(Protocol):
    """What a node asks for the time."""

    def now_ms(self) -> int:
        """Return chain time, Unix milliseconds."""

    def monotonic_ms(self) -> int:
        """Return real milliseconds since some moment; never goes back."""


def monotonic_ms() -> int:
    """Return the machine's monotonic time in milliseconds."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Return the machine's Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class RealClock:
    """Chain time is the machine's time."""

    def now_ms(self) -> int:
        """Return the machine's Unix time in milliseconds."""
        return wall_ms()

    def monotonic_ms(self) -> int:
        """Return the machine's monotonic time in milliseconds."""
        return monotonic_ms()


class ReplayTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of a replay clock's file.

    Fields:
        chain_ms: chain time at the moment ``wall_ms``.
        wall_ms: a moment of the machine's time, Unix milliseconds.
        speed: chain milliseconds per real millisecond.
        held: chain time stands still at ``chain_ms`` until the file says otherwise.
    """

    chain_ms: Annotated[int, Meta(ge=0, le=2**53)]
    wall_ms: Annotated[int, Meta(ge=0, le=2**53)]
    speed: Annotated[float, Meta(gt=0, le=1e6)]
    held: bool


def read_replay_time(path: Path) -> ReplayTime:
    """Read a replay clock's file.

    Raises:
        InputError: it is not there or not of this form.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=ReplayTime)
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(str(path), str(error)) from error


def write_replay_time(path: Path, replay: ReplayTime) -> None:
    """Write a replay clock's file in one piece: a reader sees the old or the new contents, never a part."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(msgspec.json.encode(replay) + b"\n")
    fresh.replace(path)


def _mark(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from the one that was in its place before; None if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


class ReplayClock:
    """Chain time runs from a given moment at a given speed, the same for all processes that read one file.

    The file may be written anew: a held clock sees that at once, one that runs within :data:`LOOK_AGAIN_MS`. It never goes back, unless it
    ran and is set to another time, as any clock of a machine may be.

    Args:
        path: the file, see :class:`ReplayTime`.

    Raises:
        InputError: the file is not there or not of the right form.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = _mark(path)
        self._replay = read_replay_time(path)
        self._latest_ms = self._looked_ms = 0

    def now_ms(self) -> int:
        """Return chain time, Unix milliseconds; a clock whose file has become unreadable stays as it is."""
        if self._replay.held or monotonic_ms() - self._looked_ms >= LOOK_AGAIN_MS:
            self._look()
        replay = self._replay
        now_ms = replay.chain_ms
        if not replay.held:
            now_ms += int(max(0, wall_ms() - replay.wall_ms) * replay.speed)
        self._latest_ms = max(self._latest_ms, now_ms)
        return self._latest_ms

    def _look(self) -> None:
        """Read the file if it is another one than before."""
        self._looked_ms = monotonic_ms()
        mark = _mark(self._path)
        if mark == self._mark:
            return
        with suppress(InputError):
            replay = read_replay_time(self._path)
            if not (self._replay.held or replay.held):
                self._latest_ms = 0
            self._replay, self._mark = replay, mark

    def monotonic_ms(self) -> int:
        """Return the machine's monotonic time in milliseconds."""
        return monotonic_ms()
