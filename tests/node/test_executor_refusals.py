"""A bad block that is refused while the last chunk of a snapshot comes in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from consensus.block import CertifiedBlock, decode_block
from consensus.codec import encode
from consensus.effects import Adopt, AdoptionFailed, AdoptSnapshot, SnapshotAdopted, StageChunk, StageSnapshot
from consensus.snapshot import Chunk, SnapshotManifest
from consensus.transaction import decode_transaction
from tests.node.chain_support import LocalChannel
from tests.node.test_executor_overtaken import Running


async def test_a_refused_block_does_not_drop_the_snapshot_that_is_to_be_adopted(tmp_path: Path) -> None:
    other, own = LocalChannel(tmp_path / "other"), LocalChannel(tmp_path / "own")
    other.execute([decode_transaction(other.transfer(1, nonce=1))])
    for _ in range(2):
        other.execute([])
    raw, certificate = other.store.encoded_block(1), other.store.certificate(1)
    assert raw is not None and certificate is not None
    block = decode_block(raw)
    envelope = decode_transaction(block.transactions[0]).envelope
    forged = encode(msgspec.structs.replace(envelope, signature=bytes(64)))
    assert decode_transaction(forged).id == decode_transaction(block.transactions[0]).id
    bad = encode(msgspec.structs.replace(block, transactions=(forged,)))
    head, proof = other.store.head(), other.store.certificate(3)
    assert head is not None and proof is not None
    async with Running(own) as running:
        running.executor.put(StageSnapshot(3))
        running.executor.put(StageChunk(3, Chunk(tuple(other.store.entries()))))
        running.executor.put(Adopt(1, CertifiedBlock(bad, certificate)))
        await asyncio.sleep(0)  # its signatures are being checked in a thread
        await asyncio.sleep(0)
        running.executor.put(AdoptSnapshot(3, SnapshotManifest(encode(head), proof, 0, (), ())))
        assert isinstance(await asyncio.wait_for(running.answers.get(), 5), AdoptionFailed)
        assert isinstance(await asyncio.wait_for(running.answers.get(), 5), SnapshotAdopted)
    own.close()
    other.close()
