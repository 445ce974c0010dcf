"""Bills: what a settlement means to each account, and the proof that all of them together are zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consensus.errors import InvariantViolation
from contracts.events import Billed
from contracts.settlement import Energy, Metered, Settlement, Terms, Why, grid_only

_NOTHING = Energy(0, 0, 0, 0)
_PENALTIES = (Why.UNDER_DELIVERY, Why.UNDER_TAKE)


class _Money:
    """Sums of one bill, 1e-6 currency."""

    __slots__ = ("earned", "fee", "paid", "penalty")

    def __init__(self) -> None:
        self.paid = 0
        self.earned = 0
        self.penalty = 0
        self.fee = 0


def make_bills(period: int, settlement: Settlement, meters: Mapping[str, Metered], terms: Terms) -> list[Billed]:
    """Return one bill per account that was metered, traded, or received anything, and always the grid's; by account.

    Raises:
        InvariantViolation: money or energy does not balance.
    """
    money = {account: _Money() for account in (*meters, *settlement.performance_ppm, terms.grid, terms.fee_receiver)}
    for flow in settlement.flows:
        payer, payee = money[flow.payer], money[flow.payee]
        if flow.why in _PENALTIES:
            payer.penalty += flow.micro
            payee.penalty -= flow.micro
        elif flow.why is Why.FEE:
            payer.fee += flow.micro
            payee.fee -= flow.micro
        else:
            payer.paid += flow.micro
            payee.earned += flow.micro
    without = grid_only(meters, terms)
    mirror = Energy(
        0,
        0,
        sum(energy.grid_sold_wh for energy in settlement.energy.values()),
        sum(energy.grid_bought_wh for energy in settlement.energy.values()),
    )
    bills = []
    for account in sorted(money):
        own = money[account]
        metered = meters.get(account, Metered(0, 0))
        energy = mirror if account == terms.grid else settlement.energy.get(account, _NOTHING)
        net = own.earned - own.paid - own.penalty - own.fee
        saving = net - without.get(account, 0)
        bills.append(Billed(account, period, *metered, *energy, own.paid, own.earned, own.penalty, own.fee, saving))
    check_bills(bills, terms.grid)
    return bills


def check_bills(bills: Sequence[Billed], grid: str) -> None:
    """Check that the bills of one period balance to the last unit.

    Raises:
        InvariantViolation: names what does not.
    """
    members = [bill for bill in bills if bill.account != grid]
    sums = {
        "money": sum(bill.net_micro for bill in bills),
        "saving": sum(bill.saving_micro for bill in bills),
        "penalties": sum(bill.penalty_micro for bill in bills),
        "fees": sum(bill.fee_micro for bill in bills),
        "performed trades": sum(bill.bought_wh - bill.sold_wh for bill in bills),
        "energy with the grid": sum(bill.grid_bought_wh - bill.grid_sold_wh for bill in bills),
        "import": sum(bill.import_wh - bill.bought_wh - bill.grid_bought_wh for bill in members),
        "export": sum(bill.export_wh - bill.sold_wh - bill.grid_sold_wh for bill in members),
    }
    for what, total in sums.items():
        if total:
            raise InvariantViolation(f"bills of period {bills[0].period}: {what} does not balance, {total} left over")
    if any(bill.grid_bought_wh < 0 or bill.grid_sold_wh < 0 for bill in bills):
        raise InvariantViolation(f"bills of period {bills[0].period}: negative energy with the grid")
