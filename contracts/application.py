"""The ledger as an application: what a batch of transactions means (see the duties in :mod:`consensus.application`).

The walk of a transaction: envelope and key fit an account, a meter or a validator of the block's epoch, chain and channel are right,
time is not over, nonce is not spent: else it is void and has no effect at all. Then its nonce is spent and its call is executed or
refused, and either way it has a receipt. After the batch comes what fell due by block time. Last, the invariants are checked.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.application import OK, FinalizedBlock, StateReader, Verdict
from consensus.codec import encode
from consensus.crypto import Verify, verify
from consensus.errors import DecodeError, InvariantViolation
from consensus.messages import ValidatorSet
from consensus.state_tree import StateTree
from consensus.transaction import Transaction
from contracts.accounts import check_transfer, transfer
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
    decode_call,
)
from contracts.closing import next_deadline_ms, run_due
from contracts.epochs import first_epoch, validator_set
from contracts.events import AnyEvent, Receipt
from contracts.evidence import check_report, report_double_signing
from contracts.genesis import Genesis
from contracts.governance import check_renewal, check_vote, renew_seat, vote_on_validators
from contracts.invariants import check_block
from contracts.ledger import Ledger, Outcome, present
from contracts.market import cancel_order, check_order, place_order
from contracts.metering import reset_meter, submit_reading
from contracts.queries import LedgerView
from contracts.records import MARKET_KEY, Account, Meter, Progress, Validator, epoch_key, name_key
from contracts.registry import Sender
from contracts.window import Window, is_spent, is_too_far, spend

_GOOD = Verdict()
_OF_VALIDATORS = (VoteOnValidators, RenewSeat, ReportDoubleSigning)


class LedgerApplication:
    """Accounts, metering, market and settlement of one channel.

    Args:
        genesis: the checked agreement.
        state: the committed state; the host writes what :meth:`finalize_block` returned before it calls :meth:`commit`.
        tree: commitment to that state; None on an empty store.
        check: how signatures of validators are checked in evidence.
    """

    def __init__(self, genesis: Genesis, state: StateReader, tree: StateTree | None = None, check: Verify = verify) -> None:
        self.genesis = genesis
        self.view = LedgerView(genesis, state)
        self.tree = tree if tree is not None else StateTree()
        self._ledger = Ledger(genesis, state, caching=True, check=check)
        self._epochs: tuple[ValidatorSet, ...] | None = None
        self._finalized: FinalizedBlock | None = None
        self._next_deadline_ms: int | None = None
        self._coming_deadline_ms: int | None = None
        if tree is not None:
            self._start()

    def init_chain(self) -> FinalizedBlock:
        """Make the state of height 0."""
        genesis, state = self.genesis, self._ledger.state
        state.discard()
        for participant in genesis.participants:
            state.accounts.put(name_key(participant.account), Account(participant.balance_micro))
        for meter in genesis.meters:
            counters = (meter.import_wh, meter.export_wh)
            state.meters.put(name_key(meter.meter), Meter(genesis.time_ms, *counters, *counters, *counters, fuse_time_ms=genesis.time_ms))
        for validator in genesis.validators:
            state.validators.put(name_key(validator.name), Validator())
        state.epochs.put(epoch_key(0), first_epoch(genesis))
        first = genesis.market.first_period
        state.market.put(MARKET_KEY, Progress(genesis.time_ms, first, first))
        return self._finish((), (), ())

    def check_transaction(self, transaction: Transaction, time_ms: int) -> Verdict:
        """Tell whether a transaction could execute now, on the committed state; never refuses a meter's reading for what it says."""
        verdict, body = self._check_envelope(transaction, time_ms), transaction.body
        sender = self._ledger.sender(body.sender)
        if sender is None or not verdict.ok:
            return verdict
        latest_ms = time_ms + self.genesis.consensus.max_validity_ms
        if body.valid_until_ms > latest_ms:
            return Verdict("VALID_TOO_LONG", f"valid_until_ms: {body.valid_until_ms} is after {latest_ms}, the latest now")
        window = self._committed_window(sender)
        if is_too_far(window, body.nonce):
            return Verdict("NONCE_TOO_FAR", f"nonce: {body.nonce} is more than a window after {window.highest}, the highest spent")
        return self._check_call(sender, decode_call(bytes(body.call)), time_ms)

    def process_proposal(self, transactions: Sequence[Transaction], time_ms: int) -> Verdict:
        """Tell whether a batch may be proposed. A validator's key is the one that it has in the block after the last committed one."""
        seen: set[tuple[str, int]] = set()
        for transaction in transactions:
            verdict = self._check_envelope(transaction, time_ms)
            place = (transaction.body.sender, transaction.body.nonce)
            if verdict.ok and place in seen:
                verdict = Verdict("NONCE_TWICE", f"nonce: {transaction.body.sender} uses {transaction.body.nonce} twice")
            if not verdict.ok:
                return Verdict(verdict.code, f"transaction {transaction.id.hex()}: {verdict.detail}")
            seen.add(place)
        return _GOOD

    def finalize_block(self, height: int, time_ms: int, proposer: int, transactions: Sequence[Transaction]) -> FinalizedBlock:
        """Execute a batch on the committed state, then what falls due.

        Raises:
            InvariantViolation: money or energy does not balance, or it is not the next block; never because of a transaction.
        """
        if height != self._ledger.next_height:
            raise InvariantViolation(f"block {height} is executed where {self._ledger.next_height} is the next one")
        self._ledger.state.discard()
        included: list[int] = []
        receipts: list[bytes] = []
        events: list[AnyEvent] = []
        for position, transaction in enumerate(transactions):
            receipt = self._execute(transaction, time_ms)
            if receipt is not None:
                included.append(position)
                receipts.append(encode(receipt))
                events.extend(receipt.events)
        due = run_due(self._ledger, height, time_ms, proposer)
        if due:
            receipts.append(encode(Receipt(b"", OK, "", tuple(due))))
            events.extend(due)
        check_block(self._ledger, events)
        return self._finish(tuple(included), tuple(receipts), tuple(events), self._announced())

    def commit(self) -> None:
        """Adopt the last finalized block."""
        finalized = present(self._finalized, "finalized block to commit")
        self._ledger.state.commit()
        self.tree = finalized.tree
        self._next_deadline_ms = self._coming_deadline_ms
        self._finalized = None
        self._ledger.take_seats()
        if finalized.announced:
            self._epochs = None

    def restore(self, tree: StateTree) -> None:
        """Forget everything and go on from the committed state as it is now."""
        self._ledger.state.forget()
        self._finalized = self._epochs = None
        self.tree = tree
        self._start()

    def epochs(self) -> tuple[ValidatorSet, ...]:
        """Return all validator sets that the committed state knows; none before genesis is committed."""
        if not self._epochs:
            self._epochs = tuple(validator_set(self.genesis, epoch) for _, epoch in self._ledger.state.epochs.scan_committed())
        return self._epochs

    def next_deadline_ms(self) -> int | None:
        """Return when a gate closes or a period settles; None before genesis is committed."""
        return self._next_deadline_ms

    def sender_key(self, sender: str) -> bytes | None:
        """Return the public key that a sender's envelopes must carry in the block after the last committed one."""
        known = self._ledger.sender(sender)
        return None if known is None else known.public_key

    def _start(self) -> None:
        """Find out from the committed state what is kept beside it."""
        self._ledger.take_seats()
        self._next_deadline_ms = next_deadline_ms(self._ledger)

    def _announced(self) -> tuple[ValidatorSet, ...]:
        """Return the validator sets that this block adds, by rising epoch."""
        added = sorted((key, epoch) for key, _, epoch in self._ledger.state.epochs.changed() if epoch is not None)
        return tuple(validator_set(self.genesis, epoch) for _, epoch in added)

    def _finish(
        self,
        included: tuple[int, ...],
        receipts: tuple[bytes, ...],
        events: tuple[object, ...],
        announced: tuple[ValidatorSet, ...] = (),
    ) -> FinalizedBlock:
        writes = self._ledger.state.writes()
        self._finalized = FinalizedBlock(included, receipts, writes, self.tree.apply(writes), events, announced)
        self._coming_deadline_ms = next_deadline_ms(self._ledger)
        return self._finalized

    def _check_envelope(self, transaction: Transaction, time_ms: int) -> Verdict:
        """Check all that makes a transaction void, on the committed state, but for a nonce that is too far ahead (that may change)."""
        body, genesis = transaction.body, self.genesis
        sender = self._ledger.sender(body.sender)
        if sender is None:
            return Verdict("UNKNOWN_SENDER", f"sender: {body.sender[:64]!r} is neither an account nor a meter, nor a validator now")
        if sender.public_key != transaction.envelope.public_key:
            return Verdict("WRONG_KEY", f"public_key: it is not the key of {body.sender}")
        if (body.chain_id, body.channel) != (genesis.chain_id, genesis.channel):
            return Verdict("WRONG_CHAIN", f"chain_id, channel: this is {genesis.chain_id}, {genesis.channel}")
        if body.valid_until_ms < time_ms:
            return Verdict("EXPIRED", f"valid_until_ms: {body.valid_until_ms} is over, it is {time_ms}")
        if is_spent(self._committed_window(sender), body.nonce):
            return Verdict("NONCE_SPENT", f"nonce: {body.nonce} is used, below 1, or too old")
        try:
            decode_call(bytes(body.call))
        except DecodeError as error:
            return Verdict("BAD_CALL", str(error))
        return _GOOD

    def _committed_window(self, sender: Sender) -> Window:
        tables = self._ledger.state
        if sender.is_meter:
            return present(tables.meters.committed(sender.key), f"meter {sender.name}").nonces
        if sender.is_validator:
            return present(tables.validators.committed(sender.key), f"validator {sender.name}").nonces
        return present(tables.accounts.committed(sender.key), f"account {sender.name}").nonces

    def _check_call(self, sender: Sender, call: Call, time_ms: int) -> Verdict:
        """Refuse early what is certain to be refused, or very likely (funds)."""
        verdict = _check_role(sender, call)
        if verdict.ok and isinstance(call, PlaceOrder):
            verdict = check_order(self._ledger, sender, call, time_ms)
            return _GOOD if verdict.code == "NOT_OPEN" else verdict
        if verdict.ok and isinstance(call, Transfer):
            account = present(self._ledger.state.accounts.committed(sender.key), f"account {sender.name}")
            return check_transfer(self._ledger, sender, call, account.balance_micro)
        return _check_validator_call(self._ledger, sender, call, time_ms) if verdict.ok and sender.is_validator else verdict

    def _execute(self, transaction: Transaction, time_ms: int) -> Receipt | None:
        """Execute one transaction; None if it is void."""
        body = transaction.body
        ledger, genesis = self._ledger, self.genesis
        sender = ledger.sender(body.sender)
        if sender is None or sender.public_key != transaction.envelope.public_key or body.valid_until_ms < time_ms:
            return None
        if body.chain_id != genesis.chain_id or body.channel != genesis.channel:
            return None
        try:
            call = decode_call(bytes(body.call))
        except DecodeError:
            return None
        if not _spend_nonce(ledger, sender, body.nonce):
            return None
        outcome = _call(ledger, sender, call, transaction.id, time_ms)
        if isinstance(outcome, Verdict):
            return Receipt(transaction.id, outcome.code, outcome.detail, ())
        return Receipt(transaction.id, OK, "", outcome)


def _spend_nonce(ledger: Ledger, sender: Sender, nonce: int) -> bool:
    """Spend a nonce; False if the window does not hold it."""
    if sender.is_meter:
        meter = present(ledger.state.meters.get(sender.key), f"meter {sender.name}")
        if is_spent(meter.nonces, nonce) or is_too_far(meter.nonces, nonce):
            return False
        ledger.state.meters.put(sender.key, msgspec.structs.replace(meter, nonces=spend(meter.nonces, nonce)))
        return True
    if sender.is_validator:
        validator = present(ledger.state.validators.get(sender.key), f"validator {sender.name}")
        if is_spent(validator.nonces, nonce) or is_too_far(validator.nonces, nonce):
            return False
        ledger.state.validators.put(sender.key, msgspec.structs.replace(validator, nonces=spend(validator.nonces, nonce)))
        return True
    account = present(ledger.state.accounts.get(sender.key), f"account {sender.name}")
    if is_spent(account.nonces, nonce) or is_too_far(account.nonces, nonce):
        return False
    ledger.state.accounts.put(sender.key, Account(account.balance_micro, account.locked_micro, spend(account.nonces, nonce)))
    return True


def _check_validator_call(ledger: Ledger, sender: Sender, call: Call, time_ms: int) -> Verdict:
    """Refuse early what a validator may not ask for."""
    match call:
        case VoteOnValidators():
            return check_vote(ledger, sender, call)
        case RenewSeat():
            return check_renewal(ledger, sender, call, time_ms)
        case ReportDoubleSigning():
            return check_report(ledger, call)
    return _GOOD


def _check_role(sender: Sender, call: Call) -> Verdict:
    """Tell whether this kind of sender may make this kind of call."""
    if isinstance(call, SubmitReading):
        return _GOOD if sender.is_meter else Verdict("NOT_A_METER", f"sender: {sender.name} is none, only meters send readings")
    if isinstance(call, _OF_VALIDATORS):
        return _GOOD if sender.is_validator else Verdict("NOT_A_VALIDATOR", f"sender: {sender.name} is none, only validators send this")
    if sender.is_validator:
        return Verdict("NOT_AN_ACCOUNT", f"sender: {sender.name} is a validator, it sends only what concerns validators")
    if sender.is_meter:
        return Verdict("NOT_AN_ACCOUNT", f"sender: {sender.name} is a meter, it sends only readings")
    if isinstance(call, ResetMeter) and sender.role != "operator":
        return Verdict("NOT_THE_OPERATOR", f"sender: {sender.name} may not reset meters")
    return _GOOD


def _call(ledger: Ledger, sender: Sender, call: Call, transaction_id: bytes, time_ms: int) -> Outcome:
    """Execute one call."""
    verdict = _check_role(sender, call)
    if not verdict.ok:
        return verdict
    match call:
        case Transfer():
            return transfer(ledger, sender, call)
        case SubmitReading():
            return submit_reading(ledger, sender, call, time_ms)
        case PlaceOrder():
            return place_order(ledger, sender, call, transaction_id, time_ms)
        case CancelOrder():
            return cancel_order(ledger, sender, call, time_ms)
        case ResetMeter():
            return reset_meter(ledger, call)
        case VoteOnValidators():
            return vote_on_validators(ledger, sender, call)
        case RenewSeat():
            return renew_seat(ledger, sender, call, time_ms)
        case ReportDoubleSigning():
            return report_double_signing(ledger, sender, call, transaction_id)
