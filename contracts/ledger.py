"""What every contract method works on: rules, people and state of one channel; and how it answers."""

from __future__ import annotations

from typing import TypeVar

from consensus.application import StateReader, Verdict
from consensus.errors import InvariantViolation
from contracts.events import AnyEvent
from contracts.genesis import Genesis
from contracts.periods import Calendar
from contracts.records import MARKET_KEY, LedgerState, Progress
from contracts.registry import Registry

T = TypeVar("T")
Outcome = tuple[AnyEvent, ...] | Verdict
"""What a call gives: the events of a success, or the code and detail of the refusal (then nothing was written)."""


class Ledger:
    """Rules, people and state of one channel.

    Args:
        genesis: the checked agreement.
        reader: the committed state.
        caching: see :class:`contracts.records.LedgerState`.
    """

    def __init__(self, genesis: Genesis, reader: StateReader, caching: bool) -> None:
        self.genesis = genesis
        self.rules = genesis.market
        self.registry = Registry(genesis)
        self.calendar = Calendar(genesis.market)
        self.state = LedgerState(reader, caching)

    @property
    def progress(self) -> Progress:
        """How far the market is, as this block sees it."""
        return present(self.state.market.get(MARKET_KEY), "market progress")

    def grid_prices(self, period: int) -> tuple[int, int]:
        """Return what the grid sells and buys at in a period, 1e-6 currency per kWh."""
        tariff = self.genesis.tariff
        return tariff.buy_micro_per_kwh(self.calendar.start_ms(period)), tariff.feed_in_micro_per_kwh


def present(record: T | None, what: str) -> T:
    """Return a record that genesis put there and nothing deletes.

    Raises:
        InvariantViolation: it is gone.
    """
    if record is None:
        raise InvariantViolation(f"the state holds no {what}")
    return record
