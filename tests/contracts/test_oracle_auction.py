"""The auction against a naive one, written from the rules and not from the code: every pair is looked at, nothing is clever."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.auction import Clearing, Quote, clear_book

PAPER_BETA_PPM = 100_000
# Table 1 of the paper: account, side, energy, price, reserve; in the printed order.
TABLE_1 = [
    Quote("S1", False, 220_000, 410_000, 340_000),
    Quote("S2", False, 540_000, 450_000, 410_000),
    Quote("S3", False, 435_000, 500_000, 450_000),
    Quote("S4", False, 300_000, 450_000, 400_000),
    Quote("B1", True, 400_000, 530_000, 580_000),
    Quote("B2", True, 480_000, 510_000, 560_000),
    Quote("B3", True, 830_000, 490_000, 550_000),
    Quote("B4", True, 500_000, 460_000, 530_000),
]
# Table 2: seller, buyer, Wh, price printed to three decimals; the grid takes the rest at 0.590.
TABLE_2 = [
    ("S1", "B1", 220_000, "0.470"),
    ("S2", "B1", 180_000, "0.490"),
    ("S2", "B2", 360_000, "0.480"),
    ("S4", "B2", 120_000, "0.480"),
    ("S4", "B3", 180_000, "0.470"),
    ("S3", "B3", 435_000, "0.492"),
]
TABLE_2_GRID = {"B3": 215_000, "B4": 500_000}


@dataclass
class Naive:
    """Batch or continuous clearing by the words of the rules, in fractions."""

    book: list[Quote]
    beta: Fraction
    most_rounds: int
    continuous: bool = False
    trades: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    rounds: int = 0

    def close(self) -> Naive:
        """Direct matching, then rounds of repricing and matching until nothing moves or one side is exhausted."""
        self.quote = {seq: Fraction(order.price) for seq, order in enumerate(self.book)}
        self.left = {seq: order.energy_wh for seq, order in enumerate(self.book)}
        if self.continuous:
            for seq in self.quote:
                self.arrive(seq)
        else:
            self.match(0)
        self.top_ask = max((order.price for seq, order in enumerate(self.book) if not order.is_buy and not self.left[seq]), default=None)
        self.low_bid = min((order.price for seq, order in enumerate(self.book) if order.is_buy and not self.left[seq]), default=None)
        for number in range(1, self.most_rounds + 1):
            if not self.waiting(True) or not self.waiting(False) or not self.reprice():
                break
            self.rounds = number
            self.match(number)
        return self

    def waiting(self, is_buy: bool) -> list[int]:
        """Orders of one side with energy left, the best quote first, equal ones by seq."""
        found = [seq for seq, order in enumerate(self.book) if order.is_buy == is_buy and self.left[seq]]
        return sorted(found, key=lambda seq: (-self.quote[seq] if is_buy else self.quote[seq], seq))

    def match(self, number: int) -> None:
        """For every buy in order, scan the sells in order."""
        for buy in self.waiting(True):
            for sell in self.waiting(False):
                self.trade(buy, sell, number)

    def arrive(self, seq: int) -> None:
        """Match one arrival against what stands in the book: orders with a smaller seq."""
        is_buy = self.book[seq].is_buy
        for other in self.waiting(not is_buy):
            if other < seq:
                self.trade(*((seq, other) if is_buy else (other, seq)), 0)

    def trade(self, buy: int, sell: int, number: int) -> None:
        """Trade what the two have left, at the middle, if their quotes cross and they have two owners."""
        energy_wh = min(self.left[buy], self.left[sell])
        if energy_wh and self.quote[sell] <= self.quote[buy] and self.book[buy].account != self.book[sell].account:
            self.left[buy] -= energy_wh
            self.left[sell] -= energy_wh
            self.trades.append((buy, sell, energy_wh, floor((self.quote[buy] + self.quote[sell]) / 2), number))

    def reprice(self) -> bool:
        """Move every unfilled quote towards its reference by beta of the distance, at least a unit, to its reserve at most."""
        before = dict(self.quote)
        for seq in self.waiting(False):
            if self.top_ask is not None and self.quote[seq] > self.top_ask:
                step = ceil(self.beta * (self.quote[seq] - self.top_ask))
                self.quote[seq] = max(Fraction(self.book[seq].reserve), self.quote[seq] - step)
        for seq in self.waiting(True):
            if self.low_bid is not None and self.quote[seq] < self.low_bid:
                step = ceil(self.beta * (self.low_bid - self.quote[seq]))
                self.quote[seq] = min(Fraction(self.book[seq].reserve), self.quote[seq] + step)
        return self.quote != before


@st.composite
def books(draw: st.DrawFn, accounts: int = 6, highest: int = 30, largest_wh: int = 12) -> list[Quote]:
    """Small numbers, so that ties, partial fills and meetings of one owner are frequent."""
    found = []
    for _ in range(draw(st.integers(0, 14))):
        is_buy = draw(st.booleans())
        price = draw(st.integers(0, highest))
        reserve = draw(st.integers(price, highest)) if is_buy else draw(st.integers(0, price))
        found.append(Quote(f"A{draw(st.integers(1, accounts))}", is_buy, draw(st.integers(1, largest_wh)), price, reserve))
    return found


betas = st.sampled_from([1, 100_000, 333_333, 500_000, 1_000_000])


def agree(book: list[Quote], beta_ppm: int, rounds: int, continuous: bool) -> Clearing:
    ours = clear_book(book, beta_ppm, rounds, continuous)
    naive = Naive(book, Fraction(beta_ppm, 1_000_000), rounds, continuous).close()
    assert [tuple(match) for match in ours.matches] == naive.trades
    assert ours.prices == [naive.quote[seq] for seq in range(len(book))]
    assert ours.remaining_wh == [naive.left[seq] for seq in range(len(book))]
    assert (ours.reference_sell, ours.reference_buy, ours.rounds) == (naive.top_ask, naive.low_bid, naive.rounds)
    return ours


@given(books(), betas, st.integers(0, 12), st.booleans())
@settings(max_examples=600)
@example(TABLE_1, PAPER_BETA_PPM, 10, False)
@example(TABLE_1, PAPER_BETA_PPM, 1, False)
@example([Quote("A", False, 5, 10, 0), Quote("A", True, 5, 10, 10), Quote("B", True, 5, 10, 10)], 500_000, 3, False)
def test_both_give_the_same(book: list[Quote], beta_ppm: int, rounds: int, continuous: bool) -> None:
    agree(book, beta_ppm, rounds, continuous)


@given(books(accounts=3, highest=1_000_000_000, largest_wh=1_000_000_000), betas, st.booleans())
def test_both_give_the_same_with_the_largest_numbers(book: list[Quote], beta_ppm: int, continuous: bool) -> None:
    agree(book, beta_ppm, 10, continuous)


@given(books(), betas, st.integers(0, 12), st.booleans())
def test_laws_of_every_clearing(book: list[Quote], beta_ppm: int, rounds: int, continuous: bool) -> None:
    cleared = clear_book(book, beta_ppm, rounds, continuous)
    traded = [0] * len(book)
    for match in cleared.matches:
        buy, sell = book[match.buy], book[match.sell]
        assert buy.is_buy and not sell.is_buy and buy.account != sell.account
        assert match.energy_wh > 0
        assert sell.reserve <= match.price <= buy.reserve, "nobody trades beyond the reserve"
        assert sell.price >= sell.reserve and 0 <= match.round <= rounds
        traded[match.buy] += match.energy_wh
        traded[match.sell] += match.energy_wh
    for number, order in enumerate(book):
        assert traded[number] + cleared.remaining_wh[number] == order.energy_wh
        low, high = sorted((order.price, order.reserve))
        assert low <= cleared.prices[number] <= high


@given(books(), st.booleans())
def test_what_is_left_after_the_last_round_does_not_cross(book: list[Quote], continuous: bool) -> None:
    cleared = clear_book(book, 100_000, 10, continuous)
    left = [number for number, energy in enumerate(cleared.remaining_wh) if energy]
    for buy in (number for number in left if book[number].is_buy):
        for sell in (number for number in left if not book[number].is_buy and book[number].account != book[buy].account):
            assert cleared.prices[sell] > cleared.prices[buy]


@given(books(accounts=1))
def test_nobody_trades_with_himself(book: list[Quote]) -> None:
    assert clear_book(book, 100_000, 10).matches == []


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.integers(0, 20)), max_size=12))
def test_direct_matching_makes_the_most_of_the_book(orders: list[tuple[bool, int, int]]) -> None:
    """The sum of (bid - ask) x energy equals that of the dearest bids served by the cheapest asks, Wh by Wh."""
    book = [Quote(f"A{number}", is_buy, energy, price, price) for number, (is_buy, energy, price) in enumerate(orders)]
    direct = clear_book(book, 100_000, 0)
    got = sum((book[match.buy].price - book[match.sell].price) * match.energy_wh for match in direct.matches)
    bids = sorted((order.price for order in book if order.is_buy for _ in range(order.energy_wh)), reverse=True)
    asks = sorted(order.price for order in book if not order.is_buy for _ in range(order.energy_wh))
    assert got == sum(max(0, bid - ask) for bid, ask in zip(bids, asks, strict=False))


@pytest.mark.parametrize("continuous", [False, True])
def test_table_2_of_the_paper(continuous: bool) -> None:
    """All eight rows, buyers 12 % lower, sellers 55 % higher; sellers stand before buyers in the printed order, in both modes."""
    cleared = agree(TABLE_1, PAPER_BETA_PPM, 10, continuous)
    rows = [
        (TABLE_1[match.sell].account, TABLE_1[match.buy].account, match.energy_wh, f"0.{(match.price + 500) // 1000:03d}")
        for match in cleared.matches
    ]
    assert rows == TABLE_2
    assert {TABLE_1[number].account: energy for number, energy in enumerate(cleared.remaining_wh) if energy} == TABLE_2_GRID
    traded = sum(match.energy_wh * match.price for match in cleared.matches)
    paid = traded + sum(TABLE_2_GRID.values()) * 590_000
    alone_buyers = sum(order.energy_wh for order in TABLE_1 if order.is_buy) * 590_000
    alone_sellers = sum(order.energy_wh for order in TABLE_1 if not order.is_buy) * 310_000
    assert round(100 * (1 - Fraction(paid, alone_buyers))) == 12
    assert int(100 * (Fraction(traded, alone_sellers) - 1)) == 55
    assert (cleared.reference_sell, cleared.reference_buy, cleared.rounds) == (450_000, 510_000, 2)


def test_a_large_book_of_one_owner_is_no_trap() -> None:
    """The one case in which a scan could look at every pair: everybody's best quotes belong to one account."""
    book = [Quote("A", False, 1, 10, 10) for _ in range(500)] + [Quote("A", True, 1, 20, 20) for _ in range(500)]
    book.append(Quote("B", True, 3, 15, 15))
    assert sum(match.energy_wh for match in clear_book(book, 100_000, 10).matches) == 3
