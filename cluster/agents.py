"""Trading agents: one per household, each a member on its own, through the public HTTP API only.

An agent knows its key, its own meter's past and committed readings, and what everybody may see: genesis with the tariff, and the
mean prices of cleared periods. Agents of one process share nothing but the event loop.

Per delivery period, by chain time:

| when | what |
| --- | --- |
| middle of the order window | read the own meter, learn from the market cleared last, forecast, place one order or none |
| late in the window | read the meter again; if the forecast has moved much, cancel the order and place another |
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from cluster.forecasting import Counters, NetEnergy, NetForecaster
from cluster.quoting import Quote, Quoter, Tariff, Temper
from consensus.codec import encode
from consensus.crypto import Signer
from consensus.errors import GridPactError, InputError
from contracts.calls import CancelOrder, PlaceOrder, TimeMs
from contracts.genesis import Genesis
from contracts.views import MarketView
from node.client import GridPactClient, Member, Refused

log = logging.getLogger("gridpact.agents")

ENERGY_TYPE = "pv"
ORDER_AT = 0.5
ADJUST_AT = 0.85
JITTER = 0.1
ADJUST_SHARE = 0.25
"""The order is replaced when the wanted quantity has moved by more than this share of it."""
LEARN_BACK = 8
"""How many past periods a newcomer looks up."""
RECEIPT_TIMEOUT_S = 20.0
PAUSE_S = 0.25
RETRY_S = 1.0
STATUS_EVERY_S = 1.0
_CLEARED = frozenset({"cleared", "delivering", "metering", "settled"})


class PastReading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a household's own records from before the chain's start: counters at a time.

    They lead up to the meter's first counters on the chain, so they may be negative.
    """

    time_ms: TimeMs
    import_wh: int
    export_wh: int


@dataclass(frozen=True)
class AgentSetup:
    """What one agent is given.

    Attributes:
        account, meter: its household's.
        signer: holds the account's key.
        history: the household's own records; absent or None: it has none.
        urls: of the nodes, the first one preferred.
    """

    account: str
    meter: str
    signer: Signer
    history: Path | None
    urls: tuple[str, ...]


@dataclass(frozen=True)
class AgentsConfig:
    """All agents of one process.

    Attributes:
        agents: one per household.
        now_ms: chain time.
        speed: chain time per real time, to know how long to sleep.
        status_file: where the counts go.
    """

    agents: tuple[AgentSetup, ...]
    now_ms: Callable[[], int]
    speed: float
    status_file: Path


@dataclass(slots=True)
class AgentCounts:
    """What one agent did."""

    placed: int = 0
    adjusted: int = 0
    idle_periods: int = 0
    unreachable: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class AgentStatus(msgspec.Struct, frozen=True):
    """The counts of one agent in the status file."""

    account: str
    placed: int
    adjusted: int
    idle_periods: int


class AgentsStatus(msgspec.Struct, frozen=True):
    """The status file: sums over all agents. No forecast, margin or reserve stands in it: these are the households' own."""

    time_ms: Annotated[int, Meta(ge=0)]
    agents: int
    orders_placed: int
    orders_adjusted: int
    unreachable: int
    refused: dict[str, int]
    households: tuple[AgentStatus, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    """The agent's order of one period, as the chain accepted it."""

    period: int
    order: bytes
    quote: Quote


class TradingAgent:
    """One household's agent.

    Args:
        setup: what it is given.
        client: reaches the nodes.
        genesis: the public agreement.
        config: clock and speed.
    """

    def __init__(self, setup: AgentSetup, client: GridPactClient, genesis: Genesis, config: AgentsConfig) -> None:
        secret = setup.signer.sign(b"GridPact trading temper")
        self.counts = AgentCounts()
        self._setup = setup
        self._client = client
        self._genesis = genesis
        self._now_ms = config.now_ms
        self._speed = config.speed
        self._member = Member(client, setup.account, setup.signer, now_ms=config.now_ms)
        self._energy = NetEnergy(genesis.market.period_ms)
        self._forecaster = NetForecaster(genesis.market.period_ms)
        self._quoter = Quoter(Temper.of(secret), genesis.market.period_ms)
        self._jitter = (secret[-1] / 255 - 0.5) * JITTER
        self._learned_up_to: int | None = None
        self._decided: int | None = None
        self._orders: dict[int, _Placed] = {}

    async def run(self) -> None:
        """Trade period after period until cancelled. What fails is counted and logged.

        A period in which nothing was decided yet is tried again while there is time, else the next one begins.
        """
        self._recall()
        period = self._next_period()
        while True:
            done = True
            try:
                await self._trade(period)
            except Refused as error:
                self.counts.refused[error.code] += 1
                log.warning("%s: refused in period %d: %s", self._setup.account, period, error)
            except (GridPactError, TimeoutError) as error:
                self.counts.unreachable += 1
                log.warning("%s: no answer in period %d: %s", self._setup.account, period, error)
                await asyncio.sleep(RETRY_S)
                done = self._decided == period
            period = max(period + 1 if done else period, self._next_period())

    # --------------------------------------------------------------------------------------------------------- one period

    async def _trade(self, period: int) -> None:
        await self._sleep_until(self._window_ms(period, ORDER_AT + self._jitter))
        await self._observe()
        await self._learn(period)
        placed = await self._place(period)
        await self._sleep_until(self._window_ms(period, ADJUST_AT + self._jitter))
        await self._observe()
        await self._adjust(period, placed)

    async def _place(self, period: int) -> _Placed | None:
        """Place the order that the forecast suggests, if any, and wait until the chain has accepted it."""
        quote = self._quote(period)
        self._decided = period
        if quote is None:
            self.counts.idle_periods += 1
            return None
        placed = await self._hand_in(period, quote)
        self.counts.placed += 1
        return placed

    async def _adjust(self, period: int, placed: _Placed | None) -> None:
        """Replace the order if the quantity that is wanted now is quite another. Another role cannot be had in the same period."""
        quote = self._quote(period)
        if placed is None or quote is None or quote.side != placed.quote.side:
            return
        if abs(quote.energy_wh - placed.quote.energy_wh) <= ADJUST_SHARE * placed.quote.energy_wh:
            return
        await self._member.execute(CancelOrder(placed.order), self._receipt_timeout_s(period))
        del self._orders[period]
        await self._hand_in(period, quote)
        self.counts.adjusted += 1

    async def _hand_in(self, period: int, quote: Quote) -> _Placed:
        call = PlaceOrder(period, quote.side, ENERGY_TYPE, quote.energy_wh, quote.price_micro_per_kwh, quote.reserve_micro_per_kwh)
        executed = await self._member.execute(call, self._receipt_timeout_s(period))
        placed = _Placed(period, executed.id, quote)
        self._orders[period] = placed
        log.info("%s: order for period %d: %s %d Wh", self._setup.account, period, quote.side, quote.energy_wh)
        return placed

    def _quote(self, period: int) -> Quote | None:
        forecast = self._forecaster.forecast(period, self._energy.running())
        return None if forecast is None else self._quoter.quote(forecast, self._tariff(period))

    # ------------------------------------------------------------------------------------------------- what it comes to know

    def _recall(self) -> None:
        """Learn from the household's own records, if there are any."""
        for counters in read_history(self._setup.history):
            self._take(counters)

    async def _observe(self) -> None:
        """Read the own meter: its last committed reading."""
        view = await self._client.meter(self._setup.meter)
        if view is not None and view.last_sequence > 0:
            self._take(Counters(view.last_time_ms, view.import_wh, view.export_wh))

    def _take(self, counters: Counters) -> None:
        for period, net_wh in self._energy.add(counters):
            self._forecaster.learn(period, net_wh)

    async def _learn(self, period: int) -> None:
        """Learn from the markets that were cleared since the last time, before ``period``."""
        first = self._learned_up_to + 1 if self._learned_up_to is not None else period - LEARN_BACK
        for past in range(max(first, self._genesis.market.first_period, period - LEARN_BACK), period):
            market = await self._client.market(past)
            if market is None or market.state not in _CLEARED:
                return
            self._quoter.learn_price(market.mean_price_micro_per_kwh, self._tariff(past))
            own = self._orders.pop(past, None)
            if own is not None:
                self._quoter.learn_outcome(matched_wh(market, own.order.hex()) / own.quote.energy_wh)
            self._learned_up_to = past

    def _tariff(self, period: int) -> Tariff:
        market, tariff = self._genesis.market, self._genesis.tariff
        retail = tariff.buy_micro_per_kwh(period * market.period_ms)
        return Tariff(tariff.feed_in_micro_per_kwh, min(retail, market.price_cap_micro_per_kwh), market.fee_ppm, market.fine_ppm)

    # --------------------------------------------------------------------------------------------------------------- time

    def _next_period(self) -> int:
        """Return the first period whose order window has not passed its time of ordering, or is still open long enough."""
        market = self._genesis.market
        gate_lead_ms = market.gate_closure_before_ms
        period = (self._now_ms() + gate_lead_ms) // market.period_ms
        while self._window_ms(period, ADJUST_AT) <= self._now_ms():
            period += 1
        return max(period, market.first_period)

    def _window_ms(self, period: int, share: float) -> int:
        """Return the chain time at a share of a period's order window."""
        market = self._genesis.market
        start_ms = period * market.period_ms
        opens_ms = max(start_ms - market.open_before_ms, self._genesis.time_ms)
        return round(opens_ms + share * (start_ms - market.gate_closure_before_ms - opens_ms))

    def _receipt_timeout_s(self, period: int) -> float:
        """Return how long a receipt of this period is worth waiting for, real seconds."""
        end_ms = period * self._genesis.market.period_ms
        return min(RECEIPT_TIMEOUT_S, max(1.0, (end_ms - self._now_ms()) / self._speed / 1000))

    async def _sleep_until(self, time_ms: int) -> None:
        """Sleep until a chain time; the clock may be held meanwhile."""
        while (left_ms := time_ms - self._now_ms()) > 0:  # noqa: ASYNC110 - no event tells of time
            await asyncio.sleep(min(left_ms / self._speed / 1000 + 0.001, PAUSE_S))


def matched_wh(market: MarketView, order: str) -> int:
    """Return how much of one order was matched with other households, Wh.

    Args:
        order: id in hex.
    """
    return sum(trade.energy_wh for trade in market.trades if order in (trade.buy_order, trade.sell_order))


def read_history(path: Path | None) -> list[Counters]:
    """Return a household's own records by rising time; none if there is no file.

    Raises:
        InputError: the file cannot be read or does not fit.
    """
    if path is None or not path.exists():
        return []
    try:
        past = msgspec.json.decode(path.read_bytes(), type=list[PastReading])
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(str(path), str(error)) from error
    return sorted(Counters(one.time_ms, one.import_wh, one.export_wh) for one in past)


async def run_agents(config: AgentsConfig, stop: asyncio.Event) -> None:
    """Run all agents until ``stop`` is set.

    Raises:
        InputError: a file that an agent was given does not fit.
    """
    for setup in config.agents:
        read_history(setup.history)
    counts: dict[str, AgentCounts] = {}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run_agent(setup, config, counts), name=setup.account) for setup in config.agents]
        tasks.append(group.create_task(_write_status(config, counts)))
        await stop.wait()
        for task in tasks:
            task.cancel()
    write_status(config, counts)


async def _run_agent(setup: AgentSetup, config: AgentsConfig, counts: dict[str, AgentCounts]) -> None:
    """Wait for the nodes, then run one agent."""
    async with GridPactClient(setup.urls) as client:
        while True:
            try:
                genesis = await client.genesis()
                break
            except GridPactError as error:
                log.info("%s: waiting for the nodes: %s", setup.account, error)
                await asyncio.sleep(RETRY_S)
        agent = TradingAgent(setup, client, genesis, config)
        counts[setup.account] = agent.counts
        await agent.run()


async def _write_status(config: AgentsConfig, counts: dict[str, AgentCounts]) -> None:
    written = b""
    while True:
        seen = encode(
            [(one.placed, one.adjusted, one.idle_periods, one.unreachable, sorted(one.refused.items())) for one in counts.values()]
        )
        if seen != written:
            write_status(config, counts)
            written = seen
        await asyncio.sleep(STATUS_EVERY_S)


def write_status(config: AgentsConfig, counts: dict[str, AgentCounts]) -> None:
    """Write the status file, whole or not at all."""
    refused: Counter[str] = Counter()
    for one in counts.values():
        refused.update(one.refused)
    status = AgentsStatus(
        time_ms=config.now_ms(),
        agents=len(config.agents),
        orders_placed=sum(one.placed for one in counts.values()),
        orders_adjusted=sum(one.adjusted for one in counts.values()),
        unreachable=sum(one.unreachable for one in counts.values()),
        refused=dict(sorted(refused.items())),
        households=tuple(AgentStatus(account, one.placed, one.adjusted, one.idle_periods) for account, one in sorted(counts.items())),
    )
    config.status_file.parent.mkdir(parents=True, exist_ok=True)
    partial = config.status_file.with_suffix(".new")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n")
    partial.replace(config.status_file)
