"""Double signing, proven by two signed votes: recorded once per place, in the validator's record and its account's credit.

Law.

1. A validator signs at most one vote per epoch, kind, view and sequence number, whatever happens: votes are durable before they are
   sent. Two with different digests prove that it (or whoever has its key) broke that. A status may change, so two of them prove nothing.
2. Anybody can check the proof: both signatures hold under the set of their epoch, which the chain knows.
3. Once: a place is recorded once, whoever reports it and how often.
4. Bounded: :data:`MAX_OFFENCES` are recorded per validator name. What comes after that adds nothing, and is refused.
"""

from __future__ import annotations

import msgspec

from consensus.application import Verdict
from consensus.messages import Kind, Vote
from contracts.calls import ReportDoubleSigning
from contracts.epochs import validator_set
from contracts.events import DoubleSigningRecorded, Member
from contracts.ledger import Ledger, Outcome, present
from contracts.records import Credit, Epoch, Offence, Validator, epoch_key, name_key, offence_key
from contracts.registry import Sender

MAX_OFFENCES = 1_000
EXCLUSIVE_KINDS = (Kind.PRE_PREPARE, Kind.PREPARE, Kind.COMMIT, Kind.CHECKPOINT, Kind.VIEW_CHANGE, Kind.NEW_VIEW)
_MAX_NUMBER = 2**63 - 1


def kind_name(kind: int) -> str:
    """Return what people call a kind of vote, like ``pre-prepare``."""
    return Kind(kind).name.lower().replace("_", "-")


def check_report(ledger: Ledger, call: ReportDoubleSigning) -> Verdict:
    """Tell at the door whether a report could count, on the committed state. One of a set that is not known here yet may pass."""
    first, state = call.first, ledger.state
    verdict = _check_places(first, call.second)
    if not verdict.ok:
        return verdict
    epoch = state.epochs.committed(epoch_key(first.epoch))
    if epoch is None:
        return Verdict()
    member = _member(epoch, first)
    if member is None:
        return _no_member(first)
    record = present(state.validators.committed(name_key(member.name)), f"validator {member.name}")
    known = state.offences.committed(_key(member, first))
    return _verdict(ledger, call, epoch, record, known)


def report_double_signing(ledger: Ledger, reporter: Sender, call: ReportDoubleSigning, transaction_id: bytes) -> Outcome:
    """Record a proven double signing."""
    first, state = call.first, ledger.state
    verdict = _check_places(first, call.second)
    if not verdict.ok:
        return verdict
    epoch = state.epochs.get(epoch_key(first.epoch))
    if epoch is None:
        return Verdict("NO_SUCH_EPOCH", f"first: the chain knows no epoch {first.epoch}")
    member = _member(epoch, first)
    if member is None:
        return _no_member(first)
    record = present(state.validators.get(name_key(member.name)), f"validator {member.name}")
    verdict = _verdict(ledger, call, epoch, record, state.offences.get(_key(member, first)))
    if not verdict.ok:
        return verdict
    offences = record.offences + 1
    state.offences.put(_key(member, first), Offence(transaction_id, reporter.name))
    state.validators.put(name_key(member.name), msgspec.structs.replace(record, offences=offences))
    account = name_key(member.account)
    credit = state.credits.get(account) or Credit()
    state.credits.put(account, msgspec.structs.replace(credit, double_signings=credit.double_signings + 1))
    place = (first.epoch, kind_name(first.kind), first.view, first.sequence)
    return (DoubleSigningRecorded(member.name, member.account, *place, offences, reporter.name),)


def _check_places(first: Vote, second: Vote) -> Verdict:
    """Check that the votes exclude each other, whoever signed them."""
    if first.kind not in EXCLUSIVE_KINDS:
        return Verdict("NOT_EVIDENCE", f"first: a vote of kind {first.kind} excludes no other")
    for field in ("kind", "epoch", "view", "sequence", "sender"):
        one, other = getattr(first, field), getattr(second, field)
        if one != other:
            return Verdict("NOT_EVIDENCE", f"second: its {field} is {other}, that of the first is {one}")
    if first.digest == second.digest:
        return Verdict("NOT_EVIDENCE", "second: it says the same as the first")
    if not all(0 <= number <= _MAX_NUMBER for number in (first.epoch, first.view, first.sequence, first.sender)):
        return Verdict("NOT_EVIDENCE", "first: its epoch, view, sequence or sender is no such number")
    return Verdict()


def _verdict(ledger: Ledger, call: ReportDoubleSigning, epoch: Epoch, record: Validator, known: Offence | None) -> Verdict:
    """Check what is cheap, then the signatures."""
    if known is not None:
        return Verdict("ALREADY_REPORTED", f"first: {known.reporter} reported this in transaction {known.report.hex()}")
    if record.offences >= MAX_OFFENCES:
        return Verdict("ENOUGH_OFFENCES", f"first: {record.offences} offences of this validator are recorded, the most")
    validators = validator_set(ledger.genesis, epoch)
    for name, vote in (("first", call.first), ("second", call.second)):
        if not validators.checks(vote, ledger.check):
            return Verdict("BAD_SIGNATURE", f"{name}: the signature is not that of validator {vote.sender} of epoch {vote.epoch}")
    return Verdict()


def _member(epoch: Epoch, vote: Vote) -> Member | None:
    return epoch.members[vote.sender] if vote.sender < len(epoch.members) else None


def _no_member(vote: Vote) -> Verdict:
    return Verdict("NO_SUCH_VALIDATOR", f"first: epoch {vote.epoch} has no validator {vote.sender}")


def _key(member: Member, vote: Vote) -> bytes:
    return offence_key(member.name, vote.epoch, vote.kind, vote.view, vote.sequence)
