"""Household data as meters see it: cumulative counters at any moment, exact integers.

A data set holds the mean load and solar power of each home for every interval. A home's net power (load - solar) flows through its
meter: the positive part into the import counter, the negative part into the export counter. Inside an interval the counters rise
linearly; at the end of the data it starts again from its first interval and the counters keep rising.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from consensus.errors import InputError
from meters.data_file import Row, read_rows

SHIPPED_FILE = Path(__file__).parent / "data" / "homes14_hourly_28d_summer.csv.gz"
SHIPPED_PAST_FILE = SHIPPED_FILE.with_name("homes14_hourly_6d_before.csv.gz")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MW_MS_PER_WH = HOUR_MS * 1000
MW_MS_PER_MWH = HOUR_MS
MIN_INTERVAL_MS = 1_000
_HOURS = 24
_SATURDAY = 5


class Counters(NamedTuple):
    """Cumulative energy drawn from and fed into the grid, Wh."""

    import_wh: int
    export_wh: int


class TimeOfUse(NamedTuple):
    """Prices by hour of the day (24 each), 1e-6 currency per kWh; the weekend is Saturday and Sunday."""

    weekday_micro_per_kwh: tuple[int, ...]
    weekend_micro_per_kwh: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Home:
    """One home: mean powers per interval (mW), and the counters at the start of each interval and at the end (mW x ms)."""

    load_mw: tuple[int, ...]
    pv_mw: tuple[int, ...]
    imported: tuple[int, ...]
    exported: tuple[int, ...]


class Dataset:
    """A data set that has been checked: every home has every interval.

    Attributes:
        name: file that it came from.
        start_ms, end_ms: first interval's start and last interval's end, Unix ms (the data's local time read as UTC).
        interval_ms: length of every interval.
        meters: ids of the homes, in the order of the file.
    """

    def __init__(
        self, name: str, start_ms: int, interval_ms: int, powers: dict[str, tuple[Sequence[int], Sequence[int]]], prices: TimeOfUse | None
    ) -> None:
        self.name = name
        self.start_ms = start_ms
        self.interval_ms = interval_ms
        self.meters = tuple(powers)
        self._prices = prices
        self._homes = {meter: _home(load, pv, interval_ms) for meter, (load, pv) in powers.items()}
        self.end_ms = start_ms + self.intervals * interval_ms

    @property
    def intervals(self) -> int:
        """Number of intervals."""
        return len(self._homes[self.meters[0]].load_mw)

    def select(self, meters: Sequence[str]) -> Dataset:
        """Return the same data for some of the homes.

        Raises:
            InputError: none is asked for, or one is not in the data.
        """
        if not meters:
            raise InputError(self.name, "no household is asked for")
        powers = {meter: (self._home(meter).load_mw, self._home(meter).pv_mw) for meter in meters}
        return Dataset(self.name, self.start_ms, self.interval_ms, dict(powers), self._prices)

    def counters_at(self, meter: str, time_ms: int) -> Counters:
        """Return the counters of a home, counted from the start of the data.

        Raises:
            InputError: the home is not in the data, or the time lies before its start.
        """
        home = self._home(meter)
        if time_ms < self.start_ms:
            raise InputError(self.name, f"has no counters for time {time_ms}: it starts at {self.start_ms}")
        laps, offset_ms = divmod(time_ms - self.start_ms, self.end_ms - self.start_ms)
        index, inside_ms = divmod(offset_ms, self.interval_ms)
        net_mw = home.load_mw[index] - home.pv_mw[index]
        imported = laps * home.imported[-1] + home.imported[index] + max(net_mw, 0) * inside_ms
        exported = laps * home.exported[-1] + home.exported[index] + max(-net_mw, 0) * inside_ms
        return Counters(imported // MW_MS_PER_WH, exported // MW_MS_PER_WH)

    def net_series(self, meter: str) -> tuple[int, ...]:
        """Return the net energy (load - solar) of a home in every interval, mWh, rounded down.

        Raises:
            InputError: the home is not in the data.
        """
        home = self._home(meter)
        return tuple((load - pv) * self.interval_ms // MW_MS_PER_MWH for load, pv in zip(home.load_mw, home.pv_mw, strict=True))

    def load_wh(self) -> int:
        """Return what all homes consumed over the whole data, Wh."""
        return sum(sum(home.load_mw) for home in self._homes.values()) * self.interval_ms // MW_MS_PER_WH

    def pv_wh(self) -> int:
        """Return what all homes produced over the whole data, Wh."""
        return sum(sum(home.pv_mw) for home in self._homes.values()) * self.interval_ms // MW_MS_PER_WH

    def first_two_sided_ms(self, period_ms: int) -> int | None:
        """Return the start of the first period in which some homes draw energy and others feed in (at least 1 Wh each), or None.

        Args:
            period_ms: length of the periods; they start at multiples of it.
        """
        first = -(-self.start_ms // period_ms) * period_ms
        for start_ms in range(first, self.end_ms, period_ms):
            nets_wh = [self.net_wh(meter, start_ms, start_ms + period_ms) for meter in self.meters]
            if min(nets_wh) < 0 < max(nets_wh):
                return start_ms
        return None

    def net_wh(self, meter: str, start_ms: int, end_ms: int) -> int:
        """Return what a home drew from the grid between two moments, less what it fed in, Wh.

        Raises:
            InputError: the home is not in the data, or a time lies before its start.
        """
        before, after = self.counters_at(meter, start_ms), self.counters_at(meter, end_ms)
        return after.import_wh - before.import_wh - (after.export_wh - before.export_wh)

    def tariff(self) -> TimeOfUse | None:
        """Return the grid's time-of-use prices, or None if the data has no price column."""
        return self._prices

    def interpolated(self, period_ms: int) -> bool:
        """Tell whether counters at period boundaries lie inside intervals of the data, so that they are interpolated."""
        return period_ms % self.interval_ms != 0 or self.start_ms % self.interval_ms != 0

    def _home(self, meter: str) -> _Home:
        home = self._homes.get(meter)
        if home is None:
            raise InputError(self.name, f"has no household {meter[:64]!r}")
        return home


def shipped_dataset() -> Dataset:
    """Return the data that comes with GridPact: 14 homes, hourly, 28 summer days."""
    return read_dataset(SHIPPED_FILE)


def shipped_past() -> Dataset:
    """Return the six days before the shipped data, of the same homes: what they know of themselves when the replay begins."""
    return read_dataset(SHIPPED_PAST_FILE)


def read_dataset(path: Path) -> Dataset:
    """Read household data from ``path`` (.csv or .csv.gz, columns in the README).

    Raises:
        InputError: the file cannot be read or does not fit; names file, line and column.
    """
    name = str(path)
    slots = _slots(read_rows(path), name)
    meters = tuple(row.meter for row in slots[0])
    expected = frozenset(meters)
    interval_ms = _interval_ms(slots, name)
    powers: dict[str, tuple[list[int], list[int]]] = {meter: ([], []) for meter in meters}
    for index, slot in enumerate(slots):
        line = slot[0].line
        due_ms = slots[0][0].time_ms + index * interval_ms
        if slot[0].time_ms != due_ms:
            raise InputError(f"{name}: line {line}: timestamp", f"the interval is {interval_ms // 1000} s until here and changes")
        missing = expected.difference(row.meter for row in slot)
        if missing:
            raise InputError(f"{name}: line {slot[-1].line}: meter_id", f"{min(missing)} has no row for this time stamp")
        for row in slot:
            if row.meter not in expected:
                raise InputError(f"{name}: line {row.line}: meter_id", f"{row.meter} has no rows for the time stamps before")
            powers[row.meter][0].append(row.load_mw)
            powers[row.meter][1].append(row.pv_mw)
    return Dataset(name, slots[0][0].time_ms, interval_ms, dict(powers), _time_of_use(slots, interval_ms, name))


def _slots(rows: Iterable[Row], name: str) -> list[list[Row]]:
    """Group the rows by time stamp; time stamps may not go back, and no meter may occur twice under one."""
    slots: list[list[Row]] = []
    seen: set[str] = set()
    for row in rows:
        if not slots or row.time_ms > slots[-1][0].time_ms:
            slots.append([])
            seen = set()
        elif row.time_ms < slots[-1][0].time_ms:
            raise InputError(f"{name}: line {row.line}: timestamp", "lies before that of the row above; sort the rows by time stamp")
        if row.meter in seen:
            raise InputError(f"{name}: line {row.line}: meter_id", f"{row.meter} occurs twice for this time stamp")
        seen.add(row.meter)
        slots[-1].append(row)
    return slots


def _interval_ms(slots: list[list[Row]], name: str) -> int:
    if len(slots) < 2:
        raise InputError(name, "has a single time stamp, so the length of its intervals is unknown")
    interval_ms = slots[1][0].time_ms - slots[0][0].time_ms
    if not MIN_INTERVAL_MS <= interval_ms <= DAY_MS:
        raise InputError(
            f"{name}: line {slots[1][0].line}: timestamp", f"an interval of {interval_ms // 1000} s is not between 1 s and a day"
        )
    return interval_ms


def _time_of_use(slots: list[list[Row]], interval_ms: int, name: str) -> TimeOfUse | None:
    """Return prices by kind of day and hour; None without a price column.

    What the data do not cover takes the price of the same hour on the other kind of day, else of the nearest hour that is known.

    Raises:
        InputError: two prices contradict each other.
    """
    prices: dict[tuple[bool, int], int] = {}
    for slot in slots:
        time_ms, price = slot[0].time_ms, slot[0].price_micro_per_kwh
        if price is None:
            return None
        for row in slot:
            if row.price_micro_per_kwh != price:
                field = f"{name}: line {row.line}: {row.price_column}"
                raise InputError(field, f"is not the price of line {slot[0].line}, which has the same time stamp; the grid has one price")
        for hour in range(time_ms // HOUR_MS, (time_ms + interval_ms - 1) // HOUR_MS + 1):
            weekend = (hour // _HOURS + 3) % 7 >= _SATURDAY
            if prices.setdefault((weekend, hour % _HOURS), price) != price:
                raise InputError(f"{name}: line {slot[0].line}: {slot[0].price_column}", _no_tariff(weekend, hour % _HOURS))
    weekday, weekend_prices = (tuple(_price_at(prices, kind, hour) for hour in range(_HOURS)) for kind in (False, True))
    return TimeOfUse(weekday, weekend_prices)


def _no_tariff(weekend: bool, hour: int) -> str:
    day = "weekend days" if weekend else "weekdays"
    return f"{day} had another price at {hour:02d}:00 above; a tariff must repeat by weekday/weekend and full hour, or leave the column out"


def _price_at(prices: dict[tuple[bool, int], int], weekend: bool, hour: int) -> int:
    """Return a price that is known, or the one that stands in for it."""
    for away in range(_HOURS):
        for near in ((hour - away) % _HOURS, (hour + away) % _HOURS):
            for kind in (weekend, not weekend):
                if (kind, near) in prices:
                    return prices[kind, near]
    raise ValueError("no price at all")


def _home(load_mw: Sequence[int], pv_mw: Sequence[int], interval_ms: int) -> _Home:
    nets_mw = [load - pv for load, pv in zip(load_mw, pv_mw, strict=True)]
    imported = accumulate((max(net, 0) * interval_ms for net in nets_mw), initial=0)
    exported = accumulate((max(-net, 0) * interval_ms for net in nets_mw), initial=0)
    return _Home(tuple(load_mw), tuple(pv_mw), tuple(imported), tuple(exported))
