"""A whole channel in one process, for tests of what stands around it: real ledger, real store, real signatures of the validators.

It orders nothing: every transaction handed in becomes a block of its own (with :meth:`LocalChannel.hold`, when the test says so). Its
validators can be changed as on a real chain, by their votes; the keys of all that a test names are made from their names.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from consensus.block import Batch, Block, Certificate, Header, make_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.errors import InputError
from consensus.merkle import prove_inclusion
from consensus.messages import Kind, make_certificate, sign_vote
from consensus.proofs import EntryProof, TransactionProof
from consensus.state_tree import StateTree
from consensus.transaction import Transaction, decode_transaction, sign_transaction, signature_is_valid
from consensus.validators import EpochChange
from contracts.application import LedgerApplication
from contracts.calls import Transfer, VoteOnValidators
from contracts.events import decode_receipt
from contracts.genesis import ConsensusRules, Genesis, MarketRules, Meter, Participant, Tariff, Validator
from node.block_store import ChannelStore
from node.epochs import EpochBook
from node.event_hub import EventHub
from node.genesis_block import start_store

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
        validators=tuple(Validator(f"node{number}", key_of(f"node{number}"), f"dc{number}") for number in range(4)),
        participants=tuple(Participant(name, roles.get(name, "data-centre"), key_of(name), MONEY_MICRO) for name in ACCOUNTS),
        meters=(Meter("meter-anna", "anna", key_of("meter-anna"), 10_000), Meter("meter-ben", "ben", key_of("meter-ben"), 10_000)),
        tariff=Tariff((590_000,) * 24, (590_000,) * 24, 310_000),
        market=MarketRules(HOUR_MS, FIRST_PERIOD, HOUR_MS, HOUR_MS // 4, HOUR_MS // 4, max_orders_per_period=max_orders),
        consensus=ConsensusRules(window=4),
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
    def __init__(self, folder: Path, genesis: Genesis | None = None, name: str = "node0") -> None:
        self.genesis = genesis or make_genesis()
        self.name = self.genesis.channel
        self.node = name
        self.store = ChannelStore.open(folder)
        start_store(self.genesis, self.store)
        self.application = LedgerApplication(self.genesis, self.store.state, StateTree.of(self.store.entries()))
        self.epochs = EpochBook(self.application.epochs())
        self.events = EventHub()
        self.clock = SetClock(START_MS + 1000)
        self.connected = 3
        self.diverged = False
        self.seen: list[dict[str, object]] = []
        self.full = False
        self.behind = False
        self.broken = False
        self.certifying = True
        self.held: list[Transaction] | None = None

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
        if self.behind:
            return Outcome(shown, "BEHIND", "this node is behind the others")
        verdict = self.application.check_transaction(transaction, self.clock.now_ms())
        if not verdict.ok:
            return Outcome(shown, verdict.code, verdict.detail)
        if self.held is not None:
            self.held.append(transaction)
        else:
            self.execute([transaction])
        return Outcome(shown, "OK", "")

    def execute(self, transactions: Sequence[Transaction]) -> None:
        """Make one block of ``transactions`` at chain time now, certified by a quorum."""
        head = self.head
        height = head.height + 1
        validators = self.epochs.at(height)
        proposer = height % len(validators.names)
        now_ms = max(self.clock.now_ms(), head.time_ms)
        batch = encode(Batch(0, proposer, now_ms, tuple(one.id for one in transactions)))
        finalized = self.application.finalize_block(height, now_ms, proposer, transactions)
        included = [transactions[position] for position in finalized.included]
        ids, following = [one.id for one in included], self.epochs.at(height + 1).digest
        header = make_header(head, batch, ids, finalized.receipts, finalized.tree.root, validators.epoch, following)
        self.store.append(Block(header, batch, tuple(one.raw for one in included), finalized.receipts), finalized, [])
        self.application.commit()
        self.epochs.announce(finalized.announced)
        if self.certifying:
            self.certify(height)

    def certify(self, height: int) -> None:
        header = self.store.header(height)
        assert header is not None
        validators = self.epochs.at(height)
        chosen = [seat for seat in range(len(validators.names)) if seat != 1]
        votes = (
            sign_vote(signer_of(validators.names[seat]), validators.domain, Kind.CHECKPOINT, 0, height, header.hash, seat)
            for seat in chosen[: validators.quorums.quorum]
        )
        self.store.put_certificate(certificate := make_certificate(tuple(votes)))
        following = self.epochs.at(height + 1)
        if following.epoch != validators.epoch:
            self.store.put_epoch_changes([encode(EpochChange(encode(header), certificate, following))])
        for receipt in self.store.receipts(height) or ():
            for event in decode_receipt(receipt).events:
                fields = msgspec.to_builtins(event)
                self.events.publish(fields["event"], {**fields, "height": height})
        shown = {"height": height, "hash": header.hash.hex(), "time_ms": header.time_ms, "transactions": header.transaction_count}
        self.events.publish("block", {**shown, "proposer": self.epochs.proposer(height, header.proposer)})

    def vote(self, voter: str, action: str, name: str, **fields: object) -> None:
        """Execute one validator's vote for a change of the latest set."""
        made: dict[str, object] = {"epoch": self.epochs.latest.epoch}
        if action == "add":
            made |= {"public_key": signer_of(name).public_key, "account": "dc0", "host": f"{name}.example", "port": 9000}
        call = VoteOnValidators(action=action, name=name, **{**made, **fields})  # type: ignore[arg-type]
        self.execute([decode_transaction(self.signed(call, sender=voter))])

    def decide(self, action: str, name: str, **fields: object) -> None:
        """Let the validators vote for a change until it is announced."""
        latest = self.epochs.latest.epoch
        for voter in self.epochs.at(self.head.height + 1).names:
            self.vote(voter, action, name, **fields)
            if self.epochs.latest.epoch > latest:
                return
        raise LookupError(f"{action} {name} was not decided")

    def enter_latest_epoch(self) -> None:
        """Execute empty blocks up to the last one of the epochs before the latest."""
        while self.head.height + 1 < self.epochs.latest.first_height:
            self.execute([])

    @property
    def head(self) -> Header:
        head = self.store.head()
        assert head is not None
        return head

    def epoch_changes(self) -> tuple[bytes, ...]:
        return self.store.epoch_changes()

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
        head = self.head
        certificate: Certificate | None = self.store.certificate(head.height)
        if certificate is None:
            return None
        return EntryProof(encode(head), certificate, key, self.store.state.get(key), self.application.tree.prove(key))

    def status(self) -> dict[str, object]:
        head = self.head
        validators, latest = self.epochs.at(head.height + 1), self.epochs.latest
        voting = self.node in validators.names
        return {
            "chain_id": self.genesis.chain_id,
            "channel": self.name,
            "node": self.node,
            "index": validators.names.index(self.node) if voting else None,
            "voting": voting,
            "epoch": validators.epoch,
            "members": list(validators.names),
            "next_epoch_height": latest.first_height if latest.epoch > validators.epoch else None,
            "view": 0,
            "next_view": 0,
            "primary": validators.names[0],
            "changing": False,
            "wants_view": [],
            "timer_left_ms": None,
            "height": head.height,
            "certified": head.height,
            "first_height": self.store.first_height,
            "snapshot": None,
            "head_hash": head.hash.hex(),
            "state_root": head.state_root.hex(),
            "time_ms": head.time_ms,
            "in_flight": [],
            "mempool": {"transactions": len(self.held or ()), "bytes": sum(len(one.raw) for one in self.held or ())},
            "peers": [
                {"name": f"node{number}", "connected": number <= self.connected, "height": head.height, "last_seen_ms": 1}
                for number in (1, 2, 3)
            ],
            "diverged": self.diverged,
        }

    def evidence(self) -> list[dict[str, object]]:
        return self.seen

    def signed(self, call: object, *, sender: str = "anna", nonce: int | None = None, key: str = "", chain_id: str = "test") -> bytes:
        """Return a signed transaction."""
        if nonce is None:
            view = self.application.view
            known = view.account(sender) or view.meter(sender) or view.validators.validator(sender)
            nonce = known.next_nonce if known else 0
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
