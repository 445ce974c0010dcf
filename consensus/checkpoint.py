"""Checkpoints: sign the block that was executed, collect its certificate, move the water marks (section 4.3 of the paper).

Law. A replica signs one header per height, that of the block it executed itself. q equal signatures are the block's certificate. Whatever
lies at or below the last certificate is never voted on again and leaves the log. A replica whose own header differs from a
certified one has diverged: it stops.
"""

from __future__ import annotations

from typing import Any

from consensus.block import Certificate
from consensus.effects import Certified, Diverged
from consensus.epochs import announce, enter_epoch
from consensus.errors import InvariantViolation, PeerFault, Suspicion
from consensus.messages import Kind, ValidatorSet, Vote, VoteMessage, make_certificate
from consensus.ordering import execute_decided
from consensus.state import Turn
from consensus.vouching import fetch_vouched


def on_executed(turn: Turn, sequence: int, header_hash: bytes, announced: tuple[ValidatorSet, ...] = ()) -> None:
    """The host made block ``sequence`` durable: sign its header, unless its certificate is already here.

    Args:
        announced: validator sets that the block announced.
    """
    state = turn.state
    if sequence != state.executed + 1 or sequence > state.submitted:
        raise InvariantViolation(f"block {sequence} executed after block {state.executed}")
    state.executed = sequence
    announce(turn, announced)
    state.own_headers[sequence] = header_hash
    held = state.held.pop(sequence, None)
    adoption, state.adopting = state.adopting, None
    if adoption is not None:
        if adoption.is_certified:
            held = adoption.block.certificate
        if adoption.peer in state.peers:
            state.peers[adoption.peer].fetch_failures = 0
    if held is not None:
        certify(turn, held)
        return
    sign_header(turn, sequence)
    _try_certificate(turn, sequence)
    if adoption is not None:
        fetch_vouched(turn, goes_on=True)


def sign_header(turn: Turn, sequence: int) -> None:
    """Sign, log and broadcast the checkpoint vote on an own block, if this replica has a seat in the block's epoch."""
    state = turn.state
    if not turn.may_vote or sequence > turn.end_of_epoch:
        return
    vote = turn.sign(Kind.CHECKPOINT, 0, sequence, state.own_headers[sequence])
    state.own_checkpoints[sequence] = vote
    state.checkpoints.setdefault(sequence, {})[vote.sender] = vote
    turn.persist(Kind.CHECKPOINT, sequence, 0, VoteMessage(vote))
    turn.broadcast(VoteMessage(vote))


def sign_executed(turn: Turn) -> None:
    """Sign the own blocks above the last certificate that were not signed yet: after a restart, or because their epoch begins only now."""
    state = turn.state
    for sequence in sorted(state.own_headers):
        if sequence > state.certified and sequence not in state.own_checkpoints:
            sign_header(turn, sequence)


def on_checkpoint(turn: Turn, vote: Vote) -> None:
    """Collect a checkpoint vote of another replica.

    Raises:
        PeerFault: bad signature, or one for a view: it covers other bytes than those that a certificate's votes are checked with.
    """
    if vote.epoch != turn.committee.epoch or not _may_certify(turn, vote.sequence):
        return
    if vote.view != 0:
        raise PeerFault(turn.committee.name(vote.sender), Suspicion.WRONG_KIND, f"checkpoint {vote.sequence} for view {vote.view}")
    known = turn.state.checkpoints.get(vote.sequence, {}).get(vote.sender)
    if known == vote:
        return
    turn.require(vote, Kind.CHECKPOINT)
    if turn.conflict(known, vote):
        return
    turn.state.checkpoints.setdefault(vote.sequence, {})[vote.sender] = vote
    _try_certificate(turn, vote.sequence)


def _may_certify(turn: Turn, sequence: int) -> bool:
    """Whether a checkpoint vote for this height is still of use, and near enough to be kept."""
    low = turn.state.certified
    return low < sequence <= max(low, turn.state.view_start) + turn.config.window


def _try_certificate(turn: Turn, sequence: int) -> None:
    votes = turn.state.checkpoints.get(sequence, {})
    quorum = turn.quorums.quorum
    if len(votes) < quorum or sequence <= turn.state.certified:
        return
    by_digest: dict[bytes, list[Vote]] = {}
    for sender in sorted(votes):
        by_digest.setdefault(votes[sender].digest, []).append(votes[sender])
    for matching in by_digest.values():
        if len(matching) >= quorum:
            certify(turn, make_certificate(tuple(matching[:quorum])))
            return


def certify(turn: Turn, certificate: Certificate) -> None:
    """Take a verified certificate: move the water marks, or hold it until the own block and the certificates before it are there.

    Certificates are taken in order, so that every block that a replica can serve has its own.
    """
    state, sequence = turn.state, certificate.height
    if sequence <= state.certified:
        return
    if sequence > state.certified + 1 or sequence not in state.own_headers:
        if sequence <= max(state.executed, state.view_start) + turn.config.window:
            state.held[sequence] = certificate
        return
    following: Certificate | None = certificate
    epoch = turn.committee.epoch
    while following is not None:
        own = state.own_headers.get(following.height)
        if own is None:
            break
        if own != following.header_hash:
            state.diverged = True
            turn.emit(Diverged(following.height, own, following.header_hash))
            return
        state.certified, state.certificate = following.height, following
        state.last_progress_ms, state.failed_views = turn.now_ms, 0
        change = turn.next_set
        is_last = change is not None and following.height == change.first_height - 1
        turn.emit(Certified(following, following.height, turn.committee.epoch, state.view, is_last))
        if change is not None and is_last:
            enter_epoch(turn, change)
        following = state.held.get(following.height + 1)
    truncate(turn, state.certified)
    if turn.committee.epoch != epoch:
        sign_executed(turn)
    execute_decided(turn)


def truncate(turn: Turn, sequence: int) -> None:
    """Forget everything at or below the new low water mark."""
    state = turn.state
    tables: tuple[dict[int, Any], ...] = (
        state.slots,
        state.checkpoints,
        state.own_headers,
        state.own_checkpoints,
        state.held,
        state.fetched,
    )
    for table in tables:
        for old in [key for key in table if key <= sequence]:
            del table[old]
    state.missing = {digest: wanted for digest, wanted in state.missing.items() if wanted > sequence}
    needed = {slot.pre_prepare.digest for slot in state.slots.values() if slot.pre_prepare is not None}
    needed |= {slot.prepared.pre_prepare.digest for slot in state.slots.values() if slot.prepared is not None}
    needed |= {slot.decided for slot in state.slots.values() if slot.decided is not None}
    state.bodies = {digest: body for digest, body in state.bodies.items() if digest in needed}
    state.next_sequence = max(state.next_sequence, sequence + 1)
