"""Contract calls: what a transaction can ask for. One tagged struct per contract method.

Bounds that the type system can hold are in the types, so that decoding is the first admission check.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from consensus.codec import Decoder, Wire
from consensus.messages import Vote

MAX_ENERGY_WH = 1_000_000_000
MAX_PRICE_MICRO_PER_KWH = 1_000_000_000
MAX_AMOUNT_MICRO = 10**15
MAX_COUNTER_WH = 10**12
MAX_TIME_MS = 2**53

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)")]
"""Id of an account, meter, node, chain or channel."""
TransactionId = Annotated[bytes, Meta(min_length=32, max_length=32)]
EnergyWh = Annotated[int, Meta(ge=0, le=MAX_ENERGY_WH)]
CounterWh = Annotated[int, Meta(ge=0, le=MAX_COUNTER_WH)]
Price = Annotated[int, Meta(ge=0, le=MAX_PRICE_MICRO_PER_KWH)]
Amount = Annotated[int, Meta(gt=0, le=MAX_AMOUNT_MICRO)]
TimeMs = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
Sequence = Annotated[int, Meta(ge=1, le=2**53)]
Side = Literal["buy", "sell"]
ClockQuality = Literal["ntp", "rtc", "unsynced"]
Action = Literal["add", "remove", "replace"]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9:._-]{0,253}$(?!\n)")]
"""Name or address of a machine; empty: none is stated."""
Port = Annotated[int, Meta(ge=0, le=65_535)]
VoteLogId = Annotated[bytes, Meta(max_length=32)]
"""Which vote log: empty for that of a folder which never signed anything, else random."""


class Transfer(Wire, frozen=True, tag="transfer"):
    """Move money from the sender's account to another."""

    to: Name
    amount_micro: Amount
    memo: Annotated[str, Meta(max_length=140)] = ""


class SubmitReading(Wire, frozen=True, tag="reading"):
    """One reading of the sending meter: cumulative counters, never powers.

    Fields:
        sequence: the meter's own number, from 1; (meter, sequence) counts once.
        time_ms: when the counters were read, by the meter's clock.
        import_wh, export_wh: cumulative energy drawn from and fed into the grid.
        clock: quality of the meter's clock.
        boot_id: changes with every start of the meter.
        uptime_ms: monotonic time since that start.
    """

    sequence: Sequence
    time_ms: TimeMs
    import_wh: CounterWh
    export_wh: CounterWh
    clock: ClockQuality
    boot_id: Annotated[str, Meta(max_length=36)]
    uptime_ms: TimeMs


class PlaceOrder(Wire, frozen=True, tag="order"):
    """Place an order for one delivery period; its id is the transaction's id.

    Fields:
        period: index of the delivery period (start time // period length).
        side: buy or sell.
        energy_type: only orders of one type meet ("pv" or any other name).
        energy_wh: how much.
        price_micro_per_kwh: the quote.
        reserve_micro_per_kwh: the limit up to which the second round may move the quote; a buyer's is not below, a seller's not
            above the quote.
    """

    period: Annotated[int, Meta(ge=0, le=2**40)]
    side: Side
    energy_type: Name
    energy_wh: int
    price_micro_per_kwh: int
    reserve_micro_per_kwh: int


class CancelOrder(Wire, frozen=True, tag="cancel"):
    """Withdraw what is left of one's own order, before gate closure."""

    order: TransactionId


class ResetMeter(Wire, frozen=True, tag="meter-reset"):
    """The operator's signed record that a meter was replaced, reset or read wrongly: ends its quarantine.

    Fields:
        meter: which one.
        import_wh, export_wh: counters from which it counts on; energy before them is as already recorded.
        reason: for the record.
        new_device: its successor numbers readings from 1 again. It must go on with the nonces that the chain expects.
    """

    meter: Name
    import_wh: CounterWh
    export_wh: CounterWh
    reason: Annotated[str, Meta(min_length=1, max_length=140)]
    new_device: bool = False


class VoteOnValidators(Wire, frozen=True, tag="validator-vote"):
    """A validator's vote for one change of the validator set; votes count together if all fields but ``approve`` are the same.

    Fields:
        epoch: number of the latest set (in force or announced), the one that changes; or of one since the last change by vote: that
            renewed seats only.
        action: add a validator, remove one, or replace key, account or address of one.
        name: of that validator; no account or meter is called the same.
        public_key: its Ed25519 key from the new epoch on.
        account: participant that earns its fees.
        host, port: where the other nodes reach it. A removal leaves these four empty (port 0); in a replacement what is empty stays.
        approve: False withdraws one's own vote.
        log: of a validator that is added: the id of its vote log, which its seat belongs to; empty: that of a folder which never signed
            anything. (The seat of one that is a member stays with its log; :class:`RenewSeat` changes that.)
    """

    epoch: Annotated[int, Meta(ge=0, le=2**53)]
    action: Action
    name: Name
    public_key: Annotated[bytes, Meta(max_length=32)] = b""
    account: Annotated[str, Meta(max_length=64)] = ""
    host: Host = ""
    port: Port = 0
    approve: bool = True
    log: VoteLogId = b""


class RenewSeat(Wire, frozen=True, tag="seat-renewal"):
    """A validator lost its vote log: it asks for an epoch in which its seat belongs to the new one, where nothing that it forgot counts.

    Fields:
        epoch: number of the latest set, in force or announced.
        log: id of the new vote log; empty: that of a folder which never signed anything.
    """

    epoch: Annotated[int, Meta(ge=0, le=2**53)]
    log: VoteLogId


class ReportDoubleSigning(Wire, frozen=True, tag="double-signing"):
    """Two votes that one validator signed for the same place with different contents; an honest one never does."""

    first: Vote
    second: Vote


Call = Transfer | SubmitReading | PlaceOrder | CancelOrder | ResetMeter | VoteOnValidators | RenewSeat | ReportDoubleSigning

decode_call: Decoder[Call] = Decoder(Call, "call", 16 * 1024)  # type: ignore[arg-type]
