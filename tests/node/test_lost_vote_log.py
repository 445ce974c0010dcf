"""A validator that lost its disk has no vote until an epoch names its new vote log, and then it has one again."""

from __future__ import annotations

from pathlib import Path

from node.audit import audit
from node.vote_log import VoteLog
from tests.node.changing_cluster import ChangingCluster, Statuses, of


def renewed(index: int, epoch: int) -> object:
    """Whether all four nodes are in the epoch, and this one votes in it."""

    def holds(statuses: Statuses) -> bool:
        return len(statuses) == 4 and all(one["epoch"] == epoch for one in statuses) and of(statuses, index)["voting"]

    return holds


async def test_two_validators_and_a_wiped_one_decide_nothing(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0, 1) as client:
        await cluster.pay(client, 1, 3)
        await cluster.level(4)
        for index in (2, 3):
            await cluster.stop(index)
        cluster.wipe(3)
        cluster.start(3)
        await cluster.level(3)
        assert not (await cluster.status(3))["voting"]
        await client.submit(cluster.transfer(4))
        await cluster.until(lambda statuses: all(of(statuses, index)["in_flight"] for index in (0, 1)))
        await client.submit(cluster.transfer(5))

        def proposed(statuses: Statuses) -> bool:
            """All three have the transaction; the two have done with it what they can, and the proposal after it has been made."""
            known = len(statuses) == 3 and all(one["mempool"]["transactions"] > 1 for one in statuses)
            return known and all(len(of(statuses, index)["in_flight"]) > 1 for index in (0, 1))

        statuses = await cluster.until(proposed)
        assert len({one["certified"] for one in statuses}) == 1
        for one in statuses:
            assert (one["epoch"], one["voting"]) == (0, one["node"] != "node-3")
            assert "node-3" not in one["wants_view"]
            assert all(3 not in slot["prepared_by"] and not slot["committed_by"] for slot in one["in_flight"])
        cluster.start(2)
        await cluster.pay(client, 6, 2)
        await cluster.until(renewed(3, 1))
        await cluster.level(4)
        bob = await client.account("bob")
        assert bob is not None and bob.balance_micro == 1_000_000_000 + 7_000


async def test_a_disk_lost_twice_is_replaced_twice_and_every_vote_lies_in_the_epoch_of_its_log(tmp_path: Path) -> None:
    ids = []
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0, 2) as client:
        for epoch in (1, 2):
            await cluster.pay(client, 10 * epoch, 3)
            await cluster.level(4)
            await cluster.stop(3)
            cluster.wipe(3)
            cluster.start(3)
            await cluster.until(renewed(3, epoch))
            ids.append((await cluster.get(3, "/v1/validators"))["present"]["members"][3]["log"])
            await cluster.stop(1)
            await cluster.pay(client, 10 * epoch + 5, 2)
            cluster.start(1)
        await cluster.level(4)
    assert len(set(ids)) == 2 and "" not in ids
    votes = VoteLog.open(cluster.channel_folder(3) / "votes")
    assert votes.id.hex() == ids[1]
    records = votes.records()
    votes.close()
    assert all(record.epoch == 2 for record in records)
    assert records
    for index in range(4):
        report = audit(cluster.channel_folder(index), cluster.genesis)
        assert report.ok, report.faults
