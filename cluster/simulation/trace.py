"""A run in words: what every replica got, and what it made of that."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from hashlib import blake2b

from cluster.simulation.wording import describe
from consensus.effects import Effect, Event


class Trace:
    """Takes every step of a run.

    Args:
        keep: how many of the last lines are kept; None: all.

    Attributes:
        lines: what was kept.
    """

    def __init__(self, keep: int | None = None) -> None:
        self.lines: deque[str] = deque(maxlen=keep)
        self._digest = blake2b(digest_size=32)

    def step(self, now_ms: int, name: str, event: Event, effects: Sequence[Effect]) -> None:
        """Note a step of a replica."""
        done = "; ".join(describe(effect) for effect in effects)
        self.line(now_ms, name, f"{describe(event)} -> {done or 'nothing'}")

    def line(self, now_ms: int, name: str, text: str) -> None:
        """Note anything."""
        line = f"{now_ms:>7} ms  {name:<10}  {text}"
        self._digest.update(line.encode())
        self.lines.append(line)

    def end(self, now_ms: int, cause: str) -> None:
        """Note how the run ended."""
        self.line(now_ms, "end", cause or "all is well")

    @property
    def digest(self) -> str:
        """Hash over all lines, kept or not: the same for the same run."""
        return self._digest.hexdigest()
