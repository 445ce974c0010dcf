"""What the ledger's state holds: one record type per table, and the tables together.

| prefix | key after it | record |
| --- | --- | --- |
| ``account/`` | account | :class:`Account` |
| ``meter/`` | meter | :class:`Meter` |
| ``market/`` | nothing | :class:`Progress` |
| ``period/`` | period | :class:`Period`, from its first order on |
| ``order/`` | period, number | :class:`Order`, until gate closure |
| ``place/`` | order id | :class:`Place`, until gate closure: where the order stands |
| ``position/`` | period, account | :class:`Position`, until settlement |
| ``book/`` | period, page | :class:`BookPage`: the orders as gate closure left them |
| ``trades/`` | period, page | :class:`TradePage` |
| ``bills/`` | period, page | :class:`BillPage` |
| ``credit/`` | account | :class:`Credit` |
| ``validator/`` | validator | :class:`Validator`, for good, even if it is removed |
| ``epoch/`` | epoch | :class:`Epoch` |
| ``change/`` | digest of the change | :class:`Change`, until a new set is announced |
| ``offence/`` | validator, ``/``, epoch, kind, view, sequence | :class:`Offence` |

Periods, epochs, views and sequences are 8, kinds 1, pages and numbers of orders 4 bytes, big endian. Pages keep the number of entries
(and the commitment over them) small for years.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from consensus.application import StateReader
from consensus.codec import Wire
from contracts.calls import Action
from contracts.events import Billed, Member, Traded
from contracts.state import Table
from contracts.window import EMPTY_WINDOW, Window

PAGE = 64
CACHED_RECORDS = 65_536
CACHED_PAGES = 64
MARKET_KEY = b""
_OFFENCE_BYTES = 8 + 1 + 8 + 8
E = TypeVar("E")


class Account(Wire, frozen=True):
    """Money of one account: free, and held back by orders; and which nonces its owner spent."""

    balance_micro: int
    locked_micro: int = 0
    nonces: Window = EMPTY_WINDOW


class Register(Wire, frozen=True):
    """The last counters known within a period, on the meter's unbroken scale (resets taken out)."""

    period: int
    time_ms: int
    import_wh: int
    export_wh: int


class Meter(Wire, frozen=True):
    """What the ledger knows of one meter.

    Fields:
        time_ms: time given to the newest reading that counts.
        import_wh, export_wh: its counters, as the device shows them.
        import_offset_wh, export_offset_wh: added to the device's counters they give the unbroken scale.
        settled_import_wh, settled_export_wh: unbroken counters at the end of the last settled period.
        base_import_wh, base_export_wh: the same at the start of the first period.
        boot_id, uptime_ms: of that newest reading.
        fuse_time_ms: up to when time is used up: energy that comes yet must fit through the fuse after it.
        registers: one per period that is not settled and has a reading, by rising period.
        sequences: which readings came; ``missing`` how many did not.
        reset_sequence: readings up to this one came before the last reset.
        quarantine: code of the reason; empty if the meter counts.
    """

    time_ms: int
    import_wh: int
    export_wh: int
    settled_import_wh: int
    settled_export_wh: int
    base_import_wh: int
    base_export_wh: int
    import_offset_wh: int = 0
    export_offset_wh: int = 0
    boot_id: str = ""
    uptime_ms: int = 0
    registers: tuple[Register, ...] = ()
    sequences: Window = EMPTY_WINDOW
    reset_sequence: int = 0
    accepted: int = 0
    missing: int = 0
    quarantined: int = 0
    quarantine: str = ""
    nonces: Window = EMPTY_WINDOW
    fuse_time_ms: int = 0


class Progress(Wire, frozen=True):
    """How far chain and market are, and sums over what is settled.

    Fields:
        time_ms, height: of the last block.
        epochs: how many validator sets are known, from epoch 0 on.
        next_clear, next_settle: first period that is not yet cleared, settled.
        orders, trades: of all cleared periods.
        import_wh, export_wh: metered in all settled periods.
        traded_wh: performed between members; grid_bought_wh, grid_sold_wh: by members from and to the grid.
    """

    time_ms: int
    next_clear: int
    next_settle: int
    orders: int = 0
    trades: int = 0
    import_wh: int = 0
    export_wh: int = 0
    traded_wh: int = 0
    grid_bought_wh: int = 0
    grid_sold_wh: int = 0
    height: int = 0
    epochs: int = 1


class Period(Wire, frozen=True):
    """One period's book in numbers: orders taken, of these not withdrawn at gate closure; what was matched."""

    order_count: int = 0
    trade_count: int = 0
    energy_wh: int = 0
    mean_price_micro_per_kwh: int = 0


class Order(Wire, frozen=True):
    """One order before gate closure; the number in its key is its place in ledger order."""

    order: bytes
    account: str
    side: str
    energy_type: str
    energy_wh: int
    price_micro_per_kwh: int
    reserve_micro_per_kwh: int
    locked_micro: int
    cancelled: bool = False


class Place(Wire, frozen=True):
    """Where one order stands: period, and place in ledger order."""

    period: int
    number: int


class Position(Wire, frozen=True):
    """What one account has in one period: its side, its live orders, all it ever placed, and the deposit for them."""

    side: str
    live: int
    placed: int
    locked_micro: int


class BookEntry(Wire, frozen=True):
    """One order after gate closure, without its reserve price."""

    order: bytes
    account: str
    side: str
    energy_type: str
    energy_wh: int
    remaining_wh: int
    price_micro_per_kwh: int
    state: str


class BookPage(Wire, frozen=True):
    """Up to :data:`PAGE` orders in ledger order."""

    entries: tuple[BookEntry, ...]


class TradePage(Wire, frozen=True):
    """Up to :data:`PAGE` trades in the order of matching."""

    entries: tuple[Traded, ...]


class BillPage(Wire, frozen=True):
    """Up to :data:`PAGE` bills of one period, by account; the n-th account of the genesis (by name) is on page n // PAGE."""

    entries: tuple[Billed, ...]


class Credit(Wire, frozen=True):
    """How well an account kept its contracts; see markets, settlement.

    ``double_signings`` is the credit of a data centre: how often its validators were proven to have voted for two different things at one
    place. It moves no score, since a score weighs what was traded.
    """

    score_ppm: int = 1_000_000
    periods: int = 0
    under_deliveries: int = 0
    under_takes: int = 0
    debts: int = 0
    double_signings: int = 0


class Validator(Wire, frozen=True):
    """What the ledger knows of one validator, whatever set it belongs to.

    Fields:
        nonces: which ones it spent; they stay spent when it leaves and comes back.
        open_votes: for changes that are not decided.
        offences: proven double signings.
        renewals: block times of the last renewals of its seat, rising.
    """

    nonces: Window = EMPTY_WINDOW
    open_votes: int = 0
    offences: int = 0
    renewals: tuple[int, ...] = ()


class Epoch(Wire, frozen=True):
    """One validator set.

    Fields:
        members: by index.
        decided: number of the first epoch with these members; those since then renewed seats only.
    """

    number: int
    first_height: int
    members: tuple[Member, ...]
    decided: int


class Change(Wire, frozen=True):
    """A change of the set of ``epoch`` that is not decided, and the validators that voted for it, in the order of their votes.

    ``epoch`` is the first one with the members that change: renewed seats change nothing of the question.
    """

    epoch: int
    action: Action
    member: Member
    approvals: tuple[str, ...]


class Offence(Wire, frozen=True):
    """A proven double signing: the transaction that proves it, and who sent it."""

    report: bytes
    reporter: str


class _AnyTable(Protocol):
    """What all tables have in common, whatever they hold."""

    def writes(self) -> list[tuple[bytes, bytes | None]]: ...

    def discard(self) -> None: ...

    def commit(self) -> None: ...

    def forget(self) -> None: ...


class LedgerState:
    """All tables over one committed state.

    Args:
        reader: the committed state.
        caching: keep decoded records (only right if all changes come through this object).
    """

    def __init__(self, reader: StateReader, caching: bool) -> None:
        many, few = (CACHED_RECORDS, CACHED_PAGES) if caching else (0, 0)
        self.accounts = Table(reader, b"account/", Account, many)
        self.meters = Table(reader, b"meter/", Meter, many)
        self.market = Table(reader, b"market/", Progress, few)
        self.periods = Table(reader, b"period/", Period, few)
        self.orders = Table(reader, b"order/", Order, many)
        self.places = Table(reader, b"place/", Place, many)
        self.positions = Table(reader, b"position/", Position, many)
        self.books = Table(reader, b"book/", BookPage, few)
        self.trades = Table(reader, b"trades/", TradePage, few)
        self.bills = Table(reader, b"bills/", BillPage, few)
        self.credits = Table(reader, b"credit/", Credit, many)
        self.validators = Table(reader, b"validator/", Validator, few)
        self.epochs = Table(reader, b"epoch/", Epoch, few)
        self.changes = Table(reader, b"change/", Change, few)
        self.offences = Table(reader, b"offence/", Offence, few)

    def writes(self) -> tuple[tuple[bytes, bytes | None], ...]:
        """Return everything that this block changed, by rising key."""
        return tuple(sorted((write for table in self._tables() for write in table.writes()), key=_key_of))

    def discard(self) -> None:
        """Forget this block's changes."""
        for table in self._tables():
            table.discard()

    def commit(self) -> None:
        """Take this block's changes as committed."""
        for table in self._tables():
            table.commit()

    def forget(self) -> None:
        """Forget this block's changes and everything kept of the committed state: another one took its place."""
        for table in self._tables():
            table.forget()

    def _tables(self) -> tuple[_AnyTable, ...]:
        return (
            self.accounts,
            self.meters,
            self.market,
            self.periods,
            self.orders,
            self.places,
            self.positions,
            self.books,
            self.trades,
            self.bills,
            self.credits,
            self.validators,
            self.epochs,
            self.changes,
            self.offences,
        )


def name_key(name: str) -> bytes:
    """Return the key of an account's, meter's or validator's record within its table."""
    return name.encode()


def period_key(period: int) -> bytes:
    """Return the key of a period's record, or the beginning of those of its parts."""
    return period.to_bytes(8, "big")


def page_key(period: int, page: int) -> bytes:
    """Return the key of one page of a period."""
    return period.to_bytes(8, "big") + page.to_bytes(4, "big")


def order_key(period: int, number: int) -> bytes:
    """Return the key of one order, by its place in ledger order."""
    return page_key(period, number)


def epoch_key(number: int) -> bytes:
    """Return the key of an epoch's record."""
    return number.to_bytes(8, "big")


def offence_prefix(validator: str) -> bytes:
    """Return how the keys of a validator's offences begin (no name has a slash)."""
    return validator.encode() + b"/"


def offence_key(validator: str, epoch: int, kind: int, view: int, sequence: int) -> bytes:
    """Return the key of one offence."""
    return offence_prefix(validator) + epoch.to_bytes(8, "big") + bytes([kind]) + view.to_bytes(8, "big") + sequence.to_bytes(8, "big")


def offence_position(key: bytes) -> tuple[int, int, int, int]:
    """Return epoch, kind, view and sequence from the key of an offence."""
    place = key[-_OFFENCE_BYTES:]
    return int.from_bytes(place[:8], "big"), place[8], int.from_bytes(place[9:17], "big"), int.from_bytes(place[17:], "big")


def pages(entries: Sequence[E]) -> list[tuple[E, ...]]:
    """Cut a list into pages."""
    return [tuple(entries[first : first + PAGE]) for first in range(0, len(entries), PAGE)]


def _key_of(write: tuple[bytes, bytes | None]) -> bytes:
    return write[0]
