from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.auction import Clearing, Quote, clear_book


@st.composite
def quotes(draw: st.DrawFn, most: int = 7, energy: int = 4, price: int = 9, accounts: int = 0) -> list[Quote]:
    found = []
    for number in range(draw(st.integers(0, most))):
        is_buy = draw(st.booleans())
        quoted, move = draw(st.integers(0, price)), draw(st.integers(0, price))
        owner = draw(st.integers(0, accounts)) if accounts else number
        found.append(Quote(str(owner), is_buy, draw(st.integers(1, energy)), quoted, quoted + move if is_buy else max(0, quoted - move)))
    return found


def best_surplus(book: list[Quote]) -> int:
    """The largest sum of (bid - ask) x energy: try every assignment of unit buys to unit sells, largest gains by exhaustive search."""
    bids = [quote.price for quote in book if quote.is_buy for _ in range(quote.energy_wh)]
    asks = [quote.price for quote in book if not quote.is_buy for _ in range(quote.energy_wh)]
    best = 0
    for count in range(1, min(len(bids), len(asks)) + 1):
        for chosen in itertools.combinations(range(len(bids)), count):
            gain = sum(bids[place] for place in chosen)
            cheapest = min(sum(asks[place] for place in picked) for picked in itertools.combinations(range(len(asks)), count))
            best = max(best, gain - cheapest)
    return best


def check_law(book: list[Quote], clearing: Clearing) -> None:
    """What every clearing must keep, whatever the mode."""
    matched = [0] * len(book)
    for match in clearing.matches:
        buy, sell = book[match.buy], book[match.sell]
        assert buy.is_buy and not sell.is_buy and buy.account != sell.account
        assert match.energy_wh > 0 and 0 <= match.round <= clearing.rounds
        assert sell.reserve <= match.price <= buy.reserve
        matched[match.buy] += match.energy_wh
        matched[match.sell] += match.energy_wh
    for number, quote in enumerate(book):
        assert matched[number] + clearing.remaining_wh[number] == quote.energy_wh
        low, high = sorted((quote.price, quote.reserve))
        assert low <= clearing.prices[number] <= high


@settings(max_examples=150, deadline=None)
@given(quotes(most=5, energy=2))
def test_the_direct_round_has_the_largest_surplus_possible(book: list[Quote]) -> None:
    clearing = clear_book(book, 100_000, 0)
    surplus = sum((book[match.buy].price - book[match.sell].price) * match.energy_wh for match in clearing.matches)
    assert surplus == best_surplus(book)


@given(quotes(most=10), st.integers(1, 1_000_000), st.integers(0, 12), st.booleans())
def test_every_clearing_keeps_the_law(book: list[Quote], beta_ppm: int, rounds: int, continuous: bool) -> None:
    clearing = clear_book(book, beta_ppm, rounds, continuous)
    check_law(book, clearing)
    assert clearing.rounds <= rounds
    open_bids = [clearing.prices[number] for number, quote in enumerate(book) if quote.is_buy and clearing.remaining_wh[number]]
    open_asks = [clearing.prices[number] for number, quote in enumerate(book) if not quote.is_buy and clearing.remaining_wh[number]]
    assert not (open_bids and open_asks and max(open_bids) >= min(open_asks))


@given(quotes(most=12, accounts=2), st.booleans())
def test_nobody_trades_with_himself(book: list[Quote], continuous: bool) -> None:
    clearing = clear_book(book, 100_000, 3, continuous)
    check_law(book, clearing)
    for buy, sell in itertools.product(range(len(book)), repeat=2):
        crossing = book[buy].is_buy and not book[sell].is_buy and clearing.prices[buy] >= clearing.prices[sell]
        if crossing and clearing.remaining_wh[buy] and clearing.remaining_wh[sell]:
            assert book[buy].account == book[sell].account


@given(quotes(most=10, price=1_000_000), st.integers(1, 1_000_000))
def test_second_rounds_move_towards_the_references_and_never_past(book: list[Quote], beta_ppm: int) -> None:
    direct, clearing = clear_book(book, beta_ppm, 0), clear_book(book, beta_ppm, 10)
    filled = [number for number, left in enumerate(direct.remaining_wh) if left == 0]
    assert clearing.reference_sell == max((book[n].price for n in filled if not book[n].is_buy), default=None)
    assert clearing.reference_buy == min((book[n].price for n in filled if book[n].is_buy), default=None)
    for number, quote in enumerate(book):
        reference = clearing.reference_buy if quote.is_buy else clearing.reference_sell
        if clearing.prices[number] != quote.price:
            assert reference is not None and direct.remaining_wh[number]
            assert min(quote.price, reference) <= clearing.prices[number] <= max(quote.price, reference)


def test_equal_quotes_are_served_in_ledger_order() -> None:
    book = [Quote("a", False, 5, 10, 10), Quote("b", False, 5, 10, 10), Quote("c", True, 7, 10, 10)]
    clearing = clear_book(book, 100_000, 0)
    assert [(match.sell, match.energy_wh, match.price) for match in clearing.matches] == [(0, 5, 10), (1, 2, 10)]


def test_an_empty_side_trades_nothing_and_moves_nothing() -> None:
    book = [Quote("a", False, 5, 10, 1), Quote("b", False, 5, 12, 1)]
    clearing = clear_book(book, 100_000, 10)
    assert clearing.matches == [] and clearing.rounds == 0 and clearing.prices == [10, 12]


@pytest.mark.parametrize("continuous", [False, True])
def test_midpoints_are_floored(continuous: bool) -> None:
    clearing = clear_book([Quote("a", False, 1, 10, 10), Quote("b", True, 1, 13, 13)], 100_000, 0, continuous)
    assert clearing.matches[0].price == 11


def test_a_book_of_a_hundred_thousand_orders_clears_in_full() -> None:
    source = random.Random(7)
    book = []
    for number in range(100_000):
        price = source.randint(300_000, 600_000)
        is_buy = number % 2 == 0
        book.append(Quote(str(number), is_buy, source.randint(1, 10**6), price, price + 50_000 if is_buy else price - 50_000))
    clearing = clear_book(book, 100_000, 10)
    bought = sum(match.energy_wh for match in clearing.matches)
    assert Fraction(bought, sum(quote.energy_wh for quote in book if quote.is_buy)) > Fraction(2, 5)
    assert bought + sum(left for left, quote in zip(clearing.remaining_wh, book, strict=True) if quote.is_buy) == sum(
        quote.energy_wh for quote in book if quote.is_buy
    )
