"""Review: a batch that got its transactions in the very moment in which a snapshot took its place."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from consensus.block import Batch, CertifiedBlock
from consensus.codec import encode
from consensus.effects import Adopt, AdoptSnapshot, Execute, Executed, SnapshotFailed
from consensus.mempool import Mempool
from consensus.snapshot import SnapshotManifest
from consensus.transaction import decode_transaction
from node.bodies import Bodies
from node.executor import Executor
from node.metrics import NodeMetrics
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

    mempool, answers, threads = Mempool(), asyncio.Queue[object](), ThreadPoolExecutor(2)
    bodies = Bodies("node0", mempool, own.store, own.clock, lambda peer, ids: None)  # type: ignore[arg-type]
    executor = Executor(
        own.application, own.store, bodies, own.epochs, own.application.sender_key, threads, asyncio.Lock(), answers.put_nowait,
        lambda *_: None, lambda *_: None, NodeMetrics().channel("main"),
    )  # fmt: skip
    running = asyncio.create_task(executor.run())
    try:
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
    finally:
        running.cancel()
        await asyncio.wait([running])
        threads.shutdown()
        own.close()
        other.close()
