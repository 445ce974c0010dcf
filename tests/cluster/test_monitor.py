"""What `gridpact status` makes of nodes that answer: who votes, who follows, who is short of company."""

from __future__ import annotations

from pathlib import Path

from cluster.monitor import Monitor
from cluster.snapshot import NodeState
from cluster.topology import BrokerPlace, NodePlace, Topology
from tests.node.changing_cluster import ChangingCluster


def topology_of(cluster: ChangingCluster) -> Topology:
    """The topology of a cluster without meters."""
    nodes = [NodePlace(f"node-{index}", f"nodes/node-{index}", "127.0.0.1", 1, url, "fees-0") for index, url in enumerate(cluster.urls)]
    return Topology(
        version=1,
        chain_id="test-chain",
        channel="main",
        market="",
        data="",
        data_digest="",
        interpolated=False,
        offset_ms=0,
        start_ms=0,
        period_ms=3_600_000,
        speed=1.0,
        clock="real",
        nodes=tuple(nodes),
        broker=BrokerPlace("", False, {}),
        households=(),
        home=str(cluster.home),
    )


async def states_of(cluster: ChangingCluster) -> list[NodeState]:
    monitor = Monitor(topology_of(cluster), lambda _: False)
    try:
        return list((await monitor.snapshot(0)).nodes)
    finally:
        await monitor.close()


async def test_thresholds_and_names_come_from_the_present_epoch(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(1, 2) as client:
        fifth, key = cluster.make_node()
        cluster.start(fifth)
        follower, _ = cluster.make_node(follows=True)
        cluster.start(follower)
        await cluster.vote("add", fifth, key)
        await cluster.level(6)
        states = await states_of(cluster)
        assert [(one.state, one.voting, one.peers, one.others) for one in states] == [("healthy", True, 4, 4)] * 5 + [
            ("healthy", False, 5, 5)
        ]
        assert states[follower].reason == "has no vote in epoch 1"
        await cluster.vote("remove", 0)
        await cluster.pay(client, 1, 1)
        await cluster.level(6)
        states = await states_of(cluster)
        assert [one.voting for one in states] == [False, True, True, True, True, False]
        assert {one.primary for one in states} == {"node-1"}
        for index in (2, 3):
            await cluster.stop(index)
        states = await states_of(cluster)
        assert [one.state for one in states] == ["healthy", "no quorum", "stopped", "stopped", "no quorum", "healthy"]
        assert states[1].reason == "1 validators connected, 2 needed"
        for index in (1, fifth):
            await cluster.stop(index)
        states = await states_of(cluster)
        assert [(one.state, one.reason) for one in states if one.state != "stopped"] == [
            ("cut off", "0 validators connected, 1 needed")
        ] * 2
