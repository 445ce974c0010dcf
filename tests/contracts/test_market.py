"""Orders, deposits, gates and clearing on the ledger."""

from __future__ import annotations

import pytest

from contracts import closing
from contracts.calls import CancelOrder, PlaceOrder
from contracts.events import Billed, DebtRecorded, Defaulted, OrderAccepted, OrderCancelled, PeriodCleared, PeriodSettled, Traded
from tests.contracts.world import FIRST, GENESIS_MS, GRID_BUY, GRID_SELL, PERIOD_MS, RICH, World, make_genesis

OPENS = (FIRST - 2) * PERIOD_MS
CAP = 10_000_000
BUY_DEPOSIT = GRID_BUY + GRID_BUY // 200
SELL_DEPOSIT = (GRID_BUY - GRID_SELL) + CAP // 10
"""Deposits for 1 kWh with any reserve between the grid's prices, with the default fee and fine."""


def open_world(**changes: int) -> World:
    world = World(make_genesis(**changes))
    world.block(time_ms=OPENS)
    return world


def money(world: World, account: str) -> tuple[int, int]:
    view = world.view.account(account)
    return view.balance_micro, view.locked_micro


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (PlaceOrder(FIRST - 1, "buy", "pv", 1, 1, 1), "BAD_PERIOD"),
        (PlaceOrder(FIRST, "buy", "pv", 0, 1, 1), "BAD_QTY"),
        (PlaceOrder(FIRST, "buy", "pv", -1, 1, 1), "BAD_QTY"),
        (PlaceOrder(FIRST, "buy", "pv", 10**9 + 1, 1, 1), "BAD_QTY"),
        (PlaceOrder(FIRST, "buy", "pv", 2**63, 1, 1), "BAD_QTY"),
        (PlaceOrder(FIRST, "buy", "pv", 1, -1, 1), "BAD_PRICE"),
        (PlaceOrder(FIRST, "buy", "pv", 1, CAP + 1, CAP + 1), "BAD_PRICE"),
        (PlaceOrder(FIRST, "buy", "pv", 1, 1, 10**9 + 1), "BAD_PRICE"),
        (PlaceOrder(FIRST, "sell", "pv", 1, 1, -1), "BAD_PRICE"),
        (PlaceOrder(FIRST, "buy", "pv", 1, 5, 4), "RESERVE_CROSSED"),
        (PlaceOrder(FIRST, "sell", "pv", 1, 5, 6), "RESERVE_CROSSED"),
        (PlaceOrder(FIRST + 1, "buy", "pv", 1, 1, 1), "NOT_OPEN"),
        (PlaceOrder(FIRST, "buy", "pv", 10**9, 2_000_000, 2_000_000), "INSUFFICIENT_FUNDS"),
    ],
)
def test_the_market_does_not_admit(order: PlaceOrder, code: str) -> None:
    world = open_world()
    assert world.call("A", order).code == code
    assert money(world, "A") == (RICH, 0)


def test_the_gate_is_open_between_its_two_times() -> None:
    world = World()
    world.block(time_ms=OPENS - 1)
    assert world.order("A", "buy", 1, 1).code == "NOT_OPEN"
    world.block(time_ms=OPENS)
    assert world.order("A", "buy", 1, 1).code == "OK"
    world.block(time_ms=world.at_gate() - 1)
    assert world.order("A", "buy", 1, 1).code == "OK"
    assert world.block(world.transaction("A", PlaceOrder(FIRST, "buy", "pv", 1, 1, 1)), time_ms=world.at_gate())[0].code == "GATE_CLOSED"


def test_the_grid_company_places_no_orders() -> None:
    assert open_world().order("GRID", "buy", 1, 1).code == "GRID_MAY_NOT_TRADE"


def test_an_order_locks_its_deposit_and_withdrawal_frees_it() -> None:
    world = open_world()
    buy, sell = world.order("A", "buy", 1_000, 450_000, reserve=500_000), world.order("B", "sell", 1_000, 450_000, reserve=400_000)
    assert buy.events == (OrderAccepted(buy.transaction_id.hex(), "A", FIRST, "buy", "pv", 1_000, 450_000),)
    assert money(world, "A") == (RICH - BUY_DEPOSIT, BUY_DEPOSIT)
    assert money(world, "B") == (RICH - SELL_DEPOSIT, SELL_DEPOSIT)
    assert world.cancel("B", buy.transaction_id).code == "NOT_YOUR_ORDER"
    assert world.cancel("A", buy.transaction_id).events == (OrderCancelled(buy.transaction_id.hex(), "A", FIRST),)
    assert money(world, "A") == (RICH, 0)
    assert world.cancel("A", buy.transaction_id).code == "ALREADY_CANCELLED"
    assert world.cancel("A", bytes(32)).code == "NO_SUCH_ORDER"
    late = world.transaction("B", CancelOrder(sell.transaction_id))
    assert world.block(late, time_ms=world.at_gate())[0].code == "GATE_CLOSED"
    assert world.cancel("B", sell.transaction_id).code == "NO_SUCH_ORDER"
    assert money(world, "B") == (RICH - SELL_DEPOSIT, SELL_DEPOSIT)


@pytest.mark.parametrize(
    ("side", "price", "reserve", "deposit"),
    [
        ("buy", 0, GRID_BUY, BUY_DEPOSIT),
        ("buy", 0, 1_000_000, 1_000_000 + 5_000),
        ("buy", 0, 9_000_000, 9_000_000 - GRID_SELL + 900_000),
        ("sell", CAP, GRID_SELL, SELL_DEPOSIT),
        ("sell", CAP, 100_000, GRID_BUY - 100_000 + CAP // 10),
        ("sell", CAP, CAP, SELL_DEPOSIT),
    ],
)
def test_reserves_beyond_the_grids_prices_cost_what_they_may_lose(side: str, price: int, reserve: int, deposit: int) -> None:
    world = open_world()
    world.order("A", side, 1_000, price, reserve=reserve)
    assert money(world, "A") == (RICH - deposit, deposit)


def test_one_account_stands_on_one_side_of_a_period_until_it_withdraws() -> None:
    world = open_world()
    first = world.order("A", "buy", 1, 1)
    assert world.order("A", "sell", 1, 1, kind="wind").code == "OPPOSITE_SIDE"
    world.cancel("A", first.transaction_id)
    assert world.order("A", "sell", 1, 1).code == "OK"
    assert world.order("A", "buy", 1, 1).code == "OPPOSITE_SIDE"


def test_the_book_is_bounded_as_a_whole_and_per_account() -> None:
    world = open_world(max_orders_per_period=3, max_orders_per_account=2)
    placed = [world.order("A", "buy", 1, 1) for _ in range(2)]
    world.cancel("A", placed[0].transaction_id)
    assert world.order("A", "buy", 1, 1).code == "TOO_MANY_ORDERS"
    assert world.order("B", "buy", 1, 1).code == "OK"
    assert world.order("C", "buy", 1, 1).code == "BOOK_FULL"


def test_clearing_matches_each_energy_type_alone_and_assigns_the_rest_to_the_grid() -> None:
    world = open_world()
    world.order("A", "sell", 700, 400_000)
    world.order("A", "sell", 100, 100_000, kind="wind")
    world.order("B", "buy", 500, 500_000)
    cancelled = world.order("C", "buy", 50, 900_000)
    world.order("C", "buy", 40, 300_000)
    world.cancel("C", cancelled.transaction_id)
    before = world.view.market(FIRST)
    assert [order.state for order in before.orders] == ["open", "open", "open", "cancelled", "open"] and before.state == "open"
    world.block(time_ms=world.at_gate())
    assert world.events_of(PeriodCleared) == [PeriodCleared(FIRST, 4, 1, 500, 450_000)]
    view = world.view.market(FIRST)
    assert [(order.account, order.remaining_wh, order.state) for order in view.orders] == [
        ("A", 200, "grid-assigned"),
        ("A", 100, "grid-assigned"),
        ("B", 0, "filled"),
        ("C", 50, "cancelled"),
        ("C", 40, "grid-assigned"),
    ]
    assert (view.state, view.order_count, view.trade_count, view.energy_wh, view.mean_price_micro_per_kwh) == (
        "cleared",
        5,
        1,
        500,
        450_000,
    )
    assert list(view.trades) == world.events_of(Traded)
    assert [order.price_micro_per_kwh for order in before.orders] == [order.price_micro_per_kwh for order in view.orders]
    totals = world.view.totals(world.time_ms)
    assert (totals.orders, totals.trades) == (5, 1)


def test_second_rounds_reach_the_ledger() -> None:
    world = World(make_genesis(tuple(f"{side}{number}" for side in "SB" for number in range(1, 5)), balance_micro=10**12))
    world.block(time_ms=OPENS)
    rows = {"S1": (220, 41, 34), "S2": (540, 45, 41), "S3": (435, 50, 45), "S4": (300, 45, 40)}
    rows |= {"B1": (400, 53, 58), "B2": (480, 51, 56), "B3": (830, 49, 55), "B4": (500, 46, 53)}
    for name, (kwh, price, reserve) in rows.items():
        side = "sell" if name.startswith("S") else "buy"
        assert world.order(name, side, kwh * 1_000, price * 10_000, reserve=reserve * 10_000).code == "OK"
    world.block(time_ms=world.at_gate())
    assert [(t.seller, t.buyer, t.energy_wh // 1_000, t.price_micro_per_kwh, t.round) for t in world.events_of(Traded)] == [
        ("S1", "B1", 220, 470_000, 0),
        ("S2", "B1", 180, 490_000, 0),
        ("S2", "B2", 360, 480_000, 0),
        ("S4", "B2", 120, 480_000, 0),
        ("S4", "B3", 180, 470_000, 0),
        ("S3", "B3", 435, 492_150, 2),
    ]


def settle(world: World, readings: dict[str, tuple[int, int]], proposer: int = 0) -> dict[str, Billed]:
    start, end = world.start(), world.start(FIRST + 1)
    world.block(*(world.read(name, start, 0, 0) for name in readings), time_ms=start)
    world.block(*(world.read(name, end, *counters) for name, counters in readings.items()), time_ms=end, proposer=proposer)
    return {bill.account: bill for bill in world.events_of(Billed)}


def test_a_seller_who_under_delivers_pays_and_is_on_record() -> None:
    world = open_world()
    world.order("A", "sell", 1_000, 450_000)
    world.order("B", "buy", 1_000, 450_000)
    bills = settle(world, {"A": (0, 400), "B": (1_000, 0), "C": (0, 0)}, proposer=2)
    penalty = (600 - 50) * (590 - 450 + 45)
    assert world.events_of(Defaulted) == [Defaulted("A", FIRST, 0, "under-delivery", 1_000, 400, penalty)]
    assert (bills["A"].penalty_micro, bills["B"].penalty_micro) == (penalty, -penalty)
    assert bills["B"].paid_micro == 180_000 + 600 * 590
    assert bills["DC2"].fee_micro == -1_800 and "DC0" not in bills
    settled = world.events_of(PeriodSettled)[0]
    assert (settled.energy_traded_wh, settled.energy_grid_wh, settled.fees_micro, settled.proposer_account) == (400, 600, 1_800, "DC2")
    credit = world.view.credit("A")
    assert (credit.score_ppm, credit.periods, credit.under_deliveries, credit.under_takes) == (970_000, 1, 1, 0)
    assert world.view.credit("B").score_ppm == 1_000_000 and world.view.credit("B").periods == 1
    assert world.view.credit("C").periods == 0


def test_a_buyer_who_under_takes_is_on_record() -> None:
    world = open_world()
    world.order("A", "sell", 1_000, 450_000)
    world.order("B", "buy", 1_000, 450_000)
    bills = settle(world, {"A": (0, 1_000), "B": (0, 0), "C": (0, 0)}, proposer=-1)
    penalty = 950 * (450 - 310 + 45)
    assert world.events_of(Defaulted) == [Defaulted("B", FIRST, 0, "under-take", 1_000, 0, penalty)]
    assert bills["A"].penalty_micro == -penalty and bills["A"].grid_sold_wh == 1_000
    assert bills["OPERATOR"].fee_micro == 0
    assert world.view.credit("B").under_takes == 1


def test_an_account_without_a_meter_can_trade_and_then_defaults() -> None:
    world = open_world()
    world.order("OPERATOR", "sell", 100, 450_000)
    world.order("B", "buy", 100, 450_000)
    bills = settle(world, {"A": (0, 0), "B": (100, 0), "C": (0, 0)})
    assert bills["OPERATOR"].penalty_micro > 0 and bills["OPERATOR"].import_wh == 0
    assert world.view.totals(world.time_ms).supply_conserved


def test_who_cannot_pay_is_in_debt_until_money_comes() -> None:
    world = open_world(balance_micro=1_000)
    settle(world, {"A": (4_000, 0), "B": (0, 0), "C": (0, 0)})
    debt = 4_000 * 590 - 1_000
    assert world.events_of(DebtRecorded) == [DebtRecorded("A", FIRST, debt)]
    view = world.view.account("A")
    assert (view.balance_micro, view.debt_micro) == (-debt, debt) and world.view.credit("A").debts == 1
    assert world.pay("A", "B", 1).code == "INSUFFICIENT_FUNDS"
    assert world.order("A", "buy", 1, 1, period=FIRST + 3).code == "INSUFFICIENT_FUNDS"
    assert world.pay("OPERATOR", "A", debt).code == "OK"
    assert world.view.account("A").debt_micro == 0
    assert world.view.totals(world.time_ms).supply_conserved


def test_selling_to_the_grid_drives_only_the_grid_below_zero() -> None:
    world = open_world()
    settle(world, {"A": (0, 1_000), "B": (0, 0), "C": (0, 0)})
    grid = world.view.account("GRID")
    assert (grid.balance_micro, grid.debt_micro) == (-310_000, 0)
    assert world.events_of(DebtRecorded) == []


def test_periods_that_pass_between_two_blocks_all_fire_in_order() -> None:
    world = open_world()
    world.order("A", "sell", 100, 1)
    world.order("B", "buy", 100, 5)
    last = FIRST + 20
    world.block(time_ms=world.start(last))
    assert [event.period for event in world.events_of(PeriodCleared)] == list(range(FIRST, FIRST + 8))
    while world.application.next_deadline_ms() <= world.time_ms:
        world.block()
    assert [event.period for event in world.events_of(PeriodCleared)] == list(range(FIRST, last + 1))
    assert [event.period for event in world.events_of(PeriodSettled)] == list(range(FIRST, last - 1))
    assert world.application.next_deadline_ms() == world.start(last) + 600_000
    assert world.view.totals(world.time_ms).supply_conserved and money(world, "A")[1] == 0


def test_what_a_block_has_no_room_for_falls_due_in_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "EVENTS_PER_BLOCK", 40)
    world = open_world(open_before_ms=4 * PERIOD_MS)
    for period in range(FIRST, FIRST + 3):
        for _ in range(10):
            world.order("A", "sell", 1, 400_000, period)
            world.order("B", "buy", 1, 400_000, period)
    done = []
    world.block(time_ms=world.start(FIRST + 3))
    while True:
        kinds = {PeriodCleared: "cleared", PeriodSettled: "settled"}
        done.append([f"{kinds[type(event)]} {event.period - FIRST}" for event in world.last.events if type(event) in kinds])
        assert len(world.last.events) <= 40
        if world.application.next_deadline_ms() > world.time_ms:
            break
        world.block()
    assert done == [["cleared 0", "cleared 1"], ["cleared 2", "cleared 3"], ["settled 0"], ["settled 1"]]
    assert world.view.totals(world.time_ms).supply_conserved


def test_gates_fire_before_transactions_can_slip_in() -> None:
    world = open_world()
    world.order("A", "sell", 100, 1)
    late = world.transaction("B", PlaceOrder(FIRST, "buy", "pv", 100, 5, 5))
    receipts = world.block(late, time_ms=world.start(FIRST + 1))
    assert receipts[0].code == "GATE_CLOSED" and world.events_of(Traded) == []


def test_deadlines_are_gates_and_ends() -> None:
    world = World()
    assert world.application.next_deadline_ms() == world.at_gate()
    world.block(time_ms=world.at_gate())
    assert world.application.next_deadline_ms() == world.at_gate(FIRST + 1)
    world.block(time_ms=world.at_gate(FIRST + 1))
    assert world.application.next_deadline_ms() == world.at_gate(FIRST + 2) == world.start(FIRST + 1) + 600_000
    assert world.genesis.time_ms == GENESIS_MS
