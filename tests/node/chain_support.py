"""A whole channel in one process, for tests of what stands around it: real ledger, real store, real signatures of four validators.

It orders nothing: every transaction handed in becomes a block of its own (with :meth:`LocalChannel.hold`, when the test says so).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from consensus.block import Batch, Block, Certificate, genesis_header, make_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.errors import InputError
from consensus.merkle import prove_inclusion
from consensus.messages import Kind, make_certificate, sign_vote
from consensus.proofs import EntryProof, TransactionProof
from consensus.transaction import Transaction, decode_transaction, sign_transaction, signature_is_valid
from contracts.application import LedgerApplication
from contracts.calls import Transfer
from contracts.events import decode_receipt
from contracts.genesis import ConsensusRules, Genesis, MarketRules, Meter, Participant, Tariff, Validator
from node.block_store import ChannelStore
from node.event_hub import EventHub

HOUR_MS = 3_600_000
START_MS = 480_000 * HOUR_MS
FIRST_PERIOD = START_MS // HOUR_MS + 2
ACCOUNTS = ("GRID", "OPERATOR", "dc0", "dc1", "dc2", "dc3", "anna", "ben")
MONEY_MICRO = 1_000_000_000


def signer_of(name: str) -> Ed25519Signer:
    return Ed25519Signer(name.encode().ljust(32, b"."))


def key_of(name: str) -> str:
    return signer_of(name).public_key.hex()


def make_genesis(max_orders: int = 10_000) -> Genesis:
    roles = {"GRID": "grid", "OPERATOR": "operator", "anna": "prosumer", "ben": "consumer"}
    return Genesis(
        version=1,
        chain_id="test",
        channel="main",
        currency="CNY",
        time_ms=START_MS,
        validators=tuple(Validator(f"dc{number}", key_of(f"validator {number}"), f"dc{number}") for number in range(4)),
        participants=tuple(Participant(name, roles.get(name, "data-centre"), key_of(name), MONEY_MICRO) for name in ACCOUNTS),
        meters=(Meter("meter-anna", "anna", key_of("meter-anna"), 10_000), Meter("meter-ben", "ben", key_of("meter-ben"), 10_000)),
        tariff=Tariff((590_000,) * 24, (590_000,) * 24, 310_000),
        market=MarketRules(HOUR_MS, FIRST_PERIOD, HOUR_MS, HOUR_MS // 4, HOUR_MS // 4, max_orders_per_period=max_orders),
        consensus=ConsensusRules(),
    )


class Outcome(NamedTuple):
    id: str
    code: str
    detail: str


class SetClock:
    """Chain time as the test sets it."""

    def __init__(self, now_ms: int) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        return self.time_ms

    def monotonic_ms(self) -> int:
        return int(time.monotonic() * 1000)


class LocalChannel:
    def __init__(self, folder: Path, genesis: Genesis | None = None, name: str = "dc0") -> None:
        self.genesis = genesis or make_genesis()
        self.name = self.genesis.channel
        self.node = name
        self.store = ChannelStore.open(folder)
        self.application = LedgerApplication(self.genesis, self.store.state)
        self.events = EventHub()
        self.clock = SetClock(START_MS + 1000)
        self.connected = 3
        self.diverged = False
        self.seen: list[dict[str, object]] = []
        self.full = False
        self.broken = False
        self.certifying = True
        self.held: list[Transaction] | None = None
        self._signers = [signer_of(f"validator {number}") for number in range(4)]
        finalized = self.application.init_chain()
        genesis = self.genesis
        header = genesis_header(genesis.chain_id, genesis.channel, genesis.time_ms, genesis.digest, finalized.tree.root)
        self.store.start(header, finalized)
        self.application.commit()

    def close(self) -> None:
        self.store.close()

    def hold(self) -> None:
        """Keep transactions pending until :meth:`release`."""
        self.held = []

    def release(self) -> None:
        held, self.held = self.held or [], None
        self.execute(held)

    async def submit(self, raws: Sequence[bytes], source: str) -> list[Outcome]:
        if self.broken:
            raise ZeroDivisionError("on purpose")
        return [self._take(raw) for raw in raws]

    def _take(self, raw: bytes) -> Outcome:
        try:
            transaction = decode_transaction(raw)
        except InputError as error:
            return Outcome("", "BAD_TRANSACTION", str(error))
        shown = transaction.id.hex()
        if not signature_is_valid(transaction):
            return Outcome(shown, "BAD_SIGNATURE", "signature: does not check")
        if self.store.locate(transaction.id) is not None or self.find(transaction.id):
            return Outcome(shown, "OK", "")
        if self.full:
            return Outcome(shown, "FULL", "mempool: no room")
        verdict = self.application.check_transaction(transaction, self.clock.now_ms())
        if not verdict.ok:
            return Outcome(shown, verdict.code, verdict.detail)
        if self.held is not None:
            self.held.append(transaction)
        else:
            self.execute([transaction])
        return Outcome(shown, "OK", "")

    def execute(self, transactions: Sequence[Transaction]) -> None:
        """Make one block of ``transactions`` at chain time now, certified by three of four."""
        head = self.store.head()
        assert head is not None
        height, proposer = head.height + 1, (head.height + 1) % 4
        now_ms = max(self.clock.now_ms(), head.time_ms)
        batch = encode(Batch(0, proposer, now_ms, tuple(one.id for one in transactions)))
        finalized = self.application.finalize_block(height, now_ms, proposer, transactions)
        included = [transactions[position] for position in finalized.included]
        header = make_header(head, batch, [one.id for one in included], finalized.receipts, finalized.tree.root, now_ms)
        self.store.append(Block(header, batch, tuple(one.raw for one in included), finalized.receipts), finalized, [])
        self.application.commit()
        if self.certifying:
            self.certify(height)

    def certify(self, height: int) -> None:
        header = self.store.header(height)
        assert header is not None
        domain = self.genesis.validator_set.domain
        votes = tuple(sign_vote(self._signers[i], domain, Kind.CHECKPOINT, 0, height, header.hash, i) for i in (0, 2, 3))
        self.store.put_certificate(make_certificate(0, votes))
        for receipt in self.store.receipts(height) or ():
            for event in decode_receipt(receipt).events:
                fields = msgspec.to_builtins(event)
                self.events.publish(fields["event"], {**fields, "height": height})
        shown = {"height": height, "hash": header.hash.hex(), "time_ms": header.time_ms, "transactions": header.transaction_count}
        self.events.publish("block", {**shown, "proposer": self.genesis.validators[header.proposer].name})

    def find(self, transaction_id: bytes) -> str | None:
        return "pending" if any(one.id == transaction_id for one in self.held or ()) else None

    def transaction_proof(self, transaction_id: bytes) -> TransactionProof | None:
        place = self.store.locate(transaction_id)
        if place is None or (certificate := self.store.certificate(place[0])) is None:
            return None
        height, position = place
        header, ids, receipts = self.store.header(height), self.store.transaction_ids(height), self.store.receipts(height)
        assert header is not None
        assert ids is not None
        assert receipts is not None
        return TransactionProof(
            encode(header), certificate, receipts[position], prove_inclusion(ids, position), prove_inclusion(receipts, position)
        )

    async def entry_proof(self, key: bytes, timeout_s: float = 2.0) -> EntryProof | None:
        head = self.store.head()
        assert head is not None
        certificate: Certificate | None = self.store.certificate(head.height)
        if certificate is None:
            return None
        return EntryProof(encode(head), certificate, key, self.store.state.get(key), self.application.tree.prove(key))

    def status(self) -> dict[str, object]:
        head = self.store.head()
        assert head is not None
        return {
            "chain_id": self.genesis.chain_id,
            "channel": self.name,
            "node": self.node,
            "index": 0,
            "view": 0,
            "next_view": 0,
            "primary": "dc0",
            "changing": False,
            "timer_left_ms": None,
            "height": head.height,
            "certified": head.height,
            "head_hash": head.hash.hex(),
            "state_root": head.state_root.hex(),
            "time_ms": head.time_ms,
            "in_flight": [],
            "mempool": {"transactions": len(self.held or ()), "bytes": sum(len(one.raw) for one in self.held or ())},
            "peers": [
                {"name": f"dc{number}", "connected": number <= self.connected, "height": head.height, "last_seen_ms": 1}
                for number in (1, 2, 3)
            ],
            "diverged": self.diverged,
        }

    def evidence(self) -> list[dict[str, object]]:
        return self.seen

    def signed(self, call: object, *, sender: str = "anna", nonce: int | None = None, key: str = "", chain_id: str = "test") -> bytes:
        """Return a signed transaction."""
        if nonce is None:
            account, meter = self.application.view.account(sender), self.application.view.meter(sender)
            nonce = account.next_nonce if account else meter.next_nonce if meter else 0
        return sign_transaction(
            signer_of(key or sender),
            chain_id=chain_id,
            channel="main",
            sender=sender,
            nonce=nonce,
            valid_until_ms=self.clock.now_ms() + HOUR_MS,
            call=call,
        )

    def transfer(self, amount_micro: int = 1, *, nonce: int | None = None) -> bytes:
        return self.signed(Transfer("ben", amount_micro), nonce=nonce)
