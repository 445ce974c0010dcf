"""The part of the audit that checks blocks, certificates, index and state of one channel's database."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from consensus.block import (
    NO_PROPOSER,
    NULL_BATCH,
    Block,
    Certificate,
    Header,
    block_time_ms,
    decode_batch,
    decode_certificate,
    decode_header,
    genesis_header,
    make_header,
)
from consensus.codec import Decoder, encode
from consensus.errors import DecodeError, InvariantViolation
from consensus.messages import ValidatorSet
from consensus.transaction import Transaction, decode_transaction, signature_is_valid
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.audit_report import Findings, Progress
from node.block_reader import BODY_PREFIX, CERTIFICATE_PREFIX, HEADER_PREFIX, HEIGHT, INDEX_PREFIX, PLACE, RECEIPTS_PREFIX
from node.block_store import FORMAT, FORMAT_KEY, HEAD_KEY, PENDING_PREFIX
from node.key_value import Database
from node.state_store import STATE_PREFIX

_decode_body: Decoder[tuple[bytes, tuple[bytes, ...]]] = Decoder(tuple[bytes, tuple[bytes, ...]], "block body", 64 * 1024 * 1024)
_decode_receipts: Decoder[tuple[bytes, ...]] = Decoder(tuple[bytes, ...], "receipts", 64 * 1024 * 1024)
_KEY_BYTES = {
    HEADER_PREFIX: HEIGHT.size,
    BODY_PREFIX: HEIGHT.size,
    RECEIPTS_PREFIX: HEIGHT.size,
    CERTIFICATE_PREFIX: HEIGHT.size,
    INDEX_PREFIX: 32,
    PENDING_PREFIX: 32,
}
_BY_HEIGHT = (HEADER_PREFIX, BODY_PREFIX, RECEIPTS_PREFIX, CERTIFICATE_PREFIX)
_PREFIX_BYTES = 2


class MemoryState:
    """State entries in memory: what an application reads while the chain is replayed."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``."""
        return self._values.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all pairs whose key starts with ``prefix``, by rising key, as they are at the call."""
        first = bisect_left(self._keys, prefix)
        found = []
        for position in range(first, len(self._keys)):
            key = self._keys[position]
            if not key.startswith(prefix):
                break
            found.append((key, self._values[key]))
        return iter(found)

    def apply(self, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Change entries; None deletes."""
        for key, value in writes:
            if value is not None:
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value
            elif self._values.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]


def audit_chain(database: Database, genesis: Genesis, findings: Findings, progress: Progress) -> None:
    """Check the whole database of a channel.

    Raises:
        StoreError: a part cannot be read at all.
    """
    if database.get(FORMAT_KEY) != FORMAT:
        findings.add(None, "format", f"is not {FORMAT.decode()}")
    index_entries, highest = _check_keys(database, findings)
    head = _head_height(database, findings, highest)
    if head is None:
        return
    findings.height = head
    audit_ = _ChainAudit(database, genesis, findings)
    audit_.certified_height = findings.certified_height
    audit_.check_genesis()
    for height in range(1, head + 1):
        audit_.check_block(height)
        progress(height, head)
    if index_entries != findings.transactions:
        _find_stray_index_entries(database, findings)
    if head - findings.certified_height > genesis.consensus.window:
        findings.add(head, "certificate", f"the last one is of height {findings.certified_height}, more than a window below the head")
    audit_.check_state()
    _check_pending(database, findings)


def _check_keys(database: Database, findings: Findings) -> tuple[int, int]:
    """Read everything once. Return the number of index entries and the greatest height; note stray keys and the last certificate."""
    index_entries, highest = 0, -1
    for key, _ in database.scan(b"", fill_cache=False):
        prefix, rest = key[:_PREFIX_BYTES], key[_PREFIX_BYTES:]
        if key in (FORMAT_KEY, HEAD_KEY) or prefix == STATE_PREFIX:
            continue
        if _KEY_BYTES.get(prefix) != len(rest):
            findings.add(None, "key", f"{key.hex()} belongs to nothing")
            continue
        index_entries += prefix == INDEX_PREFIX
        if prefix in _BY_HEIGHT:
            highest = max(highest, HEIGHT.unpack(rest)[0])
        if prefix == CERTIFICATE_PREFIX:
            findings.certified_height = HEIGHT.unpack(rest)[0]
    return index_entries, highest


def _head_height(database: Database, findings: Findings, highest: int) -> int | None:
    """Return the height up to which to check: the head mark, or, if that is wrong, as far as headers go without a gap."""
    raw = database.get(HEAD_KEY)
    marked = HEIGHT.unpack(raw)[0] if raw is not None and len(raw) == HEIGHT.size else None
    if marked is not None and marked == highest:
        return highest
    if marked is None and highest < 0 and raw is None:
        findings.add(None, "head", "there is no block, not even genesis")
        return None
    findings.add(None, "head", f"the mark says {'nothing' if marked is None else marked}, the greatest height stored is {highest}")
    head = -1
    while database.get(HEADER_PREFIX + HEIGHT.pack(head + 1)) is not None:
        head += 1
    findings.certified_height = min(findings.certified_height, max(head, 0))
    return head if head >= 0 else None


class _ChainAudit:
    """Walks from genesis to head.

    After a fault that makes it impossible to execute further, blocks are still checked one by one, but state is not.
    """

    def __init__(self, database: Database, genesis: Genesis, findings: Findings) -> None:
        self._database = database
        self._genesis = genesis
        self._findings = findings
        self._validators: ValidatorSet = genesis.validator_set
        self._state = MemoryState()
        self._application = LedgerApplication(genesis, self._state)
        self._previous: Header | None = None
        self._replaying = True
        self.certified_height = 0

    def check_genesis(self) -> None:
        """Check height 0, which follows from the genesis file alone."""
        genesis = self._genesis
        finalized = self._application.init_chain()
        self._state.apply(finalized.writes)
        self._application.commit()
        wanted = genesis_header(genesis.chain_id, genesis.channel, genesis.time_ms, genesis.digest, finalized.tree.root)
        if self._database.get(HEADER_PREFIX + HEIGHT.pack(0)) != encode(wanted):
            self._findings.add(0, "header", "is not the one of this genesis file")
        for prefix in (BODY_PREFIX, RECEIPTS_PREFIX, CERTIFICATE_PREFIX):
            if self._database.get(prefix + HEIGHT.pack(0)) is not None:
                self._findings.add(0, "key", f"height 0 has an entry under {prefix.decode()}")
        self._previous = wanted
        self._findings.blocks = 1

    def check_block(self, height: int) -> None:
        """Check one block: each part, then all of them together, then its execution."""
        header = self._header(height)
        block = self._block(height, header) if header is not None else None
        transactions = self._transactions(height, block) if block is not None else None
        if header is not None:
            self._check_certificate(height, header)
        if header is None or block is None or transactions is None:
            self._stop_replaying(height)
        else:
            self._check_index(height, transactions)
            if self._check_header(block, transactions):
                self._replay(block, transactions)
            else:
                self._stop_replaying(height)
        self._previous = header
        self._findings.blocks += 1

    def check_state(self) -> None:
        """Compare every stored state entry with the replayed one."""
        if not self._replaying:
            return
        cut = len(STATE_PREFIX)
        stored = ((key[cut:], value) for key, value in self._database.scan(STATE_PREFIX, fill_cache=False))
        for found, wanted in zip_longest(stored, self._state.scan(b"")):
            if found != wanted:
                key = min(pair[0] for pair in (found, wanted) if pair is not None)
                self._findings.add(None, "state", f"entry {key!r} is not what executing the blocks gives")
                if found is None or wanted is None or found[0] != wanted[0]:
                    return

    def _header(self, height: int) -> Header | None:
        raw = self._database.get(HEADER_PREFIX + HEIGHT.pack(height))
        if raw is None:
            self._findings.add(height, "header", "is missing")
            return None
        try:
            header = decode_header(raw)
        except DecodeError as error:
            self._findings.add(height, "header", str(error))
            return None
        if encode(header) != raw:
            self._findings.add(height, "header", "is not encoded as it must be")
        return header

    def _block(self, height: int, header: Header) -> Block | None:
        raw = self._database.get(BODY_PREFIX + HEIGHT.pack(height))
        receipts_raw = self._database.get(RECEIPTS_PREFIX + HEIGHT.pack(height))
        if raw is None or receipts_raw is None:
            self._findings.add(height, "block" if raw is None else "receipts", "is missing")
            return None
        try:
            (batch, transactions), receipts = _decode_body(raw), _decode_receipts(receipts_raw)
        except DecodeError as error:
            self._findings.add(height, "block", str(error))
            return None
        if encode((batch, transactions)) != raw or encode(receipts) != receipts_raw:
            self._findings.add(height, "block", "is not encoded as it must be")
        return Block(header, batch, transactions, receipts)

    def _transactions(self, height: int, block: Block) -> list[Transaction] | None:
        try:
            transactions = [decode_transaction(raw) for raw in block.transactions]
            named = decode_batch(block.batch).transaction_ids if block.batch != NULL_BATCH else ()
        except DecodeError as error:
            self._findings.add(height, "transaction", str(error))
            return None
        self._findings.transactions += len(transactions)
        for position, transaction in enumerate(transactions):
            if not signature_is_valid(transaction):
                self._findings.add(height, "transaction", f"{position} ({transaction.id.hex()}): its signature does not check")
        rest = iter(named)
        if not all(transaction.id in rest for transaction in transactions):
            self._findings.add(height, "batch", "does not name the transactions of the block in their order")
        return transactions

    def _check_header(self, block: Block, transactions: Sequence[Transaction]) -> bool:
        """Tell whether the header follows from its predecessor and the block's parts (its state root aside)."""
        header, previous = block.header, self._previous
        if previous is None:
            self._findings.add(header.height, "header", "its predecessor is missing")
            return False
        ids = [transaction.id for transaction in transactions]
        time_ms = block_time_ms(previous, block.batch)
        wanted = make_header(previous, block.batch, ids, block.receipts, header.state_root, time_ms)
        wrong = [name for name in Header.__struct_fields__ if getattr(wanted, name) != getattr(header, name)]
        for name in wrong:
            self._findings.add(header.height, "header", f"{name} does not follow from the block before and the block's own parts")
        return not wrong

    def _check_certificate(self, height: int, header: Header) -> None:
        raw = self._database.get(CERTIFICATE_PREFIX + HEIGHT.pack(height))
        if raw is None:
            if height < self.certified_height:
                self._findings.add(height, "certificate", "is missing")
            return
        try:
            certificate: Certificate = decode_certificate(raw)
        except DecodeError as error:
            self._findings.add(height, "certificate", str(error))
            return
        if (certificate.height, certificate.header_hash) != (height, header.hash):
            self._findings.add(height, "certificate", "is for another header")
        elif encode(certificate) != raw or not self._validators.certifies(certificate):
            self._findings.add(height, "certificate", "is not signed by a quorum of the validators")

    def _check_index(self, height: int, transactions: Sequence[Transaction]) -> None:
        for position, transaction in enumerate(transactions):
            if self._database.get(INDEX_PREFIX + transaction.id) != PLACE.pack(height, position):
                self._findings.add(height, "index", f"the entry of transaction {position} ({transaction.id.hex()}) is missing or wrong")

    def _replay(self, block: Block, transactions: Sequence[Transaction]) -> None:
        if not self._replaying:
            return
        header = block.header
        proposer = NO_PROPOSER if block.batch == NULL_BATCH else decode_batch(block.batch).proposer
        try:
            finalized = self._application.finalize_block(header.height, header.time_ms, proposer, transactions)
        except InvariantViolation as error:
            self._findings.add(header.height, "execution", str(error))
            self._stop_replaying(header.height)
            return
        if finalized.included != tuple(range(len(transactions))):
            self._findings.add(header.height, "execution", "the block holds a transaction that must have no effect")
        if finalized.receipts != block.receipts:
            self._findings.add(header.height, "receipts", "are not what executing the block gives")
        if finalized.tree.root != header.state_root:
            self._findings.add(header.height, "state root", "is not what executing the block gives")
            self._stop_replaying(header.height)
            return
        self._state.apply(finalized.writes)
        self._application.commit()

    def _stop_replaying(self, height: int) -> None:
        if self._replaying:
            self._findings.add(height, "execution", "state cannot be made again from here on; the state entries were not compared")
        self._replaying = False


def _find_stray_index_entries(database: Database, findings: Findings) -> None:
    """Name the index entries that point at no transaction of theirs."""
    cut = len(INDEX_PREFIX)
    for key, value in database.scan(INDEX_PREFIX, fill_cache=False):
        if len(value) != PLACE.size:
            findings.add(None, "index", f"the entry of transaction {key[cut:].hex()} is malformed")
            continue
        height, position = PLACE.unpack(value)
        raw = database.get(BODY_PREFIX + HEIGHT.pack(height))
        try:
            transactions = _decode_body(raw)[1] if raw is not None else ()
            known = position < len(transactions) and decode_transaction(transactions[position]).id == key[cut:]
        except DecodeError:
            known = False
        if not known:
            findings.add(None, "index", f"the entry of transaction {key[cut:].hex()} points at no such transaction")


def _check_pending(database: Database, findings: Findings) -> None:
    cut = len(PENDING_PREFIX)
    for key, raw in database.scan(PENDING_PREFIX, fill_cache=False):
        try:
            transaction = decode_transaction(raw)
        except DecodeError as error:
            findings.add(None, "pending", f"{key[cut:].hex()}: {error}")
            continue
        if transaction.id != key[cut:] or not signature_is_valid(transaction):
            findings.add(None, "pending", f"{key[cut:].hex()}: is another transaction, or its signature does not check")
