"""Nodes that stop at the worst moment, where one set of validators hands over to the next, and whole clusters that start again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from consensus.block import Certificate
from node.audit import audit
from node.block_store import ChannelStore
from node.leveldb_files import copy_database
from node.vote_log import VOTES_FOLDER
from tests.node.changing_cluster import ChangingCluster
from tests.node.in_place import leave_in_place

POINTS = ("uncertified", "certified", "entered")
"""The last block of the epoch has no certificate yet; it has one, and the proof of the next set is not stored; both are."""


@pytest.fixture
def cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the disk of every node, as a crash would leave it, at each of the three points. The event loop stands still meanwhile."""
    put_certificate, put_epoch_changes = ChannelStore.put_certificate, ChannelStore.put_epoch_changes
    cuts = tmp_path / "cuts"

    def cut(store: ChannelStore, point: str) -> None:
        channel = store.path.parent
        target = cuts / point / channel.parents[1].name
        if not target.exists():
            for name in ("votes", "blocks"):
                copy_database(channel / name, target / name)

    def putting(self: ChannelStore, certificate: Certificate, *, sync: bool = False) -> None:
        if sync:
            cut(self, "uncertified")
        put_certificate(self, certificate, sync=sync)
        if sync:
            cut(self, "certified")

    def proving(self: ChannelStore, changes: Sequence[bytes]) -> None:
        put_epoch_changes(self, changes)
        cut(self, "entered")

    monkeypatch.setattr(ChannelStore, "put_certificate", putting)
    monkeypatch.setattr(ChannelStore, "put_epoch_changes", proving)
    return cuts


def restore(cluster: ChangingCluster, cuts: Path, points: Sequence[str]) -> None:
    """Give every node the disk that it had at its point."""
    for index, point in enumerate(points):
        cluster.wipe(index)
        shutil.copytree(cuts / point / f"node-{index}", cluster.channel_folder(index))
        leave_in_place(cluster.channel_folder(index) / VOTES_FOLDER)


async def test_a_crash_of_all_nodes_at_the_end_of_an_epoch_loses_nothing(tmp_path: Path, cuts: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster:
        async with cluster.client() as client:
            await cluster.pay(client, 1, 3)
            await cluster.vote("replace", 3, cluster.make_next_key(3))
            await cluster.level(4)
        mixed = [POINTS[index % 3] for index in range(4)]
        for points in (*([point] * 4 for point in POINTS), mixed):
            for index in range(4):
                await cluster.stop(index)
            restore(cluster, cuts, points)
            for index in range(4):
                cluster.start(index)
            async with cluster.client() as client:
                await cluster.pay(client, 4, 2)
                statuses = await cluster.level(4)
                assert all(one["epoch"] == 1 and one["voting"] for one in statuses), points
                bob = await client.proven_account("bob")
                assert bob is not None and bob.account.balance_micro == 1_000_000_000 + 5_000
            for index in range(4):
                report = audit(cluster.channel_folder(index), cluster.genesis)
                assert report.ok, (points, report.faults)


async def test_everything_starts_again_in_any_order_after_several_epochs(tmp_path: Path) -> None:
    source = random.Random(7)
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client() as client:
        index, key = cluster.make_node()
        cluster.start(index)
        await cluster.vote("add", index, key)
        await cluster.vote("remove", 0)
        await cluster.pay(client, 1, 2)
        before = await cluster.level(5)
        for turn in range(3):
            order = source.sample(range(5), 5)
            for one in order:
                await cluster.stop(one)
            source.shuffle(order)
            for position, one in enumerate(order):
                cluster.start(one)
                if turn:
                    await cluster.until(lambda statuses, up=position + 1: len(statuses) == up)
            after = await cluster.level(5)
            if not turn:
                assert after[0]["head_hash"] == before[0]["head_hash"]
            assert all(status["epoch"] == 2 and status["voting"] == (status["node"] != "node-0") for status in after)
            await cluster.pay(client, 10 * turn + 10, 2)
