"""The double auction of paper 002: direct matching at midpoints, then a second round in which an agent moves unfilled quotes.

Law.

1. Sells by rising, buys by falling quote, equal quotes in ledger order; a pair trades if ask <= bid, at floor((ask + bid) / 2).
2. Nobody trades with himself, and no quote ever passes its reserve price.
3. Second round (equation 2): unfilled asks fall towards the highest quote of the sells that the direct round filled, unfilled bids rise
   towards the lowest quote of the buys that it filled; at least one unit per round, never past the reference. Both references stay.
   A side of which nothing was filled has no reference and does not move.
4. Rounds end when a side is exhausted, when no quote moves, or after the highest number of rounds.

Orders are numbered by their place in ledger order. One call clears one book: one period, one energy type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from contracts.units import PPM, ceiling


class Quote(NamedTuple):
    """One order as the auction sees it; prices in 1e-6 currency per kWh."""

    account: str
    is_buy: bool
    energy_wh: int
    price: int
    reserve: int


class Match(NamedTuple):
    """Two orders (by number) that met; round 0 is the direct one."""

    buy: int
    sell: int
    energy_wh: int
    price: int
    round: int


@dataclass(slots=True)
class Clearing:
    """What clearing one book gave.

    Attributes:
        prices: quote per order after all rounds.
        remaining_wh: unmatched energy per order.
        matches: in the order of matching.
        reference_sell, reference_buy: what the second round moved towards; None if the direct round filled no order of that side.
        rounds: second rounds in which a quote moved.
    """

    prices: list[int]
    remaining_wh: list[int]
    matches: list[Match] = field(default_factory=list)
    reference_sell: int | None = None
    reference_buy: int | None = None
    rounds: int = 0


def clear_book(quotes: Sequence[Quote], beta_ppm: int, max_rounds: int, continuous: bool = False) -> Clearing:
    """Clear one book.

    Args:
        quotes: admitted orders in ledger order, energies above 0, reserves on the right side of the quotes.
        beta_ppm: how far a quote moves per round, of its distance to the reference.
        max_rounds: most second rounds.
        continuous: match each order as it arrives, against the best opposite quotes, instead of all at once.
    """
    clearing = Clearing([quote.price for quote in quotes], [quote.energy_wh for quote in quotes])
    if continuous:
        _match_arrivals(quotes, clearing)
    else:
        _match(quotes, clearing, 0)
    filled = [number for number, left in enumerate(clearing.remaining_wh) if left == 0]
    clearing.reference_sell = max((quotes[number].price for number in filled if not quotes[number].is_buy), default=None)
    clearing.reference_buy = min((quotes[number].price for number in filled if quotes[number].is_buy), default=None)
    open_orders = [number for number, left in enumerate(clearing.remaining_wh) if left]
    while clearing.rounds < max_rounds and _two_sided(quotes, open_orders):
        if not _reprice(quotes, clearing, open_orders, beta_ppm):
            break
        clearing.rounds += 1
        _match(quotes, clearing, clearing.rounds)
        open_orders = [number for number in open_orders if clearing.remaining_wh[number]]
    return clearing


def _two_sided(quotes: Sequence[Quote], numbers: Sequence[int]) -> bool:
    return any(quotes[number].is_buy for number in numbers) and not all(quotes[number].is_buy for number in numbers)


def _reprice(quotes: Sequence[Quote], clearing: Clearing, numbers: Sequence[int], beta_ppm: int) -> bool:
    """Move the quotes of unfilled orders one step; tell whether one moved."""
    moved = False
    prices, sell, buy = clearing.prices, clearing.reference_sell, clearing.reference_buy
    for number in numbers:
        old = prices[number]
        if quotes[number].is_buy:
            if buy is not None and old < buy:
                prices[number] = min(quotes[number].reserve, old + ceiling(beta_ppm * (buy - old), PPM))
        elif sell is not None and old > sell:
            prices[number] = max(quotes[number].reserve, old - ceiling(beta_ppm * (old - sell), PPM))
        moved = moved or prices[number] != old
    return moved


def _match(quotes: Sequence[Quote], clearing: Clearing, round_number: int) -> None:
    """Match all open orders, best prices first."""
    prices, remaining, matches = clearing.prices, clearing.remaining_wh, clearing.matches
    numbers = [number for number, left in enumerate(remaining) if left]
    sells = sorted((number for number in numbers if not quotes[number].is_buy), key=prices.__getitem__)
    buys = sorted((number for number in numbers if quotes[number].is_buy), key=lambda number: -prices[number])
    first = 0
    for buy in buys:
        bid, owner, place = prices[buy], quotes[buy].account, first
        while remaining[buy] and place < len(sells):
            sell = sells[place]
            if prices[sell] > bid:
                break
            if remaining[sell] and quotes[sell].account != owner:
                energy = min(remaining[buy], remaining[sell])
                remaining[buy] -= energy
                remaining[sell] -= energy
                matches.append(Match(buy, sell, energy, (prices[sell] + bid) // 2, round_number))
            if remaining[sell] == 0 and place == first:
                first += 1
            if remaining[buy]:
                place += 1
        while first < len(sells) and remaining[sells[first]] == 0:
            first += 1


def _match_arrivals(quotes: Sequence[Quote], clearing: Clearing) -> None:
    """Match each order as it arrives; heaps hold (price, number) so that the best, then the earliest, is on top."""
    remaining, matches = clearing.remaining_wh, clearing.matches
    books: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for number, quote in enumerate(quotes):
        opposite, own = books[1 - quote.is_buy], []
        while remaining[number] and opposite:
            other = opposite[0][1]
            ask, bid = (quotes[other].price, quote.price) if quote.is_buy else (quote.price, quotes[other].price)
            if ask > bid:
                break
            if quotes[other].account == quote.account:
                own.append(heappop(opposite))
                continue
            energy = min(remaining[number], remaining[other])
            remaining[number] -= energy
            remaining[other] -= energy
            buy, sell = (number, other) if quote.is_buy else (other, number)
            matches.append(Match(buy, sell, energy, (ask + bid) // 2, 0))
            if remaining[other] == 0:
                heappop(opposite)
        if own:
            opposite.extend(own)
            heapify(opposite)
        if remaining[number]:
            heappush(books[quote.is_buy], (-quote.price if quote.is_buy else quote.price, number))
