from __future__ import annotations

import pytest

from contracts.events import Billed, Traded
from contracts.records import order_key
from tests.contracts.world import FIRST, GRID_BUY, GRID_SELL, PERIOD_MS, RICH, World, make_genesis


def busy_world(members: int = 70) -> World:
    """More members than fit on a page, all trading in the first period, settled."""
    names = tuple(f"M{number:03}" for number in range(members))
    world = World(make_genesis(names))
    world.block(time_ms=(FIRST - 2) * PERIOD_MS)
    for number, name in enumerate(names):
        assert world.order(name, "buy" if number % 2 else "sell", 10, 400_000).code == "OK"
        assert world.order(name, "buy" if number % 2 else "sell", 10, 400_000).code == "OK"
    world.block(time_ms=world.at_gate())
    for period in (FIRST, FIRST + 1):
        boundary = world.start(period + 1)
        world.block(*(world.read(name, boundary, 20 * (period - FIRST + 1), 0) for name in names), time_ms=boundary)
    return world


def test_lists_are_paged_by_name() -> None:
    world = World()
    names = [account.account for account in world.view.accounts(limit=3)]
    assert names == ["A", "B", "C"]
    assert [account.account for account in world.view.accounts(after="C", limit=2)] == ["DC0", "DC1"]
    assert [meter.meter for meter in world.view.meters(after="m-A")] == ["m-B", "m-C"]
    assert len(world.view.accounts(limit=0)) == 1 and len(world.view.accounts(limit=10**9)) == 9
    assert world.view.accounts(after="~") == ()


def test_what_is_not_there_is_none() -> None:
    view = World().view
    for name in ("x", "m-A"):
        assert view.account(name) is None and view.bills(name) is None and view.credit(name) is None
    assert view.meter("A") is None
    assert view.market(FIRST - 1) is None and view.market(2**63) is None and view.market(-1) is None
    assert view.period_bills(-1) == () and view.period_bills(2**70) == () and view.period_bills(FIRST) == ()


def test_an_account_shows_role_money_and_next_nonce() -> None:
    world = World()
    world.pay("A", "B", 3)
    account = world.view.account("A")
    assert (account.role, account.balance_micro, account.locked_micro, account.next_nonce) == ("prosumer", RICH - 3, 0, 2)


def test_bills_come_newest_first_in_pages_and_by_period() -> None:
    world = busy_world()
    bills = world.events_of(Billed)
    assert list(world.view.period_bills(FIRST)) == [bill for bill in bills if bill.period == FIRST]
    assert len(world.view.period_bills(FIRST)) == 70 + 1 + 1
    for account in ("M000", "M069", "GRID"):
        own = [bill for bill in bills if bill.account == account]
        first = world.view.bills(account, limit=1)
        assert list(first.bills) == [own[1]] and first.next_before == FIRST + 1
        second = world.view.bills(account, before=first.next_before, limit=1)
        assert list(second.bills) == [own[0]] and second.next_before == 0
        assert list(world.view.bills(account).bills) == own[::-1]
        assert world.view.bills(account, before=0).bills == ()
    assert world.view.bills("OPERATOR").bills == ()


@pytest.mark.parametrize(("offset", "limit"), [(0, 1000), (0, 5), (60, 10), (64, 64), (100, 64), (1_000, 5), (-4, 2)])
def test_books_and_trades_come_in_any_slice(offset: int, limit: int) -> None:
    world = busy_world()
    everything, part = world.view.market(FIRST), world.view.market(FIRST, offset=offset, limit=limit)
    start = max(0, offset)
    assert len(everything.orders) == part.order_count == 140 and len(everything.trades) == part.trade_count == 70
    assert part.orders == everything.orders[start : start + limit] and part.trades == everything.trades[start : start + limit]
    assert list(everything.trades) == world.events_of(Traded)


@pytest.mark.parametrize(("offset", "limit"), [(0, 2), (1, 2), (2, 9), (3, 1), (2**40, 1), (-1, 1)])
def test_an_open_book_is_decoded_only_as_far_as_it_is_asked_for(offset: int, limit: int) -> None:
    world = World()
    world.block(time_ms=(FIRST - 2) * PERIOD_MS)
    receipts = [world.order("A", "buy", number, 1) for number in range(1, 4)]
    places = range(3)[max(0, offset) : max(0, offset) + limit]
    for number in set(range(3)) - set(places):
        world.store.entries[b"order/" + order_key(FIRST, number)] = b"damaged"
    view = world.view.market(FIRST, offset=offset, limit=limit)
    assert [order.order for order in view.orders] == [receipts[number].transaction_id.hex() for number in places]
    assert view.order_count == 3


def test_bills_of_a_period_come_in_any_slice() -> None:
    world = busy_world()
    everything = world.view.period_bills(FIRST)
    assert world.view.period_bills(FIRST, 60, 10) == everything[60:70]
    assert world.view.period_bills(FIRST, 70) == everything[70:] != ()
    assert world.view.period_bills(FIRST, -3, 2) == everything[:2]


def test_a_period_goes_through_its_states() -> None:
    world = World()
    seen = []

    def look() -> None:
        view = world.view.market(FIRST)
        if view is not None and view.state not in seen:
            seen.append(view.state)

    opens = (FIRST - 2) * PERIOD_MS
    assert world.view.market(FIRST + 30) is None
    for time_ms in (opens - 1, opens, world.at_gate(), world.start(), world.start(FIRST + 1), world.start(FIRST + 1) + 600_000):
        world.block(time_ms=time_ms)
        look()
    assert seen == ["announced", "open", "cleared", "delivering", "metering", "settled"]
    assert World().view.market(FIRST, time_ms=world.at_gate()).state == "closed"


def test_a_period_shows_its_times_and_the_grids_prices() -> None:
    view = World().view.market(FIRST, time_ms=FIRST * PERIOD_MS)
    assert (view.start_ms, view.end_ms) == (FIRST * PERIOD_MS, (FIRST + 1) * PERIOD_MS)
    assert (view.opens_ms, view.gate_closure_ms) == (view.start_ms - 2 * PERIOD_MS, view.start_ms - 300_000)
    assert (view.grid_buy_micro_per_kwh, view.grid_sell_micro_per_kwh) == (GRID_BUY, GRID_SELL)
    assert view.orders == () and view.trades == () and view.mean_price_micro_per_kwh == 0


def test_totals_name_the_current_and_the_trading_period() -> None:
    world = World()
    totals = world.view.totals(FIRST * PERIOD_MS + 700_000)
    assert (totals.current_period, totals.trading_period) == (FIRST, FIRST + 2)
    assert world.view.totals(FIRST * PERIOD_MS + 599_999).trading_period == FIRST + 1
    assert world.view.totals(world.time_ms).trading_period == FIRST
    assert totals.money_micro == totals.genesis_money_micro == 4 * RICH


def test_totals_notice_lost_money_and_lost_energy() -> None:
    world = busy_world(2)
    assert world.view.totals(world.time_ms).supply_conserved
    entries = dict(world.store.entries)
    del world.store.entries[b"account/M000"]
    assert not world.view.totals(world.time_ms).supply_conserved
    world.store.entries = entries
    del world.store.entries[b"meter/m-M001"]
    assert not world.view.totals(world.time_ms).supply_conserved
