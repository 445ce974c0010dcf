"""Blocks, receipts, index, certificates, state and taken-in transactions of one channel: one LevelDB database.

Law: everything that a height changes goes to disk in one synced batch, so a crash leaves either all of it or nothing. Layout
(numbers are big endian, so that keys sort by height):

| key | value |
| --- | --- |
| ``m/format`` | :data:`FORMAT` |
| ``m/head`` | height of the last block, 8 bytes |
| ``h/`` height | encoded header |
| ``b/`` height | encoded pair: batch, raw transactions |
| ``r/`` height | encoded tuple of receipts |
| ``c/`` height | encoded certificate |
| ``i/`` transaction id | height (8 bytes), position in the block (4 bytes) |
| ``s/`` state key | state value |
| ``p/`` transaction id | raw transaction that was taken in and is not executed yet |

All methods block; writes wait for the disk, so call them from a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from consensus.application import FinalizedBlock
from consensus.block import Block, Certificate, Header
from consensus.codec import encode
from consensus.crypto import digest
from consensus.errors import InvariantViolation
from node.block_reader import (
    BODY_PREFIX,
    CERTIFICATE_PREFIX,
    HEADER_PREFIX,
    HEIGHT,
    INDEX_PREFIX,
    PLACE,
    RECEIPTS_PREFIX,
    BlockReader,
    decode_envelope,
)
from node.key_value import Database, StoreDamagedError, StoreError, Write, open_database
from node.state_store import StateStore, state_key

BLOCKS_FOLDER = "blocks"
"""Name of this database's folder inside a channel's folder."""
FORMAT = b"GridPact store 1"
FORMAT_KEY, HEAD_KEY = b"m/format", b"m/head"
META_PREFIX, PENDING_PREFIX = b"m/", b"p/"


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
        self._head = self._read_head()

    @classmethod
    def open(cls, path: Path) -> ChannelStore:
        """Open the database in the folder ``path``; an empty one is made if there is none.

        Raises:
            StoreError: another process has it open, it is damaged, or it is no store of this version.
        """
        database = open_database(path, write_buffer_bytes=16 << 20, cache_bytes=32 << 20)
        try:
            written = database.get(FORMAT_KEY)
            if written is None:
                if next(database.scan(b""), None) is not None:
                    raise StoreDamagedError(path, "holds entries but no format mark")
                database.write([(FORMAT_KEY, FORMAT)], sync=True)
            elif written != FORMAT:
                raise StoreError(path, f"has the format {written!r}, this program knows {FORMAT!r}")
            return cls(database)
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
        writes: list[Write] = [(HEADER_PREFIX + HEIGHT.pack(0), encode(header)), (HEAD_KEY, HEIGHT.pack(0))]
        writes.extend((state_key(key), value) for key, value in finalized.writes)
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
        certified = self._certificate_put
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
        writes.extend((state_key(key), value) for key, value in finalized.writes)
        writes.extend((PENDING_PREFIX + id_, None) for id_ in spent)
        self._database.write(writes, sync=True)
        self.durable_certificate = certified
        self._head = header
        if publish:
            self.state.publish(finalized.writes)

    def put_certificate(self, certificate: Certificate) -> None:
        """Store the certificate of a block, without waiting for the disk (peers have it too)."""
        self._database.write([(CERTIFICATE_PREFIX + HEIGHT.pack(certificate.height), encode(certificate))], sync=False)
        self._certificate_put = max(self._certificate_put, certificate.height)

    def add_pending(self, transactions: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep taken-in transactions (id, raw) until they are spent; on disk when this returns."""
        self._database.write(((PENDING_PREFIX + id_, raw) for id_, raw in transactions), sync=True)

    def drop_pending(self, ids: Iterable[bytes]) -> None:
        """Forget taken-in transactions that will never execute, without waiting for the disk."""
        self._database.write(((PENDING_PREFIX + id_, None) for id_ in ids), sync=False)

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

    def _read_head(self) -> Header | None:
        raw = self._database.get(HEAD_KEY)
        if raw is None:
            return None
        header = self.header(HEIGHT.unpack(raw)[0]) if len(raw) == HEIGHT.size else None
        if header is None:
            raise StoreDamagedError(self.path, "the head mark points at no header")
        return header
