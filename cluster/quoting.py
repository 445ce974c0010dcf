"""How a household quotes: role, quantity and price of its order, from its forecast, public prices and a private margin.

**Role.** A buyer if the forecast draws more than the threshold, a seller if it feeds in more, else no order.

**Quantity.** The newsvendor's: a seller who sells one Wh too few loses price - feed-in on it, one too many costs retail - price and
the fine; so it sells the quantile of its forecast at which both weigh the same (errors taken as Laplace distributed with the
forecaster's own mean error). A buyer's case is the mirror image.

**Price.** All prices are shares of the spread between feed-in (0) and retail (1), so that they keep their meaning when the tariff
changes with the hour. The reference is a moving mean of the public mean prices, at first the middle; one outside that spread
teaches nothing. A seller asks a little less
than the reference, a buyer bids a little more, so the two sides meet; how much less or more is the concession: it grows after an
order that was not filled and shrinks after one that was, so that the scarce side gets the better price in the end. The reserve is
the private margin inside feed-in and retail after fees, and no quote ever crosses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal, NamedTuple

from cluster.forecasting import Forecast
from consensus.crypto import digest

Side = Literal["buy", "sell"]
PPM = 1_000_000
REFERENCE_MEMORY = 0.7
FIRST_REFERENCE = 0.5
LEAST_CONCESSION = 0.005
MOST_CONCESSION = 0.45
CONCESSION_STEP = 0.04
CONCESSION_DECAY = 0.8
THRESHOLD_W = 40
"""No order for less than this mean power."""


class Tariff(NamedTuple):
    """Prices of the grid company for one period, and the market's rates.

    Attributes:
        feed_in, retail: what the grid pays and takes, micro per kWh.
        fee_ppm: of what is paid, from each side.
        fine_ppm: of the price, on what is not delivered or taken.
    """

    feed_in: int
    retail: int
    fee_ppm: int
    fine_ppm: int

    @property
    def spread(self) -> int:
        """What there is to gain on one kWh, both sides together."""
        return self.retail - self.feed_in


class Quote(NamedTuple):
    """One order before it is signed."""

    side: Side
    energy_wh: int
    price_micro_per_kwh: int
    reserve_micro_per_kwh: int


@dataclass(slots=True)
class Temper:
    """What makes one household quote unlike another: known to nobody else.

    Attributes:
        margin: least gain that it wants, as a share of the spread.
        concession: how far its quote goes from the reference toward the other side, as a share of the spread.
    """

    margin: float
    concession: float

    @classmethod
    def of(cls, secret: bytes) -> Temper:
        """Derive it from something that only the household knows: margin 2 to 10 %, first concession 1 to 5 %."""
        drawn = digest(b"GridPact trading temper\x00" + secret)
        first, second = (int.from_bytes(drawn[at : at + 8], "big") / 2**64 for at in (0, 8))
        return cls(0.02 + 0.08 * first, 0.01 + 0.04 * second)


class Quoter:
    """Quotes for one household and learns from what the public market and its own orders show.

    Args:
        temper: private.
        period_ms: length of a period.
    """

    def __init__(self, temper: Temper, period_ms: int) -> None:
        self._temper = temper
        self._reference = FIRST_REFERENCE
        self._threshold_wh = max(1.0, THRESHOLD_W * period_ms / 3_600_000)

    @property
    def reference(self) -> float:
        """Where it expects the price, as a share of the spread."""
        return self._reference

    @property
    def concession(self) -> float:
        """How far its quotes go from the reference, as a share of the spread."""
        return self._temper.concession

    def learn_price(self, mean_price_micro_per_kwh: int, tariff: Tariff) -> None:
        """Take the public mean price of a cleared period (0: no trade, nothing to learn).

        Nobody gains by a price outside feed-in and retail, but two accounts of one owner can trade at any price and never perform, which
        costs them nothing; so nothing is learned from such a mean price.
        """
        if tariff.spread > 0 and tariff.feed_in <= mean_price_micro_per_kwh <= tariff.retail and mean_price_micro_per_kwh > 0:
            share = (mean_price_micro_per_kwh - tariff.feed_in) / tariff.spread
            self._reference += (1 - REFERENCE_MEMORY) * (share - self._reference)

    def learn_outcome(self, filled_share: float) -> None:
        """Take how much of its own order was matched, 0 to 1."""
        unfilled = 1 - min(1.0, max(0.0, filled_share))
        concession = self._temper.concession * (1 - (1 - CONCESSION_DECAY) * (1 - unfilled)) + CONCESSION_STEP * unfilled
        self._temper.concession = min(MOST_CONCESSION, max(LEAST_CONCESSION, concession))

    def quote(self, forecast: Forecast, tariff: Tariff) -> Quote | None:
        """Return the order for a period with this forecast; None if none is worth it."""
        if abs(forecast.net_wh) < self._threshold_wh:
            return None
        side: Side = "buy" if forecast.net_wh > 0 else "sell"
        reserve = self._reserve(side, tariff)
        if not tariff.feed_in < reserve < tariff.retail:
            return None
        step = self._temper.concession if side == "buy" else -self._temper.concession
        price = round(tariff.feed_in + (self._reference + step) * tariff.spread)
        price = min(price, reserve) if side == "buy" else max(price, reserve)
        energy_wh = shaded_quantity_wh(forecast, side, price, tariff)
        if energy_wh < self._threshold_wh:
            return None
        return Quote(side, energy_wh, price, reserve)

    def _reserve(self, side: Side, tariff: Tariff) -> int:
        """Return the worst price that still gains the margin after the fee."""
        margin = self._temper.margin * tariff.spread
        if side == "buy":
            return int((tariff.retail - margin) * PPM / (PPM + tariff.fee_ppm))
        return -int(-(tariff.feed_in + margin) * PPM // (PPM - tariff.fee_ppm)) if tariff.fee_ppm < PPM else tariff.retail


def shaded_quantity_wh(forecast: Forecast, side: Side, price_micro_per_kwh: int, tariff: Tariff) -> int:
    """Return how much to order, Wh: the quantile of the forecast at which one Wh more costs as much as it gains."""
    fine = price_micro_per_kwh * tariff.fine_ppm / PPM
    if side == "sell":
        too_little, too_much = price_micro_per_kwh - tariff.feed_in, tariff.retail - price_micro_per_kwh + fine
    else:
        too_little, too_much = tariff.retail - price_micro_per_kwh, price_micro_per_kwh - tariff.feed_in + fine
    weight = max(0.0, too_little) + max(0.0, too_much)
    share = min(0.99, max(0.01, too_little / weight)) if weight > 0 else 0.5
    offset = forecast.error_wh * (log(2 * share) if share < 0.5 else -log(2 * (1 - share)))
    return max(0, round(abs(forecast.net_wh) + offset))
