"""What happened, as receipts record it and subscribers see it. Named fields: a receipt explains itself."""

from __future__ import annotations

import msgspec

from consensus.codec import Decoder, Wire


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event"):
    """Base of all events."""


class Transferred(Event, frozen=True, tag="transferred"):
    """Money moved between two accounts on a member's order."""

    payer: str
    payee: str
    amount_micro: int


class ReadingAccepted(Event, frozen=True, tag="reading-accepted"):
    """A reading counts; ``period`` is the delivery period that ends at or after its time."""

    meter: str
    sequence: int
    period: int
    import_wh: int
    export_wh: int


class ReadingQuarantined(Event, frozen=True, tag="reading-quarantined"):
    """A reading is kept out of settlement until the operator decides; ``code`` says why."""

    meter: str
    sequence: int
    code: str


class MeterReset(Event, frozen=True, tag="meter-reset"):
    """The operator ended a meter's quarantine."""

    meter: str
    import_wh: int
    export_wh: int
    reason: str


class OrderAccepted(Event, frozen=True, tag="order-accepted"):
    """An order stands in the book."""

    order: str
    account: str
    period: int
    side: str
    energy_type: str
    energy_wh: int
    price_micro_per_kwh: int


class OrderCancelled(Event, frozen=True, tag="order-cancelled"):
    """An order was withdrawn by its owner."""

    order: str
    account: str
    period: int


class Traded(Event, frozen=True, tag="traded"):
    """Two orders met at gate closure. ``round`` 0 is direct matching, 1 and up the repricing rounds."""

    period: int
    trade: int
    buyer: str
    seller: str
    buy_order: str
    sell_order: str
    energy_type: str
    energy_wh: int
    price_micro_per_kwh: int
    round: int


class PeriodCleared(Event, frozen=True, tag="period-cleared"):
    """The book of a period was closed and matched. The mean price is weighted by energy (0 without trades)."""

    period: int
    orders: int
    trades: int
    energy_wh: int
    mean_price_micro_per_kwh: int


class MeterMissing(Event, frozen=True, tag="meter-missing"):
    """No reading for the end of a period arrived within the grace time: its energy moves to a later period."""

    meter: str
    period: int


class Billed(Event, frozen=True, tag="billed"):
    """The bill of one account for one period.

    Money is signed so that ``net_micro`` of all bills of a period, the grid company's and the fee receiver's included, sum to zero; so do
    their savings.

    Fields:
        import_wh, export_wh: metered.
        bought_wh, sold_wh: performed in trades with others.
        grid_bought_wh, grid_sold_wh: from and to the grid. The grid's own bill mirrors them: what it bought from all, sold to all.
        paid_micro, earned_micro: for energy, with members and with the grid.
        penalty_micro, fee_micro: paid; negative if received.
        saving_micro: how much better off than if all metered energy had been traded with the grid, penalties and fees included.
    """

    account: str
    period: int
    import_wh: int
    export_wh: int
    bought_wh: int
    sold_wh: int
    grid_bought_wh: int
    grid_sold_wh: int
    paid_micro: int
    earned_micro: int
    penalty_micro: int
    fee_micro: int
    saving_micro: int

    @property
    def net_micro(self) -> int:
        """What the period changed on the account; over all bills of a period it sums to zero."""
        return self.earned_micro - self.paid_micro - self.penalty_micro - self.fee_micro


class Defaulted(Event, frozen=True, tag="defaulted"):
    """A party fell short of a trade by more than the tolerance; ``kind`` is under-delivery or under-take.

    The penalty may be 0: the common part of two shortfalls harms nobody.
    """

    account: str
    period: int
    trade: int
    kind: str
    contracted_wh: int
    performed_wh: int
    penalty_micro: int


class DebtRecorded(Event, frozen=True, tag="debt-recorded"):
    """A settlement left an account owing money, beyond its deposits and its free balance."""

    account: str
    period: int
    debt_micro: int


class PeriodSettled(Event, frozen=True, tag="period-settled"):
    """A period was settled: metered against traded energy, everybody billed."""

    period: int
    accounts: int
    energy_traded_wh: int
    energy_grid_wh: int
    fees_micro: int
    proposer_account: str


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One validator of a set.

    Fields:
        name: in which it votes and signs transactions.
        public_key: Ed25519, in hex.
        account: earns its fees, and has its credit record.
        host, port: where the other nodes reach it; empty and 0 if the chain does not say (members of genesis).
        log: id of the vote log that its seat belongs to, in hex; empty for the first one.
    """

    name: str
    public_key: str
    account: str
    host: str = ""
    port: int = 0
    log: str = ""


class ValidatorVoted(Event, frozen=True, tag="validator-voted"):
    """A validator voted for a change of the set, or withdrew its vote.

    Fields:
        validator: who voted.
        change: digest of the change.
        epoch, action, name: what the change is: of which set (the first with these members), and whom it concerns.
        approve: False if the vote was withdrawn.
        approvals: votes for the change now; needed: how many decide it.
    """

    validator: str
    change: str
    epoch: int
    action: str
    name: str
    approve: bool
    approvals: int
    needed: int


class SeatRenewed(Event, frozen=True, tag="seat-renewed"):
    """A validator's seat belongs to another vote log from the next set on; all else stays."""

    validator: str
    log: str


class ValidatorsChanged(Event, frozen=True, tag="validators-changed"):
    """A new validator set was decided; it orders and certifies blocks from ``first_height`` on."""

    epoch: int
    first_height: int
    members: tuple[Member, ...]


class DoubleSigningRecorded(Event, frozen=True, tag="double-signing-recorded"):
    """A validator was proven to have signed two different votes for one place.

    Fields:
        validator, account: who did, and whose credit record says so.
        epoch, kind, view, sequence: the place.
        offences: of this validator, with this one.
        reporter: validator that sent the proof.
    """

    validator: str
    account: str
    epoch: int
    kind: str
    view: int
    sequence: int
    offences: int
    reporter: str


AnyEvent = (
    Transferred
    | ReadingAccepted
    | ReadingQuarantined
    | MeterReset
    | OrderAccepted
    | OrderCancelled
    | Traded
    | PeriodCleared
    | MeterMissing
    | Billed
    | Defaulted
    | DebtRecorded
    | PeriodSettled
    | ValidatorVoted
    | SeatRenewed
    | ValidatorsChanged
    | DoubleSigningRecorded
)


class Receipt(Wire, frozen=True):
    """The result of one transaction, or (with an empty id) of what fell due in a block.

    Fields:
        transaction_id: 32 bytes, or empty.
        code: ``OK`` or the code of the refusal.
        detail: why it was refused, naming the field.
        events: what happened.
    """

    transaction_id: bytes
    code: str
    detail: str
    events: tuple[AnyEvent, ...]


decode_receipt = Decoder(Receipt, "receipt", 64 * 1024 * 1024)
