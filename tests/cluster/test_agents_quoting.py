"""Roles, quantities and prices of one household's orders."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cluster.forecasting import Forecast
from cluster.quoting import Quoter, Tariff, Temper, shaded_quantity_wh

TARIFF = Tariff(80_000, 220_000, 5_000, 100_000)
QUARTER_MS = 900_000


def forecast(net_wh: float, error_wh: float = 20.0) -> Forecast:
    return Forecast(net_wh, error_wh, "regression")


def test_role_follows_the_forecast():
    quoter = Quoter(Temper(0.05, 0.02), QUARTER_MS)
    buy, sell = quoter.quote(forecast(400), TARIFF), quoter.quote(forecast(-400), TARIFF)
    assert buy is not None
    assert sell is not None
    assert (buy.side, sell.side) == ("buy", "sell")
    assert quoter.quote(forecast(9), TARIFF) is None
    assert quoter.quote(forecast(-9), TARIFF) is None
    # All error and no forecast: nothing to promise.
    assert quoter.quote(forecast(-40, 2_000), TARIFF) is None


@given(
    st.floats(-50_000, 50_000),
    st.floats(0, 20_000),
    st.integers(0, 500_000),
    st.integers(0, 1_000_000),
    st.integers(0, 1_000_000),
    st.binary(max_size=32),
    st.lists(st.floats(0, 1), max_size=20),
)
def test_quotes_are_admissible_and_never_cross_the_reserve(net_wh, error_wh, feed_in, width, fee_ppm, secret, outcomes):
    tariff = Tariff(feed_in, feed_in + width, fee_ppm, 100_000)
    quoter = Quoter(Temper.of(secret), QUARTER_MS)
    for share in outcomes:
        quoter.learn_outcome(share)
        quoter.learn_price(round(feed_in + share * width), tariff)
    quote = quoter.quote(forecast(net_wh, error_wh), tariff)
    if quote is None:
        return
    assert quote.energy_wh > 0
    assert tariff.feed_in <= quote.price_micro_per_kwh <= tariff.retail
    if quote.side == "sell":
        assert quote.reserve_micro_per_kwh <= quote.price_micro_per_kwh
        # Even at the reserve, after the fee, the seller gets more than from the grid.
        assert quote.reserve_micro_per_kwh * (1_000_000 - fee_ppm) >= feed_in * 1_000_000
    else:
        assert quote.reserve_micro_per_kwh >= quote.price_micro_per_kwh
        assert quote.reserve_micro_per_kwh * (1_000_000 + fee_ppm) <= tariff.retail * 1_000_000


def test_fresh_sellers_and_buyers_meet():
    for number in range(50):
        seller, buyer = (Quoter(Temper.of(f"{side}{number}".encode()), QUARTER_MS) for side in ("s", "b"))
        ask, bid = seller.quote(forecast(-500), TARIFF), buyer.quote(forecast(500), TARIFF)
        assert ask is not None
        assert bid is not None
        assert ask.price_micro_per_kwh <= bid.price_micro_per_kwh


def test_no_spread_no_order():
    quoter = Quoter(Temper(0.05, 0.02), QUARTER_MS)
    assert quoter.quote(forecast(400), Tariff(200_000, 200_000, 0, 0)) is None
    assert quoter.quote(forecast(-400), Tariff(200_000, 100_000, 0, 0)) is None


def test_learns_the_public_price():
    quoter = Quoter(Temper(0.05, 0.0), QUARTER_MS)
    for _ in range(20):
        quoter.learn_price(190_000, TARIFF)
    assert abs(quoter.reference - (190_000 - 80_000) / 140_000) < 0.01
    reference = quoter.reference
    quoter.learn_price(0, TARIFF)
    assert quoter.reference == reference


@given(st.integers(0, 10**9))
def test_sham_trades_beyond_the_grids_prices_do_not_move_it(mean_price):
    """Two accounts of one owner can trade at the price cap and never perform; nobody else's quote follows."""
    quoter, untouched = (Quoter(Temper(0.05, 0.02), QUARTER_MS) for _ in range(2))
    quoter.learn_price(mean_price, TARIFF)
    if TARIFF.feed_in <= mean_price <= TARIFF.retail:
        assert abs(quoter.reference - 0.5) < 0.151
        return
    assert quoter.reference == untouched.reference
    for net_wh in (400, -400):
        assert quoter.quote(forecast(net_wh), TARIFF) == untouched.quote(forecast(net_wh), TARIFF)


def test_scarce_side_gets_the_better_price():
    """Many sellers, few buyers: unfilled sellers concede, and the public price falls; then the other way round."""
    drawn = random.Random(1)
    for scarce, rises in (("buy", False), ("sell", True)):
        sellers = [Quoter(Temper.of(bytes([number])), QUARTER_MS) for number in range(8 if scarce == "buy" else 3)]
        buyers = [Quoter(Temper.of(bytes([100 + number])), QUARTER_MS) for number in range(3 if scarce == "buy" else 8)]
        for _ in range(40):
            asks = sorted((quoter.quote(forecast(-500), TARIFF).price_micro_per_kwh, drawn.random(), quoter) for quoter in sellers)
            bids = sorted((-quoter.quote(forecast(500), TARIFF).price_micro_per_kwh, drawn.random(), quoter) for quoter in buyers)
            pairs = list(zip(asks, bids, strict=False))
            prices = [(ask[0] - bid[0]) // 2 for ask, bid in pairs]
            for place, (_, _, quoter) in enumerate(asks):
                quoter.learn_outcome(float(place < len(pairs)))
            for place, (_, _, quoter) in enumerate(bids):
                quoter.learn_outcome(float(place < len(pairs)))
            for quoter in sellers + buyers:
                quoter.learn_price(sum(prices) // len(prices), TARIFF)
        assert (sellers[0].reference > 0.55) if rises else (sellers[0].reference < 0.45)


def test_private_margins_differ_and_stay():
    tempers = [Temper.of(bytes([number])) for number in range(20)]
    assert len({temper.margin for temper in tempers}) == 20
    assert Temper.of(b"x") == Temper.of(b"x")
    assert all(0.02 <= temper.margin <= 0.1 and 0.01 <= temper.concession <= 0.05 for temper in tempers)


def test_quantity_is_shaded_toward_the_cheaper_error():
    assert (
        shaded_quantity_wh(forecast(-1_000, 100), "sell", 210_000, TARIFF)
        > 1_000
        > shaded_quantity_wh(forecast(-1_000, 100), "sell", 90_000, TARIFF)
    )
    assert (
        shaded_quantity_wh(forecast(1_000, 100), "buy", 210_000, TARIFF)
        < 1_000
        < shaded_quantity_wh(forecast(1_000, 100), "buy", 90_000, TARIFF)
    )
    assert shaded_quantity_wh(forecast(1_000, 0), "buy", 150_000, TARIFF) == 1_000


def test_shading_pays():
    """With errors as expected, the shaded quantity costs less than the bare forecast in the settlement's own terms."""
    drawn = random.Random(7)
    price, fine = 100_000, 10_000
    plain = shaded = 0.0
    for _ in range(4_000):
        delivered = 1_000 + drawn.choice((-1, 1)) * drawn.expovariate(1 / 150)
        for quantity in (1_000, shaded_quantity_wh(forecast(-1_000, 150), "sell", price, TARIFF)):
            short = max(0.0, quantity - delivered)
            income = min(quantity, delivered) * price + max(0.0, delivered - quantity) * TARIFF.feed_in
            income -= short * (TARIFF.retail - price + fine)
            plain, shaded = (plain + income, shaded) if quantity == 1_000 else (plain, shaded + income)
    assert shaded > plain
