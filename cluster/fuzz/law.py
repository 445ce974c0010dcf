"""What an input may lead to, and what anything else is called.

Law. An input is accepted (and encodes to the same bytes again, where the format has one encoding only) or refused in the documented way:
with a typed error, a refusal code, an HTTP status below 500, a counted fault of the peer. Everything else is a failure: another
exception, a broken promise (:class:`LawBrokenError`), too much time, too much memory, a process that dies.
"""

from __future__ import annotations

import re
import signal
import traceback
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

from consensus.errors import GridPactError

PROJECT = Path(__file__).resolve().parent.parent.parent
_HARNESS = Path(__file__).resolve().parent
MAX_OUTCOME = 160
_VARIES = re.compile(r"(?s)(?<=unknown field )`.*`|'.*(?:'|$)|\".*(?:\"|$)|0x[0-9a-f]+|\b[0-9a-f]{16,}\b|-?\d[\d.]*(?:e[+-]?\d+)?")


class LawBrokenError(GridPactError):
    """An input was neither accepted nor refused as it must be; the text says what happened instead."""


class TookTooLongError(BaseException):
    """An input took more processor time than the bound. No handler of the code under test may catch it."""


class Failure(NamedTuple):
    """Something that no input may lead to.

    Attributes:
        kind: name of the exception, ``hang``, ``growth`` or ``death``.
        text: what happened, one line.
        place: file and line in the project where it came up; empty if nobody knows.
        trace: traceback.
    """

    kind: str
    text: str
    place: str
    trace: str = ""

    @property
    def mark(self) -> str:
        """What two failures share that have one cause."""
        detail = outcome_class(self.text) if self.kind in (LawBrokenError.__name__, "death") else ""
        return f"{self.kind} {self.place} {detail}".strip()


def outcome_class(text: str) -> str:
    """Return an outcome without its particulars: no numbers, nothing quoted, so that there are not too many."""
    return _VARIES.sub("#", text[: 2 * MAX_OUTCOME])[:MAX_OUTCOME]


def failure_of(error: BaseException) -> Failure:
    """Return what an exception says to people; one that was raised from another tells where that came from."""
    deepest = error.__cause__ if isinstance(error, LawBrokenError) and error.__cause__ is not None else error
    kind = _name(deepest)
    text = " ".join(f"{kind}: {deepest}".split())
    if isinstance(error, TookTooLongError):
        kind, text = "hang", str(error)
    trace = "".join(traceback.format_exception(error, limit=-25))
    return Failure(kind, text[:500], _place(deepest), trace[-6_000:])


def _name(error: BaseException) -> str:
    """Return the name of an exception; one of a library with its module."""
    kind = type(error)
    module = kind.__module__.partition(".")[0]
    return kind.__name__ if module in ("builtins", "asyncio", "consensus", "contracts", "node", "cluster") else f"{module}.{kind.__name__}"


def _place(error: BaseException) -> str:
    """Return the innermost line of the project outside the fuzzer, else the innermost one at all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PROJECT)]
    tested = [frame for frame in ours if not Path(frame.filename).is_relative_to(_HARNESS)]
    for frame in reversed(tested or ours or frames):
        path = Path(frame.filename)
        shown = path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else Path(path.name)
        return f"{shown.as_posix()}:{frame.lineno}"
    return ""


class Watch:
    """Runs a block and keeps what it fails with: ``with watch: ...``; then look at :attr:`failure`.

    Args:
        limit_s: processor time that the block may take.
    """

    def __init__(self, limit_s: float) -> None:
        self.failure: Failure | None = None
        self._limit_s = limit_s
        signal.signal(signal.SIGPROF, self._too_long)

    def _too_long(self, _number: int, _frame: FrameType | None) -> None:
        raise TookTooLongError(f"more than {self._limit_s:g} s of processor time")

    def __enter__(self) -> Self:
        """Begin to count time."""
        self.failure = None
        signal.setitimer(signal.ITIMER_PROF, self._limit_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Keep the failure; only what stops the program goes on."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        if error is None or isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            return False
        self.failure = failure_of(error)
        return True
