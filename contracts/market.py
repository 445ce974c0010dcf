"""The market of each delivery period: orders, deposits, withdrawal, and clearing at gate closure.

Law.

1. Orders are taken from the opening until gate closure, by block time. One account stands on one side of a period.
2. Every order is covered by a deposit from the moment it is taken; withdrawal sets it free, settlement does for the rest.
3. Each energy type is a book of its own; the auction (:mod:`contracts.auction`) clears it once, at gate closure.
4. What stays unmatched is assigned to the grid: settlement trades it at the grid's prices, as metered.
"""

from __future__ import annotations

import msgspec

from consensus.application import Verdict
from contracts.accounts import balance_of, lock
from contracts.auction import Clearing, Quote, clear_book
from contracts.calls import MAX_ENERGY_WH, MAX_PRICE_MICRO_PER_KWH, CancelOrder, PlaceOrder
from contracts.escrow import order_deposit_micro
from contracts.events import OrderAccepted, OrderCancelled, PeriodCleared, Traded
from contracts.ledger import Ledger, Outcome, present
from contracts.records import (
    BookEntry,
    BookPage,
    Order,
    Period,
    Place,
    Position,
    TradePage,
    order_key,
    page_key,
    pages,
    period_key,
)
from contracts.registry import Sender
from contracts.units import mean_price


def check_order(ledger: Ledger, sender: Sender, call: PlaceOrder, time_ms: int) -> Verdict:
    """Check what depends on the order, the rules and the time alone. Receipts are public: no detail tells a price."""
    rules, calendar = ledger.rules, ledger.calendar
    if sender.role == "grid":
        return Verdict("GRID_MAY_NOT_TRADE", "the grid company takes what stays unmatched, it places no orders")
    if call.period < rules.first_period:
        return Verdict("BAD_PERIOD", f"period: {call.period} is before the first one, {rules.first_period}")
    if not 0 < call.energy_wh <= MAX_ENERGY_WH:
        return Verdict("BAD_QTY", f"energy_wh: {call.energy_wh} is not between 1 and {MAX_ENERGY_WH}")
    if not 0 <= call.price_micro_per_kwh <= rules.price_cap_micro_per_kwh:
        return Verdict("BAD_PRICE", f"price_micro_per_kwh: is not between 0 and {rules.price_cap_micro_per_kwh}")
    if not 0 <= call.reserve_micro_per_kwh <= MAX_PRICE_MICRO_PER_KWH:
        return Verdict("BAD_PRICE", f"reserve_micro_per_kwh: is not between 0 and {MAX_PRICE_MICRO_PER_KWH}")
    low, high = call.price_micro_per_kwh, call.reserve_micro_per_kwh
    if low > high if call.side == "buy" else low < high:
        return Verdict("RESERVE_CROSSED", f"reserve_micro_per_kwh: is on the wrong side of the {call.side} quote")
    if time_ms < calendar.opens_ms(call.period):
        return Verdict("NOT_OPEN", f"period: {call.period} takes orders from {calendar.opens_ms(call.period)} on, it is {time_ms}")
    if time_ms >= calendar.gate_ms(call.period):
        return Verdict("GATE_CLOSED", f"period: {call.period} took orders until {calendar.gate_ms(call.period)}, it is {time_ms}")
    return Verdict()


def place_order(ledger: Ledger, sender: Sender, call: PlaceOrder, order_id: bytes, time_ms: int) -> Outcome:
    """Take an order into the book of its period and lock its deposit."""
    verdict = check_order(ledger, sender, call, time_ms)
    if not verdict.ok:
        return verdict
    state, rules = ledger.state, ledger.rules
    key = period_key(call.period)
    book = state.periods.get(key) or Period()
    position = state.positions.get(key + sender.key) or Position(call.side, 0, 0, 0)
    if position.live and position.side != call.side:
        return Verdict("OPPOSITE_SIDE", f"side: {sender.name} already stands on the {position.side} side of period {call.period}")
    if book.order_count >= rules.max_orders_per_period:
        return Verdict("BOOK_FULL", f"period: {call.period} has taken {book.order_count} orders, the most")
    if position.placed >= rules.max_orders_per_account:
        return Verdict("TOO_MANY_ORDERS", f"period: {sender.name} has placed {position.placed} orders in period {call.period}, the most")
    deposit = order_deposit_micro(rules, call, *ledger.grid_prices(call.period))
    if balance_of(ledger, sender).balance_micro < deposit:
        return Verdict("INSUFFICIENT_FUNDS", "energy_wh: the order needs a higher deposit than is free")
    lock(ledger, sender, deposit)
    state.periods.put(key, Period(book.order_count + 1))
    state.positions.put(key + sender.key, Position(call.side, position.live + 1, position.placed + 1, position.locked_micro + deposit))
    price, reserve = call.price_micro_per_kwh, call.reserve_micro_per_kwh
    order = Order(order_id, sender.name, call.side, call.energy_type, call.energy_wh, price, reserve, deposit)
    state.orders.put(order_key(call.period, book.order_count), order)
    state.places.put(order_id, Place(call.period, book.order_count))
    return (OrderAccepted(order_id.hex(), sender.name, call.period, call.side, call.energy_type, call.energy_wh, price),)


def cancel_order(ledger: Ledger, sender: Sender, call: CancelOrder, time_ms: int) -> Outcome:
    """Withdraw one's own order before gate closure; its deposit is free again."""
    state = ledger.state
    place = state.places.get(call.order)
    if place is None:
        return Verdict("NO_SUCH_ORDER", "order: no period before gate closure has it")
    period = place.period
    order = present(state.orders.get(order_key(period, place.number)), f"order {place.number} of period {period}")
    if order.account != sender.name:
        return Verdict("NOT_YOUR_ORDER", "order: it belongs to somebody else")
    if order.cancelled:
        return Verdict("ALREADY_CANCELLED", "order: it was withdrawn before")
    if time_ms >= ledger.calendar.gate_ms(period):
        return Verdict("GATE_CLOSED", f"order: period {period} closed at {ledger.calendar.gate_ms(period)}, it is {time_ms}")
    key = period_key(period) + sender.key
    position = present(state.positions.get(key), f"position of {sender.name} in period {period}")
    left = position.locked_micro - order.locked_micro
    lock(ledger, sender, -order.locked_micro)
    state.positions.put(key, Position(position.side, position.live - 1, position.placed, left))
    state.orders.put(order_key(period, place.number), msgspec.structs.replace(order, locked_micro=0, cancelled=True))
    return (OrderCancelled(call.order.hex(), sender.name, period),)


def clear_period(ledger: Ledger, period: int) -> tuple[list[Traded], PeriodCleared]:
    """Close the book of a period and match it; orders become pages of the archive."""
    state, key = ledger.state, period_key(period)
    found = state.orders.scan(key)
    entries = [_entry(order) for _, order in found]
    books: dict[str, list[int]] = {}
    for number, (_, order) in enumerate(found):
        if not order.cancelled:
            books.setdefault(order.energy_type, []).append(number)
    trades: list[Traded] = []
    for energy_type in sorted(books):
        numbers = books[energy_type]
        quotes = [_quote(found[number][1]) for number in numbers]
        clearing = clear_book(quotes, ledger.rules.beta_ppm, ledger.rules.max_reprice_rounds)
        _record(entries, numbers, clearing)
        trades.extend(_trades(period, len(trades), entries, numbers, clearing))
    for full_key, order in found:
        state.orders.delete(full_key)
        state.places.delete(order.order)
    for page, part in enumerate(pages(entries)):
        state.books.put(page_key(period, page), BookPage(part))
    for page, chunk in enumerate(pages(trades)):
        state.trades.put(page_key(period, page), TradePage(chunk))
    energy_wh = sum(trade.energy_wh for trade in trades)
    price = mean_price(sum(trade.energy_wh * trade.price_micro_per_kwh for trade in trades), energy_wh)
    if found:
        state.periods.put(key, Period(len(found), len(trades), energy_wh, price))
    orders = sum(len(numbers) for numbers in books.values())
    return trades, PeriodCleared(period, orders, len(trades), energy_wh, price)


def _quote(order: Order) -> Quote:
    return Quote(order.account, order.side == "buy", order.energy_wh, order.price_micro_per_kwh, order.reserve_micro_per_kwh)


def _entry(order: Order) -> BookEntry:
    state = "cancelled" if order.cancelled else "open"
    energy = order.energy_wh
    return BookEntry(order.order, order.account, order.side, order.energy_type, energy, energy, order.price_micro_per_kwh, state)


def _record(entries: list[BookEntry], numbers: list[int], clearing: Clearing) -> None:
    """Write into the entries what clearing left of each order."""
    for place, number in enumerate(numbers):
        old, left = entries[number], clearing.remaining_wh[place]
        state = "grid-assigned" if left else "filled"
        entries[number] = BookEntry(old.order, old.account, old.side, old.energy_type, old.energy_wh, left, old.price_micro_per_kwh, state)


def _trades(period: int, first: int, entries: list[BookEntry], numbers: list[int], clearing: Clearing) -> list[Traded]:
    trades = []
    for place, match in enumerate(clearing.matches):
        buy, sell = entries[numbers[match.buy]], entries[numbers[match.sell]]
        trades.append(
            Traded(
                period=period,
                trade=first + place,
                buyer=buy.account,
                seller=sell.account,
                buy_order=buy.order.hex(),
                sell_order=sell.order.hex(),
                energy_type=buy.energy_type,
                energy_wh=match.energy_wh,
                price_micro_per_kwh=match.price,
                round=match.round,
            )
        )
    return trades
