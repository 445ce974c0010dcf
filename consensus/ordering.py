"""Normal operation: pre-prepare, prepare, commit (Castro and Liskov 1999, section 4.2).

Law. Per view and sequence number a replica accepts one pre-prepare, signs one prepare and one commit, all for the same digest.

| rule | when | then |
| --- | --- | --- |
| propose | primary, host gives a batch | log it, broadcast pre-prepare |
| accept | pre-prepare of this view's primary, between the water marks, first for its place | ask the host to check the batch |
| prepare | the host accepts the batch | log pre-prepare, bodies and prepare; broadcast prepare |
| commit | pre-prepare and q - 1 prepares from backups match | log commit and the prepared certificate; broadcast commit |
| decide | q commits match | execute when all before it are |

The pre-prepare is the primary's prepare: a prepare signed by the primary is refused.
"""

from __future__ import annotations

from consensus.block import NULL_BATCH, NULL_DIGEST, batch_digest
from consensus.codec import Decoder, Wire
from consensus.effects import CheckBatch, Execute
from consensus.errors import InvariantViolation, PeerFault, Suspicion
from consensus.messages import BatchMessage, FetchBatch, Kind, PreparedProof, PrePrepareMessage, Vote, VoteMessage
from consensus.state import Slot, Turn


class Prepared(Wire, frozen=True):
    """What the vote log keeps of a commit: the vote, and the prepared certificate that allowed it."""

    commit: Vote
    proof: PreparedProof


decode_prepared = Decoder(Prepared, "prepared record")


def propose(turn: Turn, batch: bytes) -> None:
    """Rule *propose*: order ``batch`` at the next sequence number.

    Raises:
        InvariantViolation: the host proposed when it may not (see ``Replica.can_propose``).
    """
    state = turn.state
    sequence = state.next_sequence
    if state.changing or not turn.is_primary or not turn.may_order(sequence) or batch == NULL_BATCH:
        raise InvariantViolation(f"proposal for sequence {sequence} of view {state.view} out of turn")
    digest = batch_digest(batch)
    vote = turn.sign(Kind.PRE_PREPARE, state.view, sequence, digest)
    message = PrePrepareMessage(vote, batch)
    slot = state.slot(sequence)
    slot.pre_prepare, slot.accepted_ms, slot.ready = vote, turn.now_ms, True
    state.bodies[digest] = batch
    state.next_sequence = sequence + 1
    turn.persist(Kind.PRE_PREPARE, sequence, state.view, message, digest)
    turn.broadcast(message)
    advance(turn, slot)


def on_pre_prepare(turn: Turn, message: PrePrepareMessage) -> None:
    """Rule *accept*.

    Raises:
        PeerFault: the sender may not propose, signed something else, or sent another body.
    """
    vote, state, committee = message.vote, turn.state, turn.committee
    if not turn.may_vote or vote.epoch != committee.epoch or state.changing or vote.view != state.view or not turn.may_order(vote.sequence):
        return
    name = committee.name(vote.sender)
    if vote.sender != committee.primary(vote.view):
        raise PeerFault(name, Suspicion.NOT_PRIMARY, f"view {vote.view}")
    slot = state.slot(vote.sequence)
    if slot.pre_prepare == vote:
        _take_missing(turn, vote.digest, message.batch)
        return
    turn.require(vote, Kind.PRE_PREPARE)
    if turn.conflict(slot.pre_prepare, vote):
        return
    if _contradicts(turn, slot, vote):
        return
    if message.batch == NULL_BATCH or batch_digest(message.batch) != vote.digest:
        raise PeerFault(name, Suspicion.DIGEST_MISMATCH, f"pre-prepare {vote.sequence}")
    slot.pre_prepare, slot.accepted_ms = vote, turn.now_ms
    state.bodies[vote.digest] = message.batch
    turn.emit(CheckBatch(vote.view, vote.sequence, vote.digest, message.batch, vote.sender, name, fresh=True))
    advance(turn, slot)


def _contradicts(turn: Turn, slot: Slot, vote: Vote) -> bool:
    """Whether another batch was decided or executed at this place: then this replica votes for none but that one, whatever happens."""
    if slot.decided is None or slot.decided == vote.digest:
        return False
    turn.fault(
        turn.committee.name(vote.sender), Suspicion.BAD_PROPOSAL, f"sequence {vote.sequence} was decided already, with another batch"
    )
    return True


def adopt_reproposal(turn: Turn, vote: Vote) -> None:
    """Take a pre-prepare from a verified new-view. Its batch was valid when it was prepared: no rule of freshness applies again."""
    slot = turn.state.slot(vote.sequence)
    if _contradicts(turn, slot, vote):
        return
    slot.pre_prepare, slot.accepted_ms = vote, turn.now_ms
    batch = NULL_BATCH if vote.digest == NULL_DIGEST else turn.state.bodies.get(vote.digest)
    if batch is None:
        turn.state.missing[vote.digest] = vote.sequence
        turn.broadcast(FetchBatch(vote.digest))
    elif batch == NULL_BATCH:
        slot.ready = True
        _prepare(turn, slot)
    else:
        turn.emit(CheckBatch(vote.view, vote.sequence, vote.digest, batch, vote.sender, turn.committee.name(vote.sender), fresh=False))
    advance(turn, slot)


def on_batch_checked(turn: Turn, view: int, sequence: int, digest: bytes, accepted: bool, reason: str) -> None:
    """Rule *prepare*: the host has all bodies of the batch and does (or does not) object to it."""
    state = turn.state
    slot = state.slots.get(sequence)
    if slot is None or state.changing or view != state.view or slot.pre_prepare is None or slot.pre_prepare.digest != digest:
        return
    if not accepted:
        turn.fault(turn.committee.name(slot.pre_prepare.sender), Suspicion.BAD_PROPOSAL, f"sequence {sequence}: {reason}")
        return
    if not slot.ready:
        slot.ready = True
        _prepare(turn, slot)


def _prepare(turn: Turn, slot: Slot) -> None:
    """Log the pre-prepare with its bodies and, on a backup, sign the prepare."""
    state, pre_prepare = turn.state, slot.pre_prepare
    if pre_prepare is None:
        raise InvariantViolation(f"prepare without a pre-prepare at sequence {slot.sequence}")
    batch = state.bodies.get(pre_prepare.digest, NULL_BATCH)
    bodies_of = b"" if batch == NULL_BATCH else pre_prepare.digest
    turn.persist(Kind.PRE_PREPARE, slot.sequence, state.view, PrePrepareMessage(pre_prepare, batch), bodies_of)
    if not turn.is_primary and slot.own_prepare is None:
        slot.own_prepare = turn.sign(Kind.PREPARE, state.view, slot.sequence, pre_prepare.digest)
        slot.prepares[slot.own_prepare.sender] = slot.own_prepare
        turn.persist(Kind.PREPARE, slot.sequence, state.view, VoteMessage(slot.own_prepare))
        turn.broadcast(VoteMessage(slot.own_prepare))
    advance(turn, slot)


def on_vote(turn: Turn, vote: Vote) -> None:
    """Count a prepare or commit; votes of a view not entered yet are kept aside, one per sender and kind.

    Raises:
        PeerFault: bad signature, or a prepare from the primary.
    """
    state, kind = turn.state, Kind(vote.kind)
    if not turn.may_vote or vote.epoch != turn.committee.epoch or not turn.may_order(vote.sequence) or vote.view < state.view:
        return
    if kind is Kind.PREPARE and vote.sender == turn.committee.primary(vote.view):
        raise PeerFault(turn.committee.name(vote.sender), Suspicion.PRIMARY_PREPARED, f"view {vote.view}, sequence {vote.sequence}")
    slot = state.slots.get(vote.sequence)
    votes = None if slot is None else (slot.prepares if kind is Kind.PREPARE else slot.commits)
    is_current = not state.changing and vote.view == state.view
    if is_current and votes is not None and votes.get(vote.sender) == vote:
        return
    turn.require(vote, kind)
    slot = state.slot(vote.sequence)
    if not is_current:
        known = slot.later.get((vote.kind, vote.sender))
        if known is None or known.view < vote.view:
            slot.later[(vote.kind, vote.sender)] = vote
        return
    votes = slot.prepares if kind is Kind.PREPARE else slot.commits
    if not turn.conflict(votes.get(vote.sender), vote):
        votes[vote.sender] = vote
        advance(turn, slot)


def replay_later(turn: Turn) -> None:
    """Count the stashed votes of the view just entered; drop those of views gone by."""
    view = turn.state.view
    for slot in list(turn.state.slots.values()):
        due = [vote for vote in slot.later.values() if vote.view == view]
        slot.later = {key: vote for key, vote in slot.later.items() if vote.view > view}
        for vote in due:
            votes = slot.prepares if vote.kind == Kind.PREPARE else slot.commits
            votes.setdefault(vote.sender, vote)
        advance(turn, slot)


def advance(turn: Turn, slot: Slot) -> None:
    """Rules *commit* and *decide* for one slot."""
    pre_prepare = slot.pre_prepare
    if pre_prepare is None:
        return
    quorums = turn.quorums
    if slot.ready and slot.own_commit is None:
        matching = [vote for vote in slot.prepares.values() if vote.digest == pre_prepare.digest]
        if len(matching) >= quorums.prepares:
            _commit(turn, slot, pre_prepare, matching)
    if slot.decided is None:
        agreeing = sum(vote.digest == pre_prepare.digest for vote in slot.commits.values())
        if agreeing >= quorums.quorum and (pre_prepare.digest == NULL_DIGEST or pre_prepare.digest in turn.state.bodies):
            slot.decided = pre_prepare.digest
            execute_decided(turn)


def _commit(turn: Turn, slot: Slot, pre_prepare: Vote, matching: list[Vote]) -> None:
    view = turn.state.view
    chosen = sorted(matching, key=lambda vote: vote.sender)[: turn.quorums.prepares]
    slot.prepared = PreparedProof(pre_prepare, tuple(chosen))
    slot.own_commit = turn.sign(Kind.COMMIT, view, slot.sequence, pre_prepare.digest)
    slot.commits[slot.own_commit.sender] = slot.own_commit
    turn.persist(Kind.COMMIT, slot.sequence, view, Prepared(slot.own_commit, slot.prepared))
    turn.broadcast(VoteMessage(slot.own_commit))


def execute_decided(turn: Turn) -> None:
    """Hand decided batches to the host, strictly in order; none while a block or a snapshot of others is taken instead."""
    state = turn.state
    while state.adopting is None and not turn.state.is_replaced:
        slot = state.slots.get(state.submitted + 1)
        if slot is None or slot.decided is None:
            return
        state.submitted += 1
        batch = NULL_BATCH if slot.decided == NULL_DIGEST else state.bodies[slot.decided]
        turn.emit(Execute(slot.sequence, batch))


def on_fetch_batch(turn: Turn, peer: str, digest: bytes) -> None:
    """Answer who asks for a batch that this replica knows."""
    batch = turn.state.bodies.get(digest)
    if batch is not None:
        turn.send(peer, BatchMessage(batch))


def on_batch(turn: Turn, batch: bytes) -> None:
    """Take a batch that was asked for; its digest proves it."""
    _take_missing(turn, batch_digest(batch), batch)


def _take_missing(turn: Turn, digest: bytes, batch: bytes) -> None:
    state = turn.state
    if digest not in state.missing or batch_digest(batch) != digest:
        return
    sequence = state.missing.pop(digest)
    state.bodies[digest] = batch
    slot = state.slots.get(sequence)
    if slot is not None and slot.pre_prepare is not None and slot.pre_prepare.digest == digest and not state.changing:
        vote = slot.pre_prepare
        turn.emit(CheckBatch(vote.view, sequence, digest, batch, vote.sender, turn.committee.name(vote.sender), fresh=False))
        advance(turn, slot)
