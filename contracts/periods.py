"""When a delivery period opens, closes, runs and settles. Times are Unix milliseconds; period i spans [i x length, (i + 1) x length)."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.genesis import MarketRules


@dataclass(frozen=True, slots=True)
class Calendar:
    """The times that follow from the market's rules."""

    rules: MarketRules

    def start_ms(self, period: int) -> int:
        """Return when delivery begins."""
        return period * self.rules.period_ms

    def end_ms(self, period: int) -> int:
        """Return when delivery ends: the boundary to the next period."""
        return (period + 1) * self.rules.period_ms

    def opens_ms(self, period: int) -> int:
        """Return from when orders are taken."""
        return self.start_ms(period) - self.rules.open_before_ms

    def gate_ms(self, period: int) -> int:
        """Return from when orders are no longer taken."""
        return self.start_ms(period) - self.rules.gate_closure_before_ms

    def grace_over_ms(self, period: int) -> int:
        """Return when settlement waits for no meter any longer."""
        return self.end_ms(period) + self.rules.metering_grace_ms

    def delivery_period(self, time_ms: int) -> int:
        """Return the period that runs at ``time_ms``."""
        return time_ms // self.rules.period_ms

    def trading_period(self, time_ms: int) -> int:
        """Return the period whose gate closes next."""
        return max(self.rules.first_period, (time_ms + self.rules.gate_closure_before_ms) // self.rules.period_ms + 1)

    def last_open(self, time_ms: int) -> int:
        """Return the latest period that takes orders at ``time_ms``, or took them before."""
        return (time_ms + self.rules.open_before_ms) // self.rules.period_ms

    def metered_period(self, time_ms: int) -> int:
        """Return the period that a register read at ``time_ms`` belongs to: on a boundary, the one that ends there."""
        return (time_ms - 1) // self.rules.period_ms
