"""A small world to test the ledger in: genesis, keys, a store in memory that behaves like the host, and shorthands for calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from consensus.application import FinalizedBlock
from consensus.crypto import Ed25519Signer, digest
from consensus.transaction import Transaction, decode_transaction, sign_transaction
from contracts.application import LedgerApplication
from contracts.calls import CancelOrder, PlaceOrder, SubmitReading, Transfer, VoteOnValidators
from contracts.events import Receipt, decode_receipt
from contracts.genesis import (
    ConsensusRules,
    Genesis,
    MarketRules,
    Meter,
    Participant,
    Tariff,
    Validator,
    check_genesis,
)

PERIOD_MS = 900_000
GENESIS_MS = 1_470_528_000_000
FIRST = GENESIS_MS // PERIOD_MS + 4
RICH = 1_000_000_000
GRID_BUY = 590_000
GRID_SELL = 310_000


def signer(name: str) -> Ed25519Signer:
    """The key of anybody, from his name."""
    return Ed25519Signer(digest(name.encode()))


def key(name: str) -> str:
    return signer(name).public_key.hex()


def make_genesis(
    members: Sequence[str] = ("A", "B", "C"),
    *,
    balance_micro: int = RICH,
    fuse_w: int = 20_000,
    validators: int = 4,
    consensus: ConsensusRules | None = None,
    **rules: int,
) -> Genesis:
    """Members with one meter each (``m-A`` for A), validators node0, node1 ... for accounts DC0, DC1 ..., a flat tariff."""
    participants = [
        Participant("GRID", "grid", key("GRID"), 0),
        Participant("OPERATOR", "operator", key("OPERATOR"), RICH),
        *(Participant(f"DC{index}", "data-centre", key(f"DC{index}"), 0) for index in range(validators)),
        *(Participant(name, "prosumer", key(name), balance_micro) for name in members),
    ]
    market = {
        "period_ms": PERIOD_MS,
        "first_period": FIRST,
        "open_before_ms": 2 * PERIOD_MS,
        "gate_closure_before_ms": 300_000,
        "metering_grace_ms": 600_000,
        **rules,
    }
    genesis = Genesis(
        version=1,
        chain_id="test",
        channel="main",
        currency="CNY",
        time_ms=GENESIS_MS,
        validators=tuple(Validator(f"node{index}", key(f"node{index}"), f"DC{index}") for index in range(validators)),
        participants=tuple(participants),
        meters=tuple(Meter(f"m-{name}", name, key(f"m-{name}"), fuse_w, 1_000, 500) for name in members),
        tariff=Tariff((GRID_BUY,) * 24, (GRID_BUY,) * 24, GRID_SELL),
        market=MarketRules(**market),
        consensus=consensus or ConsensusRules(),
    )
    check_genesis(genesis)
    return genesis


class MemoryStore:
    """Committed state in a dict; scans by rising key."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((key, value) for key, value in self.entries.items() if key.startswith(prefix)))

    def write(self, finalized: FinalizedBlock) -> None:
        for entry, value in finalized.writes:
            if value is None:
                self.entries.pop(entry, None)
            else:
                self.entries[entry] = value


class World:
    """One ledger and its host: makes transactions, executes them in blocks, keeps receipts.

    ``signs_as`` tells whose key a sender signs with, if it is not the one made from its own name.
    """

    def __init__(self, genesis: Genesis | None = None) -> None:
        self.genesis = genesis or make_genesis()
        self.store = MemoryStore()
        self.application = LedgerApplication(self.genesis, self.store)
        self.height = 0
        self.time_ms = GENESIS_MS
        self.nonces: dict[str, int] = {}
        self.signs_as: dict[str, str] = {}
        self.sequences: dict[str, int] = {}
        self.events: list[object] = []
        self.last: FinalizedBlock = self.application.init_chain()
        self.store.write(self.last)
        self.application.commit()

    @property
    def view(self):
        return self.application.view

    def transaction(self, sender: str, call: object, **changes: object) -> Transaction:
        """Sign a call with the sender's own key and next nonce, unless told otherwise."""
        if "nonce" not in changes:
            self.nonces[sender] = self.nonces.get(sender, 0) + 1
        fields = {
            "chain_id": "test",
            "channel": "main",
            "nonce": self.nonces.get(sender, 0),
            "valid_until_ms": self.time_ms + 86_000_000,
            **changes,
        }
        by = fields.pop("by", self.signs_as.get(sender, sender))
        return decode_transaction(sign_transaction(signer(str(by)), sender=sender, call=call, **fields))

    def block(self, *transactions: Transaction, time_ms: int | None = None, proposer: int = 0) -> list[Receipt]:
        """Execute one block, durably; return its receipts."""
        self.time_ms = max(self.time_ms, time_ms if time_ms is not None else self.time_ms)
        self.height += 1
        self.last = self.application.finalize_block(self.height, self.time_ms, proposer, transactions)
        self.store.write(self.last)
        self.application.commit()
        self.events.extend(self.last.events)
        return [decode_receipt(receipt) for receipt in self.last.receipts]

    def call(self, sender: str, call: object, **changes: object) -> Receipt:
        """Execute one call in a block of its own, at the present time."""
        return self.block(self.transaction(sender, call, **changes))[0]

    def read(self, member: str, time_ms: int, import_wh: int, export_wh: int, **changes: object) -> Transaction:
        """Sign a reading of a member's meter with its next sequence number; counters are relative to genesis."""
        meter = f"m-{member}"
        if "sequence" not in changes:
            self.sequences[meter] = self.sequences.get(meter, 0) + 1
        reading = SubmitReading(self.sequences.get(meter, 0), time_ms, 1_000 + import_wh, 500 + export_wh, "ntp", "boot", 0)
        return self.transaction(meter, msgspec.structs.replace(reading, **changes))

    def order(self, member: str, side: str, energy_wh: int, price: int, period: int = FIRST, reserve: int | None = None, kind: str = "pv"):
        """Place an order in a block of its own; return its receipt."""
        limit = price if reserve is None else reserve
        return self.call(member, PlaceOrder(period, side, kind, energy_wh, price, limit))

    def cancel(self, member: str, order_id: bytes) -> Receipt:
        return self.call(member, CancelOrder(order_id))

    def pay(self, payer: str, payee: str, amount_micro: int) -> Receipt:
        return self.call(payer, Transfer(payee, amount_micro))

    def vote(self, voter: str, action: str, name: str, **fields: object) -> Receipt:
        """Vote in a block of its own for a change of the latest set; what a new validator needs is made up from its name."""
        return self.call(voter, self.change(action, name, **fields))

    def change(self, action: str, name: str, **fields: object) -> VoteOnValidators:
        """Make a vote for a change of the latest set."""
        made: dict[str, object] = {"epoch": self.application.epochs()[-1].epoch}
        if action == "add":
            made |= {"public_key": signer(name).public_key, "account": "DC0", "host": f"{name}.example", "port": 7_000}
        return VoteOnValidators(action=action, name=name, **{**made, **fields})

    def decide(self, action: str, name: str, **fields: object) -> Receipt:
        """Let all present validators vote until the change is announced; return the deciding receipt."""
        for voter in self.view.validators.epoch().members:
            receipt = self.vote(voter.name, action, name, **fields)
            if self.last.announced:
                return receipt
        raise LookupError(f"{action} {name} was not decided")

    def advance_to(self, height: int) -> None:
        """Execute empty blocks until ``height`` is the next one."""
        while self.height + 1 < height:
            self.block()

    def events_of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def at_gate(self, period: int = FIRST) -> int:
        return period * PERIOD_MS - self.genesis.market.gate_closure_before_ms

    def start(self, period: int = FIRST) -> int:
        return period * PERIOD_MS
