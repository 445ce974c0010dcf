"""The small world that valid inputs come from: genesis, everybody's keys, and a history in which every call occurs.

Everything follows from names, so that two processes with one seed see the same inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from consensus.crypto import Ed25519Signer, digest
from consensus.messages import Kind, sign_vote
from consensus.transaction import decode_transaction, sign_transaction
from contracts.calls import (
    Call,
    CancelOrder,
    PlaceOrder,
    RenewSeat,
    ReportDoubleSigning,
    ResetMeter,
    SubmitReading,
    Transfer,
    VoteOnValidators,
)
from contracts.genesis import (
    GRID,
    OPERATOR,
    ConsensusRules,
    Genesis,
    MarketRules,
    Meter,
    Participant,
    Role,
    Tariff,
    Validator,
    check_genesis,
)

PERIOD_MS = 60_000
STEP_MS = 20_000
GENESIS_MS = 1_470_528_000_000
FIRST_PERIOD = GENESIS_MS // PERIOD_MS + 2
VALID_MS = 3_600_000
MEMBERS = ("ada", "ben", "cleo")
METERS = tuple(f"m-{member}" for member in MEMBERS)
VALIDATORS = tuple(f"dc{number}" for number in range(1, 5))
SENDERS = (GRID, OPERATOR, *MEMBERS, *METERS, *VALIDATORS)
ALL_CALLS = 22
"""Blocks of the history in which every kind of call occurs."""
RICH_MICRO = 1_000_000_000
_ROLES: dict[str, Role] = {GRID: "grid", OPERATOR: "operator", "ada": "prosumer", "ben": "consumer", "cleo": "prosumer"}


@cache
def signer_of(name: str) -> Ed25519Signer:
    """Return the key of anybody, made from the name."""
    return Ed25519Signer(digest(b"fuzz " + name.encode()))


def make_genesis() -> Genesis:
    """Return what the participants of the small world agreed on."""

    def key(name: str) -> str:
        return signer_of(name).public_key.hex()

    genesis = Genesis(
        version=1,
        chain_id="fuzz",
        channel="main",
        currency="EUR",
        time_ms=GENESIS_MS,
        validators=tuple(Validator(name, key(name), f"{name}-fees") for name in VALIDATORS),
        participants=(
            *(Participant(name, role, key(name), RICH_MICRO) for name, role in _ROLES.items()),
            *(Participant(f"{name}-fees", "data-centre", key(name), 0) for name in VALIDATORS),
        ),
        meters=tuple(Meter(meter, member, key(meter), 20_000, 1_000, 500) for meter, member in zip(METERS, MEMBERS, strict=True)),
        tariff=Tariff((590_000,) * 24, (490_000,) * 24, 310_000),
        market=MarketRules(PERIOD_MS, FIRST_PERIOD, 2 * PERIOD_MS, PERIOD_MS // 4, PERIOD_MS // 2),
        consensus=ConsensusRules(window=16),
    )
    check_genesis(genesis)
    return genesis


class Pens:
    """Signs for everybody, and counts nonces and sequence numbers."""

    def __init__(self, genesis: Genesis) -> None:
        self._genesis = genesis
        self._nonces = dict.fromkeys(SENDERS, 0)
        self._readings = dict.fromkeys(METERS, 0)

    def sign(self, sender: str, call: Call, time_ms: int) -> bytes:
        """Return a signed transaction with the sender's next nonce."""
        self._nonces[sender] += 1
        return sign_transaction(
            signer_of(sender),
            chain_id=self._genesis.chain_id,
            channel=self._genesis.channel,
            sender=sender,
            nonce=self._nonces[sender],
            valid_until_ms=time_ms + VALID_MS,
            call=call,
        )

    def read(self, meter: str, time_ms: int, import_wh: int, export_wh: int) -> bytes:
        """Return a meter's next reading; the counters are relative to those of genesis."""
        self._readings[meter] += 1
        uptime_ms = time_ms - GENESIS_MS
        reading = SubmitReading(self._readings[meter], time_ms, 1_000 + import_wh, 500 + export_wh, "ntp", "boot", uptime_ms)
        return self.sign(meter, reading, time_ms)


def governance(genesis: Genesis, number: int) -> list[tuple[str, Call]]:
    """Return who asks for what about the validators in one block of the history.

    In block 2 three of them decide that the fourth has another address, so epoch 1 begins a window above. One signs twice; later another
    change is voted for, and the vote withdrawn; one is never decided; the fourth asks for a seat that belongs to a new vote log.
    """
    moved = VoteOnValidators(0, "replace", "dc4", host="dc4.example", port=9_004)
    key, other_key = signer_of("dc5").public_key, signer_of("dc1 again").public_key
    calls: dict[int, list[tuple[str, Call]]] = {
        2: [(name, moved) for name in VALIDATORS[:3]],
        5: [("dc1", _double_signing(genesis))],
        8: [("dc2", VoteOnValidators(1, "replace", "dc1", other_key))],
        10: [("dc2", VoteOnValidators(1, "replace", "dc1", other_key, approve=False))],
        11: [("dc3", VoteOnValidators(1, "add", "dc5", key, "dc4-fees", "dc5.example", 9_005))],
        21: [("dc4", RenewSeat(1, bytes(range(16))))],
    }
    return calls.get(number, [])


def _double_signing(genesis: Genesis) -> ReportDoubleSigning:
    """Return the proof that the last validator prepared two batches at one place."""
    validators, last = genesis.validator_set, len(VALIDATORS) - 1
    votes = [sign_vote(signer_of(VALIDATORS[last]), validators.domain, Kind.PREPARE, 0, 3, digest(said), last) for said in (b"one", b"two")]
    return ReportDoubleSigning(votes[0], votes[1])


def history(genesis: Genesis) -> Iterator[tuple[int, list[bytes]]]:
    """Yield block time and transactions of one block after the other: orders meet, periods settle, a meter
    fails and is reset, validators decide about themselves.
    """
    pens = Pens(genesis)
    number = 0
    while True:
        number += 1
        time_ms = GENESIS_MS + number * STEP_MS
        period, third = time_ms // PERIOD_MS, number % 3
        raws = [pens.sign("ada", Transfer("ben", 1_000 + number, f"block {number}"), time_ms)]
        if third == 0:
            wh = 10 * (number // 3)
            raws += [pens.read("m-ada", time_ms, wh, 9 * wh), pens.read("m-ben", time_ms, 8 * wh, 0)]
            raws.append(pens.read("m-cleo", time_ms, wh if number < 12 or number > 15 else 0, wh))
        elif third == 1 and period + 1 >= FIRST_PERIOD:
            raws.append(pens.sign("ada", PlaceOrder(period + 1, "sell", "pv", 150, 350_000, 320_000), time_ms))
            raws.append(pens.sign("ben", PlaceOrder(period + 1, "buy", "pv", 120, 400_000, 450_000), time_ms))
            raws.append(pens.sign("cleo", PlaceOrder(period + 1, "sell", "wind", 80, 380_000, 360_000), time_ms))
        elif period + 1 >= FIRST_PERIOD:
            placed = pens.sign("cleo", PlaceOrder(period + 1, "sell", "pv", 30, 410_000, 400_000), time_ms)
            raws += [placed, pens.sign("cleo", CancelOrder(decode_transaction(placed).id), time_ms)]
        if number == 14:
            raws.append(pens.sign(OPERATOR, ResetMeter("m-cleo", 1_000, 500, "replaced", new_device=False), time_ms))
        yield time_ms, raws + [pens.sign(sender, call, time_ms) for sender, call in governance(genesis, number)]
