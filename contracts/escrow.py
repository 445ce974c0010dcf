"""How much an order locks, so that whoever trades can pay (markets, section 5, rule 8)."""

from __future__ import annotations

from contracts.calls import PlaceOrder
from contracts.genesis import MarketRules
from contracts.units import deposit_micro, fee_deposit_micro, share_of


def order_deposit_micro(rules: MarketRules, order: PlaceOrder, grid_buy_micro_per_kwh: int) -> int:
    """Return the deposit for a valid order, rounded up.

    A buyer locks the energy at the reserve price and the fee on it; a seller what failing to deliver all of it would cost: the grid's price
    above the reserve price, and the fine at the price cap.
    """
    energy_wh, reserve = order.energy_wh, order.reserve_micro_per_kwh
    if order.side == "buy":
        return deposit_micro(energy_wh, reserve) + fee_deposit_micro(energy_wh, reserve, rules.fee_ppm)
    fine = share_of(rules.price_cap_micro_per_kwh, rules.fine_ppm)
    return deposit_micro(energy_wh, max(0, grid_buy_micro_per_kwh - reserve) + fine)
