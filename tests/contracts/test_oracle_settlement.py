"""Settlement against a naive one in fractions, written from the rules and not from the code."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from math import floor

from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.billing import make_bills
from contracts.settlement import Contract, Metered, Settlement, Terms, grid_only, settle

KWH = 1000
GRID, RECEIVER = "GRID", "OPERATOR"


def rounded(exact: Fraction) -> int:
    """The one rounding of a cash flow: half-up."""
    return floor(exact + Fraction(1, 2))


def shared(metered_wh: int, contracted_wh: list[int]) -> list[int]:
    """In full if it suffices, else largest remainder, ties to the earlier."""
    whole = sum(contracted_wh)
    if metered_wh >= whole:
        return list(contracted_wh)
    exact = [Fraction(metered_wh * part, whole) for part in contracted_wh]
    shares = [floor(part) for part in exact]
    while sum(shares) < metered_wh:
        chosen = max(range(len(exact)), key=lambda index: (exact[index] - shares[index] if exact[index] >= shares[index] else -1, -index))
        shares[chosen] += 1
    return shares


class Naive:
    """Everything that follows from trades, meters and terms, rule by rule."""

    def __init__(self, trades: list[Contract], meters: dict[str, Metered], terms: Terms) -> None:
        self.trades, self.meters, self.terms = trades, meters, terms
        self.cash: dict[str, int] = defaultdict(int)
        self.delivered = self.cover("seller", {who: meter.export_wh for who, meter in meters.items()})
        self.taken = self.cover("buyer", {who: meter.import_wh for who, meter in meters.items()})
        self.performed = [min(given, got) for given, got in zip(self.delivered, self.taken, strict=True)]
        for number, trade in enumerate(trades):
            self.settle_trade(number, trade)
        self.settle_grid()

    def cover(self, side: str, register_wh: dict[str, int]) -> list[int]:
        covered = [0] * len(self.trades)
        for party in {getattr(trade, side) for trade in self.trades}:
            mine = [number for number, trade in enumerate(self.trades) if getattr(trade, side) == party]
            parts = shared(register_wh.get(party, 0), [self.trades[number].energy_wh for number in mine])
            for number, part in zip(mine, parts, strict=True):
                covered[number] = part
        return covered

    def pay(self, payer: str, payee: str, exact: Fraction) -> None:
        amount = rounded(exact)
        self.cash[payer] -= amount
        self.cash[payee] += amount

    def settle_trade(self, number: int, trade: Contract) -> None:
        terms, price = self.terms, Fraction(trade.price)
        performed, given, got = self.performed[number], self.delivered[number], self.taken[number]
        self.pay(trade.buyer, trade.seller, performed * price / KWH)
        tolerated = floor(Fraction(trade.energy_wh * terms.tolerance_ppm, 10**6))
        fine = floor(price * Fraction(terms.fine_ppm, 10**6))
        if given < got:
            self.pay(trade.seller, trade.buyer, max(0, got - given - tolerated) * (max(Fraction(0), terms.grid_buy - price) + fine) / KWH)
        if got < given:
            self.pay(trade.buyer, trade.seller, max(0, given - got - tolerated) * (max(Fraction(0), price - terms.grid_sell) + fine) / KWH)
        for side in (trade.buyer, trade.seller):
            self.pay(side, terms.fee_receiver, performed * price * Fraction(terms.fee_ppm, 10**6) / KWH)

    def settle_grid(self) -> None:
        for who, meter in self.meters.items():
            sold = sum(wh for wh, trade in zip(self.performed, self.trades, strict=True) if trade.seller == who)
            bought = sum(wh for wh, trade in zip(self.performed, self.trades, strict=True) if trade.buyer == who)
            self.pay(self.terms.grid, who, Fraction((meter.export_wh - sold) * self.terms.grid_sell, KWH))
            self.pay(who, self.terms.grid, Fraction((meter.import_wh - bought) * self.terms.grid_buy, KWH))

    def performance_ppm(self, who: str) -> int:
        mine = [(trade.energy_wh, wh) for trade, wh in zip(self.trades, self.delivered, strict=True) if trade.seller == who]
        mine += [(trade.energy_wh, wh) for trade, wh in zip(self.trades, self.taken, strict=True) if trade.buyer == who]
        return floor(Fraction(10**6 * sum(wh for _, wh in mine), sum(contracted for contracted, _ in mine)))


@st.composite
def cases(draw: st.DrawFn, largest: int = 60) -> tuple[list[Contract], dict[str, Metered], Terms]:
    """Few parties, so that they share their registers among several trades; some have no meter at all."""
    sellers, buyers = ["S1", "S2", "S3"], ["B1", "B2", "B3"]
    energies = st.integers(1, largest)
    trades = [
        Contract(
            f"T{number}", draw(st.sampled_from(sellers)), draw(st.sampled_from(buyers)), draw(energies), draw(st.integers(0, 10 * largest))
        )
        for number in range(draw(st.integers(0, 6)))
    ]
    registers = st.integers(0, 2 * largest)
    meters = {who: Metered(draw(registers), draw(registers)) for who in sellers + buyers if draw(st.integers(0, 5))}
    ppm = st.integers(0, 1_000_000)
    terms = Terms(draw(st.integers(0, 9 * largest)), draw(st.integers(0, 9 * largest)), draw(ppm), draw(ppm), draw(ppm), GRID, RECEIVER)
    return trades, meters, terms


def cash_of(settlement: Settlement) -> dict[str, int]:
    cash: dict[str, int] = defaultdict(int)
    for flow in settlement.flows:
        assert flow.micro > 0
        cash[flow.payer] -= flow.micro
        cash[flow.payee] += flow.micro
    return {who: amount for who, amount in cash.items() if amount}


def agree(trades: list[Contract], meters: dict[str, Metered], terms: Terms) -> Settlement:
    ours, naive = settle(trades, meters, terms), Naive(trades, meters, terms)
    assert ours.delivered_wh == naive.delivered
    assert ours.taken_wh == naive.taken
    assert ours.performed_wh == naive.performed
    assert cash_of(ours) == {who: amount for who, amount in naive.cash.items() if amount}
    parties = {party for trade in trades for party in (trade.seller, trade.buyer)}
    assert ours.performance_ppm == {party: naive.performance_ppm(party) for party in parties}
    return ours


ZERO_METERS = (
    [Contract("T", "S1", "B1", 10, 500)],
    {"S1": Metered(0, 0), "B1": Metered(0, 0)},
    Terms(590, 310, 100_000, 0, 5_000, GRID, RECEIVER),
)


@given(cases())
@settings(max_examples=500)
@example(ZERO_METERS)
def test_both_give_the_same(case: tuple[list[Contract], dict[str, Metered], Terms]) -> None:
    agree(*case)


@given(cases(largest=1_000_000_000))
def test_both_give_the_same_with_the_largest_numbers(case: tuple[list[Contract], dict[str, Metered], Terms]) -> None:
    agree(*case)


@given(cases())
def test_money_and_energy_balance_to_the_last_unit(case: tuple[list[Contract], dict[str, Metered], Terms]) -> None:
    trades, meters, terms = case
    settlement = settle(trades, meters, terms)
    assert sum(cash_of(settlement).values()) == 0
    for who, meter in meters.items():
        energy = settlement.energy[who]
        assert (energy.bought_wh + energy.grid_bought_wh, energy.sold_wh + energy.grid_sold_wh) == meter
        assert min(energy) >= 0
    for trade, given_wh, taken_wh, performed_wh in zip(
        trades, settlement.delivered_wh, settlement.taken_wh, settlement.performed_wh, strict=True
    ):
        assert 0 <= performed_wh == min(given_wh, taken_wh) <= trade.energy_wh


@given(cases())
def test_bills_say_what_the_cash_flows_say(case: tuple[list[Contract], dict[str, Metered], Terms]) -> None:
    trades, meters, terms = case
    settlement, naive = settle(trades, meters, terms), Naive(trades, meters, terms)
    bills = make_bills(7, settlement, meters, terms)
    alone = {
        who: rounded(Fraction(m.export_wh * terms.grid_sell, KWH)) - rounded(Fraction(m.import_wh * terms.grid_buy, KWH))
        for who, m in meters.items()
    }
    alone[GRID] = -sum(alone.values())
    for bill in bills:
        net = bill.earned_micro - bill.paid_micro - bill.penalty_micro - bill.fee_micro
        assert net == naive.cash.get(bill.account, 0)
        assert bill.saving_micro == net - alone.get(bill.account, 0)
        assert bill.period == 7
    assert [bill.account for bill in bills] == sorted({bill.account for bill in bills})
    assert sum(bill.earned_micro - bill.paid_micro - bill.penalty_micro - bill.fee_micro for bill in bills) == 0
    assert grid_only(meters, terms) == alone


def terms(tolerance_ppm: int = 0) -> Terms:
    return Terms(590_000, 310_000, 100_000, tolerance_ppm, 0, GRID, RECEIVER)


def test_a_seller_who_delivers_half_pays_damage_and_fine_to_the_buyer() -> None:
    """10 kWh at 0.45 sold, 5 delivered, 10 taken: 5 x (0.59 - 0.45) damage and 5 x 10 % of 0.45 fine."""
    done = agree([Contract("T", "S1", "B1", 10_000, 450_000)], {"S1": Metered(0, 5_000), "B1": Metered(10_000, 0)}, terms())
    assert cash_of(done) == {"S1": 2_250_000 - 700_000 - 225_000, "B1": -2_250_000 + 700_000 + 225_000 - 2_950_000, GRID: 2_950_000}
    assert done.performance_ppm == {"S1": 500_000, "B1": 1_000_000}


def test_the_common_part_of_two_shortfalls_harms_nobody() -> None:
    done = agree([Contract("T", "S1", "B1", 10_000, 450_000)], {"S1": Metered(0, 6_000), "B1": Metered(6_000, 0)}, terms())
    assert cash_of(done) == {"S1": 2_700_000, "B1": -2_700_000}


def test_a_shortfall_within_the_tolerance_costs_nothing() -> None:
    trade = Contract("T", "S1", "B1", 10_000, 450_000)
    done = agree([trade], {"S1": Metered(0, 9_500), "B1": Metered(10_000, 0)}, terms(tolerance_ppm=50_000))
    assert {flow.why.value for flow in done.flows} == {"trade", "grid-purchase"}
    done = agree([trade], {"S1": Metered(0, 9_499), "B1": Metered(10_000, 0)}, terms(tolerance_ppm=50_000))
    assert {flow.why.value for flow in done.flows} == {"trade", "grid-purchase", "under-delivery"}


def test_the_registers_are_separate() -> None:
    """A seller who also draws from the grid buys that from the grid; it does not lessen what he delivered."""
    done = agree([Contract("T", "S1", "B1", 1_000, 400_000)], {"S1": Metered(300, 1_000), "B1": Metered(1_000, 200)}, terms())
    assert done.energy["S1"] == (0, 1_000, 300, 0)
    assert done.energy["B1"] == (1_000, 0, 0, 200)
