"""The executor: makes blocks out of decided batches, one after the other, and makes each durable.

Law. A block is executed on the committed state, written with its receipts, index and state in one synced batch, and only then
announced to the replica. A block from a peer is executed in the same way, and must give exactly the certified header: a block whose
content does not fit its header is the peer's fault, a result that differs is ours (:class:`InvariantViolation`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Threads
from functools import partial
from typing import TypeVar

import structlog

from consensus.application import Application, FinalizedBlock
from consensus.block import NULL_BATCH, Block, CertifiedBlock, Header, decode_batch, decode_block, decode_header
from consensus.effects import (
    Adopt,
    AdoptionFailed,
    AdoptSnapshot,
    Execute,
    Executed,
    SnapshotAdopted,
    SnapshotFailed,
    StageChunk,
    StageSnapshot,
)
from consensus.errors import DecodeError, InvariantViolation
from consensus.snapshot import SnapshotManifest
from consensus.transaction import Transaction, decode_transaction, signature_is_valid
from node.block_making import make_block, objection
from node.block_store import ChannelStore
from node.bodies import Bodies
from node.driver import Work
from node.epochs import EpochBook
from node.metrics import ChannelMetrics
from node.staging import Staging

log = structlog.get_logger("gridpact.executor")
T = TypeVar("T")
PORTION = 128


class Executor:
    """Executes blocks of one channel in order.

    Args:
        application, store, bodies, epochs: of the channel.
        key_of: tells a sender's key after the last block.
        threads: where signatures are checked and the disk is waited for.
        writing: held while blocks or base of the store change.
        done: takes the answer to the replica.
        committed: told of every new block: header, its transactions, all that its batch named, what executing gave.
        replaced: told that a snapshot took the place of the state.
        metrics: of the channel.

    Attributes:
        staging: takes the parts of snapshots; it runs beside.
    """

    def __init__(
        self,
        application: Application,
        store: ChannelStore,
        bodies: Bodies,
        epochs: EpochBook,
        key_of: Callable[[str], bytes | None],
        threads: Threads,
        writing: asyncio.Lock,
        done: Callable[[Executed | AdoptionFailed | SnapshotAdopted | SnapshotFailed], None],
        committed: Callable[[Header, Sequence[Transaction], Sequence[Transaction], FinalizedBlock], None],
        replaced: Callable[[Header, SnapshotManifest], None],
        metrics: ChannelMetrics,
    ) -> None:
        self._application = application
        self._store = store
        self._bodies = bodies
        self._epochs = epochs
        self._key_of = key_of
        self._threads = threads
        self._writing = writing
        self._done = done
        self._committed = committed
        self._replaced = replaced
        self._metrics = metrics
        self.staging = Staging(store, threads, writing)
        self._queue: asyncio.Queue[Execute | Adopt | AdoptSnapshot] = asyncio.Queue()
        self._instead: Adopt | AdoptSnapshot | None = None

    def put(self, effect: Work) -> None:
        """Queue a block or a part of a snapshot.

        A certified block takes the place of a batch that waits for its transactions; a whole snapshot that of everything that waits.
        """
        if isinstance(effect, StageSnapshot | StageChunk):
            self.staging.put(effect)
            return
        if isinstance(effect, Adopt) and effect.sequence <= self._height:
            return  # the answer for this height is on its way; the batch that waits is a later one
        if isinstance(effect, AdoptSnapshot):
            self._drain()
        if not isinstance(effect, Execute) and self._bodies.is_waiting:
            self._instead = effect
            self._bodies.give_up()
        else:
            self._queue.put_nowait(effect)

    def _drain(self) -> list[Execute | Adopt | AdoptSnapshot]:
        """Give up what waits, and return it."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]

    async def run(self) -> None:
        """Execute until cancelled.

        Raises:
            InvariantViolation: out of order, or another result than the certified one.
            StoreError: the disk refused the block.
        """
        while True:
            effect: Execute | Adopt | AdoptSnapshot | None = await self._queue.get()
            if isinstance(effect, Execute):
                await self._execute(effect.sequence, effect.batch)
                effect, self._instead = self._instead, None
            if isinstance(effect, Adopt) and effect.sequence > self._height:
                await self._adopt(effect.sequence, effect.block)
            elif isinstance(effect, AdoptSnapshot):
                await self._adopt_snapshot(effect.height, effect.manifest)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *arguments))

    @property
    def _height(self) -> int:
        head = self._store.head()
        return head.height if head is not None else 0

    def _head(self, sequence: int) -> Header:
        head = self._store.head()
        if head is None or sequence != head.height + 1:
            raise InvariantViolation(f"block {sequence} is to be executed on block {None if head is None else head.height}")
        return head

    async def _execute(self, sequence: int, batch: bytes) -> None:
        proposer = "" if batch == NULL_BATCH else self._epochs.proposer(sequence, decode_batch(batch).proposer)
        named = await self._bodies.transactions_of(batch, proposer)
        if named is None:
            if self._instead is None:
                raise InvariantViolation(f"block {sequence} was given up without another in its place")
            return
        head = self._head(sequence)
        block, finalized = self._finalize(head, batch, named)
        await self._write(block, finalized, [named[position] for position in finalized.included], named)

    def _finalize(self, head: Header, batch: bytes, named: Sequence[Transaction]) -> tuple[Block, FinalizedBlock]:
        with self._metrics.block_execution.time():
            return make_block(self._application, head, batch, named, self._epochs.all)

    async def _adopt(self, sequence: int, certified: CertifiedBlock) -> None:
        head = self._head(sequence)
        try:
            block = decode_block(certified.block)
            transactions = [decode_transaction(raw) for raw in block.transactions]
        except DecodeError as error:
            self._refuse(sequence, str(error))
            return
        reason = objection(head, block, transactions, certified, self._key_of)
        if reason is None and not await self._all_signed(transactions):
            reason = "a transaction has a bad signature"
        if reason is not None:
            self._refuse(sequence, reason)
            return
        own, finalized = self._finalize(head, block.batch, transactions)
        if own.header != block.header:
            raise InvariantViolation(f"block {sequence}: own result {own.header} differs from the certified {block.header}")
        await self._write(block, finalized, transactions, transactions)

    def _refuse(self, sequence: int, reason: str) -> None:
        """Say that a peer's block is bad. What is queued behind it is given up, but for a snapshot: the replica hands out blocks again."""
        kept = [effect for effect in self._drain() if isinstance(effect, AdoptSnapshot)]
        for effect in kept:
            self._queue.put_nowait(effect)
        self._done(AdoptionFailed(sequence, reason))

    async def _write(self, block: Block, finalized: FinalizedBlock, included: Sequence[Transaction], named: Sequence[Transaction]) -> None:
        spent = [transaction.id for transaction in named]
        if len(included) < len(named):
            taken = {transaction.id for transaction in included}
            self._bodies.void(block.header.height, [one for one in named if one.id not in taken])
        async with self._writing:
            with self._metrics.block_store.time():
                await self._in_thread(lambda: self._store.append(block, finalized, spent, publish=False))
        self._store.state.publish(finalized.writes)
        self._application.commit()
        self._epochs.announce(finalized.announced)
        self._committed(block.header, included, named, finalized)
        self._done(Executed(block.header.height, block.header.hash, finalized.announced))

    async def _all_signed(self, transactions: Sequence[Transaction]) -> bool:
        """Check the signatures of a peer's block, on all threads."""
        portions = [transactions[first : first + PORTION] for first in range(0, len(transactions), PORTION)]
        return all(await asyncio.gather(*(self._in_thread(_are_signed, portion) for portion in portions)))

    def _tell_what_goes(self) -> None:
        """Say so if own blocks make way that no certificate was ever seen of: nobody can tell any more whether the others have the same."""
        certificate, head = self._store.last_certificate(), self._store.head()
        certified = certificate.height if certificate is not None else 0
        if head is not None and head.height > certified:
            text = "a snapshot takes the place of blocks that were never certified here: compare the last one with another node's"
            log.warning(text, first=certified + 1, last=head.height, hash=head.hash.hex())

    async def _adopt_snapshot(self, height: int, manifest: SnapshotManifest) -> None:
        """Make what was staged the state, if it is the certified one; from here on the store begins at its height."""
        await self.staging.finished()
        header = decode_header(manifest.header)
        if height <= self._height:
            self._done(SnapshotFailed(height, f"block {self._height} is here already"))
            return
        self._tell_what_goes()
        self._store.put_epoch_changes(manifest.epochs)
        async with self._writing:
            tree = await self._in_thread(lambda: self._store.adopt_snapshot(header, manifest.certificate, publish=False))
        self._store.state.publish(())
        self._application.restore(tree)
        self._epochs.reset(self._application.epochs())
        self._replaced(header, manifest)
        self._done(SnapshotAdopted(height, self._epochs.all))


def _are_signed(transactions: Sequence[Transaction]) -> bool:
    return all(signature_is_valid(transaction) for transaction in transactions)
