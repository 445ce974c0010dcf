"""From the vote log back to a replica that honours every vote it sent.

Law. After a restart a replica is where its own signed statements left it: in the view of its last new-view, or waiting for the view of its
last view-change; with the same pre-prepare, prepare and commit at every place where it signed one. It sends the identical bytes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from consensus.block import NULL_BATCH, Certificate
from consensus.committee import committee_of
from consensus.effects import LogRecord
from consensus.errors import InvariantViolation
from consensus.messages import (
    Kind,
    NewViewMessage,
    PrePrepareMessage,
    ValidatorSet,
    ViewChangeMessage,
    VoteMessage,
    decode_message,
    decode_new_view_body,
    decode_view_change_body,
)
from consensus.ordering import adopt_reproposal, decode_prepared
from consensus.state import ReplicaConfig, ReplicaState, Turn
from consensus.validators import set_at


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a host found on its disk.

    Attributes:
        executed: height of the last block in the store.
        certificate: the last one stored, None if there is none yet.
        headers: hashes of the blocks above it, up to ``executed``.
        batches: digests of their batches.
        records: the vote log, by (sequence, epoch, view, kind).
        epochs: all validator sets that the stored state knows, from epoch 0 on; at least that one.
        log: id of the vote log.
        first: lowest height that the store holds a block of.
    """

    epochs: tuple[ValidatorSet, ...]
    log: bytes = b""
    first: int = 1
    executed: int = 0
    certificate: Certificate | None = None
    headers: dict[int, bytes] = field(default_factory=dict)
    batches: dict[int, bytes] = field(default_factory=dict)
    records: tuple[LogRecord, ...] = ()


def recover(found: Recovered, config: ReplicaConfig) -> ReplicaState:
    """Return the state of a replica that starts from ``found`` (an empty one for a first start).

    Votes of epochs before that of the next block are of no more use: their blocks are certified.

    Raises:
        InvariantViolation: the log holds something that this replica never writes.
    """
    certified = found.certificate.height if found.certificate is not None else 0
    validators = set_at(found.epochs, certified + 1)
    committee = committee_of(validators, config.name, config.signers, found.log, config.channel_index)
    state = ReplicaState(list(found.epochs), committee, log=found.log, first=found.first)
    state.executed = state.submitted = found.executed
    state.certificate = found.certificate
    state.certified = certified
    if committee.epoch:
        state.view_start, state.view_stable = validators.first_height - 1, found.certificate
    state.own_headers = {height: value for height, value in found.headers.items() if height > state.certified}
    state.logged = [record for record in found.records if record.epoch >= committee.epoch]
    recall(state)
    for height, digest in found.batches.items():
        if height > state.certified:
            state.slot(height).decided = digest
    return state


def recall(state: ReplicaState) -> None:
    """Put the votes of the present epoch that the log held at the start back in their places.

    Votes of a later epoch wait in ``state.logged`` until it is entered: the blocks of a replica can be lost without its votes.
    """
    epoch = state.committee.epoch
    records = [record for record in state.logged if record.epoch == epoch]
    state.logged = [record for record in state.logged if record.epoch > epoch]
    _recover_view(state, records)
    for record in records:
        if record.sequence > state.certified:
            _recover_vote(state, record)
    proposed = [sequence for sequence, slot in state.slots.items() if slot.pre_prepare is not None]
    state.next_sequence = max([state.executed, state.view_start, *proposed]) + 1


def _recover_view(state: ReplicaState, records: Sequence[LogRecord]) -> None:
    """Go to the last view that this replica entered or asked for."""
    for record in records:
        if record.kind not in (Kind.VIEW_CHANGE, Kind.NEW_VIEW) or record.view < state.view:
            continue
        message = decode_message(record.data)
        if isinstance(message, ViewChangeMessage):
            state.view, state.changing = record.view, True
            state.own_view_change = message
            state.view_changes[message.vote.sender] = (message, decode_view_change_body(message.body))
        elif isinstance(message, NewViewMessage):
            state.view, state.changing, state.new_view = record.view, False, message
            state.view_changes.clear()
        else:
            raise InvariantViolation(f"vote log: record of kind {record.kind} holds another message")
    if state.new_view is None or state.changing:
        return
    body = decode_new_view_body(state.new_view.body)
    stables = [decode_view_change_body(change.body).stable for change in body.view_changes]
    state.view_stable = max((one for one in stables if one is not None), key=lambda one: one.height, default=None)
    state.view_start = state.view_stable.height if state.view_stable is not None else 0
    for vote in body.pre_prepares:
        if vote.sequence > state.certified:
            state.slot(vote.sequence).pre_prepare = vote


def _recover_vote(state: ReplicaState, record: LogRecord) -> None:
    """Put one logged vote back in its place; of votes of earlier views only bodies and prepared certificates matter."""
    slot = state.slot(record.sequence)
    if record.kind == Kind.COMMIT:
        prepared = decode_prepared(record.data)
        if slot.prepared is None or slot.prepared.pre_prepare.view < record.view:
            slot.prepared = prepared.proof
        if _is_current(state, record):
            slot.own_commit = prepared.commit
            slot.commits[prepared.commit.sender] = prepared.commit
            slot.prepares.update({vote.sender: vote for vote in prepared.proof.prepares})
        return
    message = decode_message(record.data)
    if isinstance(message, PrePrepareMessage):
        if message.batch != NULL_BATCH:
            state.bodies[message.vote.digest] = message.batch
        if _is_current(state, record):
            slot.pre_prepare = message.vote
            slot.ready = True
    elif isinstance(message, VoteMessage) and record.kind == Kind.CHECKPOINT:
        if record.sequence in state.own_headers:
            state.own_checkpoints[record.sequence] = message.vote
            state.checkpoints.setdefault(record.sequence, {})[message.vote.sender] = message.vote
    elif isinstance(message, VoteMessage) and record.kind == Kind.PREPARE:
        if _is_current(state, record):
            slot.own_prepare = message.vote
            slot.prepares[message.vote.sender] = message.vote
    else:
        raise InvariantViolation(f"vote log: record of kind {record.kind} at sequence {record.sequence}")


def _is_current(state: ReplicaState, record: LogRecord) -> bool:
    return record.view == state.view and not state.changing


def resume(turn: Turn) -> None:
    """Ask again for the check of every re-proposal that was accepted but not prepared before the stop, if this replica still has a seat."""
    if not turn.may_vote:
        return
    for _, slot in sorted(turn.state.slots.items()):
        if slot.pre_prepare is not None and not slot.ready and not turn.state.changing:
            adopt_reproposal(turn, slot.pre_prepare)
