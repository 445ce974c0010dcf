"""A batch that got its transactions in the very moment in which a snapshot took its place, and staging beside a batch that waits."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from consensus.block import Batch, CertifiedBlock
from consensus.codec import encode
from consensus.effects import Adopt, AdoptSnapshot, Execute, Executed, LogRecord, SnapshotAdopted, SnapshotFailed, StageChunk, StageSnapshot
from consensus.errors import InvariantViolation
from consensus.mempool import Mempool
from consensus.snapshot import Chunk, SnapshotManifest
from consensus.transaction import decode_transaction
from node.block_reader import CERTIFICATE_PREFIX, HEIGHT
from node.bodies import Bodies
from node.executor import Executor
from node.metrics import NodeMetrics
from node.replica_host import ReplicaHost
from node.staging import MAX_WAITING, Staging
from tests.node.chain_support import LocalChannel


async def test_a_block_that_comes_instead_of_a_waiting_batch_is_adopted_whatever_happened_before(tmp_path: Path) -> None:
    """``_is_overtaken`` stays set if the batch is executed after all; the next block that comes instead of a batch is dropped, in silence.

    The replica waits for its answer for ever: nothing executes, and ``adopting`` keeps everything else out until the node is restarted.
    """
    other, own = LocalChannel(tmp_path / "other"), LocalChannel(tmp_path / "own")
    first, second = (decode_transaction(other.transfer(1, nonce=number)) for number in (1, 2))
    for one in (first, second):
        other.execute([one])
    batches = [encode(Batch(0, height % 4, other.clock.now_ms(), (one.id,))) for height, one in ((1, first), (2, second))]
    block = other.store.encoded_block(2)
    certificate = other.store.certificate(2)
    assert block is not None
    assert certificate is not None

    async with Running(own) as running:
        executor, bodies, mempool, answers = running.executor, running.bodies, running.mempool, running.answers
        executor.put(Execute(1, batches[0]))
        await asyncio.sleep(0.01)
        assert bodies.is_waiting
        mempool.add(first, 0)
        bodies.arrived([first.id])  # intake, in the same turn of the event loop in which
        header = other.store.header(1)
        manifest = SnapshotManifest(encode(header), certificate, 0, (), ())
        executor.put(AdoptSnapshot(1, manifest))  # the replica has its last chunk
        found = [await asyncio.wait_for(answers.get(), 5) for _ in range(2)]
        assert [type(one) for one in found] == [Executed, SnapshotFailed]

        executor.put(Execute(2, batches[1]))
        await asyncio.sleep(0.01)
        assert bodies.is_waiting
        executor.put(Adopt(2, CertifiedBlock(block, certificate)))
        answer = await asyncio.wait_for(answers.get(), 5)
        assert isinstance(answer, Executed)
    own.close()
    other.close()


async def test_a_block_that_comes_too_late_does_not_end_the_wait_of_the_batch_after_it(tmp_path: Path) -> None:
    """The replica asked for it before it learnt that its own batch of this height was executed. The next one must not be given up."""
    other, own = LocalChannel(tmp_path / "other"), LocalChannel(tmp_path / "own")
    first, second = (decode_transaction(other.transfer(1, nonce=number)) for number in (1, 2))
    other.execute([first])
    late, certificate = other.store.encoded_block(1), other.store.certificate(1)
    assert late is not None and certificate is not None
    async with Running(own) as running:
        executor, bodies, mempool, answers = running.executor, running.bodies, running.mempool, running.answers
        mempool.add(first, 0)
        for height, one in ((1, first), (2, second)):
            executor.put(Execute(height, encode(Batch(0, height % 4, own.clock.now_ms(), (one.id,)))))
        assert isinstance(await asyncio.wait_for(answers.get(), 5), Executed)
        await asyncio.sleep(0.01)
        assert bodies.is_waiting
        executor.put(Adopt(1, CertifiedBlock(late, certificate)))
        await asyncio.sleep(0.01)
        assert bodies.is_waiting
        mempool.add(second, 0)
        bodies.arrived([second.id])
        answer = await asyncio.wait_for(answers.get(), 5)
        assert isinstance(answer, Executed) and answer.sequence == 2
    own.close()
    other.close()


async def test_parts_of_a_snapshot_do_not_wait_for_a_batch_that_waits(tmp_path: Path) -> None:
    own = LocalChannel(tmp_path)
    missing = decode_transaction(own.transfer(1, nonce=1))
    async with Running(own) as running:
        running.executor.put(Execute(1, encode(Batch(0, 1, own.clock.now_ms(), (missing.id,)))))
        await asyncio.sleep(0.01)
        running.executor.put(StageSnapshot(9))
        running.executor.put(StageChunk(9, Chunk(((b"old", b"1"),))))
        running.executor.put(StageSnapshot(10))
        running.executor.put(StageChunk(10, Chunk(((b"key", b"value"),))))
        await asyncio.wait_for(running.executor.staging.finished(), 5)
        assert running.bodies.is_waiting
        assert list(own.store.state.staged()) == [(b"key", b"value")]
    own.close()


def test_a_vote_for_a_height_that_a_snapshot_covers_needs_no_transactions_any_more(tmp_path: Path) -> None:
    """The answer to a proposal was under way when a snapshot took its place; one above the head must have its transactions."""
    own = LocalChannel(tmp_path)
    own.execute([])
    bodies = Bodies("node0", Mempool(), own.store, own.clock, lambda peer, ids: None)
    for sequence in (1, 2, 3):
        bodies.keep(sequence, bytes([sequence]) * 32, ())
    bodies.certified(2, ())
    host = SimpleNamespace(_store=own.store, _bodies=bodies)
    records = [LogRecord(sequence, 0, 0, 2, b"vote", bytes([sequence]) * 32) for sequence in (1, 2, 3)]
    assert ReplicaHost.bodies_of(host, [records[0], records[2]]) == [(3, bytes([3]) * 32, ())]  # type: ignore[arg-type]
    with pytest.raises(InvariantViolation, match="at 2 were given up"):
        ReplicaHost.bodies_of(host, records)  # type: ignore[arg-type]
    own.close()


async def test_blocks_that_were_never_certified_do_not_make_way_for_a_snapshot_in_silence(tmp_path: Path) -> None:
    """Nobody can tell any more whether the others have the same ones: a broken disk would go unnoticed."""
    other, own = LocalChannel(tmp_path / "other"), LocalChannel(tmp_path / "own")
    for _ in range(3):
        other.execute([])
    own.execute([])
    mine = own.store.head()
    assert mine is not None
    own.store._database.write([(CERTIFICATE_PREFIX + HEIGHT.pack(1), None)], sync=True)
    head, certificate = other.store.head(), other.store.certificate(3)
    assert head is not None and certificate is not None
    async with Running(own) as running:
        with capture_logs() as logs:
            running.executor.put(StageSnapshot(3))
            running.executor.put(StageChunk(3, Chunk(tuple(other.store.entries()))))
            running.executor.put(AdoptSnapshot(3, SnapshotManifest(encode(head), certificate, 0, (), ())))
            assert isinstance(await asyncio.wait_for(running.answers.get(), 5), SnapshotAdopted)
    (told,) = [one for one in logs if "never certified" in one["event"]]
    assert (told["first"], told["last"], told["hash"]) == (1, 1, mine.hash.hex())
    own.close()
    other.close()


async def test_links_read_no_further_parts_while_too_many_wait_for_the_disk(tmp_path: Path) -> None:
    own = LocalChannel(tmp_path)
    writing, threads = asyncio.Lock(), ThreadPoolExecutor(1)
    staging = Staging(own.store, threads, writing)
    running = asyncio.create_task(staging.run())
    async with writing:
        staging.put(StageSnapshot(9))
        for number in range(MAX_WAITING + 1):
            staging.put(StageChunk(9, Chunk(((b"%d" % number, b""),))))
        room = asyncio.create_task(staging.room())
        await asyncio.sleep(0.01)
        assert not room.done()
    await asyncio.wait_for(room, 5)
    await asyncio.wait_for(staging.finished(), 5)
    assert len(list(own.store.state.staged())) == MAX_WAITING + 1
    running.cancel()
    await asyncio.wait([running])
    threads.shutdown()
    own.close()


class Running:
    """An executor at work, and what it stands between."""

    def __init__(self, own: LocalChannel) -> None:
        self.mempool, self.answers, self._threads = Mempool(), asyncio.Queue[object](), ThreadPoolExecutor(2)
        self.bodies = Bodies("node0", self.mempool, own.store, own.clock, lambda peer, ids: None)
        self.executor = Executor(
            own.application, own.store, self.bodies, own.epochs, own.application.sender_key, self._threads, asyncio.Lock(),
            self.answers.put_nowait, lambda *_: None, lambda *_: None, NodeMetrics().channel("main"),
        )  # fmt: skip

    async def __aenter__(self) -> Running:
        self._tasks = [asyncio.create_task(self.executor.run()), asyncio.create_task(self.executor.staging.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._threads.shutdown()
