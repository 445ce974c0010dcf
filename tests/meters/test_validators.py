"""Meters follow changes of the validators over MQTT alone, over both real brokers, and believe only what is proven from genesis on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from cluster.broker import BrokerUser
from consensus.codec import encode
from consensus.light_client import LightClient
from contracts.topics import epochs_topic
from meters.agent import AgentSettings, MeterAgent
from meters.outbox import Outbox
from meters.validators import MAX_AHEAD, EpochWatch
from node.meter_feed import BrokerSettings, MeterFeed
from tests.meters.brokers import RealBroker, until
from tests.meters.chain import PERIOD_MS, START_MS, Chain, make_genesis, meter_key
from tests.meters.test_agent import USERS, Listener, Street, node, reading_of
from tests.node.test_meter_feed import Intake

ALL = (*USERS, BrokerUser("dc1", "other-secret", "node"))
NAMES = ("dc0", "dc1", "dc2", "dc3")
GENESIS = make_genesis(["M1"])
PATIENT = AgentSettings(PERIOD_MS, START_MS, retry_ms=600_000, max_retry_ms=600_000)
"""Publishes once only: what settles a reading is then what waited, not a later receipt."""


@pytest.fixture(params=["amqtt", "mosquitto"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RealBroker]:
    running = RealBroker(request.param, tmp_path / "broker", ALL)
    await running.start()
    yield running
    await running.stop()


@asynccontextmanager
async def feed_of(broker: RealBroker, user: BrokerUser = USERS[1]) -> AsyncIterator[MeterFeed]:
    feed = MeterFeed(
        channel="main", node=user.name, broker=BrokerSettings(broker.address, user.name, user.password), submit=Intake().submit
    )
    await feed.start()
    try:
        yield feed
    finally:
        await feed.stop()


def client_of(broker: RealBroker) -> aiomqtt.Client:
    return aiomqtt.Client(broker.address.host, broker.port, username="dc0", password="node-secret", identifier="liar")


def long_chain(epochs: int) -> Chain:
    chain = Chain(GENESIS)
    for number in range(epochs):
        chain.enter_epoch([*NAMES, *(f"new{one}" for one in range(number + 1))][-5:])
    return chain


async def taken(street: Street, agent: MeterAgent, seen: Listener, sequence: int) -> bytes:
    """Take the next reading; return its transaction once it is published."""
    street.now_ms = START_MS + (sequence - 1) * PERIOD_MS
    await agent.take_readings()
    await until(lambda: sequence in seen.sequences(), f"reading {sequence} published")
    return next(raw for raw in seen.raws if reading_of(raw).sequence == sequence)


@pytest.mark.asyncio
async def test_a_receipt_waits_for_the_proof_of_its_epoch(broker: RealBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    street, chain = Street(tmp_path, broker, settings=PATIENT), Chain(GENESIS)
    with caplog.at_level(logging.INFO, "gridpact.meters"):
        async with feed_of(broker, ALL[2]) as feed, node(broker) as seen, street.agent() as agent:
            await seen.send(encode(chain.notices([await taken(street, agent, seen, 1)])[0]))
            await until(lambda: agent.status.proven == 1, "proven by the validators of genesis")
            chain.enter_epoch(("dc1", "dc2", "dc3", "new0"))
            chain.enter_epoch(("dc2", "dc3", "new0", "new1"))
            raw = await taken(street, agent, seen, 2)
            await seen.send(encode(chain.notices([raw])[0]))
            await until(lambda: "a receipt waits for the proof of epoch 2" in caplog.text, "put aside")
            assert (agent.status.proven, agent.status.pending, agent.status.epoch) == (1, 1, 0)
            feed.publish_epochs(chain.changes[:1])
            await until(lambda: agent.status.epoch == 1, "half the way")
            assert agent.status.pending == 1
            feed.publish_epochs(chain.changes)
            await until(lambda: agent.status.proven == 2, "what waited is settled")
            assert agent.status.epoch == 2
        assert len(seen.raws) == 2, "published once each"


@pytest.mark.asyncio
async def test_a_meter_that_comes_late_finds_the_proofs_and_knows_them_after_a_restart(broker: RealBroker, tmp_path: Path) -> None:
    street, chain = Street(tmp_path, broker), long_chain(3)
    async with feed_of(broker, ALL[2]) as feed:
        feed.publish_epochs(chain.changes)
        async with node(broker) as seen, street.agent() as agent:
            await until(lambda: agent.status.epoch == 3, "learned")
            await seen.send(encode(chain.notices([await taken(street, agent, seen, 1)])[0]))
            await until(lambda: agent.status.proven == 1, "proven by the third set")
    outbox = Outbox(street.outbox_file, "test/main/M1")
    assert EpochWatch("M1", GENESIS.validator_set, outbox).light.epochs == tuple(chain.sets)
    outbox.close()
    await broker.kill()
    async with street.agent() as agent:
        assert agent.status.epoch == 3, "without a broker"


@pytest.mark.asyncio
async def test_a_node_shows_the_proofs_again_to_a_broker_that_forgot_them(tmp_path: Path) -> None:
    broker = RealBroker("amqtt", tmp_path / "broker", ALL)
    await broker.start()
    street, chain = Street(tmp_path, broker), long_chain(2)
    async with feed_of(broker) as feed:
        feed.publish_epochs(chain.changes)
        await until(lambda: feed.status().connected, "connected")
        await broker.kill()
        await broker.start()
        async with street.agent() as agent:
            await until(lambda: agent.status.epoch == 2, "learned from the new broker")
    await broker.stop()


@pytest.mark.asyncio
async def test_one_lying_node_stops_nothing(broker: RealBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It can fill its own topics with anything, and nobody else's."""
    street, chain = Street(tmp_path, broker), long_chain(2)
    liars = Chain(GENESIS, [meter_key(name) for name in ("x0", "x1", "x2", "x3")])
    liars.enter_epoch(NAMES)
    lies = (
        b"",
        b"\xc1",
        encode((b"\xc1",)),
        encode(tuple(liars.changes)),
        encode((chain.changes[0], liars.changes[0], chain.changes[1][:-3])),
    )
    with caplog.at_level(logging.WARNING, "gridpact.meters"):
        async with street.agent() as agent, feed_of(broker, ALL[2]) as feed:
            async with client_of(broker) as liar:
                for page, lie in enumerate(lies):
                    await liar.publish(epochs_topic("main", "dc0", page), lie, qos=1, retain=True)
            for page, lie in enumerate(lies):
                async with client_of(broker) as liar:  # a broker may hang up on who publishes what it may not
                    await liar.publish(epochs_topic("main", "dc1", page), lie, qos=1, retain=True)
            feed.publish_epochs(chain.changes)
            await until(lambda: agent.status.epoch == 2, "learned from the honest one")
            await until(lambda: "main/epochs/dc0/4" in caplog.text, "the last lie was looked at")
            assert "main/epochs/dc1" not in caplog.text, "nobody writes under another's name"
            assert agent.status.epoch == 2
        async with street.agent() as agent:
            assert agent.status.epoch == 2


@pytest.mark.asyncio
async def test_a_flood_of_receipts_of_made_up_epochs_costs_only_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded: the oldest goes, and its reading is proven after it is published again."""
    monkeypatch.setattr("meters.agent.MAX_PARKED", 2)
    broker = RealBroker("amqtt", tmp_path / "broker", ALL)
    await broker.start()
    street, chain = Street(tmp_path, broker), Chain(GENESIS)
    async with feed_of(broker, ALL[2]) as feed, node(broker) as seen, street.agent() as agent:
        chain.enter_epoch(("dc1", "dc2", "dc3", "new0"))
        raws = [await taken(street, agent, seen, sequence) for sequence in (1, 2, 3)]
        notices = chain.notices(raws)
        for notice in notices:
            await seen.send(encode(notice))
        await until(lambda: len(agent._parked) == 2, "two wait")
        feed.publish_epochs(chain.changes)
        await until(lambda: agent.status.proven == 2, "those two are settled")
        await seen.send(encode(notices[0]))
        await until(lambda: agent.status.proven == 3, "the third one after its next receipt")
    await broker.stop()


# ------------------------------------------------------------------------------------------------------- without a broker


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.sqlite", "test/main/M1")


def pages(chain: Chain, sizes: Sequence[int]) -> list[tuple[str, bytes]]:
    """Cut the proofs into pages of these sizes."""
    changes, made = list(chain.changes), []
    for number, size in enumerate(sizes):
        made.append((epochs_topic("main", "dc0", number), encode(tuple(changes[:size]))))
        del changes[:size]
    return made


def test_pages_may_come_in_any_order(outbox: Outbox) -> None:
    chain = long_chain(6)
    watch = EpochWatch("M1", GENESIS.validator_set, outbox)
    first, second, third, fourth = pages(chain, (1, 2, 2, 1))
    assert not watch.take(*fourth)
    assert not watch.take(*third)
    assert watch.light.epoch == 0
    assert watch.take(*first)
    assert watch.light.epoch == 1
    assert watch.take(*second)
    assert watch.light.epochs == tuple(chain.sets)
    assert not watch.take(*third), "known already"
    assert EpochWatch("M1", GENESIS.validator_set, outbox).light.epochs == tuple(chain.sets)


def test_a_bad_page_that_waited_does_not_spoil_the_good_ones(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    chain, other = long_chain(3), Chain(GENESIS)
    for _ in range(3):
        other.enter_epoch(("dc3", "dc2", "dc1", "dc0"))
    watch = EpochWatch("M1", GENESIS.validator_set, outbox)
    first, second, third = pages(chain, (1, 1, 1))
    _, foreign, _ = pages(other, (1, 1, 1))
    assert not watch.take(epochs_topic("main", "liar", 1), foreign[1])
    assert not watch.take(*third)
    assert watch.take(*first)
    assert watch.light.epoch == 1
    assert "liar/1" in caplog.text
    assert watch.take(*second)
    assert watch.light.epoch == 3


def test_what_is_put_aside_is_bounded(outbox: Outbox) -> None:
    chain = long_chain(2)
    watch = EpochWatch("M1", GENESIS.validator_set, outbox)
    first, second = pages(chain, (1, 1))
    for number in range(2 * MAX_AHEAD):
        assert not watch.take(epochs_topic("main", "liar", number), second[1])
    assert len(watch._ahead) == MAX_AHEAD
    assert watch.take(*first)
    assert watch.light.epoch == 2
    assert watch._ahead == {}


def test_a_damaged_memory_is_told_and_begun_anew(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    chain = long_chain(2)
    light = LightClient(GENESIS.validator_set)
    light.learn(chain.changes)
    outbox.keep_epochs(light.save()[:-5])
    watch = EpochWatch("M1", GENESIS.validator_set, outbox)
    assert watch.light.epoch == 0
    assert "M1: what is kept about validators is worthless" in caplog.text
    assert watch.take(*pages(chain, (2,))[0])
    assert EpochWatch("M1", GENESIS.validator_set, outbox).light.epoch == 2


def test_the_outbox_keeps_epochs_beside_its_readings(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    box = Outbox(path, "test/main/M1")
    assert box.epochs == b""
    box.keep_epochs(b"\x90")
    box.keep_epochs(b"\x91\x00")
    box.close()
    box = Outbox(path, "test/main/M1")
    assert (box.epochs, box.totals.taken, box.next_sequence) == (b"\x91\x00", 0, 1)
    box.close()
