"""How the built-in engine sees that an input did something new: by its outcome and, from Python 3.12 on, by the lines that it reached."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType

from cluster.fuzz.law import PROJECT

TESTED = tuple(f"{PROJECT}/{package}/" for package in ("consensus", "contracts", "node"))
MAX_OUTCOMES = 4_000
"""More different outcomes are not told apart: then they hold something that varies without end."""


class Novelty:
    """Tells inputs that did something new from those that did not.

    Attributes:
        outcomes: how often each outcome came.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self._lines = _watch_lines()

    def is_new(self, outcome: str) -> bool:
        """Count an outcome; tell whether it, or a line on the way to it, is new."""
        known = outcome in self.outcomes
        if known or len(self.outcomes) < MAX_OUTCOMES:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        return self._lines() > 0 or (not known and len(self.outcomes) < MAX_OUTCOMES)

    def close(self) -> None:
        """Watch no longer."""
        _end_watch()


def _no_lines() -> int:
    """Return that no line is new: this Python cannot tell without slowing everything down."""
    return 0


def _watch_lines() -> Callable[[], int]:
    """Begin to watch lines; return a function that tells how many new ones were reached since it was last called."""
    if sys.version_info < (3, 12):
        return _no_lines
    monitoring = sys.monitoring
    seen = [0]

    def on_line(code: CodeType, _line: int) -> object:
        seen[0] += code.co_filename.startswith(TESTED)
        return monitoring.DISABLE

    def new_lines() -> int:
        new, seen[0] = seen[0], 0
        return new

    if monitoring.get_tool(monitoring.COVERAGE_ID) is not None:
        return _no_lines
    monitoring.use_tool_id(monitoring.COVERAGE_ID, "gridpact fuzz")
    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, on_line)
    monitoring.restart_events()
    monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)
    return new_lines


def _end_watch() -> None:
    if sys.version_info >= (3, 12) and sys.monitoring.get_tool(sys.monitoring.COVERAGE_ID) == "gridpact fuzz":
        sys.monitoring.set_events(sys.monitoring.COVERAGE_ID, 0)
        sys.monitoring.free_tool_id(sys.monitoring.COVERAGE_ID)
