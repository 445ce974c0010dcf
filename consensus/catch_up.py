"""Status, retransmission and catching up by certified blocks.

Law. Nothing relies on a message arriving once. Replicas tell at intervals where they stand; who has more sends what the other lacks, if the
other did not move since it last spoke. What a peer claims decides only whom to ask: every block is checked against its
certificate before it is adopted, so any peer will do.

| a peer that | gets |
| --- | --- |
| is in an earlier view, or waits for the new-view of this one | the new-view (or the view-change, while this replica waits too) |
| stands still in this view for two statuses | the pre-prepares, prepares, commits and checkpoint votes that this replica has |
| lacks certificates | asks for blocks itself, or for a snapshot if it is far behind (:mod:`consensus.state_transfer`) |
"""

from __future__ import annotations

from consensus import state_transfer
from consensus.block import Certificate
from consensus.checkpoint import certify
from consensus.committee import Committee, committee_of
from consensus.effects import Adopt, ServeBlocks
from consensus.errors import InvariantViolation, PeerFault, Suspicion
from consensus.messages import (
    BlocksMessage,
    FetchBatch,
    FetchBlocks,
    Kind,
    PrePrepareMessage,
    StatusBody,
    StatusMessage,
    VoteMessage,
    body_digest,
)
from consensus.peer import FETCH_TIMEOUT_MS, Peer
from consensus.state import Adoption, Turn
from consensus.vouching import adopt_vouched, fetch_vouched, is_vouched, serve_vouched

BLOCKS_PER_FETCH = 32
MAX_FETCHED = 256
MAX_PEERS = 256
SMALL_ANSWER_BYTES = 1024 * 1024


def send_status(turn: Turn) -> None:
    """Tell everybody where this replica stands (if it has a seat, or has just left one), and ask again for what is still missing."""
    state = turn.state
    state.next_status_ms = turn.now_ms + turn.config.status_interval_ms
    seat = _last_seat(turn)
    if seat is not None:
        body = StatusBody(state.view, state.changing, state.executed, state.certified, state.first, state.certificate)
        turn.broadcast(StatusMessage(seat.sign(Kind.STATUS, state.view, 0, body_digest(body)), body), everybody=True)
    for digest in state.missing:
        turn.broadcast(FetchBatch(digest))
    if state.stuck_at == state.certified:
        fetch_blocks(turn, stuck=True)
        fetch_vouched(turn)
    state.stuck_at = state.certified
    state_transfer.go_on(turn)


def _last_seat(turn: Turn) -> Committee | None:
    """Return the committee that this replica speaks as a member of: the present one, or the one that it has just left.

    Whoever leaves may be the only one who has the certificates of the last blocks of its epoch: the others could never follow if it went
    silent. When the first block of the new epoch is certified, enough others have all these. Followers say nothing.
    """
    if turn.may_vote:
        return turn.committee
    config, state, present = turn.config, turn.state, turn.committee.validators
    before = next((one for one in state.epochs if one.epoch == present.epoch - 1), None)
    if before is None or state.certified >= present.first_height:
        return None
    committee = committee_of(before, config.name, config.signers, state.log, config.channel_index)
    return committee if committee.index is not None else None


def on_status(turn: Turn, peer_name: str, message: StatusMessage) -> None:
    """Note where a peer stands; send it what it lacks if it stands still.

    What a peer says about its height is believed as far as its certificate shows it. A status of an epoch that is not known here yet cannot
    be checked at all; it is taken as a hint that there are more blocks.

    Raises:
        PeerFault: bad signature, somebody else's, or a body that was not signed.
    """
    vote, body, state = message.vote, message.body, turn.state
    _require_own_words(turn, peer_name, message)
    if peer_name not in state.peers and len(state.peers) >= MAX_PEERS and turn.committee.index_of(peer_name) is None:
        return
    peer = state.peers.setdefault(peer_name, Peer())
    stands_still = peer.heard_ms is not None and (peer.view, peer.executed, peer.certified) == (
        body.view,
        body.executed,
        body.certified,
    )
    peer.still = peer.still + 1 if stands_still else 0
    peer.view, peer.changing, peer.executed = body.view, body.changing, body.executed
    peer.certified, peer.is_proven = body.certified, _is_proven(turn, peer_name, body)
    peer.first, peer.heard_ms = body.first, turn.now_ms
    is_colleague = turn.may_vote and vote.epoch == turn.committee.epoch
    if is_colleague:
        _send_views(turn, peer_name, body)
        if peer.still % 2 == 1:
            _send_votes(turn, peer_name, body)
    _take_certificate(turn, body.certificate)
    slack = turn.config.window // 2 if is_colleague else 0
    if state.reach(peer, turn.config.window) > max(state.executed, state.certified) + slack:
        fetch_blocks(turn)
        state_transfer.go_on(turn)


def _is_proven(turn: Turn, peer_name: str, body: StatusBody) -> bool:
    """Tell whether a peer shows that there are certified blocks up to where it says; False if its certificate's epoch is not known here.

    Raises:
        PeerFault: its certificate is not what it must be.
    """
    state, certificate = turn.state, body.certificate
    if body.certified <= state.certified:
        return True
    if certificate is None or certificate.height != body.certified:
        raise PeerFault(peer_name, Suspicion.BAD_CERTIFICATE, f"status {body.certified} without its certificate")
    if not state.knows_epoch(certificate.epoch):
        return False
    if not turn.certifies(certificate):
        raise PeerFault(peer_name, Suspicion.BAD_CERTIFICATE, f"status {body.certified}")
    return True


def _require_own_words(turn: Turn, peer_name: str, message: StatusMessage) -> None:
    """Check that a status was signed by the node whose link brought it, as far as its epoch is known.

    Raises:
        PeerFault: it was not.
    """
    vote = message.vote
    validators = next((one for one in turn.state.epochs if one.epoch == vote.epoch), None)
    if validators is None:
        return
    if vote.kind != Kind.STATUS:
        raise PeerFault(peer_name, Suspicion.WRONG_KIND, f"kind {vote.kind} as a status")
    if not 0 <= vote.sender < len(validators.names) or validators.names[vote.sender] != peer_name:
        raise PeerFault(peer_name, Suspicion.NOT_A_VALIDATOR, f"status of validator {vote.sender}")
    if not validators.checks(vote, turn.config.check):
        raise PeerFault(peer_name, Suspicion.BAD_SIGNATURE, "status")
    if body_digest(message.body) != vote.digest or message.body.view != vote.view:
        raise PeerFault(peer_name, Suspicion.DIGEST_MISMATCH, "status")


def _take_certificate(turn: Turn, certificate: Certificate | None) -> None:
    """Take the certificate of a block that was executed here and stands still for want of it."""
    state = turn.state
    if certificate is None or not state.certified < certificate.height <= state.executed:
        return
    if state.stuck_at == state.certified and turn.certifies(certificate):
        certify(turn, certificate)


def _send_views(turn: Turn, peer: str, body: StatusBody) -> None:
    """Help a peer into this replica's view."""
    state = turn.state
    behind = body.view < state.view or (body.view == state.view and body.changing)
    if not behind:
        return
    if state.changing and state.own_view_change is not None:
        turn.send(peer, state.own_view_change)
    elif state.new_view is not None:
        turn.send(peer, state.new_view)


def _send_votes(turn: Turn, peer: str, body: StatusBody) -> None:
    """Send again what this replica said about the sequences that a peer is stuck on."""
    state = turn.state
    if body.view == state.view and not body.changing and not state.changing:
        for sequence in sorted(state.slots):
            slot = state.slots[sequence]
            if sequence <= body.certified or slot.pre_prepare is None:
                continue
            batch = state.bodies.get(slot.pre_prepare.digest)
            if batch is not None:
                turn.send(peer, PrePrepareMessage(slot.pre_prepare, batch))
            for vote in (slot.own_prepare, slot.own_commit):
                if vote is not None:
                    turn.send(peer, VoteMessage(vote))
    for sequence, vote in sorted(state.own_checkpoints.items()):
        if sequence > body.certified:
            turn.send(peer, VoteMessage(vote))


def fetch_blocks(turn: Turn, *, stuck: bool = False) -> None:
    """Ask peers that have more certified blocks for the next ones, a different range each.

    Args:
        stuck: no certificate came since the last status, so even a block that is being executed is asked for: its bodies may not be had.
    """
    state = turn.state
    if turn.state.is_replaced:
        return
    first = state.certified + 1
    while first in state.fetched or (not stuck and _is_under_way(turn, first)):
        first += 1
    for peer in state.peers.values():
        if peer.fetch_deadline_ms is not None and turn.now_ms >= peer.fetch_deadline_ms:
            peer.fetch_deadline_ms = None
            peer.fetch_failures += 1
    for name in sorted(state.peers, key=lambda name: (state.peers[name].fetch_failures, name)):
        peer = state.peers[name]
        if turn.now_ms < peer.rest_until_ms:
            continue
        if peer.fetch_deadline_ms is not None:
            first = max(first, peer.fetch_last + 1)
            continue
        reach = state.reach(peer, turn.config.window)
        if not peer.first <= first <= reach or first > state.certified + MAX_FETCHED:
            continue
        turn.send(name, peer.ask_for_blocks(first, min(reach, first + BLOCKS_PER_FETCH - 1), turn.now_ms))
        first = peer.fetch_last + 1


def _is_under_way(turn: Turn, height: int) -> bool:
    """Whether a block is being executed here and its certificate is at hand: nobody need send it."""
    state = turn.state
    return height <= state.submitted and (height in state.held or (state.adopting is not None and height == state.executed + 1))


def on_fetch_blocks(turn: Turn, peer: str, message: FetchBlocks) -> None:
    """Let the host answer from its store."""
    last = min(message.last, turn.state.certified, message.first + BLOCKS_PER_FETCH - 1)
    if 1 <= message.first <= last:
        turn.emit(ServeBlocks(peer, message.first, last))
    elif message.first > turn.state.certified:
        serve_vouched(turn, peer, message.first)


def on_blocks(turn: Turn, peer: str, message: BlocksMessage) -> None:
    """Take certified blocks of this replica's future; certificates are checked before anything else is done with them.

    They may come late: on a slow link all do, and if late ones were thrown away a replica behind it would never get anywhere.

    Raises:
        PeerFault: a certificate does not check.
    """
    state = turn.state
    known = state.peers.get(peer)
    if known is None or not known.fetch_owed:
        return
    known.fetch_deadline_ms, known.fetch_owed = None, False
    if _is_poor(message, known):
        known.fetch_failures += 1
    taken = False
    for block in message.blocks[:BLOCKS_PER_FETCH]:
        height = block.certificate.height
        if (
            height in state.fetched
            or (height <= state.executed and height in state.held)
            or not known.was_asked_for(height)
            or not state.certified < height <= state.certified + MAX_FETCHED
        ):
            continue
        if not turn.state.knows_epoch(block.certificate.epoch) and height > state.executed + turn.config.window:
            break
        if not turn.certifies(block.certificate):
            if is_vouched(turn, block.certificate):
                adopt_vouched(turn, block, peer)
                continue
            if state.own_headers.get(height) == block.certificate.header_hash:
                continue  # it was executed here while the answer was under way
            _distrust(turn, known)
            if len(block.certificate.votes) == 1:
                break  # it lost the certificate since it told us; its own vote is all it has
            raise PeerFault(peer, Suspicion.BAD_CERTIFICATE, f"block {height}")
        taken = True
        if height <= state.executed:
            certify(turn, block.certificate)
        else:
            state.fetched[height] = (block, peer)
    adopt_fetched(turn)
    if taken:
        fetch_blocks(turn)


def _is_poor(message: BlocksMessage, peer: Peer) -> bool:
    """Whether an answer is not what was asked for: another range, or a few small blocks out of many, which would hold up all others."""
    if not message.blocks or message.blocks[0].certificate.height != peer.fetch_first:
        return True
    is_short = len(message.blocks) <= peer.fetch_last - peer.fetch_first
    return is_short and sum(len(block.block) for block in message.blocks) < SMALL_ANSWER_BYTES


def _distrust(turn: Turn, peer: Peer) -> None:
    """Leave a peer that sent bad blocks in peace for a while: it would send more, as fast as it is asked."""
    peer.fetch_failures += 1
    peer.rest_until_ms = turn.now_ms + FETCH_TIMEOUT_MS


def adopt_fetched(turn: Turn) -> None:
    """Hand the next fetched block to the host, one at a time, so that a bad one leaves nothing behind it to undo.

    It takes the place of a batch at the same height that the host could not execute yet.
    """
    state = turn.state
    following = state.executed + 1
    for height in [height for height in state.fetched if height < following]:
        certify(turn, state.fetched.pop(height)[0].certificate)
    if state.adopting is None and not turn.state.is_replaced and following in state.fetched:
        block, peer = state.fetched.pop(following)
        state.adopting = Adoption(block, peer)
        state.submitted = max(state.submitted, following)
        turn.emit(Adopt(following, block))


def on_adoption_failed(turn: Turn, sequence: int, reason: str) -> None:
    """A block did not match its certificate: blame who sent it, ask somebody else.

    Raises:
        InvariantViolation: no such block was being adopted.
    """
    state = turn.state
    if state.adopting is None or sequence != state.executed + 1:
        raise InvariantViolation(f"block {sequence} refused that nobody adopts")
    peer = state.adopting.peer
    state.adopting = None
    state.submitted = state.executed
    turn.fault(peer, Suspicion.BAD_BLOCK, f"block {sequence}: {reason}")
    _distrust(turn, state.peers.setdefault(peer, Peer()))
    state.fetched = {height: entry for height, entry in state.fetched.items() if entry[1] != peer}
    fetch_blocks(turn)
