"""State transfer: from far behind to the present by a certified snapshot, in chunks, from several peers at once.

Law. A snapshot is taken on the word of nobody. Its header must carry a certificate of the validators of its epoch; the validators of epochs
that are not known here are proven one after the other (:class:`consensus.validators.EpochChange`); every chunk must lead to the state
root of that header. A bad chunk is blamed on who sent it and asked for elsewhere. Until the last chunk is in, nothing of it shows.

A replica that fetches a snapshot goes on with blocks meanwhile; if these are faster, the snapshot is given up. Only while the host puts the
state in its place nothing executes. Votes stay as they are: what was signed lies below or above the snapshot, and the sequence numbers
below are never voted on again.
"""

from __future__ import annotations

from consensus.block import Header
from consensus.checkpoint import certify, truncate
from consensus.committee import committee_of
from consensus.effects import AdoptSnapshot, Certified, KeepProofs, ServeChunk, ServeSnapshot, StageChunk, StageSnapshot
from consensus.epochs import enter_epoch, watch_boundary
from consensus.errors import DecodeError, InputError, InvariantViolation, PeerFault, Suspicion
from consensus.messages import ChunkMessage, FetchChunk, FetchSnapshot, SnapshotMessage, ValidatorSet
from consensus.peer import Peer
from consensus.snapshot import SnapshotManifest, chunk_objection, decode_chunk, decode_manifest, verify_snapshot
from consensus.state import Transfer, Turn
from consensus.validators import set_at

OFFER_TIMEOUT_MS = 2_000
CHUNK_TIMEOUT_MS = 4_000
MAX_FAILURES = 3
MAX_DOUBLINGS = 8
MAX_PATIENCE = 3
TRANSFER_MS, CHUNK_MS = 20_000, 1_000
"""A transfer may take so long, and so much more for each of its chunks."""


def go_on(turn: Turn) -> None:
    """Ask for a snapshot if blocks will not do, for the next chunks if one is under way."""
    transfer = turn.state.transfer
    if transfer is None:
        if turn.config.snapshot_gap is not None:
            _ask_for_offers(turn, turn.config.snapshot_gap)
    elif not transfer.adopting:
        _drop_late(turn, transfer)
        if turn.state.transfer is transfer:
            _ask_others(turn, transfer)
            _ask_for_chunks(turn, transfer)


def _ask_others(turn: Turn, transfer: Transfer) -> None:
    """Ask those who were not known, or not so far, when it began whether they have the same snapshot: several deliver faster than one."""
    for name, peer in sorted(turn.state.peers.items()):
        is_known = name in transfer.holders or name in transfer.failures or peer.offer_owed
        if is_known or turn.now_ms < peer.offer_rest_ms or peer.certified < transfer.height:
            continue
        peer.offer_rest_ms = turn.now_ms + CHUNK_TIMEOUT_MS
        _ask_for_offer(turn, name, peer, transfer.height)


def _ask_for_offer(turn: Turn, name: str, peer: Peer, lowest: int) -> None:
    peer.offer_deadline_ms, peer.offer_owed, peer.offer_height = turn.now_ms + OFFER_TIMEOUT_MS, True, lowest
    turn.send(name, FetchSnapshot(lowest))


def _lowest_of_use(turn: Turn, gap: int) -> int:
    """Return from what height on a snapshot is of more use than blocks.

    Blocks will do, unless this replica is far behind, or those who have them have pruned them: f + 1 must be ahead, since one alone may
    say anything of what it still serves.
    """
    state = turn.state
    wanted = state.certified + 1
    ahead = [peer for peer in state.peers.values() if state.reach(peer, 1) >= wanted]
    can_serve = any(peer.first <= wanted and peer.fetch_failures < MAX_FAILURES for peer in ahead)
    are_enough = len(ahead) >= min(turn.quorums.weak, len(state.peers))
    return wanted if are_enough and not can_serve else state.executed + gap // 2 + 1


def _ask_for_offers(turn: Turn, gap: int) -> None:
    """Ask those for a manifest who are far ahead, or who have pruned the blocks that this replica needs.

    Of these only those who kept their word best, and those who did not more and more seldom: whoever offers first and then delivers nothing
    must not do so again and again.
    """
    state = turn.state
    lowest = _lowest_of_use(turn, gap)
    near = state.certified if lowest == state.certified + 1 else state.executed + gap
    candidates = {name: peer for name, peer in sorted(state.peers.items()) if peer.certified > near}
    for peer in candidates.values():
        if peer.offer_deadline_ms is not None and turn.now_ms >= peer.offer_deadline_ms:
            peer.offer_deadline_ms = None
            _count_failure(turn, peer)
    fewest = min((peer.offer_failures for peer in candidates.values()), default=0)
    for name, peer in candidates.items():
        if peer.offer_failures == fewest and peer.offer_deadline_ms is None and turn.now_ms >= peer.offer_rest_ms:
            _ask_for_offer(turn, name, peer, lowest)


def _count_failure(turn: Turn, peer: Peer) -> None:
    """Note an offer that did not come or came to nothing, and rest, longer each time."""
    peer.offer_failures += 1
    peer.offer_rest_ms = turn.now_ms + (OFFER_TIMEOUT_MS << min(peer.offer_failures, MAX_DOUBLINGS))


def on_fetch_snapshot(turn: Turn, peer: str, message: FetchSnapshot) -> None:
    """Let the host show its newest snapshot."""
    if 1 <= message.height <= turn.state.certified:
        turn.emit(ServeSnapshot(peer, message.height))


def on_fetch_chunk(turn: Turn, peer: str, message: FetchChunk) -> None:
    """Let the host send a chunk."""
    if 1 <= message.height <= turn.state.certified and message.index >= 0:
        turn.emit(ServeChunk(peer, message.height, message.index))


def on_snapshot(turn: Turn, peer_name: str, message: SnapshotMessage) -> None:
    """Take an offer that was asked for, if it is certified; begin with the first good one.

    Raises:
        PeerFault: it is not what it claims to be.
    """
    state = turn.state
    peer = state.peers.get(peer_name)
    if peer is None or not peer.offer_owed:
        return
    peer.offer_deadline_ms, peer.offer_owed = None, False
    try:
        manifest = decode_manifest(message.manifest)
        header, epochs = verify_snapshot(turn.state.epochs, manifest, turn.config.check)
    except InputError as error:
        _count_failure(turn, peer)
        raise PeerFault(peer_name, Suspicion.BAD_SNAPSHOT, str(error)) from error
    if header.height < peer.offer_height:
        _count_failure(turn, peer)
        raise PeerFault(peer_name, Suspicion.BAD_SNAPSHOT, f"offers height {header.height}, asked was {peer.offer_height}")
    transfer, gap = state.transfer, turn.config.snapshot_gap
    if gap is None or (transfer is None and header.height < _lowest_of_use(turn, gap)):
        return  # it is not needed any more
    if header.height in state.own_headers:
        _take_certificate(turn, header, manifest)
    if header.height <= max(state.executed, state.submitted) or header.height in state.refused_snapshots:
        return
    if transfer is None:
        deadline_ms = turn.now_ms + TRANSFER_MS + CHUNK_MS * len(manifest.chunks)
        state.transfer = transfer = Transfer(header.height, manifest, [peer_name], epochs, deadline_ms)
        turn.emit(StageSnapshot(header.height))
    elif transfer.height == header.height and _cut(transfer.manifest) == _cut(manifest) and peer_name not in transfer.holders:
        transfer.holders.append(peer_name)
    if not transfer.adopting:
        _ask_for_chunks(turn, transfer)


def _cut(manifest: SnapshotManifest) -> list[bytes]:
    """Return what the chunks of a snapshot must hash to (their other numbers are hints)."""
    return [mark.hash for mark in manifest.chunks]


def _take_certificate(turn: Turn, header: Header, manifest: SnapshotManifest) -> None:
    """Go on from a block that was executed here, although the certificates before it cannot be had any more: all others pruned them.

    That happens when certificates were lost with the power. Blocks below this one can not be served any more.
    """
    state = turn.state
    state.certified = header.height - 1
    validators = set_at(state.epochs, header.height)
    if validators.epoch != turn.committee.epoch:
        enter_epoch(turn, validators)
    turn.emit(KeepProofs(manifest.epochs))
    state.first = header.height
    certify(turn, manifest.certificate)


def _ask_for_chunks(turn: Turn, transfer: Transfer) -> None:
    """Give every holder that is idle the next chunk that nobody was asked for."""
    under_way = {index for index, _ in transfer.asked.values()}
    wanted = (index for index in range(len(transfer.manifest.chunks)) if index not in transfer.staged and index not in under_way)
    for name in sorted(transfer.holders, key=lambda name: (transfer.failures.get(name, 0), name)):
        if name in transfer.asked:
            continue
        index = next(wanted, None)
        if index is None:
            return
        patience_ms = CHUNK_TIMEOUT_MS << min(turn.state.peers[name].offer_failures, MAX_PATIENCE)
        transfer.asked[name] = (index, turn.now_ms + patience_ms)
        turn.send(name, FetchChunk(transfer.height, index))


def _drop_late(turn: Turn, transfer: Transfer) -> None:
    """Give up on holders that do not answer; without any, give up the snapshot."""
    for name, (_, deadline_ms) in list(transfer.asked.items()):
        if turn.now_ms >= deadline_ms:
            _blame(turn, transfer, name, MAX_FAILURES - 1)
    if turn.now_ms >= transfer.deadline_ms:
        for name in transfer.holders:
            _count_failure(turn, turn.state.peers[name])
        transfer.holders.clear()
    if not transfer.holders or transfer.height <= max(turn.state.executed, turn.state.submitted):
        turn.state.transfer = None


def _blame(turn: Turn, transfer: Transfer, name: str, failures: int) -> None:
    """Note a failure; a holder with too many is one no more."""
    del transfer.asked[name]
    transfer.failures[name] = transfer.failures.get(name, 0) + failures
    if transfer.failures[name] >= MAX_FAILURES:
        transfer.holders.remove(name)
        _count_failure(turn, turn.state.peers[name])


def on_chunk(turn: Turn, peer_name: str, message: ChunkMessage) -> None:
    """Take a chunk that was asked for; after the last one let the host adopt the snapshot.

    Raises:
        PeerFault: it does not lead to the certified state.
    """
    transfer = turn.state.transfer
    if transfer is None or message.height != transfer.height or transfer.asked.get(peer_name, (None,))[0] != message.index:
        return
    try:
        chunk = decode_chunk(message.chunk)
        reason = chunk_objection(transfer.manifest, message.index, chunk.entries)
    except DecodeError as error:
        reason = str(error)
    if reason is not None:
        _blame(turn, transfer, peer_name, MAX_FAILURES)
        _drop_late(turn, transfer)
        raise PeerFault(peer_name, Suspicion.BAD_SNAPSHOT, f"chunk {message.index} of height {message.height}: {reason}")
    del transfer.asked[peer_name]
    if transfer.height <= max(turn.state.executed, turn.state.submitted):
        turn.state.transfer = None  # blocks were faster
        return
    transfer.staged.add(message.index)
    turn.emit(StageChunk(transfer.height, chunk))
    if len(transfer.staged) == len(transfer.manifest.chunks):
        transfer.adopting = True
        turn.emit(AdoptSnapshot(transfer.height, transfer.manifest))
    else:
        _ask_for_chunks(turn, transfer)


def on_adopted(turn: Turn, sequence: int, epochs: tuple[ValidatorSet, ...]) -> None:
    """The snapshot is the state now: go on above it.

    Raises:
        InvariantViolation: no such snapshot was being adopted.
    """
    state, config, transfer = turn.state, turn.config, turn.state.transfer
    if transfer is None or transfer.height != sequence or not transfer.adopting:
        raise InvariantViolation(f"snapshot {sequence} adopted that nobody asked for")
    state.transfer, state.adopting = None, None
    state.executed = state.submitted = state.certified = sequence
    state.certificate = transfer.manifest.certificate
    state.first = sequence + 1
    state.epochs = list(epochs)
    state.last_progress_ms, state.failed_views = turn.now_ms, 0
    validators = set_at(epochs, sequence + 1)
    if validators.epoch != turn.committee.epoch:
        enter_epoch(turn, validators)
    else:
        state.committee = committee_of(validators, config.name, config.signers, state.log, config.channel_index)
    watch_boundary(turn)
    truncate(turn, sequence)
    turn.emit(Certified(transfer.manifest.certificate, sequence, turn.committee.epoch, state.view, last_of_epoch=True))


def on_refused(turn: Turn, sequence: int, reason: str) -> None:
    """The host cannot take the snapshot: do without it.

    Raises:
        InvariantViolation: no such snapshot was being adopted.
    """
    state = turn.state
    if state.transfer is None or state.transfer.height != sequence:
        raise InvariantViolation(f"snapshot {sequence} refused that nobody asked for")
    for name in state.transfer.holders:
        turn.fault(name, Suspicion.BAD_SNAPSHOT, f"height {sequence}: {reason}")
    state.transfer, state.adopting = None, None
    state.submitted = state.executed
    state.refused_snapshots = [*state.refused_snapshots[-7:], sequence]
