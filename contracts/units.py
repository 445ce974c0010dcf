"""The only place of rounding.

| quantity | unit |
| --- | --- |
| energy | Wh |
| price | 1e-6 currency per kWh ("micro") |
| energy x price | 1e-9 currency ("nano"), exact, because 1 kWh is 1000 Wh |
| money that moves | 1e-6 currency, half-up from nano once per cash flow |
| ratios | parts per million |

Every numerator here is 0 or more, every denominator more than 0.
"""

from __future__ import annotations

from collections.abc import Sequence

PPM = 1_000_000
NANO_PER_MICRO = 1_000
WATT_MS_PER_WH = 3_600_000


def half_up(numerator: int, denominator: int) -> int:
    """Return the nearest integer; a half goes up."""
    return (2 * numerator + denominator) // (2 * denominator)


def ceiling(numerator: int, denominator: int) -> int:
    """Return the smallest integer that is not below the quotient."""
    return -(-numerator // denominator)


def share_of(amount: int, ppm: int) -> int:
    """Return the whole part of ``ppm`` parts per million of ``amount``."""
    return amount * ppm // PPM


def payable_micro(energy_wh: int, price_micro_per_kwh: int) -> int:
    """Return what ``energy_wh`` costs: one cash flow, rounded once."""
    return half_up(energy_wh * price_micro_per_kwh, NANO_PER_MICRO)


def deposit_micro(energy_wh: int, price_micro_per_kwh: int) -> int:
    """Return what covers ``energy_wh`` at the price for sure: rounded up."""
    return ceiling(energy_wh * price_micro_per_kwh, NANO_PER_MICRO)


def fee_micro(energy_wh: int, price_micro_per_kwh: int, fee_ppm: int) -> int:
    """Return the fee on a performed notional: one cash flow, rounded once."""
    return half_up(energy_wh * price_micro_per_kwh * fee_ppm, NANO_PER_MICRO * PPM)


def fee_deposit_micro(energy_wh: int, price_micro_per_kwh: int, fee_ppm: int) -> int:
    """Return what covers the fee for sure: rounded up."""
    return ceiling(energy_wh * price_micro_per_kwh * fee_ppm, NANO_PER_MICRO * PPM)


def shortest_time_ms(power_w: int, energy_wh: int) -> int:
    """Return the time that ``energy_wh`` takes to flow at ``power_w``, rounded up."""
    return ceiling(energy_wh * WATT_MS_PER_WH, power_w)


def mean_price(notional_nano: int, energy_wh: int) -> int:
    """Return the price per kWh weighted by energy, half-up; 0 without energy."""
    return half_up(notional_nano, energy_wh) if energy_wh else 0


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights``: floors first, then one each to the largest remainders, ties to the earlier index.

    Without any weight everybody gets 0.
    """
    whole = sum(weights)
    if whole == 0:
        return [0] * len(weights)
    shares = [total * weight // whole for weight in weights]
    left = total - sum(shares)
    by_remainder = sorted(range(len(weights)), key=lambda index: (-(total * weights[index] % whole), index))
    for index in by_remainder[:left]:
        shares[index] += 1
    return shares
