"""A change of the validators under everybody's eyes: real nodes, a real broker, a client and meters that know genesis only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.broker import BrokerUser
from contracts.calls import Transfer, VoteOnValidators
from contracts.genesis import ConsensusRules, Meter
from meters.agent import AgentSettings, MeterAgent
from meters.dataset import Counters
from meters.link import BrokerLogin
from meters.outbox import Outbox
from meters.reading import MeterIdentity
from node.client import GridPactClient, Member
from node.keys import read_signer
from node.provisioning import VALIDATOR_KEY
from tests.meters.brokers import RealBroker, until
from tests.meters.chain import meter_key
from tests.node.running_cluster import RunningCluster, member

METERS = ("M1", "M2")
NODES = tuple(f"node-{number}" for number in range(4))
USERS = (*(BrokerUser(name, f"secret-{name}", "meter") for name in METERS), *(BrokerUser(name, "shared", "node") for name in NODES))
pytestmark = pytest.mark.asyncio


class IdleMeter:
    """Counts nothing, and knows it for any time."""

    knows_past = True

    def read(self, now_ms: int) -> Counters:
        return Counters(0, 0)


@asynccontextmanager
async def agent_of(cluster: RunningCluster, broker: RealBroker, name: str) -> AsyncIterator[MeterAgent]:
    outbox = Outbox(cluster.home / f"{name}.sqlite", f"test-chain/main/{name}")
    identity = MeterIdentity.of(cluster.genesis, name, meter_key(name))
    settings = AgentSettings(100, cluster.genesis.time_ms, retry_ms=1_000)
    login = BrokerLogin(broker.address, name, f"secret-{name}")
    agent = MeterAgent(identity, settings, IdleMeter(), outbox, login, lambda: int(time.time() * 1000))
    stop = asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    try:
        yield agent
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)
        outbox.close()


async def prove_one_more(agent: MeterAgent) -> None:
    """Take a reading; wait until it and all before are proven."""
    proven = agent.status.proven
    while not await agent.take_readings():  # noqa: ASYNC110 (no event tells of time)
        await asyncio.sleep(0.02)
    await until(lambda: agent.status.pending == 0, "everything is proven")
    assert agent.status.proven > proven


async def move_validator(cluster: RunningCluster, client: GridPactClient, epoch: int) -> None:
    """Let three validators vote for another address of the fourth, and the chain enter the epoch that follows."""
    for name in NODES[:3]:
        voter = Member(client, name, read_signer(cluster.home / "nodes" / name / VALIDATOR_KEY))
        voter._next_nonce = epoch + 1
        executed = await voter.execute(VoteOnValidators(epoch, "replace", NODES[3], host="127.0.0.1", port=40_000 + epoch), 30)
    assert "ValidatorsChanged" in [type(event).__name__ for event in executed.receipt.events]
    await cluster.until(lambda statuses: len(statuses) == 4 and all(status["epoch"] == epoch + 1 for status in statuses))


async def test_clients_and_meters_follow_real_nodes_across_epochs(tmp_path: Path) -> None:
    broker = RealBroker("amqtt", tmp_path / "broker", USERS)
    await broker.start()
    meters = [Meter(name, "alice", meter_key(name).public_key.hex(), 10_000) for name in METERS]
    rules = ConsensusRules(window=8)
    cluster = RunningCluster(tmp_path / "home", rules=rules, meters=meters, mqtt_url=f"mqtt://127.0.0.1:{broker.port}", password="shared")
    async with cluster, cluster.client() as client, agent_of(cluster, broker, "M1") as agent:
        alice = Member(client, "alice", member(3))
        assert (await alice.execute(Transfer("bob", 1))).header.epoch == 0
        await prove_one_more(agent)
        assert agent.status.epoch == 0
        for epoch in (0, 1):
            await move_validator(cluster, client, epoch)
            assert (await alice.execute(Transfer("bob", 1))).header.epoch == epoch + 1
            proven = await client.proven_account("bob")
            assert proven is not None
            assert proven.header.epoch == epoch + 1
            await prove_one_more(agent)
            assert agent.status.epoch == epoch + 1
        async with agent_of(cluster, broker, "M2") as late:
            await prove_one_more(late)
            assert late.status.epoch == 2
        for index in range(4):
            async with cluster.client(index) as newcomer:
                assert [one.epoch for one in await newcomer.epochs.update()] == [0, 1, 2]
        await cluster.stop(0)
        cluster.start(0)
        await cluster.until(lambda statuses: len(statuses) == 4)
        async with cluster.client(0) as newcomer:
            assert (await newcomer.epochs.update())[-1].epoch == 2
        assert (await alice.execute(Transfer("bob", 1))).header.epoch == 2
    await broker.stop()
