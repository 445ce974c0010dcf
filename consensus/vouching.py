"""Blocks whose certificate nobody honest has: executed on the word of f + 1 validators.

Why. A certificate may be known to a faulty replica alone: it kept its checkpoint votes to itself, or the others lost the certificate with
the power. If it then shows that certificate in a view-change, the new view starts above it, and the sequences below are never ordered
again. A replica that slept through them could neither vote on them nor fetch them; and for want of its votes the others would lack
those certificates for good.

Law. f + 1 checkpoint votes of one epoch for one header (the weak certificate of Castro and Liskov) include one of an honest replica, which
executed what it signed. Such a block is *vouched for*: it may be executed. Nothing more follows from it: it is not certified, water marks
stay, no client sees it. The replica signs its own result like any other, and so the block gets its certificate.

Only a replica that stands still asks for such blocks, one at a time: in normal operation votes come before the own result all the time.
"""

from __future__ import annotations

from consensus.block import Certificate, CertifiedBlock
from consensus.effects import Adopt, ServeBlocks
from consensus.messages import make_certificate
from consensus.state import Adoption, Turn


def vouched_hash(turn: Turn, height: int) -> bytes | None:
    """Return the header hash that f + 1 validators signed for a height above the certificate, None if there is none (yet).

    Only in an epoch in which this replica has a seat, and up to its end: keys of former members vouch for nothing, and followers take
    certified blocks only.
    """
    if not turn.may_vote or height > turn.end_of_epoch:
        return None
    votes = turn.state.checkpoints.get(height, {})
    digests = [votes[sender].digest for sender in sorted(votes)]
    return next((digest for digest in digests if digests.count(digest) >= turn.quorums.weak), None)


def fetch_vouched(turn: Turn, *, goes_on: bool = False) -> None:
    """Ask one of those who vouch for the next block for it, unless it is here. Its certificate may be: the block is what is missing.

    Args:
        goes_on: the block before was vouched for, too; else it must have been missing for a whole status interval.
    """
    state, height = turn.state, turn.state.executed + 1
    wanted = vouched_hash(turn, height)
    if wanted is None or state.is_replaced or state.adopting is not None or height in state.fetched:
        return
    was_wanted, state.vouch_wanted = state.vouch_wanted, height
    if not goes_on and was_wanted != height:
        return
    signers = {turn.committee.name(sender) for sender, vote in state.checkpoints[height].items() if vote.digest == wanted}
    peers = [
        name
        for name, peer in state.peers.items()
        if name in signers and peer.fetch_deadline_ms is None and turn.now_ms >= peer.rest_until_ms
    ]
    if peers:
        name = min(peers, key=lambda name: (state.peers[name].fetch_failures, name))
        turn.send(name, state.peers[name].ask_for_blocks(height, height, turn.now_ms))


def serve_vouched(turn: Turn, peer: str, height: int) -> None:
    """Let the host send an own block that has no certificate yet, with this replica's vote in its place."""
    vote = turn.state.own_checkpoints.get(height)
    if vote is not None:
        turn.emit(ServeBlocks(peer, height, height, make_certificate((vote,))))


def is_vouched(turn: Turn, certificate: Certificate) -> bool:
    """Tell whether a block without a certificate is the next one here, and vouched for."""
    next_one = certificate.height == turn.state.executed + 1
    return next_one and certificate.header_hash == vouched_hash(turn, certificate.height)


def adopt_vouched(turn: Turn, block: CertifiedBlock, peer: str) -> None:
    """Hand a block that is vouched for to the host (:func:`is_vouched`)."""
    state, height = turn.state, block.certificate.height
    if state.adopting is None and not state.is_replaced:
        state.adopting = Adoption(block, peer, is_certified=False)
        state.submitted = max(state.submitted, height)
        turn.emit(Adopt(height, block))
