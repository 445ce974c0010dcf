"""What a household expects of its own net energy, from nothing but its own past.

Two candidates are made for a period that lies ``lead`` periods after the last known one:

1. *Persistence*: what was last, will be.
2. *Regression*: a linear mix of the last value, the last ramp, the mean change over the same hours of the days before (up to
   seven), the mean level of these days and yesterday's level, the latter two as differences from the last value. The weights are
   learned online by recursive least squares with forgetting, one set per lead; they start as persistence plus half of the usual
   change of that time of day and a fifth of the way to its usual level.

The one with the smaller recent error wins, counted apart for each quarter of the hour: hourly counters that are interpolated for
shorter periods stand still within the hour, and there persistence is exact. ``tests/cluster/test_agents_forecasting.py`` holds the
gain over persistence on the real data.

Net energy is drawn minus fed in, Wh per period: positive consumes, negative has surplus. Plain Python floats: nothing here is on
the ledger.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MAX_LEAD = 3
"""Leads from 1 to this have a regression of their own; beyond it the usual level of the time of day is used."""
SEASON_DAYS = 7
KEPT_DAYS = 15
LONGEST_GAP = 6
"""Readings that lie further apart than so many periods tell nothing about the periods between them."""
LEAST_SEEN = 0.2
"""Share of a running period that must be metered before it is extrapolated."""
FORGETTING = 0.999
ERROR_MEMORY = 0.98
SPREAD_MEMORY = 0.9
PRIOR_WEIGHTS = (1.0, 0.0, 0.5, 0.2, 0.0)
PRIOR_VARIANCE = 0.03


class Counters(NamedTuple):
    """One reading of a household's own meter: cumulative Wh at a chain time in ms."""

    time_ms: int
    import_wh: int
    export_wh: int


class Forecast(NamedTuple):
    """Expected net energy of one period.

    Attributes:
        net_wh: drawn minus fed in, Wh.
        error_wh: mean absolute error to expect of it, Wh.
        method: "regression", "persistence" or "time-of-day".
    """

    net_wh: float
    error_wh: float
    method: str


class NetEnergy:
    """Turns counters into net energy per delivery period, by linear interpolation at the periods' boundaries.

    Args:
        period_ms: length of a period.
    """

    def __init__(self, period_ms: int) -> None:
        self._period_ms = period_ms
        self._counters: list[Counters] = []

    def add(self, counters: Counters) -> list[tuple[int, float]]:
        """Take one reading; return (period, net Wh) of every period that it completes. One that is not later than the last is ignored."""
        if self._counters and counters.time_ms <= self._counters[-1].time_ms:
            return []
        self._counters.append(counters)
        if len(self._counters) == 1:
            return []
        if counters.time_ms - self._counters[-2].time_ms > LONGEST_GAP * self._period_ms:
            self._counters = [counters]
            return []
        first = -(-self._counters[-2].time_ms // self._period_ms)
        last = counters.time_ms // self._period_ms
        complete: list[tuple[int, float]] = []
        for boundary in range(first, last + 1):
            start, end = (self._net_at(edge * self._period_ms) for edge in (boundary - 1, boundary))
            if start is not None and end is not None and boundary * self._period_ms > self._counters[-2].time_ms:
                complete.append((boundary - 1, end - start))
        self._forget(counters.time_ms)
        return complete

    def running(self) -> tuple[int, float] | None:
        """Return the period of the last reading, and its net Wh if it goes on as it began; None if too little is seen of it."""
        if len(self._counters) < 2:
            return None
        last = self._counters[-1]
        period, seen_ms = divmod(last.time_ms, self._period_ms)
        start = self._net_at(period * self._period_ms)
        if start is None or seen_ms < LEAST_SEEN * self._period_ms:
            return None
        return period, (last.import_wh - last.export_wh - start) * self._period_ms / seen_ms

    def _net_at(self, time_ms: int) -> float | None:
        """Return import minus export at a time, Wh; None outside of what is known."""
        at = bisect_left(self._counters, time_ms, key=lambda counters: counters.time_ms)
        if at == len(self._counters):
            return None
        after = self._counters[at]
        if after.time_ms == time_ms:
            return float(after.import_wh - after.export_wh)
        if at == 0:
            return None
        before = self._counters[at - 1]
        share = (time_ms - before.time_ms) / (after.time_ms - before.time_ms)
        start, end = before.import_wh - before.export_wh, after.import_wh - after.export_wh
        return start + share * (end - start)

    def _forget(self, now_ms: int) -> None:
        """Drop what no later period needs."""
        while len(self._counters) > 2 and self._counters[1].time_ms <= now_ms - 2 * self._period_ms:
            del self._counters[0]


class LeastSquares:
    """Recursive least squares with exponential forgetting.

    Args:
        weights: start values.
        variance: how little they are trusted.
    """

    def __init__(self, weights: Sequence[float], variance: float) -> None:
        self._weights = list(weights)
        size = len(self._weights)
        self._covariance = [[variance if row == column else 0.0 for column in range(size)] for row in range(size)]

    def predict(self, inputs: Sequence[float]) -> float:
        """Return the weighted sum of ``inputs``."""
        return sum(weight * value for weight, value in zip(self._weights, inputs, strict=True))

    def learn(self, inputs: Sequence[float], output: float) -> None:
        """Move the weights so that ``inputs`` give ``output`` more nearly."""
        size = range(len(inputs))
        projected = [sum(self._covariance[row][column] * inputs[column] for column in size) for row in size]
        scale = FORGETTING + sum(inputs[row] * projected[row] for row in size)
        gain = [value / scale for value in projected]
        error = output - self.predict(inputs)
        self._weights = [weight + step * error for weight, step in zip(self._weights, gain, strict=True)]
        self._covariance = [
            [(self._covariance[row][column] - gain[row] * projected[column]) / FORGETTING for column in size] for row in size
        ]


@dataclass
class _Errors:
    """Moving mean absolute errors of both candidates, for one lead and quarter of the hour, kW."""

    persistence: float = 0.0
    regression: float = 0.0
    spread: float = 0.0
    count: int = 0

    def learn(self, persistence: float, regression: float) -> None:
        """Take the errors of one more period; the first ones count in full."""
        best = min(self.persistence, self.regression) if self.count else persistence
        chosen = regression if self.count and self.regression == best else persistence
        slow, fast = (max(1 - memory, 1 / (self.count + 1)) for memory in (ERROR_MEMORY, SPREAD_MEMORY))
        self.spread += fast * (chosen - self.spread)
        self.persistence += slow * (persistence - self.persistence)
        self.regression += slow * (regression - self.regression)
        self.count += 1


@dataclass
class _Lead:
    """What was learned for one lead: the regression, and the errors per quarter of the hour."""

    model: LeastSquares = field(default_factory=lambda: LeastSquares(PRIOR_WEIGHTS, PRIOR_VARIANCE))
    errors: dict[int, _Errors] = field(default_factory=dict)


class NetForecaster:
    """Learns a household's net energy period by period and forecasts the next ones.

    Args:
        period_ms: length of a period; at most a day.
    """

    def __init__(self, period_ms: int) -> None:
        self._kw = HOUR_MS / period_ms / 1000
        self._day = max(1, DAY_MS // period_ms)
        self._quarters = max(1, HOUR_MS // period_ms)
        self._known: dict[int, float] = {}
        self._last: int | None = None
        self._leads = {lead: _Lead() for lead in range(1, MAX_LEAD + 1)}

    @property
    def last_period(self) -> int | None:
        """Index of the last known period."""
        return self._last

    def learn(self, period: int, net_wh: float) -> None:
        """Take the net energy of one period; periods must come by rising index (gaps are fine, others are ignored)."""
        if self._last is not None and period <= self._last:
            return
        net_kw = net_wh * self._kw
        for lead, learned in self._leads.items():
            inputs = self._inputs(period, lead)
            if inputs is None:
                continue
            guess = learned.model.predict(inputs)
            errors = learned.errors.setdefault(period % self._quarters, _Errors())
            errors.learn(abs(net_kw - inputs[0]), abs(net_kw - guess))
            learned.model.learn(inputs, net_kw)
        self._known[period] = net_kw
        self._last = period
        self._known.pop(period - KEPT_DAYS * self._day, None)

    def forecast(self, period: int, running: tuple[int, float] | None = None) -> Forecast | None:
        """Return what to expect of a later period; None while too little is known.

        Args:
            period: index of the period.
            running: (period, net Wh) of a running period as extrapolated; it counts as the last known one, for this question only.
        """
        if running is None or (self._last is not None and running[0] <= self._last):
            return self._forecast(period)
        last = self._last
        self._last, self._known[running[0]] = running[0], running[1] * self._kw
        try:
            return self._forecast(period)
        finally:
            self._last = last
            del self._known[running[0]]

    def _forecast(self, period: int) -> Forecast | None:
        if self._last is None or period <= self._last:
            return None
        lead = period - self._last
        if lead > MAX_LEAD:
            return self._by_time_of_day(period)
        inputs = self._inputs(period, lead)
        last_kw = self._known[self._last]
        errors = self._leads[lead].errors.get(period % self._quarters)
        if inputs is None or errors is None:
            return Forecast(last_kw / self._kw, abs(last_kw) / self._kw / 2, "persistence")
        guess_kw, method = inputs[0], "persistence"
        if errors.regression < errors.persistence:
            guess_kw, method = self._leads[lead].model.predict(inputs), "regression"
        return Forecast(guess_kw / self._kw, errors.spread / self._kw, method)

    def _by_time_of_day(self, period: int) -> Forecast:
        """Return the usual level of the period's time of day, or the last value if no earlier day is known."""
        levels = self._season(period)
        if not levels:
            last_kw = self._known[self._last] if self._last is not None else 0.0
            return Forecast(last_kw / self._kw, abs(last_kw) / self._kw, "persistence")
        mean_kw = sum(levels) / len(levels)
        spread = sum(abs(level - mean_kw) for level in levels) / len(levels) if len(levels) > 1 else abs(mean_kw) / 2
        return Forecast(mean_kw / self._kw, spread / self._kw, "time-of-day")

    def _inputs(self, period: int, lead: int) -> tuple[float, float, float, float, float] | None:
        """Return the regression's inputs for a period as they were known ``lead`` periods before it, kW; None if the last two are not."""
        last, before = self._known.get(period - lead), self._known.get(period - lead - 1)
        if last is None or before is None:
            return None
        changes = [
            self._known[period - day * self._day] - self._known[period - day * self._day - lead]
            for day in range(1, SEASON_DAYS + 1)
            if period - day * self._day in self._known and period - day * self._day - lead in self._known
        ]
        levels = self._season(period)
        yesterday = self._known.get(period - self._day)
        return (
            last,
            last - before,
            sum(changes) / len(changes) if changes else 0.0,
            sum(levels) / len(levels) - last if levels else 0.0,
            yesterday - last if yesterday is not None else 0.0,
        )

    def _season(self, period: int) -> list[float]:
        """Return the known values of the same time on the days before, kW."""
        return [self._known[period - day * self._day] for day in range(1, SEASON_DAYS + 1) if period - day * self._day in self._known]
