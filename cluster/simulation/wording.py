"""Events, effects and messages in a few words each, for traces."""

from __future__ import annotations

from consensus.effects import (
    Adopt,
    AdoptionFailed,
    AdoptSnapshot,
    BatchChecked,
    Broadcast,
    Certified,
    CheckBatch,
    Diverged,
    EpochEntered,
    Evidence,
    Execute,
    Executed,
    Fault,
    Persist,
    Propose,
    Pruned,
    Received,
    Send,
    SnapshotAdopted,
    SnapshotFailed,
    Tick,
    ViewEntered,
    Waiting,
)
from consensus.errors import DecodeError
from consensus.messages import (
    BlocksMessage,
    FetchBlocks,
    Kind,
    NewViewMessage,
    PrePrepareMessage,
    StatusMessage,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    decode_new_view_body,
    decode_view_change_body,
)


def describe(value: object) -> str:
    """Return an event or effect in words."""
    match value:
        case Received(peer, message):
            return f"{peer} says: {words(message)}"
        case Broadcast(message, everybody):
            return f"to {'everybody' if everybody else 'all'}: {words(message)}"
        case Send(peer, message):
            return f"to {peer}: {words(message)}"
        case Persist(records):
            return "persist " + ", ".join(f"{_kind(one.kind)} {one.view}/{one.sequence}" for one in records)
        case Tick():
            return "tick"
        case Waiting(since_ms, overtaken):
            return f"waiting since {since_ms}{', overtaken' if overtaken else ''}"
        case Fault(fault):
            return f"blame: {fault}"
        case Evidence(first, second):
            return f"evidence: {vote_words(first)} and {vote_words(second)}"
        case _:
            return _describe_block(value)


def _describe_block(value: object) -> str:
    match value:
        case Propose(batch):
            return f"propose {len(batch)} bytes"
        case BatchChecked(view, sequence, digest, accepted, reason):
            return f"batch {view}/{sequence} {_short(digest)} {'is good' if accepted else 'refused: ' + reason}"
        case CheckBatch(view=view, sequence=sequence, digest=digest, fresh=fresh):
            return f"check {'fresh' if fresh else 're-proposed'} batch {view}/{sequence} {_short(digest)}"
        case Execute(sequence=sequence):
            return f"execute {sequence}"
        case Executed(sequence=sequence, header_hash=digest):
            return f"executed {sequence} {_short(digest)}"
        case Adopt(sequence=sequence):
            return f"adopt block {sequence}"
        case AdoptionFailed(sequence, reason) | SnapshotFailed(sequence, reason):
            return f"adoption of {sequence} failed: {reason}"
        case Certified(certificate=certificate):
            return f"certified {certificate.height} {_short(certificate.header_hash)} by {[one.validator for one in certificate.votes]}"
        case _:
            return _describe_change(value)


def _describe_change(value: object) -> str:
    match value:
        case ViewEntered(view, primary, sequence):
            return f"enter view {view} of primary {primary} after {sequence}"
        case EpochEntered(validators, index):
            return f"enter epoch {validators.epoch} at seat {index}"
        case AdoptSnapshot(height=height) | SnapshotAdopted(sequence=height) | Pruned(first=height):
            return f"{type(value).__name__} {height}"
        case Diverged(sequence=sequence):
            return f"DIVERGED at {sequence}"
        case _:
            return type(value).__name__


def words(message: object) -> str:
    """Return a message in words, also one that does not decode."""
    try:
        return _words(message)
    except DecodeError as error:
        return f"{type(message).__name__} that does not decode: {error}"


def _words(message: object) -> str:
    match message:
        case PrePrepareMessage(vote) | VoteMessage(vote):
            return vote_words(vote)
        case ViewChangeMessage(vote, body):
            inside = decode_view_change_body(body)
            proofs = [f"{one.pre_prepare.view}/{one.pre_prepare.sequence} {_short(one.pre_prepare.digest)}" for one in inside.prepared]
            low = inside.stable.height if inside.stable is not None else 0
            return f"view-change to {vote.view} from {vote.sender}, C {low}, P {proofs}"
        case NewViewMessage(vote, body):
            inside_new = decode_new_view_body(body)
            return (
                f"new-view {vote.view}, V of {[one.vote.sender for one in inside_new.view_changes]}, "
                f"O {[f'{one.sequence} {_short(one.digest)}' for one in inside_new.pre_prepares]}"
            )
        case StatusMessage(vote, status):
            return f"status view {status.view}{'*' if status.changing else ''} executed {status.executed} certified {status.certified}"
        case FetchBlocks(first, last):
            return f"fetch blocks {first}-{last}"
        case BlocksMessage(blocks):
            return f"blocks {[one.certificate.height for one in blocks]}"
        case _:
            return type(message).__name__


def vote_words(vote: Vote) -> str:
    """Return a vote in words."""
    return f"{_kind(vote.kind)} {vote.view}/{vote.sequence} {_short(vote.digest)} of {vote.sender}"


def _kind(kind: int) -> str:
    try:
        return Kind(kind).name.lower().replace("_", "-")
    except ValueError:
        return f"kind {kind}"


def _short(digest: bytes) -> str:
    return digest.hex()[:6]
