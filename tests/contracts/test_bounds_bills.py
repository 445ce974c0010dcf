"""A random week through the real ledger against a naive one: registers kept as a list, money in fractions, balances to the micro."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from contracts.events import Billed, OrderAccepted, ReadingAccepted, Traded
from contracts.settlement import Contract, Metered, Terms
from tests.contracts.test_oracle_settlement import Naive
from tests.contracts.world import FIRST, GRID_BUY, GRID_SELL, PERIOD_MS, World, make_genesis

MEMBERS = ("A", "B", "C", "D")
GRACE_MS = 600_000
QUARTER_MS = PERIOD_MS // 3


def money_of(world: World) -> dict[str, int]:
    return {view.account: view.balance_micro + view.locked_micro for view in world.view.accounts()}


class Week:
    """A world of four members with random loads, orders and networks, and the naive account of it.

    Attributes:
        known: readings that the chain has, per member: time, import, export.
        held: readings that are still under way, with their sequence numbers.
        expected: money per account.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.world = World(make_genesis(MEMBERS, balance_micro=rng.choice((300_000, 10**9)), fuse_w=1_000_000))
        self.counters = dict.fromkeys(MEMBERS, (0, 0))
        self.known: dict[str, list[tuple[int, int, int]]] = {name: [(0, 0, 0)] for name in MEMBERS}
        self.held: list[tuple[str, tuple[int, int, int], int]] = []
        self.settled = dict.fromkeys(MEMBERS, (0, 0))
        self.expected = money_of(self.world)

    def trade(self, period: int) -> None:
        """Place some orders, withdraw some, close the gate."""
        rng, world = self.rng, self.world
        placed = []
        for _ in range(rng.randrange(7)):
            side = rng.choice(("buy", "sell"))
            price = rng.randint(200_000, 700_000)
            reserve = price + rng.randint(0, 200_000) * (1 if side == "buy" else -1)
            receipt = world.order(rng.choice(MEMBERS), side, rng.randint(1, 3_000), price, period, reserve)
            placed += [event for event in receipt.events if isinstance(event, OrderAccepted)]
        for event in placed:
            if rng.random() < 0.2:
                world.cancel(event.account, bytes.fromhex(event.order))
        world.block(time_ms=world.at_gate(period))

    def meter(self, time_ms: int) -> None:
        """Read all meters; some readings come later, out of order."""
        rng, world = self.rng, self.world
        world.block(time_ms=time_ms)
        for name in MEMBERS:
            self.counters[name] = (self.counters[name][0] + rng.randint(0, 1_500), self.counters[name][1] + rng.randint(0, 1_500))
            meter = f"m-{name}"
            world.sequences[meter] = world.sequences.get(meter, 0) + 1
            self.held.append((name, (time_ms, *self.counters[name]), world.sequences[meter]))
        keep = []
        for name, (read_ms, import_wh, export_wh), sequence in self.held:
            if rng.random() < 0.15:
                keep.append((name, (read_ms, import_wh, export_wh), sequence))
                continue
            receipt = world.block(world.read(name, read_ms, import_wh, export_wh, sequence=sequence))[0]
            assert receipt.code == "OK" and isinstance(receipt.events[0], ReadingAccepted)
            self.known[name].append((read_ms, import_wh, export_wh))
        self.held = keep

    def check_money(self, period: int) -> None:
        """Compare bills and balances with naive money on the registers that the chain settled."""
        world = self.world
        bills = {bill.account: bill for bill in world.events_of(Billed) if bill.period == period}
        trades = [
            Contract(str(one.trade), one.seller, one.buyer, one.energy_wh, one.price_micro_per_kwh)
            for one in world.events_of(Traded)
            if one.period == period
        ]
        rules = world.genesis.market
        meters = {name: Metered(bills[name].import_wh, bills[name].export_wh) for name in MEMBERS}
        terms = Terms(GRID_BUY, GRID_SELL, rules.fine_ppm, rules.tolerance_ppm, rules.fee_ppm, "GRID", "DC0")
        naive = Naive(trades, meters, terms)
        alone: dict[str, int] = defaultdict(int)
        for name, metered in meters.items():
            gain = (metered.export_wh * GRID_SELL + 500) // 1_000 - (metered.import_wh * GRID_BUY + 500) // 1_000
            alone[name] += gain
            alone["GRID"] -= gain
        for account, bill in bills.items():
            assert bill.net_micro == naive.cash[account]
            assert bill.saving_micro == naive.cash[account] - alone[account]
        for account, amount in naive.cash.items():
            self.expected[account] += amount
        assert money_of(world) == self.expected

    def check_energy(self, period: int) -> None:
        """Compare what was settled with the true counters: never above them, nor above the last reading until the boundary."""
        bills = {bill.account: bill for bill in self.world.events_of(Billed) if bill.period == period}
        boundary_ms = (period + 1) * PERIOD_MS
        for name in MEMBERS:
            before = self.settled[name]
            settled = self.settled[name] = (before[0] + bills[name].import_wh, before[1] + bills[name].export_wh)
            register = max((one for one in self.known[name] if one[0] <= boundary_ms), key=lambda one: one[0])
            assert settled >= (0, 0) and settled[0] <= self.counters[name][0]
            assert settled[0] <= register[1] and settled[1] <= register[2]


@pytest.mark.parametrize("seed", range(4))
def test_every_bill_and_balance_of_a_random_week_is_the_naive_one(seed: int) -> None:
    week = Week(seed)
    world, total = week.world, sum(week.expected.values())
    world.block(*(world.read(name, FIRST * PERIOD_MS - 1, 0, 0) for name in MEMBERS), time_ms=FIRST * PERIOD_MS - PERIOD_MS)
    for period in range(FIRST, FIRST + 672):
        week.trade(period)
        for third in range(1, 4):
            week.meter(period * PERIOD_MS + third * QUARTER_MS)
        world.block(time_ms=(period + 1) * PERIOD_MS + GRACE_MS)
        assert world.view.progress is not None and world.view.progress.next_settle == period + 1
        week.check_money(period)
        week.check_energy(period)
    assert sum(week.expected.values()) == total
    world.block(time_ms=world.time_ms + 3 * PERIOD_MS + GRACE_MS)
    assert all(view.locked_micro == 0 for view in world.view.accounts())
    assert world.view.totals(world.time_ms).supply_conserved
