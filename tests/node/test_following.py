"""A node without a vote: it has all that the validators have, takes transactions for them, and needs none of them to answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

from consensus.transaction import decode_transaction
from node.audit import audit
from node.vote_log import VoteLog
from tests.node.changing_cluster import ChangingCluster, Statuses


def levelled(count: int) -> object:
    def holds(statuses: Statuses) -> bool:
        return len(statuses) == count and len({(one["certified"], one["head_hash"]) for one in statuses}) == 1

    return holds


async def test_a_follower_has_everything_forwards_transactions_and_never_votes(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0) as validator:
        await cluster.pay(validator, 1, 3)
        follower, key = cluster.make_node(follows=True)
        assert key == b""
        cluster.start(follower)
        await cluster.level(5)
        async with cluster.client(follower) as client:
            await cluster.pay(client, 4, 5)
            proven = await client.proven_account("bob")
            assert proven.account is not None and proven.account.balance_micro == 1_000_000_000 + 8_000
            status = await cluster.status(follower)
            assert (status["voting"], status["index"]) == (False, None)
            await cluster.stop(follower)
            await cluster.pay(validator, 9, 3)
            cluster.start(follower)
            await cluster.level(5)
            await cluster.pay(client, 12, 2)
        seen = {peer["name"]: peer for peer in (await cluster.status(0))["peers"]}
        assert seen[f"node-{follower}"]["guest"]
        for status in await cluster.level(5):
            assert f"node-{follower}" not in status["members"]
    votes = VoteLog.open(cluster.channel_folder(follower) / "votes")
    assert votes.records() == [] and list(votes.bodies()) == []
    votes.close()
    report = audit(cluster.channel_folder(follower), cluster.genesis)
    assert report.ok, report.faults


async def test_a_follower_answers_when_every_validator_is_gone_and_keeps_what_it_takes_in_for_them(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0) as validator:
        follower, _ = cluster.make_node(follows=True)
        cluster.start(follower)
        await cluster.pay(validator, 1, 3)
        await cluster.level(5)
        for index in range(4):
            await cluster.stop(index)
        async with cluster.client(follower) as client:
            for _ in range(2):
                bob = (await client.proven_account("bob")).account
                assert bob is not None and bob.balance_micro == 1_000_000_000 + 3_000
                height = (await client.status()).certified
                assert (await cluster.get(follower, f"/v1/blocks/{height}"))["certified"]
                await cluster.stop(follower)
                cluster.start(follower)
                await cluster.until(lambda statuses: len(statuses) == 1)
            raw = cluster.transfer(4)
            await client.submit(raw)
            await cluster.stop(follower)
            for index in (3, 1, follower, 2):
                cluster.start(index)
            done = await client.wait_receipt(decode_transaction(raw).id, 30)
            assert done.receipt.code == "OK"


async def test_a_follower_follows_the_validators_from_epoch_to_epoch(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(1) as validator:
        follower, _ = cluster.make_node(follows=True)
        cluster.start(follower)
        fifth, key = cluster.make_node()
        cluster.start(fifth)
        await asyncio.gather(cluster.vote("add", fifth, key), cluster.pay(validator, 1, 10))
        await cluster.vote("remove", 0)
        await cluster.stop(0)
        async with cluster.client(follower) as client:
            await cluster.pay(client, 11, 3)
            await cluster.until(levelled(5))
            status = await cluster.status(follower)
            assert (status["epoch"], status["members"]) == (2, ["node-1", "node-2", "node-3", f"node-{fifth}"])
            assert [one.epoch for one in await client.epochs.update()] == [0, 1, 2]
