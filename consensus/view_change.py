"""View changes (Castro and Liskov 1999, section 4.4): a new primary, and nothing that may have committed is lost.

Law.

1. A replica that asked for view v votes in no view below v; it takes checkpoints, view-changes and new-views.
2. A view-change carries the last certificate (C) and, for every sequence above it, the prepared certificate of the highest view (P).
   Anybody can check it. A bad one is dropped alone; the others count.
3. The re-proposals (O) are a function of q view-changes (V): :func:`reproposals`. Every backup computes it again and refuses a new-view
   that differs in one entry. Water marks start at the highest certificate in V. Gaps get null requests.
4. f + 1 replicas that want higher views take everybody along, to the smallest of these views: one faulty replica cannot.
5. The timer of a new view starts when q view-changes for it or later ones are there, doubles with every view that brings no
   progress, up to a cap.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block import NULL_DIGEST, Certificate
from consensus.codec import encode
from consensus.effects import Evidence, ViewEntered
from consensus.errors import DecodeError, PeerFault, Suspicion
from consensus.messages import (
    Kind,
    NewViewBody,
    NewViewMessage,
    PreparedProof,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    body_digest,
    decode_new_view_body,
    decode_view_change_body,
)
from consensus.ordering import adopt_reproposal, replay_later
from consensus.state import Turn


def timeout_ms(turn: Turn) -> int:
    """Return the present patience: doubled per failed view, capped."""
    config = turn.config
    doublings = min(max(turn.state.failed_views - 1, 0), 16)
    return min(config.view_timeout_ms << doublings, config.max_view_timeout_ms)


def start_view_change(turn: Turn, new_view: int) -> None:
    """Leave the current view and ask for ``new_view``."""
    state = turn.state
    state.view, state.changing = new_view, True
    state.failed_views += 1
    state.view_change_deadline_ms = None
    state.missing.clear()
    stable = _highest_certificate(state.certificate, state.view_stable)
    low = stable.height if stable is not None else 0
    prepared = tuple(slot.prepared for sequence, slot in sorted(state.slots.items()) if sequence > low and slot.prepared is not None)
    body = ViewChangeBody(new_view, stable, prepared)
    encoded = encode(body)
    message = ViewChangeMessage(turn.sign(Kind.VIEW_CHANGE, new_view, 0, body_digest(encoded)), encoded)
    state.own_view_change = message
    state.view_changes[message.vote.sender] = (message, body)
    turn.persist(Kind.VIEW_CHANGE, 0, new_view, message)
    turn.broadcast(message)
    _try_new_view(turn)


def _highest_certificate(*certificates: Certificate | None) -> Certificate | None:
    """Return the certificate of the greatest height. A replica that still catches up knows a higher one than its own from its view."""
    return max((one for one in certificates if one is not None), key=lambda one: one.height, default=None)


def on_view_change(turn: Turn, message: ViewChangeMessage) -> None:
    """Collect a view-change; join if f + 1 others want higher views; lead if it makes a quorum for a view of one's own.

    Raises:
        PeerFault: it breaks a rule; it is dropped, the others stay.
    """
    state, vote = turn.state, message.vote
    if not turn.may_vote or not _is_ahead(turn, vote):
        return
    known = state.view_changes.get(vote.sender)
    if known is not None and (known[0] == message or known[0].vote.view > vote.view):
        return
    body = verified_view_change(turn, message)
    if known is not None and known[0].vote.view == vote.view:
        turn.emit(Evidence(known[0].vote, vote))
        turn.fault(turn.committee.name(vote.sender), Suspicion.EQUIVOCATION, f"view-change {vote.view}")
        return
    state.view_changes[vote.sender] = (message, body)
    higher = sorted(known[0].vote.view for known in state.view_changes.values() if known[0].vote.view > state.view)
    if len(higher) >= turn.quorums.weak:
        start_view_change(turn, higher[0])
    else:
        _try_new_view(turn)


def _is_ahead(turn: Turn, vote: Vote) -> bool:
    """Whether a view-change or new-view of another replica is for a view that this one has not entered."""
    state = turn.state
    if vote.epoch != turn.committee.epoch or vote.sender == turn.me:
        return False
    return vote.view > state.view or (vote.view == state.view and state.changing)


def verified_view_change(turn: Turn, message: ViewChangeMessage) -> ViewChangeBody:
    """Return the body of a view-change whose every part proves itself.

    Raises:
        PeerFault: names the part that does not.
    """
    vote = message.vote
    name = turn.committee.name(vote.sender)
    known = turn.state.view_changes.get(vote.sender)
    if known is not None and known[0] == message:
        return known[1]
    turn.require(vote, Kind.VIEW_CHANGE)
    if body_digest(message.body) != vote.digest:
        raise PeerFault(name, Suspicion.DIGEST_MISMATCH, "view-change")
    try:
        body = decode_view_change_body(message.body)
    except DecodeError as error:
        raise PeerFault(name, Suspicion.BAD_VIEW_CHANGE, str(error)) from error
    if body.new_view != vote.view or vote.view < 1:
        raise PeerFault(name, Suspicion.BAD_VIEW_CHANGE, f"body for view {body.new_view}, vote for view {vote.view}")
    if body.stable is not None and not turn.certifies(body.stable):
        raise PeerFault(name, Suspicion.BAD_CERTIFICATE, "view-change")
    low = last = body.stable.height if body.stable is not None else 0
    if low < turn.committee.validators.first_height - 1:
        raise PeerFault(name, Suspicion.BAD_VIEW_CHANGE, f"starts at {low}, before epoch {vote.epoch}")
    for proof in body.prepared:
        sequence = proof.pre_prepare.sequence
        if not last < sequence <= low + 2 * turn.config.window or proof.pre_prepare.view >= vote.view:
            raise PeerFault(name, Suspicion.BAD_VIEW_CHANGE, f"prepared certificate for sequence {sequence} out of place")
        if not proves_prepared(turn, proof):
            raise PeerFault(name, Suspicion.BAD_PREPARED_PROOF, f"sequence {sequence}")
        last = sequence
    return body


def proves_prepared(turn: Turn, proof: PreparedProof) -> bool:
    """Tell whether a pre-prepare of its view's primary and q - 1 matching prepares of distinct backups stand in ``proof``."""
    first = proof.pre_prepare
    primary = turn.committee.primary(first.view)
    if first.kind != Kind.PRE_PREPARE or first.sender != primary or first.view < 0 or not turn.checks(first):
        return False
    senders = [vote.sender for vote in proof.prepares]
    if len(senders) < turn.quorums.prepares or senders != sorted(set(senders)) or primary in senders:
        return False
    place = (Kind.PREPARE, first.view, first.sequence, first.digest)
    return all((vote.kind, vote.view, vote.sequence, vote.digest) == place and turn.checks(vote) for vote in proof.prepares)


def reproposals(bodies: Sequence[ViewChangeBody]) -> tuple[int, list[tuple[int, bytes]]]:
    """Compute what a new view must propose again: the paper's min-s and O.

    Args:
        bodies: of q verified view-changes.

    Returns:
        The sequence that the view starts after, and (sequence, digest) for every one up to the highest prepared; gaps are null requests.
    """
    start = max((body.stable.height for body in bodies if body.stable is not None), default=0)
    highest: dict[int, tuple[int, bytes]] = {}
    for body in bodies:
        for proof in body.prepared:
            vote = proof.pre_prepare
            if vote.sequence > start and (vote.sequence not in highest or highest[vote.sequence][0] < vote.view):
                highest[vote.sequence] = (vote.view, vote.digest)
    last = max(highest, default=start)
    return start, [(sequence, highest[sequence][1] if sequence in highest else NULL_DIGEST) for sequence in range(start + 1, last + 1)]


def _try_new_view(turn: Turn) -> None:
    """With q view-changes for the wanted view or later ones: start its timer. With q for it, as its primary: make the new-view (once).

    Those who are a view ahead count for the timer: waiting for q in one's own view, replicas that are spread over two would wait for ever.
    """
    state = turn.state
    if not state.changing:
        return
    at_least = sum(entry[0].vote.view >= state.view for entry in state.view_changes.values())
    if state.view_change_deadline_ms is None and at_least >= turn.quorums.quorum:
        state.view_change_deadline_ms = turn.now_ms + timeout_ms(turn)
    wanted = [entry for _, entry in sorted(state.view_changes.items()) if entry[0].vote.view == state.view]
    if len(wanted) < turn.quorums.quorum:
        return
    if not turn.is_primary or turn.me not in [entry[0].vote.sender for entry in wanted]:
        return
    chosen = wanted[: turn.quorums.quorum]
    _, proposals = reproposals([body for _, body in chosen])
    votes = tuple(turn.sign(Kind.PRE_PREPARE, state.view, sequence, digest) for sequence, digest in proposals)
    encoded = encode(NewViewBody(tuple(message for message, _ in chosen), votes))
    message = NewViewMessage(turn.sign(Kind.NEW_VIEW, state.view, 0, body_digest(encoded)), encoded)
    turn.persist(Kind.NEW_VIEW, 0, state.view, message)
    turn.broadcast(message)
    enter_view(turn, message, [body for _, body in chosen], votes)


def on_new_view(turn: Turn, message: NewViewMessage) -> None:
    """Enter the view of a new-view that follows from its view-changes.

    Raises:
        PeerFault: it does not.
    """
    vote = message.vote
    if not turn.may_vote or not _is_ahead(turn, vote):
        return
    bodies, votes = verified_new_view(turn, message)
    turn.persist(Kind.NEW_VIEW, 0, vote.view, message)
    enter_view(turn, message, bodies, votes)


def verified_new_view(turn: Turn, message: NewViewMessage) -> tuple[list[ViewChangeBody], tuple[Vote, ...]]:
    """Return the view-changes of a new-view and its pre-prepares, after computing these anew from those.

    Raises:
        PeerFault: one entry differs, or a view-change in it is not valid.
    """
    vote = message.vote
    name = turn.committee.name(vote.sender)
    if vote.sender != turn.committee.primary(vote.view):
        raise PeerFault(name, Suspicion.NOT_PRIMARY, f"new-view {vote.view}")
    turn.require(vote, Kind.NEW_VIEW)
    if body_digest(message.body) != vote.digest:
        raise PeerFault(name, Suspicion.DIGEST_MISMATCH, "new-view")
    try:
        body = decode_new_view_body(message.body)
    except DecodeError as error:
        raise PeerFault(name, Suspicion.BAD_NEW_VIEW, str(error)) from error
    senders = [change.vote.sender for change in body.view_changes]
    if len(senders) < turn.quorums.quorum or senders != sorted(set(senders)):
        raise PeerFault(name, Suspicion.BAD_NEW_VIEW, f"view-changes of {senders}")
    if any(change.vote.view != vote.view for change in body.view_changes):
        raise PeerFault(name, Suspicion.BAD_NEW_VIEW, "a view-change for another view")
    try:
        bodies = [verified_view_change(turn, change) for change in body.view_changes]
    except PeerFault as fault:
        raise PeerFault(name, Suspicion.BAD_NEW_VIEW, str(fault)) from fault
    _, proposals = reproposals(bodies)
    if [(proposal.sequence, proposal.digest) for proposal in body.pre_prepares] != proposals:
        raise PeerFault(name, Suspicion.BAD_NEW_VIEW, "its pre-prepares do not follow from its view-changes")
    for proposal in body.pre_prepares:
        if (proposal.kind, proposal.view, proposal.sender) != (Kind.PRE_PREPARE, vote.view, vote.sender):
            raise PeerFault(name, Suspicion.BAD_NEW_VIEW, f"pre-prepare {proposal.sequence} is of another view or sender")
        if not turn.checks(proposal):
            raise PeerFault(name, Suspicion.BAD_SIGNATURE, f"pre-prepare {proposal.sequence} of new-view {vote.view}")
    return bodies, body.pre_prepares


def enter_view(turn: Turn, message: NewViewMessage, bodies: Sequence[ViewChangeBody], pre_prepares: tuple[Vote, ...]) -> None:
    """Begin to work in a view: take the re-proposals, count stashed votes, start its timer."""
    state = turn.state
    state.view, state.changing, state.new_view = message.vote.view, False, message
    state.view_stable = _highest_certificate(*(body.stable for body in bodies))
    state.view_start = start = state.view_stable.height if state.view_stable is not None else 0
    state.view_change_deadline_ms = None
    state.last_progress_ms = turn.now_ms
    state.overtaken = False
    state.missing.clear()
    state.view_changes = {peer: entry for peer, entry in state.view_changes.items() if entry[0].vote.view > state.view}
    for slot in state.slots.values():
        slot.enter_view()
    last = pre_prepares[-1].sequence if pre_prepares else start
    state.next_sequence = max(last, state.certified) + 1
    turn.emit(ViewEntered(state.view, turn.committee.primary(state.view), last))
    for vote in pre_prepares:
        if vote.sequence > state.certified:
            adopt_reproposal(turn, vote)
    replay_later(turn)
