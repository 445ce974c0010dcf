"""How much an order locks, so that whoever trades can pay (markets, section 5, rule 8)."""

from __future__ import annotations

from contracts.calls import PlaceOrder
from contracts.genesis import MarketRules
from contracts.units import deposit_micro, fee_deposit_micro, share_of


def order_deposit_micro(rules: MarketRules, order: PlaceOrder, grid_buy_micro_per_kwh: int, grid_sell_micro_per_kwh: int) -> int:
    """Return the deposit for a valid order, rounded up.

    A buyer locks what the energy costs at his highest price: the price and the fee if he takes it, or the damage and the fine if he does
    not, whichever is more. A seller locks what failing to deliver all of it costs at his lowest price: the grid's price above it, and the
    fine at the price cap. Nobody gains by a reserve price beyond the grid's; so a buyer's highest price counts as no less than what the
    grid takes, a seller's lowest as no more than what it pays, and deposits, which everybody sees, are the same for all such reserves.
    """
    energy_wh, reserve = order.energy_wh, order.reserve_micro_per_kwh
    if order.side == "buy":
        highest = max(reserve, grid_buy_micro_per_kwh)
        taken = deposit_micro(energy_wh, highest) + fee_deposit_micro(energy_wh, highest, rules.fee_ppm)
        damage = max(0, highest - grid_sell_micro_per_kwh)
        return max(taken, deposit_micro(energy_wh, damage + share_of(highest, rules.fine_ppm)))
    lowest = min(reserve, grid_sell_micro_per_kwh)
    fine = share_of(rules.price_cap_micro_per_kwh, rules.fine_ppm)
    return deposit_micro(energy_wh, max(0, grid_buy_micro_per_kwh - lowest) + fine)
