"""Snapshots whose manifest carries the proofs of very many epochs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consensus.codec import encode
from consensus.errors import InputError
from consensus.messages import MAX_MESSAGE_BYTES, SnapshotMessage
from consensus.snapshot import MAX_MANIFEST_BYTES, decode_manifest
from node.snapshots import SnapshotShelf
from node.upkeep import Upkeep
from tests.node.chain_support import LocalChannel


def test_a_snapshot_on_the_shelf_can_be_served_however_many_epochs_there_were(tmp_path: Path) -> None:
    """One that others would not take is never on the shelf: the blocks below it would be pruned, and nobody could join any more."""
    channel = LocalChannel(tmp_path / "chain")
    channel.execute([])
    channel.decide("add", "node4")
    channel.enter_latest_epoch()
    (change,) = channel.epoch_changes()
    channel.execute([])
    header, certificate = channel.head, channel.store.certificate(channel.head.height)
    assert certificate is not None
    shelf = SnapshotShelf(tmp_path / "shelf")
    state = channel.store.state.pinned()
    most = MAX_MANIFEST_BYTES // (len(change) + 3)
    with pytest.raises(InputError, match=f"proofs of {most + 1} epochs"):
        shelf.make(state, header, certificate, (change,) * (most + 1), share_percent=100)
    assert (shelf.newest_height, list(shelf.folder.iterdir())) == (0, [])
    assert shelf.make(state, header, certificate, (change,) * (most - 20), share_percent=100)
    served = shelf.manifest()
    assert served is not None
    assert len(encode(SnapshotMessage(served))) <= MAX_MESSAGE_BYTES
    assert len(decode_manifest(served).epochs) == most - 20 > 8_000
    shelf.close()
    channel.close()


async def test_a_node_that_can_make_no_snapshot_goes_on_and_prunes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.snapshots.MAX_MANIFEST_BYTES", 10)
    monkeypatch.setattr("node.upkeep.PRUNE_EVERY", 4)
    channel = LocalChannel(tmp_path / "chain")
    shelf, threads = SnapshotShelf(tmp_path / "shelf"), ThreadPoolExecutor(1)
    disk: Any = SimpleNamespace(store=channel.store, shelf=shelf, retain_blocks=2, snapshot_every=4)
    pruned: list[int] = []
    upkeep = Upkeep(disk, 2, lambda: (), pruned.append, threads, asyncio.Lock())
    running = asyncio.create_task(upkeep.run())
    for _ in range(12):
        channel.execute([])
        height = channel.head.height
        upkeep.executed(height)
        upkeep.certified(height)
    await asyncio.wait_for(upkeep.finished(), 5)
    assert not running.done()
    assert (shelf.newest_height, pruned, channel.store.first_height) == (0, [], 1)
    running.cancel()
    await asyncio.wait([running])
    threads.shutdown()
    shelf.close()
    channel.close()
