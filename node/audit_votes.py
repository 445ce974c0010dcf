"""The part of the audit that checks the vote log, and what it says against the block store."""

from __future__ import annotations

from collections.abc import Iterable

from consensus.block import NULL_BATCH, batch_digest, decode_batch
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
    BIRTH_KEY,
    BODIES_PREFIX,
    CUT_KEY,
    EVIDENCE_PREFIX,
    FORMAT,
    FORMAT_KEY,
    ID_KEY,
    RECORD_PREFIX,
    bodies_place,
    decode_evidence,
    decode_raws,
    read_marks,
    read_record,
)


class _VoteFault(Exception):
    """One record is wrong; the text says how."""


def audit_votes(database: Database, genesis: Genesis, findings: Findings) -> None:
    """Check every record and every signature of the vote log, and that the block store is not behind it.

    Raises:
        StoreError: a part cannot be read at all.
    """
    if database.get(FORMAT_KEY) != FORMAT:
        findings.add(None, "vote log", f"its format is not {FORMAT.decode()}")
    book = _Book(findings.epochs or (genesis.validator_set,), database.get(ID_KEY) or b"")
    highest = 0
    _check_marks(database, findings)
    for key, value in database.scan(b"", fill_cache=False):
        if key in (FORMAT_KEY, ID_KEY, CUT_KEY, BIRTH_KEY):
            continue
        try:
            if key.startswith(RECORD_PREFIX):
                highest = max(highest, _check_record(key, value, book))
            elif key.startswith(EVIDENCE_PREFIX):
                _check_evidence(key, value, book)
            elif not key.startswith(BODIES_PREFIX):
                raise _VoteFault("belongs to nothing")
        except (DecodeError, _VoteFault) as error:
            findings.add(None, "vote log", f"{key.hex()}: {error}")
    if len(book.signers) > 1:
        findings.add(None, "vote log", f"holds own votes of several validators: {', '.join(sorted(book.signers))}")
    if highest > findings.height:
        findings.add(
            highest,
            "head",
            f"this node signed block {highest}, but the last one stored is {findings.height}: blocks were lost after they were written",
        )
    _check_all_bodies(database, book, findings)


def _check_marks(database: Database, findings: Findings) -> None:
    """Check the id, and that votes were dropped only up to a block whose certificate is there."""
    try:
        _, cut = read_marks(database.get(ID_KEY), database.get(CUT_KEY))
    except DecodeError as error:
        findings.add(None, "vote log", str(error))
        return
    if cut > findings.certified_height:
        reason = f"the last certificate is of height {findings.certified_height}: blocks were lost after they were written"
        findings.add(cut, "head", f"votes were dropped up to block {cut}, but {reason}")


class _Book:
    """The validator sets by epoch, which vote log this is, and what was found in it.

    Attributes:
        signers: whose votes.
        batches: the transactions that the batches name, by sequence and digest; null batches, which name none, are left out.
    """

    def __init__(self, epochs: Iterable[ValidatorSet], log: bytes) -> None:
        self._sets = {one.epoch: one for one in epochs}
        self._log = log
        self.signers: set[str] = set()
        self.batches: dict[tuple[int, bytes], tuple[bytes, ...]] = {}

    def checks(self, vote: Vote) -> bool:
        """Tell whether a vote was signed by the validator that it names."""
        validators = self._sets.get(vote.epoch)
        return validators is not None and validators.checks(vote)

    def own(self, vote: Vote) -> None:
        """Note a checked vote of the log's owner, who has its seat with this log only."""
        validators = self._sets[vote.epoch]
        if validators.logs[vote.sender] != self._log:
            raise _VoteFault(f"holds an own vote of epoch {vote.epoch}, in which the seat belongs to another vote log")
        self.signers.add(validators.names[vote.sender])


def _check_record(key: bytes, value: bytes, book: _Book) -> int:
    """Check one record; return the height that it proves to have been stored (0: none)."""
    record = read_record(key, value)
    if encode(record) != value:
        raise _VoteFault("is not encoded as it must be")
    if record.batch_digest and record.kind != Kind.PRE_PREPARE:
        raise _VoteFault("names a batch whose transactions are kept, and proposes none")
    if record.kind == Kind.COMMIT:
        return _check_commit(record, book)
    message = decode_message(record.data)
    if encode(message) != record.data:
        raise _VoteFault("holds a message that is not encoded as it must be")
    match message:
        case PrePrepareMessage(vote, batch):
            _check_vote(vote, record, book)
            _check_batch(vote, batch, record, book)
        case VoteMessage(vote) if record.kind in (Kind.PREPARE, Kind.CHECKPOINT):
            _check_vote(vote, record, book)
            book.own(vote)
            return record.sequence if record.kind == Kind.CHECKPOINT else 0
        case ViewChangeMessage(vote, body):
            _check_statement(vote, body, record, book)
            book.own(vote)
            stable = decode_view_change_body(body).stable
            return stable.height if stable is not None else 0
        case NewViewMessage(vote, body):
            _check_statement(vote, body, record, book)
            decode_new_view_body(body)
        case _:
            raise _VoteFault("holds a message of another kind")
    return 0


def _check_batch(vote: Vote, batch: bytes, record: LogRecord, book: _Book) -> None:
    if batch_digest(batch) != vote.digest:
        raise _VoteFault("holds a batch that is not the one voted for")
    if record.batch_digest != (vote.digest if batch != NULL_BATCH else b""):
        raise _VoteFault("names another batch whose transactions are kept than the one voted for")
    if batch != NULL_BATCH:
        book.batches[record.sequence, vote.digest] = decode_batch(batch).transaction_ids


def _check_commit(record: LogRecord, book: _Book) -> int:
    prepared = decode_prepared(record.data)
    if encode(prepared) != record.data:
        raise _VoteFault("is not encoded as it must be")
    _check_vote(prepared.commit, record, book)
    book.own(prepared.commit)
    for vote in (prepared.proof.pre_prepare, *prepared.proof.prepares):
        if vote.digest != prepared.commit.digest or vote.sequence != record.sequence or not book.checks(vote):
            raise _VoteFault("holds a prepared certificate that proves nothing")
    return 0


def _check_vote(vote: Vote, record: LogRecord, book: _Book) -> None:
    if (vote.kind, vote.epoch, vote.view, vote.sequence) != (record.kind, record.epoch, record.view, record.sequence):
        raise _VoteFault("holds a vote for another place")
    if not book.checks(vote):
        raise _VoteFault("holds a vote whose signature does not check")


def _check_statement(vote: Vote, body: bytes, record: LogRecord, book: _Book) -> None:
    _check_vote(vote, record, book)
    if body_digest(body) != vote.digest:
        raise _VoteFault("holds a body that is not the one signed")


def _check_evidence(key: bytes, value: bytes, book: _Book) -> None:
    """Check two votes of one validator for the same place with different digests."""
    first, second = decode_evidence(value)
    place = (first.epoch, first.sender, first.kind, first.view, first.sequence)
    if key != EVIDENCE_PREFIX + encode(place) or encode((first, second)) != value:
        raise _VoteFault("stands at the wrong key or is not encoded as it must be")
    if place != (second.epoch, second.sender, second.kind, second.view, second.sequence) or first.digest == second.digest:
        raise _VoteFault("holds two votes that do not contradict each other")
    if not book.checks(first) or not book.checks(second):
        raise _VoteFault("holds a vote whose signature does not check")


def _check_all_bodies(database: Database, book: _Book, findings: Findings) -> None:
    """Check the transactions that are kept for batches, and that none is missing of a batch above the last block stored."""
    kept = set()
    for key, value in database.scan(BODIES_PREFIX, fill_cache=False):
        try:
            kept.add(bodies_place(key))
            _check_bodies(key, value, book)
        except (DecodeError, _VoteFault) as error:
            findings.add(None, "vote log", f"{key.hex()}: {error}")
    for sequence, digest in sorted(book.batches.keys() - kept):
        if sequence > findings.height:
            findings.add(sequence, "vote log", f"the transactions of the batch {digest.hex()} are not kept, and no block holds them")


def _check_bodies(key: bytes, value: bytes, book: _Book) -> None:
    named = book.batches.get(bodies_place(key))
    if named is None:
        raise _VoteFault("holds transactions of a batch that no record names")
    raws = decode_raws(value)
    if encode(raws) != value:
        raise _VoteFault("is not encoded as it must be")
    transactions = [decode_transaction(raw) for raw in raws]
    if tuple(one.id for one in transactions) != named:
        raise _VoteFault(f"holds {len(transactions)} transactions that are not the {len(named)} of the batch, in their order")
    for transaction in transactions:
        if not signature_is_valid(transaction):
            raise _VoteFault(f"transaction {transaction.id.hex()}: its signature does not check")
