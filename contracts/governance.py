"""Who the validators are, decided by the validators: a vote per change of the set, a new epoch when enough agree.

Law.

1. A change names the latest set (in force or announced) that it changes, so that nobody's vote ever counts for another change than the one
   that he saw. When a change is decided, all votes that are still open are void; whoever still wants such a change votes anew.
2. Whoever votes is a member of the set in force and of the latest one. A change is decided by the share of the latest set that genesis asks
   for (``approval_ppm``); each member counts once, and may withdraw while it is open.
3. The new set begins more than a window above the block that decides it, and above the first block of the set before it. So no vote of
   consensus for one of its blocks can be cast before the decision is certified, and several decisions may wait for their turn.
4. A set has 4 to 64 members with different names and keys; no member is called like an account or a meter.
5. Bounded: a validator has at most :data:`MAX_OPEN_VOTES` votes open.
6. Who lost the vote log needs a new epoch, and nobody's leave: :class:`contracts.calls.RenewSeat` announces the same members with its new
   log. That voids no votes, and happens at most ``max_seat_renewals_per_day`` times per validator, so that no faulty one fills the state
   with epochs.
"""

from __future__ import annotations

import msgspec

from consensus.application import Verdict
from consensus.codec import encode
from consensus.crypto import PUBLIC_KEY_BYTES, digest
from consensus.quorum import MIN_REPLICAS
from contracts.calls import RenewSeat, VoteOnValidators
from contracts.events import Member, SeatRenewed, ValidatorsChanged, ValidatorVoted
from contracts.genesis import MAX_VALIDATORS, Genesis
from contracts.ledger import Ledger, Outcome, present
from contracts.records import MARKET_KEY, Change, Epoch, Validator, epoch_key, name_key
from contracts.registry import Registry, Sender
from contracts.units import PPM, ceiling

MAX_OPEN_VOTES = 16
DAY_MS = 86_400_000
_GOOD = Verdict()


def approvals_needed(genesis: Genesis, members: int) -> int:
    """Return how many votes decide a change of a set with so many members."""
    return ceiling(genesis.consensus.approval_ppm * members, PPM)


def change_digest(genesis: Genesis, latest: Epoch, call: VoteOnValidators) -> bytes:
    """Return what a change of the latest set is known by: votes with the same digest are for the same change."""
    place = (genesis.chain_id, genesis.channel, latest.decided)
    what = (call.action, call.name, call.public_key, call.account, call.host, call.port)
    log = (call.log,) if call.log else ()
    return digest(b"GridPact validator change\x00" + encode((*place, *what, *log)))


def members_after(registry: Registry, epoch: Epoch, call: VoteOnValidators) -> tuple[Member, ...] | Verdict:
    """Return the members of ``epoch`` after a change, or why it cannot be made."""
    members = {member.name: member for member in epoch.members}
    if call.action == "add":
        if call.name in members:
            return Verdict("ALREADY_A_VALIDATOR", f"name: {call.name} is in the set of epoch {epoch.number}")
        if call.name in registry.senders:
            return Verdict("NAME_TAKEN", f"name: {call.name} is an account or a meter")
    elif call.name not in members:
        return Verdict("NO_SUCH_VALIDATOR", f"name: {call.name} is not in the set of epoch {epoch.number}")
    if call.log and call.action != "add":
        return Verdict("BAD_CHANGE", "log: only that of a validator that is added is voted on; a member renews its seat itself")
    if call.action == "remove":
        if call.public_key or call.account or call.host or call.port:
            return Verdict("BAD_CHANGE", "public_key, account, host, port: a removal has none")
        del members[call.name]
    else:
        member = _member(call, members.get(call.name))
        verdict = _check_member(registry, member, members)
        if not verdict.ok:
            return verdict
        members[call.name] = member
    if not MIN_REPLICAS <= len(members) <= MAX_VALIDATORS:
        code = "TOO_FEW_VALIDATORS" if len(members) < MIN_REPLICAS else "TOO_MANY_VALIDATORS"
        return Verdict(code, f"name: {len(members)} validators would be left, {MIN_REPLICAS} to {MAX_VALIDATORS} are allowed")
    return tuple(members.values())


def _member(call: VoteOnValidators, before: Member | None) -> Member:
    """Return the member that a call adds, or makes of the present one: what the call leaves empty stays."""
    if before is None:
        return Member(call.name, call.public_key.hex(), call.account, call.host, call.port, call.log.hex())
    key, account = call.public_key.hex() or before.public_key, call.account or before.account
    return Member(call.name, key, account, call.host or before.host, call.port or before.port, before.log)


def _check_member(registry: Registry, member: Member, members: dict[str, Member]) -> Verdict:
    """Tell whether ``member`` may stand among ``members``, or in the place of the one of its name."""
    before = members.get(member.name)
    if len(member.public_key) != 2 * PUBLIC_KEY_BYTES:
        return Verdict("BAD_CHANGE", f"public_key: {len(member.public_key) // 2} bytes, an Ed25519 key has {PUBLIC_KEY_BYTES}")
    if registry.account(member.account) is None:
        return Verdict("NO_SUCH_ACCOUNT", f"account: there is no account {member.account!r}")
    if bool(member.host) != bool(member.port) or (before is None and not member.host):
        return Verdict("BAD_CHANGE", "host, port: both belong to an address, and a new validator needs one")
    if member == before:
        return Verdict("NOTHING_CHANGES", f"name: {member.name} has this key, account and address already")
    holders = [other.name for other in members.values() if other.public_key == member.public_key and other.name != member.name]
    if holders:
        return Verdict("KEY_TAKEN", f"public_key: it is the key of {holders[0]}")
    return _GOOD


def check_vote(ledger: Ledger, sender: Sender, call: VoteOnValidators) -> Verdict:
    """Tell at the door whether a vote could count, on the committed state. One for a set that is not known here yet may pass."""
    state, latest = ledger.state, ledger.latest_committed_epoch
    if call.epoch > latest.number:
        return _GOOD
    outcome = _judge(ledger, sender, call, latest, state.changes.committed(change_digest(ledger.genesis, latest, call)))
    return outcome if isinstance(outcome, Verdict) else _GOOD


def vote_on_validators(ledger: Ledger, sender: Sender, call: VoteOnValidators) -> Outcome:
    """Count a validator's vote, or withdraw it; announce the new set if it decides the change."""
    state, latest = ledger.state, ledger.latest_epoch
    key = change_digest(ledger.genesis, latest, call)
    known = state.changes.get(key)
    members = _judge(ledger, sender, call, latest, known)
    if isinstance(members, Verdict):
        return members
    voter = present(state.validators.get(sender.key), f"validator {sender.name}")
    if call.approve and voter.open_votes >= MAX_OPEN_VOTES:
        return Verdict("TOO_MANY_VOTES", f"sender: {sender.name} has {voter.open_votes} open votes, the most; withdraw one")
    before = known.approvals if known is not None else ()
    approvals = (*before, sender.name) if call.approve else tuple(name for name in before if name != sender.name)
    if approvals:
        named = latest.members if call.action == "remove" else members
        member = next(one for one in named if one.name == call.name)
        state.changes.put(key, Change(latest.decided, call.action, member, approvals))
    else:
        state.changes.delete(key)
    open_votes = voter.open_votes + (1 if call.approve else -1)
    state.validators.put(sender.key, msgspec.structs.replace(voter, open_votes=open_votes))
    needed = approvals_needed(ledger.genesis, len(latest.members))
    voted = ValidatorVoted(sender.name, key.hex(), latest.decided, call.action, call.name, call.approve, len(approvals), needed)
    if len(approvals) < needed:
        return (voted,)
    _void_open_votes(ledger)
    return voted, _announce(ledger, latest, members, latest.number + 1)


def check_renewal(ledger: Ledger, sender: Sender, call: RenewSeat, time_ms: int) -> Verdict:
    """Tell at the door whether a seat could be renewed, on the committed state. A set that is not known here yet may pass."""
    latest = ledger.latest_committed_epoch
    if call.epoch > latest.number:
        return _GOOD
    record = present(ledger.state.validators.committed(sender.key), f"validator {sender.name}")
    outcome = _judge_renewal(ledger, sender, call, latest, record, time_ms)
    return outcome if isinstance(outcome, Verdict) else _GOOD


def renew_seat(ledger: Ledger, sender: Sender, call: RenewSeat, time_ms: int) -> Outcome:
    """Announce a set with the same members, in which the sender's seat belongs to another vote log."""
    latest = ledger.latest_epoch
    record = present(ledger.state.validators.get(sender.key), f"validator {sender.name}")
    members = _judge_renewal(ledger, sender, call, latest, record, time_ms)
    if isinstance(members, Verdict):
        return members
    renewals = (*record.renewals, time_ms)[-ledger.genesis.consensus.max_seat_renewals_per_day :]
    ledger.state.validators.put(sender.key, msgspec.structs.replace(record, renewals=renewals))
    return SeatRenewed(sender.name, call.log.hex()), _announce(ledger, latest, members, latest.decided)


def _judge_renewal(
    ledger: Ledger, sender: Sender, call: RenewSeat, latest: Epoch, record: Validator, time_ms: int
) -> tuple[Member, ...] | Verdict:
    """Return the members with the sender's seat renewed, or why it is not."""
    verdict = _check_epoch(sender, call.epoch, latest.number, latest)
    if not verdict.ok:
        return verdict
    log = call.log.hex()
    members = tuple(msgspec.structs.replace(one, log=log) if one.name == sender.name else one for one in latest.members)
    if members == latest.members:
        return Verdict("NOTHING_CHANGES", f"log: the seat of {sender.name} belongs to this log already")
    most = ledger.genesis.consensus.max_seat_renewals_per_day
    if len(record.renewals) >= most and record.renewals[0] > time_ms - DAY_MS:
        return Verdict("TOO_MANY_RENEWALS", f"sender: the seat of {sender.name} was renewed {most} times within a day")
    return members


def _judge(ledger: Ledger, sender: Sender, call: VoteOnValidators, latest: Epoch, known: Change | None) -> tuple[Member, ...] | Verdict:
    """Check everything but how many votes the sender has open; return the members after the change."""
    verdict = _check_epoch(sender, call.epoch, latest.decided, latest)
    if not verdict.ok:
        return verdict
    has_voted = known is not None and sender.name in known.approvals
    if call.approve and has_voted:
        return Verdict("ALREADY_VOTED", f"name: {sender.name} has voted for this change")
    if not call.approve and not has_voted:
        return Verdict("NOT_VOTED", f"approve: {sender.name} has no open vote for this change")
    return members_after(ledger.registry, latest, call)


def _check_epoch(sender: Sender, named: int, oldest: int, latest: Epoch) -> Verdict:
    """Tell whether the sender may ask for a change of the latest set, named by a number from ``oldest`` on."""
    if named < oldest:
        return Verdict("STALE_EPOCH", f"epoch: {named} was followed by {latest.number}, whose set is another")
    if named > latest.number:
        return Verdict("NO_SUCH_EPOCH", f"epoch: the latest set is that of epoch {latest.number}")
    if all(member.name != sender.name for member in latest.members):
        return Verdict("NOT_A_MEMBER", f"sender: {sender.name} is not in the set of epoch {latest.number}, which changes")
    return _GOOD


def _announce(ledger: Ledger, latest: Epoch, members: tuple[Member, ...], decided: int) -> ValidatorsChanged:
    """Write the next set into the state."""
    state = ledger.state
    first_height = max(ledger.next_height + ledger.genesis.consensus.window, latest.first_height) + 1
    epoch = Epoch(latest.number + 1, first_height, members, decided)
    state.epochs.put(epoch_key(epoch.number), epoch)
    progress = ledger.progress
    state.market.put(MARKET_KEY, msgspec.structs.replace(progress, epochs=progress.epochs + 1))
    for member in members:
        if state.validators.get(name_key(member.name)) is None:
            state.validators.put(name_key(member.name), Validator())
    return ValidatorsChanged(epoch.number, first_height, members)


def _void_open_votes(ledger: Ledger) -> None:
    """Forget all changes that are not decided, and who voted for them."""
    state = ledger.state
    voters: dict[str, None] = {}
    for key, change in state.changes.scan():
        state.changes.delete(key)
        voters.update(dict.fromkeys(change.approvals))
    for name in voters:
        record = present(state.validators.get(name_key(name)), f"validator {name}")
        state.validators.put(name_key(name), msgspec.structs.replace(record, open_votes=0))
