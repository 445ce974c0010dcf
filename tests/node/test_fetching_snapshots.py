"""Whoever is so far behind that the others have no blocks for him any more takes their snapshot over the links, and goes on from there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.genesis import ConsensusRules
from node.audit import audit
from node.snapshots import SNAPSHOTS_FOLDER, SnapshotShelf, stored_snapshots
from tests.node.changing_cluster import WINDOW, ChangingCluster, Statuses, of

ONE_EACH = ConsensusRules(window=WINDOW, view_timeout_ms=1_000, max_batch_transactions=1)
"""Every transfer makes a block of its own."""
BLOCKS = 70
"""Enough that blocks were pruned."""


def forgetful(home: Path) -> ChangingCluster:
    return ChangingCluster(home, snapshot_every=16, retain=16, rules=ONE_EACH)


def shelved(cluster: ChangingCluster, *indices: int) -> Callable[[Statuses], bool]:
    """Whether these nodes forgot blocks, and show the same newest snapshot."""

    def holds(statuses: Statuses) -> bool:
        newest = {
            max((one.height for one in stored_snapshots(cluster.channel_folder(index) / SNAPSHOTS_FOLDER)), default=0) for index in indices
        }
        return len(newest) == 1 and all(of(statuses, index).get("first_height", 1) > 1 for index in indices)

    return holds


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Cut states into many chunks, and note which node serves which. The first one takes its time, so that the offers of others come."""
    found: list[tuple[str, int]] = []
    serve, several = SnapshotShelf.chunk, threading.Event()

    def chunk(self: SnapshotShelf, height: int, index: int) -> bytes | None:
        found.append((self.folder.parents[2].name, index))
        if len({node for node, _ in found}) > 1:
            several.set()
        several.wait(0.5)
        return serve(self, height, index)

    monkeypatch.setattr(SnapshotShelf, "chunk", chunk)
    monkeypatch.setattr("consensus.snapshot.TARGET_CHUNK_BYTES", 128)
    return found


async def test_a_wiped_validator_takes_a_snapshot_from_several_peers_and_votes_again(tmp_path: Path, served: list[tuple[str, int]]) -> None:
    async with forgetful(tmp_path / "home") as cluster, cluster.client(0, 1) as client:
        await cluster.pay(client, 1, BLOCKS)
        await cluster.until(shelved(cluster, 0, 1, 2, 3))
        await cluster.stop(3)
        cluster.wipe(3)
        assert not served
        cluster.start(3)
        await cluster.until(lambda statuses: len(statuses) == 4 and of(statuses, 3)["voting"])
        await cluster.stop(2)
        await cluster.pay(client, BLOCKS + 1, 2)
        await cluster.level(3)
        async with cluster.client(3) as late:
            bob = await late.proven_account("bob")
            assert bob is not None and bob.account.balance_micro == 1_000_000_000 + 1_000 * (BLOCKS + 2)
        chunks = [index for _, index in served]
        assert len({node for node, _ in served}) >= 2
        assert sorted(set(chunks)) == list(range(len(set(chunks)))) and len(set(chunks)) >= 8
    report = audit(cluster.channel_folder(3), cluster.genesis)
    assert report.ok, report.faults
    assert report.base > 0


async def test_a_validator_that_was_away_across_epochs_takes_a_snapshot_and_keeps_its_seat(tmp_path: Path) -> None:
    async with forgetful(tmp_path / "home") as cluster, cluster.client(0, 1) as client:
        await cluster.pay(client, 1, 2)
        await cluster.level(4)
        await cluster.stop(3)
        index, key = cluster.make_node()
        cluster.start(index)
        await cluster.vote("add", index, key)
        await cluster.pay(client, 3, BLOCKS)
        await cluster.until(shelved(cluster, 0, 1, 2, index))
        cluster.start(3)
        await cluster.until(lambda statuses: of(statuses, 3).get("epoch") == 1 and of(statuses, 3)["voting"])
        await cluster.stop(2)
        await cluster.pay(client, BLOCKS + 3, 2)
        await cluster.level(4)
        assert (await cluster.status(3))["first_height"] > WINDOW
    report = audit(cluster.channel_folder(3), cluster.genesis)
    assert report.ok, report.faults


async def test_old_blocks_go_and_what_is_needed_stays_across_restarts(tmp_path: Path) -> None:
    async with forgetful(tmp_path / "home") as cluster, cluster.client(0, 1) as client:
        first = cluster.transfer(1)
        await client.submit(first)
        await cluster.pay(client, 2, 2 * BLOCKS)
        statuses = await cluster.until(lambda statuses: len(statuses) == 4 and all(one["first_height"] > 100 for one in statuses))
        for one in statuses:
            assert one["height"] - one["first_height"] < 16 + 64 + WINDOW
        gone = await cluster.get(0, "/v1/blocks/3")
        assert (gone["error"], gone["first_height"]) == ("PRUNED", of(statuses, 0)["first_height"])
        assert (await cluster.get(0, f"/v1/blocks/{gone['first_height']}"))["certified"]
        again = await client.submit_many([first])
        assert again[0].code == "NONCE_SPENT"
        for index in range(4):
            await cluster.stop(index)
        for index in range(4):
            assert 1 <= len(stored_snapshots(cluster.channel_folder(index) / SNAPSHOTS_FOLDER)) <= 2
            report = audit(cluster.channel_folder(index), cluster.genesis)
            assert report.ok, report.faults
            assert report.blocks < 16 + 64 + 2 * WINDOW
            assert report.replayed_from is not None and report.replayed_from - report.base < 16
            cluster.start(index)
        await cluster.pay(client, 2 * BLOCKS + 2, 2)
        await cluster.level(4)
