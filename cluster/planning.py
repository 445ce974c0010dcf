"""Decides what a new local cluster looks like: households, start, tariff, rules. Pure: writes nothing, makes no keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from consensus.errors import InputError
from contracts.genesis import ConsensusRules, MarketRules, Role, Tariff
from meters.dataset import MW_MS_PER_MWH, SHIPPED_FILE, Dataset, read_dataset, shipped_dataset, shipped_past

HOURS = 24
DAY_MS = HOURS * 3_600_000
WEEK_MS = 7 * DAY_MS
DEFAULT_PERIOD_MS = 15 * 60_000
DEFAULT_SPEED = 60.0
DEFAULT_NODES = 4
DEFAULT_BUY_MICRO_PER_KWH = 300_000
FEED_IN_MICRO_PER_KWH = 80_000
CURRENCY = "USD"
HOUSEHOLD_BALANCE_MICRO = 250_000_000
GRID_BALANCE_MICRO = 1_000_000_000_000
SMALLEST_FUSE_W = 17_250
"""Three phases of 25 A."""
DRIFT_MS = 5_000
MAX_VALIDITY_REAL_MS = 3_600_000
SHORTEST_PERIOD_REAL_MS = 1_000
GATE_REAL_MS = 500
ACCOUNT_PREFIX = "home-"
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for; None where nothing was asked.

    Attributes:
        start_ms: start of the first delivery period, chain time.
        broker: "embedded" or a URL.
        currency: what money is called.
        feed_in_micro: what the grid pays, 1e-6 currency per kWh.
    """

    nodes: int | None = None
    data: Path | None = None
    start_ms: int | None = None
    households: int | None = None
    period_ms: int | None = None
    speed: float | None = None
    broker: str | None = None
    broker_users: Path | None = None
    broker_ca: Path | None = None
    market: str | None = None
    currency: str | None = None
    feed_in_micro: int | None = None


@dataclass(frozen=True, slots=True)
class HouseholdPlan:
    """One household before it has keys: ``meter`` is its column in the data too."""

    account: str
    meter: str
    role: Role
    fuse_w: int
    import_wh: int
    export_wh: int


@dataclass(frozen=True, slots=True)
class LedgerPlan:
    """What the ledger of a new cluster starts with.

    Attributes:
        genesis_ms: time of the genesis block, one period before the first delivery period.
        offset_ms: how much later the chain lives than the data (0 in a replay).
        interpolated: the data are coarser than the periods.
    """

    households: tuple[HouseholdPlan, ...]
    genesis_ms: int
    start_ms: int
    offset_ms: int
    currency: str
    tariff: Tariff
    market: MarketRules
    consensus: ConsensusRules
    interpolated: bool
    data_name: str
    data_digest: str
    data_start_ms: int
    data_end_ms: int


def plan_ledger(wishes: Wishes, *, now_ms: int | None = None) -> LedgerPlan:
    """Read the data and decide.

    Args:
        now_ms: earliest start of the first delivery period, for a cluster that lives in real time; None for a replay in the data's
            own time.

    Raises:
        InputError: the data or a wish does not fit.
    """
    period_ms = wishes.period_ms if wishes.period_ms is not None else DEFAULT_PERIOD_MS
    speed = wishes.speed if wishes.speed is not None else DEFAULT_SPEED
    _check_period(period_ms, speed if now_ms is None else 1.0)
    dataset = read_household_data(wishes)
    if now_ms is None:
        start_ms, offset_ms = _replay_start(dataset, period_ms, wishes.start_ms), 0
    else:
        start_ms = _real_start(now_ms, period_ms, wishes.start_ms)
        offset_ms = (start_ms - period_ms - dataset.start_ms) // WEEK_MS * WEEK_MS
    genesis_ms = start_ms - period_ms
    return LedgerPlan(
        households=tuple(_household(dataset, meter, max(genesis_ms - offset_ms, dataset.start_ms)) for meter in dataset.meters),
        genesis_ms=genesis_ms,
        start_ms=start_ms,
        offset_ms=offset_ms,
        currency=wishes.currency if wishes.currency is not None else CURRENCY,
        tariff=tariff_of(dataset, wishes.feed_in_micro if wishes.feed_in_micro is not None else FEED_IN_MICRO_PER_KWH),
        market=market_rules(period_ms, start_ms // period_ms, speed if now_ms is None else 1.0),
        consensus=consensus_rules(speed if now_ms is None else 1.0),
        interpolated=dataset.interpolated(period_ms),
        data_name="" if wishes.data is None else str(wishes.data.absolute()),
        data_start_ms=dataset.start_ms,
        data_end_ms=dataset.end_ms,
        data_digest=hashlib.sha256((wishes.data or SHIPPED_FILE).read_bytes()).hexdigest(),
    )


def read_household_past(wishes: Wishes) -> Dataset | None:
    """Return the data of the days before those of :func:`read_household_data`, for the shipped homes; None for the user's own data."""
    return shipped_past() if wishes.data is None else None


def read_household_data(wishes: Wishes) -> Dataset:
    """Return the data of the households that take part: the first ones of the file.

    Raises:
        InputError: the data or the number of households does not fit.
    """
    dataset = read_dataset(wishes.data) if wishes.data is not None else shipped_dataset()
    return _select(dataset, wishes.households)


def market_rules(period_ms: int, first_period: int, speed: float) -> MarketRules:
    """Return rules under which a period is traded while the one before it is delivered.

    The gate closes a fifteenth of a period before delivery (at least half a real second, at most a third of the period), and opens one
    period earlier, so books follow each other without a gap. Meters have a third of a period to report.
    """
    gate_ms = min(max(period_ms // 15, int(GATE_REAL_MS * speed)), period_ms // 3)
    return MarketRules(
        period_ms=period_ms,
        first_period=first_period,
        open_before_ms=period_ms + gate_ms,
        gate_closure_before_ms=gate_ms,
        metering_grace_ms=period_ms // 3,
    )


def consensus_rules(speed: float) -> ConsensusRules:
    """Return limits in chain time that mean the same real time at any speed of the replay."""
    return ConsensusRules(
        max_drift_ms=max(DRIFT_MS, int(DRIFT_MS * speed)),
        max_validity_ms=min(max(DAY_MS, int(MAX_VALIDITY_REAL_MS * speed)), 366 * DAY_MS),
    )


def tariff_of(dataset: Dataset, feed_in_micro: int) -> Tariff:
    """Return the data's time-of-use prices, or a flat one of 0.30 if there are none; the feed-in price is the same all the time."""
    prices = dataset.tariff()
    flat = (DEFAULT_BUY_MICRO_PER_KWH,) * HOURS
    weekday = flat if prices is None else prices.weekday_micro_per_kwh
    weekend = flat if prices is None else prices.weekend_micro_per_kwh
    return Tariff(weekday, weekend, feed_in_micro)


def reading_interval_ms(period_ms: int) -> int:
    """Return how often meters read: three times a period, or once where that does not come out even."""
    return period_ms // 3 if period_ms % 3 == 0 else period_ms


def _check_period(period_ms: int, speed: float) -> None:
    if period_ms > DAY_MS or DAY_MS % period_ms:
        raise InputError("--period", f"{period_ms / 1000:g} s does not divide a day")
    if period_ms / speed < SHORTEST_PERIOD_REAL_MS:
        raise InputError("--speed", f"a period would last {period_ms / speed:.0f} ms; it needs at least {SHORTEST_PERIOD_REAL_MS} ms")


def _select(dataset: Dataset, households: int | None) -> Dataset:
    """Return the first ``households`` homes of the data."""
    if households is None:
        return dataset
    if households > len(dataset.meters):
        raise InputError("--households", f"{households} are asked for, {dataset.name} has {len(dataset.meters)}")
    return dataset.select(dataset.meters[:households])


def _replay_start(dataset: Dataset, period_ms: int, asked_ms: int | None) -> int:
    """Return the start of the first delivery period: as asked, else the first one with both surplus and deficit that comes after one.

    Then the agents have seen today's sun in their own records and know what to offer, and the first period has trades.
    """
    if asked_ms is None:
        first_ms = dataset.first_two_sided_ms(period_ms)
        if first_ms is None:
            return -(-dataset.start_ms // period_ms) * period_ms
        known_ms = max(dataset.interval_ms, period_ms)
        for start_ms in range(first_ms + known_ms, dataset.end_ms, period_ms):
            if _two_sided(dataset, start_ms, period_ms) and _two_sided(dataset, start_ms - known_ms, period_ms):
                return start_ms
        return first_ms
    if asked_ms % period_ms:
        raise InputError("--start", f"is not at the start of a period of {period_ms / 1000:g} s")
    if not dataset.start_ms <= asked_ms < dataset.end_ms:
        raise InputError("--start", f"lies outside the data of {dataset.name}")
    return asked_ms


def _real_start(now_ms: int, period_ms: int, asked_ms: int | None) -> int:
    """Return the start of the first delivery period of a chain in real time: as asked, else the first one from ``now_ms`` on."""
    if asked_ms is None:
        return -(-now_ms // period_ms) * period_ms
    if asked_ms % period_ms:
        raise InputError("--start", f"is not at the start of a period of {period_ms / 1000:g} s")
    return asked_ms


def _two_sided(dataset: Dataset, start_ms: int, period_ms: int) -> bool:
    """Tell whether some homes draw energy and others feed in, at least 1 Wh each."""
    nets_wh = [dataset.net_wh(meter, start_ms, start_ms + period_ms) for meter in dataset.meters]
    return min(nets_wh) < 0 < max(nets_wh)


def _household(dataset: Dataset, meter: str, first_ms: int) -> HouseholdPlan:
    """Return the plan of one household whose meter is first read at ``first_ms`` (the data's time)."""
    if len(ACCOUNT_PREFIX) + len(meter) > MAX_NAME:
        raise InputError(dataset.name, f"the name of household {meter} is longer than {MAX_NAME - len(ACCOUNT_PREFIX)} characters")
    series = dataset.net_series(meter)
    strongest_w = max(abs(energy_mwh) for energy_mwh in series) * MW_MS_PER_MWH // dataset.interval_ms // 1000
    role: Role = "prosumer" if min(series) < 0 else "consumer"
    counters = dataset.counters_at(meter, first_ms)
    fuse_w = max(SMALLEST_FUSE_W, strongest_w * 3 // 2)
    return HouseholdPlan(f"{ACCOUNT_PREFIX}{meter}", meter, role, fuse_w, counters.import_wh, counters.export_wh)
