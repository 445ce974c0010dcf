"""The targets `records` and `files`: what lies on the disk is not what was written.

`records` changes values under checksums that fit (as a fault in memory, or a hand, would), `files` changes bytes of LevelDB's own files.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from cluster.fuzz.chain import replica_config
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.rehearsal import START_MS, rehearsed
from cluster.fuzz.stored import BACKUP, build_folder, dump, forget_birth, memory_database
from cluster.fuzz.target import Stateless, refused
from consensus.codec import Decoder, encode
from consensus.errors import DecodeError, InvariantViolation
from consensus.recovery import Recovered
from consensus.replica import Replica
from consensus.state_tree import StateTree
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.audit import audit
from node.audit_chain import audit_chain
from node.audit_report import Findings
from node.audit_votes import audit_votes
from node.block_store import BLOCKS_FOLDER, ChannelStore
from node.key_value import StoreError
from node.vote_log import BIRTH_KEY, VOTES_FOLDER, VoteLog

FOLDERS = (BLOCKS_FOLDER, VOTES_FOLDER)
NOWHERE = Path("memory")
UNCERTIFIED = 1
PERIODS_ASKED = 6
FREE_MARKS = (BIRTH_KEY,)
"""Marks of the vote log of which another value is as good: with another birth the log begins anew when it is opened."""
AUDITED_OF = 16
"""One change to a block store in so many is audited, since that takes long; to a vote log every one."""


class Change(NamedTuple):
    """One input of `records`: a new value at a key of one database."""

    database: int
    key: bytes
    value: bytes


_decode_change: Decoder[tuple[int, bytes, bytes]] = Decoder(tuple[int, bytes, bytes], "change")


class RecordsTarget(Stateless):
    """One record is another. Opening and reading everything gives a documented error, or values; and the audit notices.

    The audit (of the same database) must find a fault whenever a value was changed and is still there.
    """

    def __init__(self, folder: Path) -> None:
        self._play = rehearsed()
        build_folder(folder / "channel", self._play, UNCERTIFIED)
        self._entries = tuple(dump(folder / "channel" / name) for name in FOLDERS)
        shutil.rmtree(folder / "channel")
        self._seeds = tuple(
            encode((number, key, value)) for number, entries in enumerate(self._entries) for key, value in sorted(entries.items())
        )

    def seeds(self) -> Sequence[bytes]:
        """Return every record, as it is."""
        return self._seeds

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return a record with a changed value; sometimes that of another record, or another key."""
        try:
            number, key, value = _decode_change(data)
        except DecodeError:
            return mutator.pick(self._seeds)
        if mutator.chance(0.1):
            value = _decode_change(mutator.pick(self._seeds))[2]
        elif mutator.chance(0.5):
            value = mutator.gentle(value)
        else:
            value = mutator.change(value)
        if mutator.chance(0.08):
            key = key[:2] + mutator.raw(key[2:])
        return encode((number, key, value))

    def run(self, data: bytes) -> str:
        """Put the record in place, read everything, audit."""
        try:
            change = Change(*_decode_change(data))
            number = FOLDERS.index(FOLDERS[change.database])
        except (DecodeError, IndexError) as error:
            return refused(error)
        known = self._entries[number]
        entries = {**known, change.key: change.value}
        changed = known.get(change.key) not in (None, change.value) and not (number and change.key in FREE_MARKS)
        outcome = self._read_votes(entries) if number else read_blocks(self._play.genesis, entries)
        if number == 0 and zlib.crc32(data) % AUDITED_OF:
            return outcome
        found = self._audit(number, entries)
        if changed and not found:
            raise LawBrokenError(f"the audit does not notice a changed {FOLDERS[number]} {chr(change.key[0])}; reading it: {outcome}")
        return f"{outcome}; the audit finds {found[:60] or 'nothing'}"

    def _read_votes(self, entries: dict[bytes, bytes]) -> str:
        """Open the vote log and start a replica from it."""
        chain, host = self._play.chain, self._play.hosts[BACKUP]
        height = len(chain.made)
        certified = height - UNCERTIFIED
        above = [made.block.header for made in chain.made[certified:]]
        try:
            log = VoteLog(memory_database(NOWHERE, entries))
            records, bodies = log.records(), list(log.bodies())
            found = Recovered(
                epochs=chain.epochs(height),
                log=log.id,
                executed=height,
                certificate=host.certificates[certified],
                headers={header.height: header.hash for header in above},
                batches={header.height: header.batch_digest for header in above},
                records=tuple(records),
            )
            Replica(replica_config(self._play.genesis, BACKUP), found).start(START_MS)
        except (StoreError, DecodeError, InvariantViolation) as error:
            return refused(error)
        return f"accepted: {len(bodies)} bodies"

    def _audit(self, number: int, entries: dict[bytes, bytes]) -> str:
        """Audit one database; return the first thing that it finds."""
        chain = self._play.chain
        height = len(chain.made)
        findings = Findings(height=height, certified_height=height - UNCERTIFIED, epochs=chain.epochs(height))
        database = memory_database(NOWHERE, entries)
        if number:
            audit_votes(database, self._play.genesis, findings)
        else:
            audit_chain(database, NOWHERE, self._play.genesis, findings, lambda _height, _total: None)
        return f"{findings.faults[0].what}: {findings.faults[0].detail}" if findings.faults else ""


def read_blocks(genesis: Genesis, entries: dict[bytes, bytes]) -> str:
    """Open the block store and read all that a node ever reads from it."""
    try:
        store = ChannelStore(memory_database(NOWHERE, entries))
        head = store.head()
        if head is None:
            return "accepted: empty"
        for height in range(min(head.height, 100) + 1):
            store.header(height)
            store.block(height)
            store.receipts(height)
            store.certificate(height)
            for transaction_id in store.transaction_ids(height) or ():
                store.locate(transaction_id)
        store.epoch_changes()
        list(store.pending())
        tree = StateTree.of(store.entries())
        if tree.root != head.state_root:
            return "refused: the state is not that of the head"
        _ask_ledger(genesis, LedgerApplication(genesis, store.state, tree))
    except (StoreError, DecodeError, InvariantViolation) as error:
        return refused(error)
    return "accepted: all"


def _ask_ledger(genesis: Genesis, ledger: LedgerApplication) -> None:
    """Ask the ledger what the API asks."""
    view, first = ledger.view, genesis.market.first_period
    for account in view.accounts():
        view.bills(account.account, None, 10)
        view.credit(account.account)
    view.meters()
    for period in range(first - 1, first + PERIODS_ASKED):
        view.market(period)
        view.period_bills(period, 0, 10)
    view.totals(genesis.time_ms)
    for epoch in view.validators.epochs():
        for member in epoch.members:
            view.validators.validator(member.name)


class Edit(msgspec.Struct, frozen=True, array_like=True):
    """One input of `files`: bytes put into a file.

    Fields:
        file: number of the file, by name.
        offset: where.
        data: what is written there; nothing: the file ends there.
    """

    file: int
    offset: int
    data: bytes


_decode_edit = Decoder(Edit, "edit")


class FilesTarget(Stateless):
    """A byte in a file of LevelDB is another. Opening gives a documented error, or everything as it was; or the audit notices."""

    def __init__(self, folder: Path) -> None:
        self._good, self._work = folder / "good", folder / "work"
        play = rehearsed()
        build_folder(self._good, play, UNCERTIFIED)
        forget_birth(self._good)
        self._genesis = play.genesis
        self._contents = self._dumped(self._good)
        self._files = sorted(path.relative_to(self._good) for path in self._good.rglob("*") if _matters(path))
        self._seeds = tuple(
            encode(Edit(number, offset, bytes((byte,))))
            for number, path in enumerate(self._files)
            for offset, byte in list(enumerate((self._good / path).read_bytes()))[:: max(1, (self._good / path).stat().st_size // 20)]
        )

    def seeds(self) -> Sequence[bytes]:
        """Return edits that write what is there already."""
        return self._seeds

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return an edit at another place, of one bit or some bytes, or one that cuts a file off."""
        number = mutator.pick(range(len(self._files)))
        content = (self._good / self._files[number]).read_bytes()
        offset = int(mutator.random.random() * len(content))
        if mutator.chance(0.1):
            return encode(Edit(number, offset, b""))
        length = mutator.pick((1, 1, 1, 2, 4, 8, 40))
        return encode(Edit(number, offset, mutator.raw(content[offset : offset + length])))

    def run(self, data: bytes) -> str:
        """Edit a copy, open it, read everything."""
        try:
            edit = _decode_edit(data)
            path = self._files[edit.file]
        except (DecodeError, IndexError) as error:
            return refused(error)
        content = bytearray((self._good / path).read_bytes())
        start = max(0, edit.offset)
        content[start : start + len(edit.data) if edit.data else None] = edit.data
        self._damage(path, bytes(content))
        same, outcome = True, "accepted: all"
        try:
            ChannelStore.open(self._work / BLOCKS_FOLDER).close()
            VoteLog.open(self._work / VOTES_FOLDER).close()
            same = self._dumped(self._work) == self._contents
        except StoreError as error:
            outcome = f"refused: {str(error).replace(str(self._work), '')}"
        if not same:
            self._damage(path, bytes(content))
            if audit(self._work, self._genesis).ok:
                raise LawBrokenError(f"{path}: other contents are read, and the audit does not notice")
        return f"{outcome}; {path.suffix or path.stem[:8]}, {'same' if same else 'lost, and noticed'}"

    def _dumped(self, folder: Path) -> tuple[dict[bytes, bytes], ...]:
        """Return all contents but the birth mark, which an opened vote log gets."""
        found = tuple(dump(folder / name) for name in FOLDERS)
        for entries in found:
            entries.pop(BIRTH_KEY, None)
        return found

    def _damage(self, path: Path, content: bytes) -> None:
        """Make a copy of the good folder with other contents of one file."""
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._good, self._work)
        (self._work / path).write_bytes(content)


def _matters(path: Path) -> bool:
    """Whether LevelDB reads a file (its lock and its log for people it does not)."""
    return path.is_file() and path.name.partition(".")[0] not in ("LOCK", "LOG")
