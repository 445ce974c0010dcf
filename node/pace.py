"""Long work in a thread that leaves the processor, and Python's lock, to the others for a part of the time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from threading import Event
from typing import TypeVar

from consensus.errors import GridPactError

T = TypeVar("T")
SLICE_S = 0.002
"""Work between two rests; the event loop waits for Python's lock so long at most, about."""


class StoppedError(GridPactError):
    """The work was told to stop before it was done."""


class Pace:
    """Rests after every slice of work.

    Args:
        share_percent: how much of the time to work.
        stop: set by whoever wants the work to end soon.
    """

    def __init__(self, share_percent: int = 50, stop: Event | None = None) -> None:
        self._rest_per_work = (100 - share_percent) / share_percent
        self._stop = stop if stop is not None else Event()
        self._since_s = time.perf_counter()

    def step(self) -> None:
        """Rest if a slice is over; call it after every bit of work.

        Raises:
            StoppedError: the work shall end.
        """
        worked_s = time.perf_counter() - self._since_s
        if worked_s < SLICE_S:
            return
        if self._stop.wait(worked_s * self._rest_per_work) or self._stop.is_set():
            raise StoppedError("stopped")
        self._since_s = time.perf_counter()

    def through(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, resting in between.

        Raises:
            StoppedError: the work shall end.
        """
        for item in items:
            self.step()
            yield item
