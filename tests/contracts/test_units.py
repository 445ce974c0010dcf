from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import units

NATURAL = st.integers(0, 10**15)


@given(NATURAL, st.integers(1, 10**9))
def test_half_up_and_ceiling_are_what_they_say(numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    assert exact - Fraction(1, 2) < units.half_up(numerator, denominator) <= exact + Fraction(1, 2)
    assert 0 <= units.ceiling(numerator, denominator) - exact < 1


@pytest.mark.parametrize(("energy_wh", "price", "micro"), [(1, 499, 0), (1, 500, 1), (1, 1499, 1), (1000, 590_000, 590_000), (0, 5, 0)])
def test_money_is_rounded_half_up_once(energy_wh: int, price: int, micro: int) -> None:
    assert units.payable_micro(energy_wh, price) == micro


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**6))
def test_deposits_cover_what_can_be_due(energy_wh: int, price: int, fee_ppm: int) -> None:
    assert units.deposit_micro(energy_wh, price) >= units.payable_micro(energy_wh, price)
    assert units.fee_deposit_micro(energy_wh, price, fee_ppm) >= units.fee_micro(energy_wh, price, fee_ppm)


@given(NATURAL, st.lists(st.integers(0, 10**9), max_size=30))
def test_largest_remainder_gives_everything_and_nobody_more_than_one_too_much(total: int, weights: list[int]) -> None:
    shares = units.largest_remainder(total, weights)
    whole = sum(weights)
    if whole == 0:
        assert shares == [0] * len(weights)
        return
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - Fraction(total * weight, whole)) < 1


def test_largest_remainder_breaks_ties_for_the_earlier() -> None:
    assert units.largest_remainder(2, [1, 1, 1]) == [1, 1, 0]
    assert units.largest_remainder(10, [1, 2, 3]) == [2, 3, 5]
    assert units.largest_remainder(7, [3, 0, 3]) == [4, 0, 3]


def test_mean_price_is_weighted_and_0_without_energy() -> None:
    assert units.mean_price(3 * 100 + 1 * 200, 4) == 125
    assert units.mean_price(0, 0) == 0


def test_the_shortest_time_of_an_energy_rounds_up() -> None:
    assert units.shortest_time_ms(10_000, 2_500) == 900_000
    assert units.shortest_time_ms(7_000, 1) == 515
    assert units.shortest_time_ms(10_000_000, 1) == 1
    assert units.shortest_time_ms(10_000, 0) == 0
