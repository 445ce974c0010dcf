"""Blocks, receipts, index, certificates, state and taken-in transactions of one channel: one LevelDB database.

Law: everything that a height changes goes to disk in one synced batch, so a crash leaves either all of it or nothing. The same holds
for a snapshot that takes the place of everything before it, and for moving the base. Layout: :mod:`node.store_layout`.

All methods block; writes wait for the disk, so call them from a thread. One at a time may write blocks, stage, adopt or prune;
:meth:`ChannelStore.sweep` may run beside all of that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from consensus.application import FinalizedBlock
from consensus.block import Block, Certificate, Header
from consensus.codec import encode
from consensus.crypto import digest
from consensus.errors import InvariantViolation
from consensus.state_tree import StateTree
from consensus.validators import decode_epoch_change
from node.block_reader import BlockReader
from node.key_value import Database, StoreDamagedError, StoreError, Write, open_database
from node.pruning import delete_blocks
from node.state_store import StateStore
from node.store_layout import (
    BASE,
    BASE_KEY,
    BODY_PREFIX,
    CERTIFICATE_PREFIX,
    EPOCH_PREFIX,
    FORMAT,
    FORMAT_KEY,
    GENERATION_KEY,
    HEAD_KEY,
    HEADER_PREFIX,
    HEIGHT,
    INDEX_PREFIX,
    KEPT_PREFIX,
    OLDER_FORMATS,
    PENDING_PREFIX,
    PLACE,
    RECEIPTS_PREFIX,
    decode_envelope,
)

BLOCKS_FOLDER = "blocks"
"""Name of this database's folder inside a channel's folder."""
SLICE_ENTRIES = 500
"""Entries that are read back between two pauses."""
REFRESH_ATTEMPTS = 100


class ChannelStore(BlockReader):
    """The database of one channel; make it with :meth:`open`.

    Attributes:
        state: committed state, for the application.
        durable_certificate: height of the last certificate that is on disk for sure: one put before the last synced write.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.state = StateStore(database)
        last = self.last_certificate()
        self._certificate_put = self.durable_certificate = last.height if last is not None else 0
        self._recent: dict[bytes, bytes] = {}
        self._head = self._read_head()

    @classmethod
    def open(cls, path: Path) -> ChannelStore:
        """Open the database in the folder ``path``; an empty one is made if there is none.

        Whatever waits to be deleted is deleted first.

        Raises:
            StoreError: another process has it open, it is damaged, or it is no store of this version.
        """
        database = open_database(path, write_buffer_bytes=16 << 20, cache_bytes=32 << 20)
        try:
            written = database.get(FORMAT_KEY)
            if written is None:
                if next(database.scan(b""), None) is not None:
                    raise StoreDamagedError(path, "holds entries but no format mark")
                database.write([(FORMAT_KEY, FORMAT), (GENERATION_KEY, b"\x00")], sync=True)
            elif written != FORMAT:
                raise StoreError(path, _other_format(written))
            store = cls(database)
            for _ in store.sweep():
                pass
            return store
        except StoreError:
            database.close()
            raise

    def close(self) -> None:
        """Close the database; a second time does nothing."""
        self._database.close()

    # ------------------------------------------------------------------------------------------------------------ writing

    def start(self, header: Header, finalized: FinalizedBlock) -> None:
        """Write height 0: header and state of genesis.

        Raises:
            InvariantViolation: the store has begun already.
            StoreError: nothing was written.
        """
        if self._head is not None:
            raise InvariantViolation(f"{self.path}: cannot start at height 0, height {self._head.height} is stored")
        writes: list[Write] = [(HEADER_PREFIX + HEIGHT.pack(0), encode(header)), (HEAD_KEY, HEIGHT.pack(0)), _base_mark(header)]
        writes.extend((self.state.key(key), value) for key, value in finalized.writes)
        self._database.write(writes, sync=True)
        self._head = header
        self.state.publish(finalized.writes)

    def append(self, block: Block, finalized: FinalizedBlock, spent: Sequence[bytes], *, publish: bool = True) -> None:
        """Write the block after the head, with everything that it changes, in one synced batch.

        Args:
            finalized: what executing it gave; its ``writes`` go into the state.
            spent: ids of taken-in transactions that need not be kept any more (executed or void).
            publish: whether ``state`` shows the new values at once. A caller that writes in one thread and reads in another passes
                False and calls ``state.publish(finalized.writes)`` in the reading thread, so that no query sees two heights.

        Raises:
            InvariantViolation: the block does not follow the head.
            StoreError: nothing was written.
        """
        header = block.header
        certified, recent = self._certificate_put, dict(self._recent)
        if self._head is None or header.height != self._head.height + 1 or header.previous_hash != self._head.hash:
            raise InvariantViolation(f"{self.path}: block {header.height} does not follow the stored head")
        height = HEIGHT.pack(header.height)
        writes: list[Write] = [
            (HEADER_PREFIX + height, encode(header)),
            (BODY_PREFIX + height, encode((block.batch, block.transactions))),
            (RECEIPTS_PREFIX + height, encode(block.receipts)),
            (HEAD_KEY, height),
        ]
        place = PLACE.pack
        for position, raw in enumerate(block.transactions):
            writes.append((INDEX_PREFIX + digest(decode_envelope(raw).body), place(header.height, position)))
        writes.extend((self.state.key(key), value) for key, value in finalized.writes)
        writes.extend((PENDING_PREFIX + id_, None) for id_ in spent)
        writes.extend(recent.items())
        self._database.write(writes, sync=True)
        self.durable_certificate = max(self.durable_certificate, certified)
        for key in recent:
            self._recent.pop(key, None)
        self._head = header
        if publish:
            self.state.publish(finalized.writes)

    def put_certificate(self, certificate: Certificate, *, sync: bool = False) -> None:
        """Store the certificate of a block.

        Args:
            sync: wait for the disk. Else it is not waited for (peers have it too), and it is written once more with the next block: LevelDB
                may begin a new log in between, and then a synced write says nothing about what came before.
        """
        key, value = CERTIFICATE_PREFIX + HEIGHT.pack(certificate.height), encode(certificate)
        self._recent[key] = value
        self._database.write(list(self._recent.items()) if sync else [(key, value)], sync=sync)
        self._certificate_put = max(self._certificate_put, certificate.height)
        if sync:
            self.durable_certificate = self._certificate_put
            self._recent.clear()

    def put_epoch_changes(self, changes: Iterable[bytes]) -> None:
        """Store proofs of validator sets (encoded ``EpochChange`` values, checked by the caller)."""
        keyed = ((decode_epoch_change(raw).validators.epoch, raw) for raw in changes)
        self._database.write(((EPOCH_PREFIX + HEIGHT.pack(epoch), raw) for epoch, raw in keyed), sync=True)

    def add_pending(self, transactions: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep taken-in transactions (id, raw) until they are spent; on disk when this returns."""
        self._database.write(((PENDING_PREFIX + id_, raw) for id_, raw in transactions), sync=True)

    def drop_pending(self, ids: Iterable[bytes]) -> None:
        """Forget taken-in transactions that will never execute, without waiting for the disk."""
        self._database.write(((PENDING_PREFIX + id_, None) for id_ in ids), sync=False)

    # ---------------------------------------------------------------------------------------------- snapshots and pruning

    def stage_begin(self) -> None:
        """Begin to stage the state of a snapshot beside the present one; what was staged before is dropped.

        Raises:
            StoreError: the disk refused it.
        """
        self.state.stage_begin()

    def stage_put(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Stage entries of a snapshot, in any order, without waiting for the disk.

        Raises:
            InvariantViolation: nothing was begun.
            StoreError: the disk refused it.
        """
        self.state.stage_put(entries)

    def stage_drop(self) -> None:
        """Give up what is staged; :meth:`sweep` deletes it."""
        self.state.stage_drop()

    def adopt_snapshot(
        self,
        header: Header,
        certificate: Certificate,
        *,
        kept: Iterable[tuple[Header, Certificate]] = (),
        publish: bool = True,
        pause: Callable[[], None] = lambda: None,
    ) -> StateTree:
        """Make the staged state, which is that after the block of ``header``, and this block the head and base, in one synced batch.

        All that was staged is read back and must hash to the header's state root. :meth:`sweep` deletes what counts no more.

        Args:
            header, certificate: of a block above the head, checked by the caller.
            kept: headers with their certificates, of lower heights, that stay readable for ever.
            publish: as for :meth:`append`; who passes False calls ``state.publish(())``.
            pause: called at short intervals while the state is read back.

        Returns:
            the commitment to the new state.

        Raises:
            InvariantViolation: the block is not above the head, or something does not fit together; nothing was changed.
            StoreError: nothing was changed.
        """
        if self._head is None or header.height <= self._head.height:
            where = None if self._head is None else self._head.height
            raise InvariantViolation(f"{self.path}: a snapshot of height {header.height} cannot follow height {where}")
        self._database.flush()
        tree = StateTree.of(_with_pauses(self.state.staged(), pause))
        if tree.root != header.state_root:
            raise InvariantViolation(f"{self.path}: the staged state does not hash to the state root of block {header.height}")
        writes = [self.state.adoption(), (HEAD_KEY, HEIGHT.pack(header.height)), *_base_writes(header, certificate)]
        writes.extend(_kept_write(one, proof, header.height) for one, proof in kept)
        self._database.write(writes, sync=True)
        self.state.adopted()
        self._head, self._base = header, header.height
        self._certificate_put = self.durable_certificate = header.height
        if publish:
            self.state.publish(())
        return tree

    def prune(self, keep_from: int, kept: Collection[int] = ()) -> None:
        """Forget the blocks below ``keep_from`` for all readers, with their index entries, headers and certificates.

        :meth:`sweep` then takes them off the disk. Header and certificate of the block just below stay: they are the new base.

        Args:
            keep_from: height of the first block to keep; nothing happens if no block is below.
            kept: heights whose headers and certificates stay readable for ever (one that is below the base already must have been kept).

        Raises:
            InvariantViolation: a header or certificate that must stay is not there; nothing was changed.
            StoreError: nothing was changed.
        """
        base = keep_from - 1
        if base <= self._base:
            return
        writes = _base_writes(*self._certified(base))
        writes.extend(_kept_write(*self._certified(height), base) for height in sorted(kept) if 0 < height < base)
        self._database.write(writes, sync=True)
        self._base = base

    def sweep(self) -> Iterator[int]:
        """Delete what counts no more, slice by slice: blocks below the base, other states than the present and the staged one.

        After much was deleted the files are sorted anew, so that the disk gets its room back.

        Yields:
            after every slice how many entries it had.

        Raises:
            StoreError: the database is damaged or closed.
        """
        emptied = yield from self.state.sweep()
        emptied += yield from delete_blocks(self._database, self._base)
        if emptied:
            for _ in range(REFRESH_ATTEMPTS):
                if self.state.refresh():
                    break
                yield 0
        for place in emptied:
            self._database.compact(*place)
            yield 0

    # ------------------------------------------------------------------------------------------------------------ reading

    def head(self) -> Header | None:
        """Return the header of the last block, None for an empty store."""
        return self._head

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the whole committed state by rising key."""
        return self.state.scan(b"")

    def pending(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield taken-in transactions (id, raw) that are not spent."""
        cut = len(PENDING_PREFIX)
        for key, raw in self._database.scan(PENDING_PREFIX):
            yield key[cut:], raw

    # ----------------------------------------------------------------------------------------------------------- internal

    def _certified(self, height: int) -> tuple[Header, Certificate]:
        header, certificate = self.header(height), self.certificate(height)
        if header is None or certificate is None:
            raise InvariantViolation(f"{self.path}: the {'header' if header is None else 'certificate'} of height {height} is not stored")
        return header, certificate

    def _read_head(self) -> Header | None:
        raw = self._database.get(HEAD_KEY)
        if raw is None:
            return None
        header = self.header(HEIGHT.unpack(raw)[0]) if len(raw) == HEIGHT.size else None
        if header is None:
            raise StoreDamagedError(self.path, "the head mark points at no header")
        return header


def _other_format(written: bytes) -> str:
    if written in OLDER_FORMATS:
        return f"is a {written.decode()}, this program writes {FORMAT.decode()}; move it away, the node fetches everything from the others"
    return f"has the format {written!r}, this program knows {FORMAT!r}"


def _base_mark(header: Header) -> Write:
    return BASE_KEY, BASE.pack(header.height, header.hash)


def _base_writes(header: Header, certificate: Certificate) -> list[Write]:
    """Return what makes a block the base. Its certificate is written again: it may have been written without waiting."""
    if (certificate.height, certificate.header_hash) != (header.height, header.hash):
        raise InvariantViolation(f"the certificate given for height {header.height} is of another header")
    height = HEIGHT.pack(header.height)
    return [_base_mark(header), (HEADER_PREFIX + height, encode(header)), (CERTIFICATE_PREFIX + height, encode(certificate))]


def _kept_write(header: Header, certificate: Certificate, base: int) -> Write:
    if (certificate.height, certificate.header_hash) != (header.height, header.hash) or not 0 < header.height < base:
        raise InvariantViolation(f"header {header.height} cannot be kept below height {base}, or its certificate is of another one")
    return KEPT_PREFIX + HEIGHT.pack(header.height), encode((encode(header), encode(certificate)))


def _with_pauses(entries: Iterator[tuple[bytes, bytes]], pause: Callable[[], None]) -> Iterator[tuple[bytes, bytes]]:
    for number, entry in enumerate(entries):
        if number % SLICE_ENTRIES == 0:
            pause()
        yield entry
