"""The part of the audit that checks blocks, certificates, index and state of one channel's database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from consensus.block import (
    NULL_BATCH,
    Block,
    Certificate,
    Header,
    decode_batch,
    decode_certificate,
    decode_header,
    make_header,
)
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.messages import ValidatorSet
from consensus.transaction import Transaction, decode_transaction, signature_is_valid
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.audit_epochs import EpochTrail
from node.audit_keys import Extent, check_keys
from node.audit_replay import Replay
from node.audit_report import Findings, Progress
from node.audit_snapshots import read_state
from node.key_value import Database
from node.snapshots import StoredSnapshot, stored_snapshots
from node.state_store import PinnedState
from node.store_layout import (
    BODY_PREFIX,
    CERTIFICATE_PREFIX,
    HEADER_PREFIX,
    HEIGHT,
    INDEX_PREFIX,
    KEPT_PREFIX,
    PENDING_PREFIX,
    PLACE,
    RECEIPTS_PREFIX,
    decode_body,
    decode_kept,
    decode_receipts,
    state_prefix,
)


def audit_chain(database: Database, shelf: Path, genesis: Genesis, findings: Findings, progress: Progress) -> None:
    """Check the whole database of a channel.

    Args:
        shelf: folder of the channel's snapshots: if the first blocks are not stored, execution begins with one of them.

    Raises:
        StoreError: a part cannot be read at all.
    """
    extent = check_keys(database, findings)
    if extent is None:
        return
    findings.height, findings.base = extent.head, extent.base
    audit_ = _ChainAudit(database, genesis, findings, extent)
    if extent.base:
        audit_.take_snapshots([one for one in stored_snapshots(shelf) if extent.base <= one.height <= extent.head])
    audit_.read_epochs()
    audit_.check_genesis()
    if extent.base:
        audit_.check_base()
    for height in range(extent.base + 1, extent.head + 1):
        audit_.check_block(height)
        progress(height, extent.head)
    for height in extent.kept:
        audit_.check_kept(height)
    if extent.index_entries != findings.transactions:
        _find_stray_index_entries(database, findings)
    if extent.head - findings.certified_height > genesis.consensus.window:
        text = f"the last one is of height {findings.certified_height}, more than a window below the head"
        findings.add(extent.head, "certificate", text)
    audit_.check_state()
    _check_pending(database, findings)


class _ChainAudit:
    """Walks from genesis, or the base, to the head."""

    def __init__(self, database: Database, genesis: Genesis, findings: Findings, extent: Extent) -> None:
        self._database = database
        self._genesis = genesis
        self._findings = findings
        self._extent = extent
        self._epochs = EpochTrail(genesis.validator_set, findings)
        self._replay = Replay(genesis, findings)
        self._snapshots: list[StoredSnapshot] = []
        self._previous: Header | None = None
        self._certified_height = findings.certified_height

    def read_epochs(self) -> None:
        """Find all validator sets that the store knows: proven ones, and those that its state names (headers tell which of them count)."""
        self._epochs.read_proofs(self._database)
        state = PinnedState(self._database, self._extent.generation)
        try:
            self._epochs.add(LedgerApplication(self._genesis, state).epochs())
        except (DecodeError, ValueError) as error:
            self._findings.add(None, "state", f"the validator sets in it cannot be read: {error}")

    def take_snapshots(self, snapshots: list[StoredSnapshot]) -> None:
        """Note snapshots whose state executing may begin with: the first good one is taken."""
        self._snapshots = snapshots

    def check_genesis(self) -> None:
        """Check height 0, which follows from the genesis file alone."""
        wanted = self._replay.genesis_header(start=not self._extent.base)
        if self._database.get(HEADER_PREFIX + HEIGHT.pack(0)) != encode(wanted):
            self._findings.add(0, "header", "is not the one of this genesis file")
        for prefix in (BODY_PREFIX, RECEIPTS_PREFIX, CERTIFICATE_PREFIX, KEPT_PREFIX):
            if self._database.get(prefix + HEIGHT.pack(0)) is not None:
                self._findings.add(0, "key", f"height 0 has an entry under {prefix.decode()}")
        if not self._extent.base and self._extent.base_hash not in (None, wanted.hash):
            self._findings.add(0, "base", "the mark names another block")
        self._previous = wanted
        self._findings.blocks = 1

    def check_base(self) -> None:
        """Check the block that the chain hangs on: nothing but its certificate vouches for it."""
        height = self._extent.base
        header = self._previous = self._header(height)
        self._findings.blocks += 1
        self._epochs.begin(height)
        if header is None:
            return
        if self._extent.base_hash not in (None, header.hash):
            self._findings.add(height, "base", "the mark names another block")
        self._check_domain(header, height)
        self._check_certificate(height, header, needed=True)
        if (header.epoch, header.next_validators) != (self._epochs.present.epoch, self._epochs.following(header)):
            self._findings.add(height, "header", "names other validators than those that are proven")
        self._epochs.passed(header)
        self._begin(header)

    def check_kept(self, height: int) -> None:
        """Check a header that is kept for ever with its certificate."""
        raw = self._database.get(KEPT_PREFIX + HEIGHT.pack(height)) or b""
        try:
            pair = decode_kept(raw)
            header, certificate = decode_header(pair[0]), decode_certificate(pair[1])
        except DecodeError as error:
            self._findings.add(height, "kept header", str(error))
            return
        if encode((encode(header), encode(certificate))) != raw:
            self._findings.add(height, "kept header", "is not encoded as it must be")
        if not 0 < height < self._extent.base:
            self._findings.add(height, "kept header", f"is not below the base {self._extent.base}")
        self._check_domain(header, height)
        if not _proves(self._epochs.at(height), certificate, header):
            self._findings.add(height, "kept header", "is not signed by a quorum of the validators")

    def check_block(self, height: int) -> None:
        """Check one block: each part, then all of them together, then its execution."""
        header = self._header(height)
        block = self._block(height, header) if header is not None else None
        transactions = self._transactions(height, block) if block is not None else None
        if header is not None:
            self._check_certificate(height, header, needed=height < self._certified_height)
        if header is None or block is None or transactions is None:
            self._replay.stop(height)
        else:
            self._check_index(height, transactions)
            if self._check_header(block, transactions):
                self._replay.execute(block, transactions)
            else:
                self._replay.stop(height)
            self._begin(header)
        if header is not None:
            self._epochs.passed(header)
        self._previous = header
        self._findings.blocks += 1

    def check_state(self) -> None:
        """Compare every stored state entry with what is known of the state."""
        prefix = state_prefix(self._extent.generation)
        cut = len(prefix)
        stored = ((key[cut:], value) for key, value in self._database.scan(prefix, fill_cache=False))
        self._replay.check_state(stored, self._previous)
        self._epochs.finish(self._previous)
        if self._extent.base:
            self._findings.notes.append(self._what_was_not_executed())

    def _what_was_not_executed(self) -> str:
        base, head, start = self._extent.base, self._extent.head, self._findings.replayed_from
        text = f"blocks below {base + 1} are not stored"
        if start is None:
            proof = "is certified" if head <= self._certified_height else "has no certificate yet"
            text += ", nor is a snapshot to begin with: no block was executed again"
            return f"{text}; the state was compared with the state root of block {head}, which {proof}"
        text += f": the state before block {start + 1} comes from a certified snapshot"
        return text + (f"; blocks {base + 1} to {start} were checked, but not executed again" if start > base else "")

    def _begin(self, header: Header) -> None:
        """Begin to execute with a snapshot of the state after this block, if there is a good one and nothing was begun."""
        while self._snapshots and self._snapshots[0].height <= header.height:
            snapshot = self._snapshots.pop(0)
            entries = read_state(snapshot, header, self._epochs.proven, self._findings)
            if entries is not None:
                self._replay.start(header.height, entries)
                self._snapshots = []

    def _check_domain(self, header: Header, height: int) -> None:
        wanted = (self._genesis.chain_id, self._genesis.channel, height)
        if (header.chain_id, header.channel, header.height) != wanted:
            self._findings.add(height, "header", "is of another chain, channel or height")

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
            (batch, transactions), receipts = decode_body(raw), decode_receipts(receipts_raw)
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
        epoch, following = self._epochs.present.epoch, self._epochs.following(header)
        wanted = make_header(previous, block.batch, ids, block.receipts, header.state_root, epoch, following)
        wrong = [name for name in Header.__struct_fields__ if getattr(wanted, name) != getattr(header, name)]
        for name in wrong:
            self._findings.add(header.height, "header", f"{name} does not follow from the block before and the block's own parts")
        return not wrong

    def _check_certificate(self, height: int, header: Header, *, needed: bool) -> None:
        raw = self._database.get(CERTIFICATE_PREFIX + HEIGHT.pack(height))
        if raw is None:
            if needed:
                self._findings.add(height, "certificate", "is missing")
            return
        try:
            certificate: Certificate = decode_certificate(raw)
        except DecodeError as error:
            self._findings.add(height, "certificate", str(error))
            return
        if (certificate.height, certificate.header_hash) != (height, header.hash):
            self._findings.add(height, "certificate", "is for another header")
        elif encode(certificate) != raw or not _proves(self._epochs.present, certificate, header):
            self._findings.add(height, "certificate", "is not signed by a quorum of the validators")

    def _check_index(self, height: int, transactions: Sequence[Transaction]) -> None:
        for position, transaction in enumerate(transactions):
            if self._database.get(INDEX_PREFIX + transaction.id) != PLACE.pack(height, position):
                self._findings.add(height, "index", f"the entry of transaction {position} ({transaction.id.hex()}) is missing or wrong")


def _proves(validators: ValidatorSet, certificate: Certificate, header: Header) -> bool:
    named = (certificate.height, certificate.header_hash) == (header.height, header.hash)
    return named and validators.certifies(certificate)


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
            transactions = decode_body(raw)[1] if raw is not None else ()
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
