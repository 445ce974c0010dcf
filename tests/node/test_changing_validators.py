"""Validators come, go and change their keys by vote while transfers go on; nothing that was taken in is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.voting import vote_log_of
from consensus.errors import InputError
from consensus.transaction import decode_transaction
from node.audit import audit
from node.client import GridPactClient
from node.config import read_config
from node.service import run_node
from tests.node.changing_cluster import ChangingCluster, Statuses, of

START_MICRO = 1_000_000_000


class Load:
    """Transfers of alice to bob, one after the other, each proven before the next."""

    def __init__(self, cluster: ChangingCluster, client: GridPactClient) -> None:
        self.cluster, self.client = cluster, client
        self.done = 0
        self._stop = False

    async def run(self) -> None:
        while not self._stop:
            raw = self.cluster.transfer(self.done + 1)
            await self.client.submit(raw)
            assert (await self.client.wait_receipt(decode_transaction(raw).id, 30)).receipt.code == "OK"
            self.done += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.run())
            try:
                yield self
            finally:
                self._stop = True


async def test_four_become_seven_and_four_others_again_under_load(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client() as client:
        async with Load(cluster, client).running() as load:
            index, key = cluster.make_node()
            cluster.start(index)
            await cluster.vote("add", index, key)
            index, key = cluster.make_node()
            await cluster.vote("add", index, key)
            cluster.start(index)
            index, key = cluster.make_node()
            cluster.start(index)
            decision = await cluster.vote("add", index, key, wait=False)
            assert (decision.epoch, decision.in_force) == (3, False)
            for epoch, gone in ((4, 0), (5, 1), (6, 2)):
                assert (await cluster.vote("remove", gone)).epoch == epoch
        assert load.done >= 6
        await cluster.level(7)
        for index in (0, 1, 2):
            assert not (await cluster.status(index))["voting"]
            await cluster.stop(index)
        async with cluster.client(3, 4, 5, 6) as later:
            await cluster.pay(later, load.done + 1, 3)
            statuses = await cluster.level(4)
            assert all(one["voting"] and one["members"] == ["node-3", "node-4", "node-5", "node-6"] for one in statuses)
            bob = await later.proven_account("bob")
            assert bob is not None and bob.account.balance_micro == START_MICRO + 1_000 * (load.done + 3)
    for index in range(7):
        report = audit(cluster.channel_folder(index), cluster.genesis)
        assert report.ok, (index, report.faults)


async def test_a_removed_validator_is_taken_back_with_its_old_vote_log(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0, 1) as client:
        fifth, key = cluster.make_node()
        cluster.start(fifth)
        await cluster.vote("add", fifth, key)
        await cluster.vote("remove", 3)
        await cluster.pay(client, 1, 3)
        old_key = bytes.fromhex(cluster.genesis.validators[3].public_key)
        await cluster.vote("add", 3, old_key)
        await cluster.until(lambda statuses: len(statuses) == 5 and of(statuses, 3)["voting"])
        await cluster.stop(2)
        await cluster.pay(client, 4, 3)
        await cluster.level(4)


async def test_a_key_is_rotated_without_a_pause_and_the_old_one_is_of_no_use_then(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0, 1) as client:
        await cluster.pay(client, 1, 2)
        await cluster.stop(2)
        key = cluster.make_next_key(2)
        cluster.start(2)
        await cluster.level(4)
        await cluster.vote("replace", 2, key)
        await cluster.until(lambda statuses: len(statuses) == 4 and all(one["epoch"] == 1 for one in statuses))
        await cluster.stop(3)
        await cluster.pay(client, 3, 2)
        assert (await cluster.status(2))["voting"]
        await cluster.stop(2)
        config = cluster.folder(2) / "node.toml"
        text = config.read_text().replace('validator_key = "validator.key"\n', "", 1)
        config.write_text(text.replace("next_validator_key", "validator_key"))
        (cluster.folder(2) / "validator.key").unlink()
        cluster.start(2)
        await cluster.pay(client, 5, 2)
        await cluster.level(3)
    for index in (0, 2):
        report = audit(cluster.channel_folder(index), cluster.genesis)
        assert report.ok, report.faults


async def test_a_node_without_a_key_may_follow_unless_it_is_a_validator(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(1, 2) as client:
        fifth, key = cluster.make_node()
        cluster.start(fifth)
        await cluster.vote("add", fifth, key)
        await cluster.vote("remove", 0)
        await cluster.level(5)
        for index in (0, fifth):
            await cluster.stop(index)
            config = cluster.folder(index) / "node.toml"
            config.write_text(config.read_text().replace('validator_key = "validator.key"\n', ""))
        with pytest.raises(InputError, match=r"validator_key: is missing, and node-4 is a validator"):
            await run_node(read_config(cluster.folder(fifth)), asyncio.Event())
        cluster.start(0)
        await cluster.pay(client, 1, 2)
        await cluster.level(4)
        assert not (await cluster.status(0))["voting"]


async def test_a_validator_whose_new_key_is_not_there_yet_follows_until_it_is(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0, 1) as client:
        key = cluster.make_next_key(3)
        await cluster.vote("replace", 3, key)

        def follows(statuses: Statuses) -> bool:
            return len(statuses) == 4 and all(one["epoch"] == 1 for one in statuses) and not of(statuses, 3)["voting"]

        await cluster.until(follows)
        await cluster.pay(client, 1, 2)
        await cluster.level(4)
        await cluster.stop(3)
        cluster.start(3)
        await cluster.until(lambda statuses: len(statuses) == 4 and of(statuses, 3)["voting"])
        await cluster.stop(2)
        await cluster.pay(client, 3, 2)
        await cluster.level(3)


async def test_a_node_that_lost_its_disk_before_it_was_added_votes_from_its_first_epoch_on(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster:
        index, _ = cluster.make_node()
        folder = cluster.folder(index)
        assert await vote_log_of(folder) == b"", "nobody has started it yet"
        cluster.start(index)
        await cluster.level(5)
        await cluster.stop(index)
        with pytest.raises(InputError, match=r"--log: is needed, or node-4 must run"):
            await vote_log_of(folder)
        cluster.wipe(index)
        cluster.start(index)
        await cluster.level(5)
        log = (await cluster.status(index))["vote_log"]
        assert log
        add = ["validator", "add", f"node-{index}", "--home", str(cluster.home), "--account", "fees-0"]
        assert await asyncio.to_thread(main, add) == 0
        await cluster.until(lambda statuses: len(statuses) == 5 and of(statuses, index)["voting"])
        present = (await cluster.get(0, "/v1/validators"))["present"]
        assert present["number"] == 1, "it needed no epoch more to renew its seat"
        assert [member["log"] for member in present["members"]] == ["", "", "", "", log]
