"""Crash files: what was fed, to which target, and what it led to. They are small, can be read, and are replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from cluster.fuzz.law import Failure
from consensus.errors import InputError

MAX_FILE_BYTES = 128 * 1024 * 1024
SMALLER_S = 5.0
SMALLER_TRIES = 250
Hex = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*$(?!\n)")]
Reproduces = Callable[[Sequence[bytes]], bool]


class CrashFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of a crash file.

    Fields:
        target: that was fed.
        error: what happened; place: in which line.
        inputs: in hex, in their order, from a new target on.
    """

    format: Literal[1]
    target: str
    error: str
    place: str
    inputs: tuple[Hex, ...]


class Crash(NamedTuple):
    """A failure with the inputs that lead to it."""

    target: str
    failure: Failure
    inputs: tuple[bytes, ...]


def write_crash(folder: Path, crash: Crash) -> Path:
    """Write a crash file into ``folder``; the same crash has the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    name = sha256(f"{crash.target} {crash.failure.mark}".encode()).hexdigest()[:12]
    path = folder / f"{crash.target}-{name}.json"
    file = CrashFile(1, crash.target, crash.failure.text, crash.failure.place, tuple(data.hex() for data in crash.inputs))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
    return path


def read_crash(path: Path) -> CrashFile:
    """Read a crash file.

    Raises:
        InputError: it is not there, or none.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(str(path), "is too large for a crash file")
        return msgspec.json.decode(path.read_bytes(), type=CrashFile)
    except OSError as error:
        raise InputError(str(path), (error.strerror or str(error)).lower()) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(str(path), f"is no crash file: {error}") from error


def smaller(inputs: Sequence[bytes], reproduces: Reproduces, seconds: float = SMALLER_S) -> tuple[bytes, ...]:
    """Return fewer and shorter inputs that lead to the same failure, as far as that is found soon; all, if they do not lead to it again."""
    search = _Search(reproduces, seconds)
    kept = tuple(inputs)
    for count in (1, 2, 4, 16, 64):
        if count < len(kept) and search.holds(kept[-count:]):
            kept = kept[-count:]
            break
    kept = search.without_some(kept)
    for place in range(len(kept)):
        if len(kept) <= 4:
            kept = search.with_shorter(kept, place)
    return kept


class _Search:
    """Tries smaller inputs until time or tries are over."""

    def __init__(self, reproduces: Reproduces, seconds: float) -> None:
        self._reproduces = reproduces
        self._end_s = time.monotonic() + seconds
        self._tries = 0

    def holds(self, inputs: tuple[bytes, ...]) -> bool:
        """Tell whether these inputs lead to the failure (False when the search is over)."""
        self._tries += 1
        return self._tries <= SMALLER_TRIES and time.monotonic() < self._end_s and self._reproduces(inputs)

    def without_some(self, inputs: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Leave inputs out, many at first."""
        size = len(inputs) // 2
        while size:
            start = 0
            while start < len(inputs) and len(inputs) > 1:
                fewer = inputs[:start] + inputs[start + size :]
                if fewer and self.holds(fewer):
                    inputs = fewer
                else:
                    start += size
            size //= 2
        return inputs

    def with_shorter(self, inputs: tuple[bytes, ...], place: int) -> tuple[bytes, ...]:
        """Leave bytes of one input out, many at first."""
        size = len(inputs[place]) // 2
        while size:
            start = 0
            while start < len(inputs[place]):
                data = inputs[place]
                fewer = (*inputs[:place], data[:start] + data[start + size :], *inputs[place + 1 :])
                if self.holds(fewer):
                    inputs = fewer
                else:
                    start += size
            size //= 2
        return inputs
