"""What may be pruned, and readers while it is."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.transaction import decode_transaction
from node.pruning import prune_target
from node.snapshots import SnapshotShelf
from node.store_layout import CERTIFICATE_PREFIX, HEIGHT
from node.upkeep import Upkeep
from tests.node.chain_support import LocalChannel
from tests.node.snapshot_store import begun
from tests.node.test_store_blocks import certificate


@pytest.mark.parametrize(
    ("head", "certified", "retain", "snapshot", "window", "target"),
    [
        (1_000, 998, 0, 900, 64, 1),
        (1_000, 998, 100, 950, 64, 901),
        (1_000, 998, 100, 900, 64, 901),
        (1_000, 998, 100, 890, 64, 891),
        (1_000, 998, 100, 0, 64, 1),
        (1_000, 998, 10, 990, 64, 935),
        (1_000, 500, 100, 950, 64, 437),
        (1_000, 1_000, 1, 1_000, 4, 997),
        (10, 10, 100, 5, 64, 1),
        (0, 0, 1, 0, 4, 1),
    ],
)
def test_what_is_kept(head: int, certified: int, retain: int, snapshot: int, window: int, target: int) -> None:
    assert prune_target(head, certified, retain, snapshot, window) == target


heights = st.integers(0, 500)


@given(heights, heights, heights, heights, st.integers(4, 100))
def test_nothing_is_pruned_that_somebody_may_need(head: int, behind: int, retain: int, snapshot: int, window: int) -> None:
    certified = max(head - behind, 0)
    target = prune_target(head, certified, retain, min(snapshot, certified), window)
    assert target >= 1
    if target > 1:
        assert head - target + 1 >= retain > 0, "as many blocks as were asked for"
        assert target <= snapshot + 1, "whoever begins with the snapshot finds the block after it"
        assert certified - target + 1 >= window, "replicas that are a window behind find blocks"
        assert target - 1 <= certified, "the new base has a certificate"


def test_readers_meet_no_hole_while_blocks_go(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = begun(tmp_path_factory.mktemp("store"), 120)
    headers = [store.header(height) for height in range(121)]
    blocks = [store.encoded_block(height) for height in range(121)]
    ids = [store.transaction_ids(height) or () for height in range(121)]
    kept = (10, 60, 90)
    stop, wrong = threading.Event(), list[str]()

    def read() -> None:
        try:
            while not stop.is_set():
                for height in range(1, 121):
                    before = store.base
                    header, block, proof = store.header(height), store.encoded_block(height), store.certificate(height)
                    places = {store.locate(id_) for id_ in ids[height]}
                    after = store.base
                    if before == after:
                        whole, known = height > after, height >= after or height in kept
                        if (block, header) != (blocks[height] if whole else None, headers[height] if known else None):
                            wrong.append(f"{height}, base {after}: block or header")
                        if (proof is not None) != known or (None in places) == whole:
                            wrong.append(f"{height}, base {after}: certificate or index")
                    elif block not in (None, blocks[height]) or (height in kept and header is None):
                        wrong.append(f"{height}: between the bases {before} and {after}")
        except Exception as error:  # noqa: BLE001  whatever a reader meets is what this looks for
            wrong.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for keep_from in range(2, 121):
        store.prune(keep_from, [height for height in kept if height < keep_from])
        for _ in store.sweep():
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.header(60) == headers[60]
    assert headers[60] is not None
    assert store.certificate(60) == certificate(headers[60])
    assert all(decode_transaction(raw).id in ids[120] for raw in store.transactions(120) or ())
    store.close()


async def test_nothing_is_pruned_below_a_block_whose_certificate_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure takes certificates that were written without waiting; by then nobody else may have them any more."""
    monkeypatch.setattr("node.upkeep.PRUNE_EVERY", 4)
    channel = LocalChannel(tmp_path / "chain")
    shelf, threads = SnapshotShelf(tmp_path / "shelf"), ThreadPoolExecutor(1)
    disk: Any = SimpleNamespace(store=channel.store, shelf=shelf, retain_blocks=2, snapshot_every=4)
    pruned: list[int] = []
    upkeep = Upkeep(disk, 2, lambda: (), pruned.append, threads, asyncio.Lock())
    running = asyncio.create_task(upkeep.run())
    seen = []
    for height in range(1, 13):
        channel.execute([])
        if height == 7:
            lost = [(CERTIFICATE_PREFIX + HEIGHT.pack(one), None) for one in (5, 6)]
            channel.store._database.write(lost, sync=True)
        upkeep.executed(height)
        upkeep.certified(height)
        await asyncio.wait_for(upkeep.finished(), 5)
        assert not running.done()
        seen.append(channel.store.first_height)
    assert seen == [1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 11]
    assert pruned == [3, 11]
    running.cancel()
    await asyncio.wait([running])
    threads.shutdown()
    shelf.close()
    channel.close()
