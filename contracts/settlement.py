"""Settlement of delivered against contracted energy (markets, section 5). Pure: trades and registers in, cash flows out.

Law.

1. A seller's metered export covers his sold energy; if it is less, his trades share it by largest remainder. A buyer's import likewise.
2. Performed is what both sides performed; the buyer pays the seller for it at the trade's price.
3. Who falls short of the other, beyond the tolerance, pays him the damage (the grid's price against the trade's) and a fine. The common
   part of two shortfalls harms nobody.
4. What was metered beyond performed trades is bought and sold by the grid at its prices. Each side of a performed trade pays a fee.
5. Every cash flow is rounded once and has a payer and a payee, so all accounts together sum to zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from contracts.units import PPM, fee_micro, largest_remainder, payable_micro, share_of


class Why(StrEnum):
    """What a cash flow is for."""

    TRADE = "trade"
    UNDER_DELIVERY = "under-delivery"
    UNDER_TAKE = "under-take"
    GRID_SALE = "grid-sale"
    GRID_PURCHASE = "grid-purchase"
    FEE = "fee"


class Contract(NamedTuple):
    """One trade to settle; trades stand in ledger order."""

    reference: str
    seller: str
    buyer: str
    energy_wh: int
    price: int


class Metered(NamedTuple):
    """What one account's meters counted in the period, Wh."""

    import_wh: int
    export_wh: int


class Terms(NamedTuple):
    """Prices in 1e-6 currency per kWh, shares in ppm, and who the grid and the fee receiver are."""

    grid_buy: int
    grid_sell: int
    fine_ppm: int
    tolerance_ppm: int
    fee_ppm: int
    grid: str
    fee_receiver: str


class Flow(NamedTuple):
    """Money from one account to another, for a trade or (reference: the account) for exchange with the grid."""

    reference: str
    why: Why
    payer: str
    payee: str
    micro: int


class Energy(NamedTuple):
    """How one account's metered energy was settled, Wh. Import = bought + grid bought, export = sold + grid sold."""

    bought_wh: int
    sold_wh: int
    grid_bought_wh: int
    grid_sold_wh: int


class Shortfall(NamedTuple):
    """One party fell short of one trade (by number) by more than the tolerance."""

    account: str
    trade: int
    why: Why
    performed_wh: int
    penalty_micro: int


@dataclass(slots=True)
class Settlement:
    """What settling a period gave.

    Attributes:
        flows: all cash flows above zero.
        delivered_wh, taken_wh, performed_wh: per trade.
        performance_ppm: per party of a trade, performed over contracted energy.
        energy: per account.
        shortfalls: for the credit record.
    """

    delivered_wh: list[int]
    taken_wh: list[int]
    performed_wh: list[int]
    performance_ppm: dict[str, int]
    flows: list[Flow] = field(default_factory=list)
    energy: dict[str, Energy] = field(default_factory=dict)
    shortfalls: list[Shortfall] = field(default_factory=list)

    def flow(self, reference: str, why: Why, payer: str, payee: str, micro: int) -> None:
        """Add a cash flow, unless nothing flows."""
        if micro and payer != payee:
            self.flows.append(Flow(reference, why, payer, payee, micro))


def settle(trades: Sequence[Contract], meters: Mapping[str, Metered], terms: Terms) -> Settlement:
    """Settle one period.

    Args:
        trades: in ledger order.
        meters: per account; one that is not in it metered nothing.
    """
    delivered = _allot([trade.seller for trade in trades], trades, {account: metered.export_wh for account, metered in meters.items()})
    taken = _allot([trade.buyer for trade in trades], trades, {account: metered.import_wh for account, metered in meters.items()})
    performed = [min(pair) for pair in zip(delivered, taken, strict=True)]
    result = Settlement(delivered, taken, performed, _performance(trades, delivered, taken))
    for number, trade in enumerate(trades):
        result.flow(trade.reference, Why.TRADE, trade.buyer, trade.seller, payable_micro(performed[number], trade.price))
        _penalise(result, number, trade, terms)
        fee = fee_micro(performed[number], trade.price, terms.fee_ppm)
        result.flow(trade.reference, Why.FEE, trade.buyer, terms.fee_receiver, fee)
        result.flow(trade.reference, Why.FEE, trade.seller, terms.fee_receiver, fee)
    _settle_with_grid(result, trades, meters, terms)
    return result


def grid_only(meters: Mapping[str, Metered], terms: Terms) -> dict[str, int]:
    """Return what each account would have gained (or, negative, paid) without a market; the grid mirrors all of it."""
    gains = {terms.grid: 0}
    for account, metered in meters.items():
        gain = payable_micro(metered.export_wh, terms.grid_sell) - payable_micro(metered.import_wh, terms.grid_buy)
        gains[account] = gains.get(account, 0) + gain
        gains[terms.grid] -= gain
    return gains


def _allot(parties: Sequence[str], trades: Sequence[Contract], metered_wh: Mapping[str, int]) -> list[int]:
    """Return per trade how much of it the party's register covers."""
    by_party: dict[str, list[int]] = {}
    for number, party in enumerate(parties):
        by_party.setdefault(party, []).append(number)
    covered = [0] * len(trades)
    for party, numbers in by_party.items():
        energies = [trades[number].energy_wh for number in numbers]
        available = metered_wh.get(party, 0)
        shares = energies if available >= sum(energies) else largest_remainder(available, energies)
        for number, share in zip(numbers, shares, strict=True):
            covered[number] = share
    return covered


def _performance(trades: Sequence[Contract], delivered: Sequence[int], taken: Sequence[int]) -> dict[str, int]:
    contracted: dict[str, int] = {}
    performed: dict[str, int] = {}
    for trade, given, received in zip(trades, delivered, taken, strict=True):
        for party, energy in ((trade.seller, given), (trade.buyer, received)):
            contracted[party] = contracted.get(party, 0) + trade.energy_wh
            performed[party] = performed.get(party, 0) + energy
    return {party: performed[party] * PPM // energy for party, energy in contracted.items()}


def _penalise(result: Settlement, number: int, trade: Contract, terms: Terms) -> None:
    """Let who fell short of the other pay him, and note shortfalls beyond the tolerance."""
    given, received = result.delivered_wh[number], result.taken_wh[number]
    tolerated = share_of(trade.energy_wh, terms.tolerance_ppm)
    fine = share_of(trade.price, terms.fine_ppm)
    for why, debtor, creditor, own, other, damage in (
        (Why.UNDER_DELIVERY, trade.seller, trade.buyer, given, received, terms.grid_buy - trade.price),
        (Why.UNDER_TAKE, trade.buyer, trade.seller, received, given, trade.price - terms.grid_sell),
    ):
        penalty = payable_micro(max(0, other - own - tolerated), max(0, damage) + fine)
        result.flow(trade.reference, why, debtor, creditor, penalty)
        if trade.energy_wh - own > tolerated:
            result.shortfalls.append(Shortfall(debtor, number, why, own, penalty))


def _settle_with_grid(result: Settlement, trades: Sequence[Contract], meters: Mapping[str, Metered], terms: Terms) -> None:
    """Let the grid take and give what trades do not cover."""
    bought: dict[str, int] = {}
    sold: dict[str, int] = {}
    for trade, performed_wh in zip(trades, result.performed_wh, strict=True):
        bought[trade.buyer] = bought.get(trade.buyer, 0) + performed_wh
        sold[trade.seller] = sold.get(trade.seller, 0) + performed_wh
    for account, metered in meters.items():
        own_bought, own_sold = bought.get(account, 0), sold.get(account, 0)
        energy = Energy(own_bought, own_sold, metered.import_wh - own_bought, metered.export_wh - own_sold)
        result.energy[account] = energy
        result.flow(account, Why.GRID_SALE, terms.grid, account, payable_micro(energy.grid_sold_wh, terms.grid_sell))
        result.flow(account, Why.GRID_PURCHASE, account, terms.grid, payable_micro(energy.grid_bought_wh, terms.grid_buy))
