"""What queries answer: records for people and scripts, with the names that the HTTP API and ``--json`` show.

Lists come by rising key. A missing record is None, never an exception.
"""

from __future__ import annotations

import msgspec

from contracts.events import Billed, Member, Traded


class View(msgspec.Struct, frozen=True):
    """Base of all answers."""


class AccountView(View, frozen=True):
    """One account: what is free (negative: owed), what orders hold back, the lowest nonce certain to be unused, and what a member owes."""

    account: str
    role: str
    balance_micro: int
    locked_micro: int
    next_nonce: int
    debt_micro: int = 0


class OrderView(View, frozen=True):
    """One order as everybody may see it: never its reserve price. State: open, filled, partial, cancelled or grid-assigned."""

    order: str
    account: str
    side: str
    energy_type: str
    energy_wh: int
    remaining_wh: int
    price_micro_per_kwh: int
    state: str


class MarketView(View, frozen=True):
    """One delivery period. State: announced, open, closed, cleared, delivering, metering or settled; prices of the grid beside it."""

    period: int
    state: str
    start_ms: int
    end_ms: int
    opens_ms: int
    gate_closure_ms: int
    grid_buy_micro_per_kwh: int
    grid_sell_micro_per_kwh: int
    mean_price_micro_per_kwh: int
    energy_wh: int
    order_count: int
    trade_count: int
    orders: tuple[OrderView, ...]
    trades: tuple[Traded, ...]


class MeterView(View, frozen=True):
    """One meter: its last good reading, how many were accepted, skipped (gaps), quarantined."""

    meter: str
    account: str
    last_sequence: int
    last_time_ms: int
    import_wh: int
    export_wh: int
    accepted: int
    missing: int
    quarantined: int
    quarantine: str
    next_nonce: int


class BillsView(View, frozen=True):
    """Bills of one account, newest first, one page; ``next_before`` asks for the page after (0: no more)."""

    account: str
    bills: tuple[Billed, ...]
    next_before: int


class CreditView(View, frozen=True):
    """How well an account delivered what it sold and took what it bought: moving score and event counts; how often it could not pay, and
    how often validators that work for it were proven to have signed two different votes for one place.
    """

    account: str
    score_ppm: int
    periods: int
    under_deliveries: int
    under_takes: int
    debts: int = 0
    double_signings: int = 0


class EpochView(View, frozen=True):
    """One validator set. State: past, present (it validates the next block) or announced; how many votes decide a change of it."""

    number: int
    first_height: int
    state: str
    votes_needed: int
    members: tuple[Member, ...]


class ValidatorView(View, frozen=True):
    """One validator, of any set.

    Fields:
        validator: its name.
        is_voting: whether it is in the present set.
        is_member: whether it is in the latest set, in force or announced.
        public_key, account, host, port, log: in the present set, else in the latest; empty if it is in neither.
        next_nonce: the lowest that is certain to be unused.
        open_votes: for changes that are not decided.
        offences: proven double signings.
    """

    validator: str
    is_voting: bool
    is_member: bool
    public_key: str
    account: str
    host: str
    port: int
    log: str
    next_nonce: int
    open_votes: int
    offences: int


class ChangeView(View, frozen=True):
    """A change of the validator set that is not decided.

    Fields:
        change: its digest.
        epoch: the first one with the members that change.
        action: add, remove or replace.
        member: the validator as it would be (for a removal: as it is).
        approvals: who voted for it; needed: how many decide.
    """

    change: str
    epoch: int
    action: str
    member: Member
    approvals: tuple[str, ...]
    needed: int


class OffenceView(View, frozen=True):
    """A proven double signing: the place, the transaction that proves it, and who sent that."""

    validator: str
    epoch: int
    kind: str
    view: int
    sequence: int
    report: str
    reporter: str


class LedgerTotals(View, frozen=True):
    """Sums over the whole chain, and the checks on them (money and energy to the last unit)."""

    money_micro: int
    genesis_money_micro: int
    periods_settled: int
    last_settled_period: int
    readings_accepted: int
    readings_quarantined: int
    orders: int
    trades: int
    energy_traded_wh: int
    energy_grid_wh: int
    supply_conserved: bool
    current_period: int
    trading_period: int
