"""Meters that replay household data."""

from __future__ import annotations

from meters.dataset import Counters, Dataset


class ReplayMeter:
    """Counter source over one home of a data set.

    Args:
        dataset: where the counters come from.
        home: id of the home in the data set.

    Raises:
        InputError: the data set has no such home.
    """

    knows_past = True

    def __init__(self, dataset: Dataset, home: str) -> None:
        dataset.counters_at(home, dataset.start_ms)
        self._dataset = dataset
        self._home = home

    def read(self, now_ms: int) -> Counters:
        """Return the counters at ``now_ms``.

        Raises:
            InputError: it lies before the start of the data.
        """
        return self._dataset.counters_at(self._home, now_ms)
