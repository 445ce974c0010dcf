"""What every contract method works on: rules, people and state of one channel; and how it answers."""

from __future__ import annotations

from typing import TypeVar

from consensus.application import StateReader, Verdict
from consensus.crypto import Verify, verify
from consensus.errors import InvariantViolation
from contracts.epochs import NOBODY, Seats, seats_of
from contracts.events import AnyEvent
from contracts.genesis import Genesis
from contracts.periods import Calendar
from contracts.records import MARKET_KEY, Epoch, LedgerState, Progress, epoch_key
from contracts.registry import Registry, Sender

T = TypeVar("T")
Outcome = tuple[AnyEvent, ...] | Verdict
"""What a call gives: the events of a success, or the code and detail of the refusal (then nothing was written)."""


class Ledger:
    """Rules, people and state of one channel.

    Args:
        genesis: the checked agreement.
        reader: the committed state.
        caching: see :class:`contracts.records.LedgerState`.
        check: how the signatures of validators' votes are checked.

    Attributes:
        seats: who validates the block after the last committed one, as :meth:`take_seats` found it.
    """

    def __init__(self, genesis: Genesis, reader: StateReader, caching: bool, check: Verify = verify) -> None:
        self.genesis = genesis
        self.rules = genesis.market
        self.registry = Registry(genesis)
        self.calendar = Calendar(genesis.market)
        self.state = LedgerState(reader, caching)
        self.check = check
        self.seats: Seats = NOBODY

    @property
    def progress(self) -> Progress:
        """How far chain and market are, as this block sees it."""
        return present(self.state.market.get(MARKET_KEY), "market progress")

    @property
    def next_height(self) -> int:
        """Height of the block after the last committed one: of the one that is being executed, if any."""
        return self._committed_progress.height + 1

    @property
    def latest_epoch(self) -> Epoch:
        """The last validator set that this block knows, in force or announced."""
        number = self.progress.epochs - 1
        return present(self.state.epochs.get(epoch_key(number)), f"epoch {number}")

    @property
    def latest_committed_epoch(self) -> Epoch:
        """The last validator set that the committed state knows."""
        number = self._committed_progress.epochs - 1
        return present(self.state.epochs.committed(epoch_key(number)), f"epoch {number}")

    @property
    def _committed_progress(self) -> Progress:
        return present(self.state.market.committed(MARKET_KEY), "market progress")

    def epoch_at(self, height: int) -> Epoch:
        """Return the validator set of the block at ``height``, as far as the committed state knows it."""
        epoch = self.latest_committed_epoch
        while epoch.first_height > height and epoch.number > 0:
            epoch = present(self.state.epochs.committed(epoch_key(epoch.number - 1)), f"epoch {epoch.number - 1}")
        return epoch

    def take_seats(self) -> None:
        """Find out who validates the next block. Call it whenever the committed state has changed."""
        epoch = self.epoch_at(self.next_height)
        if epoch.members is not self.seats.members:
            self.seats = seats_of(epoch, self.registry)

    def sender(self, name: str) -> Sender | None:
        """Return who may send transactions in this name now: an account, a meter, or a validator of the next block."""
        known = self.registry.senders.get(name)
        return known if known is not None else self.seats.senders.get(name)

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
