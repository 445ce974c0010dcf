"""When a meter takes its readings."""

from __future__ import annotations

LATE_MS = 1_000
"""A meter that cannot tell its past counters stamps a reading with the boundary if it is at most so late (chain time)."""
MAX_CATCH_UP = 5_000


def due_times_ms(last_ms: int | None, first_ms: int, now_ms: int, interval_ms: int, *, knows_past: bool) -> list[int]:
    """Return the times of the readings that are due, rising: multiples of ``interval_ms``, so that every period boundary has one.

    A meter that knows its past makes up for what it missed, at most the last :data:`MAX_CATCH_UP` readings. Another one takes a single
    reading; counters are cumulative, so it covers what was missed. If that is too late for the boundary, it carries its true time.

    Args:
        last_ms: time of the last reading, None before the first.
        first_ms: nothing before this matters (the chain's start).
        now_ms: chain time. If it went back, nothing is due until it has passed ``last_ms`` again.
        interval_ms: time between readings; the period length is a multiple of it.
        knows_past: see ``CounterSource``.
    """
    latest_ms = now_ms // interval_ms * interval_ms
    start_ms = next_due_ms(last_ms, first_ms, interval_ms)
    if start_ms > latest_ms:
        return []
    if knows_past:
        return list(range(max(start_ms, latest_ms - (MAX_CATCH_UP - 1) * interval_ms), latest_ms + 1, interval_ms))
    return [latest_ms if now_ms - latest_ms <= LATE_MS else now_ms]


def next_due_ms(last_ms: int | None, first_ms: int, interval_ms: int) -> int:
    """Return when the next reading is due, chain time."""
    if last_ms is None:
        return -(-first_ms // interval_ms) * interval_ms
    return (last_ms // interval_ms + 1) * interval_ms
