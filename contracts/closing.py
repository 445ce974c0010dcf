"""What falls due by block time: gates close, delivered periods settle. In order of period, as far as a block has room.

A block has room for 8 gates, 8 settlements, and about 10,000 events, reckoned by the worst that a period can bring; the first period that
is due always has room, and genesis bounds what it can bring (:data:`contracts.genesis.MAX_PERIOD_EVENTS`).

A period settles once it has ended and every meter was read at its end or later (or is in quarantine), or once the grace time is over.
After a block that leaves something due, the next deadline is in the past, so the following block goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from contracts.accounts import balance_of, lock, post
from contracts.billing import make_bills
from contracts.events import AnyEvent, Billed, DebtRecorded, Defaulted, MeterMissing, PeriodSettled, Traded
from contracts.genesis import GRID, clearing_events, settlement_events
from contracts.ledger import Ledger, present
from contracts.market import clear_period
from contracts.metering import close_period, has_reported
from contracts.records import MARKET_KEY, PAGE, BillPage, Credit, Period, page_key, period_key
from contracts.settlement import Contract, Metered, Settlement, Terms, settle
from contracts.units import PPM

PERIODS_PER_BLOCK = 8
EVENTS_PER_BLOCK = 10_000
SCORE_MEMORY_PPM = 950_000


def run_due(ledger: Ledger, height: int, time_ms: int, proposer: int) -> list[AnyEvent]:
    """Do what is due at ``time_ms``, after the block's transactions; note the block's height and time."""
    events: list[AnyEvent] = []
    progress = ledger.progress
    cleared = settled = 0
    while cleared < PERIODS_PER_BLOCK and ledger.calendar.gate_ms(progress.next_clear) <= time_ms:
        book = ledger.state.periods.get(period_key(progress.next_clear)) or Period()
        if not _has_room(events, clearing_events(book.order_count)):
            break
        trades, outcome = clear_period(ledger, progress.next_clear)
        events += [*trades, outcome]
        progress = msgspec.structs.replace(
            progress,
            next_clear=progress.next_clear + 1,
            orders=progress.orders + book.order_count,
            trades=progress.trades + len(trades),
        )
        cleared += 1
    ledger.state.market.put(MARKET_KEY, msgspec.structs.replace(progress, time_ms=time_ms, height=height))
    while settled < PERIODS_PER_BLOCK and _is_settleable(ledger, time_ms):
        book = ledger.state.periods.get(period_key(ledger.progress.next_settle)) or Period()
        people = ledger.registry
        if not _has_room(events, settlement_events(book.trade_count, len(people.accounts), len(people.meters))):
            break
        events.extend(settle_period(ledger, ledger.progress.next_settle, proposer))
        settled += 1
    return events


def _has_room(events: Sequence[AnyEvent], more: int) -> bool:
    """Tell whether a block takes up to ``more`` events yet; the first ones it always takes."""
    return not events or len(events) + more <= EVENTS_PER_BLOCK


def next_deadline_ms(ledger: Ledger) -> int:
    """Return the block time at which the next gate closes or the next period settles, as this block sees it."""
    progress, calendar = ledger.progress, ledger.calendar
    gate_ms = calendar.gate_ms(progress.next_clear)
    if progress.next_settle >= progress.next_clear:
        return gate_ms
    end_ms = calendar.end_ms(progress.next_settle)
    settle_ms = end_ms if all_reported(ledger, end_ms) else calendar.grace_over_ms(progress.next_settle)
    return min(gate_ms, settle_ms)


def all_reported(ledger: Ledger, boundary_ms: int) -> bool:
    """Tell whether no meter is waited for at a boundary."""
    meters = ledger.state.meters
    return all(has_reported(present(meters.get(meter.key), f"meter {meter.name}"), boundary_ms) for meter in ledger.registry.meters)


def _is_settleable(ledger: Ledger, time_ms: int) -> bool:
    progress, calendar = ledger.progress, ledger.calendar
    end_ms = calendar.end_ms(progress.next_settle)
    if progress.next_settle >= progress.next_clear or time_ms < end_ms:
        return False
    return time_ms >= calendar.grace_over_ms(progress.next_settle) or all_reported(ledger, end_ms)


def settle_period(ledger: Ledger, period: int, proposer: int) -> list[AnyEvent]:
    """Settle one period: registers, cash flows, bills, credit, deposits."""
    events: list[AnyEvent] = []
    meters = _close_meters(ledger, period, events)
    trades = [trade for _, page in ledger.state.trades.scan(period_key(period)) for trade in page.entries]
    rules = ledger.rules
    receiver = ledger.seats.fee_account(proposer)
    terms = Terms(*ledger.grid_prices(period), rules.fine_ppm, rules.tolerance_ppm, rules.fee_ppm, GRID, receiver)
    contracts = [Contract(str(trade.trade), trade.seller, trade.buyer, trade.energy_wh, trade.price_micro_per_kwh) for trade in trades]
    for party in (name for contract in contracts for name in (contract.seller, contract.buyer)):
        meters.setdefault(party, Metered(0, 0))
    result = settle(contracts, meters, terms)
    bills = make_bills(period, result, meters, terms)
    _release_deposits(ledger, period)
    senders = ledger.registry.senders
    for flow in result.flows:
        post(ledger, senders[flow.payer], senders[flow.payee], flow.micro)
    _record_credit(ledger, period, trades, result, events)
    _record_debts(ledger, period, bills, events)
    _store_bills(ledger, period, bills)
    events.extend(bills)
    traded_wh = sum(result.performed_wh)
    grid = next(bill for bill in bills if bill.account == GRID)
    fees = sum(bill.fee_micro for bill in bills if bill.fee_micro > 0)
    grid_wh = grid.grid_bought_wh + grid.grid_sold_wh
    events.append(PeriodSettled(period, len(bills), traded_wh, grid_wh, fees, receiver))
    progress = ledger.progress
    after = msgspec.structs.replace(
        progress,
        next_settle=period + 1,
        import_wh=progress.import_wh + sum(metered.import_wh for metered in meters.values()),
        export_wh=progress.export_wh + sum(metered.export_wh for metered in meters.values()),
        traded_wh=progress.traded_wh + traded_wh,
        grid_bought_wh=progress.grid_bought_wh + grid.grid_sold_wh,
        grid_sold_wh=progress.grid_sold_wh + grid.grid_bought_wh,
    )
    ledger.state.market.put(MARKET_KEY, after)
    return events


def _close_meters(ledger: Ledger, period: int, events: list[AnyEvent]) -> dict[str, Metered]:
    """Take the period's energy out of all meters; return it per account."""
    sums: dict[str, Metered] = {}
    boundary_ms = ledger.calendar.end_ms(period)
    is_first = period == ledger.rules.first_period
    table = ledger.state.meters
    for sender in ledger.registry.meters:
        closed = close_period(present(table.get(sender.key), f"meter {sender.name}"), period, boundary_ms, is_first)
        table.put(sender.key, closed.meter)
        if closed.missing:
            events.append(MeterMissing(sender.name, period))
        before = sums.get(sender.account, Metered(0, 0))
        sums[sender.account] = Metered(before.import_wh + closed.import_wh, before.export_wh + closed.export_wh)
    return sums


def _release_deposits(ledger: Ledger, period: int) -> None:
    """Set free what orders of the period held back."""
    key = period_key(period)
    for full_key, position in ledger.state.positions.scan(key):
        ledger.state.positions.delete(full_key)
        if position.locked_micro:
            lock(ledger, ledger.registry.senders[full_key[8:].decode()], -position.locked_micro)


def _record_credit(ledger: Ledger, period: int, trades: Sequence[Traded], result: Settlement, events: list[AnyEvent]) -> None:
    """Update the scores of everybody who traded: good performance counts, too."""
    table, senders = ledger.state.credits, ledger.registry.senders
    for account, performance_ppm in result.performance_ppm.items():
        credit = table.get(senders[account].key) or Credit()
        score = (credit.score_ppm * SCORE_MEMORY_PPM + performance_ppm * (PPM - SCORE_MEMORY_PPM)) // PPM
        table.put(senders[account].key, msgspec.structs.replace(credit, score_ppm=score, periods=credit.periods + 1))
    for fall in result.shortfalls:
        key = senders[fall.account].key
        credit = table.get(key) or Credit()
        if fall.account == trades[fall.trade].seller:
            credit = msgspec.structs.replace(credit, under_deliveries=credit.under_deliveries + 1)
        else:
            credit = msgspec.structs.replace(credit, under_takes=credit.under_takes + 1)
        table.put(key, credit)
        contracted_wh = trades[fall.trade].energy_wh
        number = trades[fall.trade].trade
        events.append(Defaulted(fall.account, period, number, fall.why.value, contracted_wh, fall.performed_wh, fall.penalty_micro))


def _record_debts(ledger: Ledger, period: int, bills: Sequence[Billed], events: list[AnyEvent]) -> None:
    """Flag members that owe money now (the grid company may)."""
    for bill in bills:
        sender = ledger.registry.senders[bill.account]
        balance = balance_of(ledger, sender).balance_micro
        if bill.account == GRID or balance >= 0 or bill.net_micro >= 0:
            continue
        credit = ledger.state.credits.get(sender.key) or Credit()
        ledger.state.credits.put(sender.key, msgspec.structs.replace(credit, debts=credit.debts + 1))
        events.append(DebtRecorded(bill.account, period, -balance))


def _store_bills(ledger: Ledger, period: int, bills: Sequence[Billed]) -> None:
    """Keep the bills in pages; the place of an account's bill follows from its place among the accounts."""
    numbers = ledger.registry.account_numbers
    by_page: dict[int, list[Billed]] = {}
    for bill in bills:
        by_page.setdefault(numbers[bill.account] // PAGE, []).append(bill)
    for page, entries in by_page.items():
        ledger.state.bills.put(page_key(period, page), BillPage(tuple(entries)))
