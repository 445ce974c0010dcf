"""The part of the audit that checks the vote log, and what it says against the block store."""

from __future__ import annotations

from consensus.block import batch_digest, decode_batch
from consensus.codec import encode
from consensus.effects import LogRecord
from consensus.errors import DecodeError
from consensus.messages import (
    Kind,
    NewViewMessage,
    PrePrepareMessage,
    ValidatorSet,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    decode_message,
    decode_new_view_body,
    decode_view_change_body,
)
from consensus.ordering import decode_prepared
from consensus.transaction import decode_transaction, signature_is_valid
from contracts.genesis import Genesis
from node.audit_report import Findings
from node.key_value import Database
from node.vote_log import (
    BODIES_PREFIX,
    FORMAT,
    FORMAT_KEY,
    RECORD_KEY,
    RECORD_PREFIX,
    SEQUENCE,
    decode_raws,
    decode_record,
    record_key,
)

_DIGEST_BYTES = 32


class _VoteFault(Exception):
    """One record is wrong; the text says how."""


def audit_votes(database: Database, genesis: Genesis, findings: Findings) -> None:
    """Check every record and every signature of the vote log, and that the block store is not behind it.

    Raises:
        StoreError: a part cannot be read at all.
    """
    if database.get(FORMAT_KEY) != FORMAT:
        findings.add(None, "vote log", f"its format is not {FORMAT.decode()}")
    validators = genesis.validator_set
    batches: dict[tuple[int, bytes], tuple[bytes, ...]] = {}
    signers: set[int] = set()
    highest = 0
    for key, value in database.scan(b"", fill_cache=False):
        if key == FORMAT_KEY:
            continue
        try:
            if key.startswith(RECORD_PREFIX) and len(key) == len(RECORD_PREFIX) + RECORD_KEY.size:
                highest = max(highest, _check_record(key, value, validators, batches, signers))
            elif not key.startswith(BODIES_PREFIX) or len(key) != len(BODIES_PREFIX) + SEQUENCE.size + _DIGEST_BYTES:
                raise _VoteFault("belongs to nothing")
        except (DecodeError, _VoteFault) as error:
            findings.add(None, "vote log", f"{key.hex()}: {error}")
    if len(signers) > 1:
        findings.add(None, "vote log", f"holds own votes of several validators: {sorted(signers)}")
    if highest > findings.height:
        findings.add(
            highest,
            "head",
            f"this node signed block {highest}, but the last one stored is {findings.height}: blocks were lost after they were written",
        )
    for key, value in database.scan(BODIES_PREFIX, fill_cache=False):
        try:
            _check_bodies(key, value, batches)
        except (DecodeError, _VoteFault) as error:
            findings.add(None, "vote log", f"{key.hex()}: {error}")


def _check_record(
    key: bytes, value: bytes, validators: ValidatorSet, batches: dict[tuple[int, bytes], tuple[bytes, ...]], signers: set[int]
) -> int:
    """Check one record; return the height that it proves to have been stored (0: none)."""
    record = decode_record(value)
    if record_key(record) != key or encode(record) != value:
        raise _VoteFault("stands at the wrong key or is not encoded as it must be")
    if record.kind == Kind.COMMIT:
        return _check_commit(record, validators, signers)
    message = decode_message(record.data)
    if encode(message) != record.data:
        raise _VoteFault("holds a message that is not encoded as it must be")
    match message:
        case PrePrepareMessage(vote, batch):
            _check_vote(vote, record, validators)
            if batch_digest(batch) != vote.digest or record.batch_digest not in (b"", vote.digest):
                raise _VoteFault("holds a batch that is not the one voted for")
            batches[record.sequence, vote.digest] = decode_batch(batch).transaction_ids if batch else ()
        case VoteMessage(vote) if record.kind in (Kind.PREPARE, Kind.CHECKPOINT):
            _check_vote(vote, record, validators)
            signers.add(vote.sender)
            return record.sequence if record.kind == Kind.CHECKPOINT else 0
        case ViewChangeMessage(vote, body):
            _check_statement(vote, body, record, validators)
            signers.add(vote.sender)
            stable = decode_view_change_body(body).stable
            return stable.height if stable is not None else 0
        case NewViewMessage(vote, body):
            _check_statement(vote, body, record, validators)
            decode_new_view_body(body)
        case _:
            raise _VoteFault("holds a message of another kind")
    return 0


def _check_commit(record: LogRecord, validators: ValidatorSet, signers: set[int]) -> int:
    prepared = decode_prepared(record.data)
    if encode(prepared) != record.data:
        raise _VoteFault("is not encoded as it must be")
    _check_vote(prepared.commit, record, validators)
    signers.add(prepared.commit.sender)
    for vote in (prepared.proof.pre_prepare, *prepared.proof.prepares):
        if vote.digest != prepared.commit.digest or vote.sequence != record.sequence or not validators.checks(vote):
            raise _VoteFault("holds a prepared certificate that proves nothing")
    return 0


def _check_vote(vote: Vote, record: LogRecord, validators: ValidatorSet) -> None:
    if (vote.kind, vote.view, vote.sequence) != (record.kind, record.view, record.sequence):
        raise _VoteFault("holds a vote for another place")
    if not validators.checks(vote):
        raise _VoteFault("holds a vote whose signature does not check")


def _check_statement(vote: Vote, body: bytes, record: LogRecord, validators: ValidatorSet) -> None:
    _check_vote(vote, record, validators)
    if body_digest(body) != vote.digest:
        raise _VoteFault("holds a body that is not the one signed")


def _check_bodies(key: bytes, value: bytes, batches: dict[tuple[int, bytes], tuple[bytes, ...]]) -> None:
    place = key[len(BODIES_PREFIX) :]
    sequence, digest = SEQUENCE.unpack_from(place)[0], place[SEQUENCE.size :]
    named = batches.get((sequence, digest))
    if named is None:
        raise _VoteFault("holds transactions of a batch that no record names")
    for raw in decode_raws(value):
        transaction = decode_transaction(raw)
        if transaction.id not in named or not signature_is_valid(transaction):
            raise _VoteFault(f"transaction {transaction.id.hex()} is not of the batch, or its signature does not check")
