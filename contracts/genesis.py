"""Genesis: who takes part and by which rules, agreed before the first block.

One JSON file, the same on every node. Its digest stands in header 0, so nodes with different files never agree on anything.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from consensus.crypto import digest
from consensus.errors import InputError
from consensus.messages import Domain, ValidatorSet
from consensus.quorum import quorums
from contracts.calls import MAX_TIME_MS, CounterWh, Name, Price, TimeMs
from contracts.units import NANO_PER_MICRO

PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Role = Literal["consumer", "prosumer", "generator", "grid", "operator", "data-centre"]
Ppm = Annotated[int, Meta(ge=0, le=1_000_000)]
PositiveMs = Annotated[int, Meta(gt=0, le=366 * 86_400_000)]
NaturalMs = Annotated[int, Meta(ge=0, le=366 * 86_400_000)]
MAX_OPEN_PERIODS = 1_000
MAX_MONEY_MICRO = 10**18
MAX_FLOWN_MICRO = 2 * 10**18
"""Most that the grid company can come to owe or own: with all money it stays far below 2**63, the largest integer of a record."""
LIFETIME_H = 100 * 366 * 24
MAX_PERIOD_EVENTS = 220_000
"""Most events that clearing or settling one period may bring. With names at their longest a default takes up to 220 bytes, a bill
and a debt 480, a trade 490; there are half as many trades, and bills, as events at most: so all of them fit into a receipt of 64 MiB."""
GRID = "GRID"
OPERATOR = "OPERATOR"
MAX_VALIDATORS = 64


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the parts of a genesis file: unknown keys are refused."""


class Validator(_Part, frozen=True):
    """A data-centre node that votes; ``account`` earns its fees and must be a participant."""

    name: Name
    public_key: PublicKey
    account: Name


class Participant(_Part, frozen=True):
    """An account with its owner's key. Exactly one has the role grid (GRID) and one operator (OPERATOR)."""

    account: Name
    role: Role
    public_key: PublicKey
    balance_micro: Annotated[int, Meta(ge=0, le=10**15)]


class Meter(_Part, frozen=True):
    """A meter, the account that it counts for, its fuse rating and its first counters."""

    meter: Name
    account: Name
    public_key: PublicKey
    fuse_w: Annotated[int, Meta(gt=0, le=10_000_000)]
    import_wh: CounterWh = 0
    export_wh: CounterWh = 0


class Tariff(_Part, frozen=True):
    """Prices of the grid company, 1e-6 currency per kWh: time-of-use for buying (24 hours each), one feed-in price."""

    buy_weekday_micro_per_kwh: Annotated[tuple[Price, ...], Meta(min_length=24, max_length=24)]
    buy_weekend_micro_per_kwh: Annotated[tuple[Price, ...], Meta(min_length=24, max_length=24)]
    feed_in_micro_per_kwh: Price

    def buy_micro_per_kwh(self, time_ms: int) -> int:
        """Return the price of the hour that ``time_ms`` lies in (1970-01-01 was a Thursday)."""
        day, hour = time_ms // 86_400_000, time_ms // 3_600_000 % 24
        prices = self.buy_weekend_micro_per_kwh if (day + 3) % 7 >= 5 else self.buy_weekday_micro_per_kwh
        return prices[hour]


class MarketRules(_Part, frozen=True):
    """How periods are traded and settled.

    Fields:
        period_ms: length of a delivery period; period i spans [i x period_ms, (i + 1) x period_ms).
        first_period: index of the first period that is traded and settled.
        open_before_ms: orders are taken from so long before delivery starts,
        gate_closure_before_ms: until so long before it.
        metering_grace_ms: settlement waits at most so long after delivery for the meters (less if all have reported).
        beta_ppm, max_reprice_rounds: second round of the auction (paper 002, equation 2).
        price_cap_micro_per_kwh: highest quote.
        fee_ppm: of the performed notional, from each side, to the proposer's account.
        fine_ppm, tolerance_ppm: of the default rule.
        max_orders_per_period, max_orders_per_account: bounds of the book, and of one account's part in it (withdrawn orders count).
    """

    period_ms: PositiveMs
    first_period: Annotated[int, Meta(ge=0)]
    open_before_ms: PositiveMs
    gate_closure_before_ms: NaturalMs
    metering_grace_ms: NaturalMs
    beta_ppm: Annotated[int, Meta(gt=0, le=1_000_000)] = 100_000
    max_reprice_rounds: Annotated[int, Meta(ge=0, le=100)] = 10
    price_cap_micro_per_kwh: Price = 10_000_000
    fee_ppm: Ppm = 5_000
    fine_ppm: Ppm = 100_000
    tolerance_ppm: Ppm = 50_000
    max_orders_per_period: Annotated[int, Meta(gt=0, le=1_000_000)] = 10_000
    max_orders_per_account: Annotated[int, Meta(gt=0, le=1_000_000)] = 1_000


class ConsensusRules(_Part, frozen=True):
    """Limits that every replica must share.

    Fields:
        max_batch_transactions, max_batch_bytes: largest proposal.
        max_drift_ms: how far a proposed block time may be from a backup's clock (chain time).
        max_validity_ms: how far ahead a transaction's ``valid_until_ms`` may lie.
        view_timeout_ms, max_view_timeout_ms: patience with a primary (real time), first and doubled at most up to.
        window: sequences between the water marks.
        max_in_flight: sequences that a primary may have open at once.
        approval_ppm: share of the validators that must vote for a change of their set, by default more than two thirds; at least half, so
            that no faulty minority decides.
        max_seat_renewals_per_day: how often within a day of chain time one validator may ask for an epoch that names its new vote log; each
            costs a window of blocks.
    """

    max_batch_transactions: Annotated[int, Meta(gt=0, le=100_000)] = 1_000
    max_batch_bytes: Annotated[int, Meta(ge=65_536, le=8_388_608)] = 1_048_576
    max_drift_ms: PositiveMs = 5_000
    max_validity_ms: PositiveMs = 86_400_000
    view_timeout_ms: PositiveMs = 1_000
    max_view_timeout_ms: PositiveMs = 60_000
    window: Annotated[int, Meta(ge=4, le=1024)] = 64
    max_in_flight: Annotated[int, Meta(ge=1, le=64)] = 4
    approval_ppm: Annotated[int, Meta(ge=500_000, le=1_000_000)] = 666_667
    max_seat_renewals_per_day: Annotated[int, Meta(ge=1, le=1_000)] = 8


class Genesis(_Part, frozen=True):
    """The whole agreement. Check it with :func:`check_genesis` after decoding."""

    version: Literal[1]
    chain_id: Name
    channel: Name
    currency: Annotated[str, Meta(min_length=1, max_length=8)]
    time_ms: TimeMs
    validators: tuple[Validator, ...]
    participants: tuple[Participant, ...]
    meters: tuple[Meter, ...]
    tariff: Tariff
    market: MarketRules
    consensus: ConsensusRules

    @property
    def digest(self) -> bytes:
        """SHA-256 over the contents, whatever the layout of the file."""
        return digest(b"GridPact genesis\x00" + msgspec.msgpack.encode(self))

    @property
    def validator_set(self) -> ValidatorSet:
        """The validators of epoch 0."""
        names = tuple(validator.name for validator in self.validators)
        keys = tuple(bytes.fromhex(validator.public_key) for validator in self.validators)
        return ValidatorSet(Domain(self.chain_id, self.channel, 0), 1, names, keys, (b"",) * len(names))


def read_genesis(text: bytes, name: str = "genesis") -> Genesis:
    """Decode and check a genesis file.

    Args:
        text: JSON.
        name: the file's name, for the error.

    Raises:
        InputError: it is not JSON, a key is unknown or missing, a value is out of range, or the parts do not fit together.
    """
    try:
        genesis = msgspec.json.decode(text, type=Genesis)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(name, str(error)) from error
    check_genesis(genesis, name)
    return genesis


def write_genesis(genesis: Genesis) -> bytes:
    """Return the file of ``genesis``: JSON, indented, one final newline."""
    return msgspec.json.format(msgspec.json.encode(genesis), indent=2) + b"\n"


def check_genesis(genesis: Genesis, name: str = "genesis") -> None:
    """Check what the types cannot.

    Raises:
        InputError: names the part that does not fit.
    """
    quorums(len(genesis.validators))
    if len(genesis.validators) > MAX_VALIDATORS:
        raise InputError(f"{name}: validators", f"{len(genesis.validators)} are more than {MAX_VALIDATORS}")
    accounts = [participant.account for participant in genesis.participants]
    _distinct(f"{name}: participants", accounts)
    nodes = [validator.name for validator in genesis.validators]
    _distinct(f"{name}: validators", nodes)
    _distinct(f"{name}: validators: public_key", [validator.public_key for validator in genesis.validators])
    _distinct(f"{name}: senders", accounts + [meter.meter for meter in genesis.meters] + nodes)
    known = frozenset(accounts)
    for validator in genesis.validators:
        if validator.account not in known:
            raise InputError(f"{name}: validators: {validator.name}", f"account {validator.account} is no participant")
    for meter in genesis.meters:
        if meter.account == GRID:
            raise InputError(f"{name}: meters: {meter.meter}", f"{GRID} is the other side of all meters and has none")
        if meter.account not in known:
            raise InputError(f"{name}: meters: {meter.meter}", f"account {meter.account} is no participant")
    for role, account in (("grid", GRID), ("operator", OPERATOR)):
        holders = [participant.account for participant in genesis.participants if participant.role == role]
        if holders != [account]:
            raise InputError(f"{name}: participants", f"exactly one must have the role {role}, and be called {account}")
    _check_market(genesis, name)
    if sum(participant.balance_micro for participant in genesis.participants) > MAX_MONEY_MICRO:
        raise InputError(f"{name}: participants: balance_micro", f"together more than {MAX_MONEY_MICRO}")
    tariff = genesis.tariff
    dearest = max(*tariff.buy_weekday_micro_per_kwh, *tariff.buy_weekend_micro_per_kwh, tariff.feed_in_micro_per_kwh)
    if sum(meter.fuse_w for meter in genesis.meters) * LIFETIME_H * dearest > MAX_FLOWN_MICRO * NANO_PER_MICRO:
        raise InputError(f"{name}: meters: fuse_w", f"in a hundred years, at the highest price, more than {MAX_FLOWN_MICRO} could flow")


def clearing_events(orders: int) -> int:
    """Return the most events that clearing a book of so many orders brings: each trade fills an order."""
    return orders + 1


def settlement_events(trades: int, accounts: int, meters: int) -> int:
    """Return the most events of a settlement: two defaults per trade, a bill and a debt per account, a word for each missing meter."""
    return 2 * trades + 2 * accounts + meters + 1


def _check_market(genesis: Genesis, name: str) -> None:
    """Check the rules of the market."""
    market = genesis.market
    if market.gate_closure_before_ms >= market.open_before_ms:
        raise InputError(f"{name}: market: gate_closure_before_ms", "the gate closes before it opens")
    if market.open_before_ms > MAX_OPEN_PERIODS * market.period_ms:
        raise InputError(f"{name}: market: open_before_ms", f"more than {MAX_OPEN_PERIODS} periods would be open at once")
    events = settlement_events(market.max_orders_per_period, len(genesis.participants), len(genesis.meters))
    if events > MAX_PERIOD_EVENTS:
        place = f"{name}: market: max_orders_per_period"
        raise InputError(place, f"settling a full period could bring {events} events, more than {MAX_PERIOD_EVENTS}")
    if market.first_period * market.period_ms < genesis.time_ms:
        raise InputError(f"{name}: market: first_period", "starts before the genesis time")
    if market.first_period * market.period_ms > MAX_TIME_MS:
        raise InputError(f"{name}: market: first_period", f"starts after the last time that can be told, {MAX_TIME_MS} ms")


def _distinct(field: str, names: list[str]) -> None:
    seen: dict[str, None] = {}
    for value in names:
        if value in seen:
            raise InputError(field, f"{value} occurs twice")
        seen[value] = None
