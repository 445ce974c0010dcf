"""The agent of a meter, over both real brokers: nothing is lost, and nothing is deleted without proof."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiomqtt
import pytest

from cluster.broker import BrokerUser
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.transaction import decode_transaction, signature_is_valid
from contracts.calls import SubmitReading, decode_call
from contracts.topics import ReceiptNotice
from meters.agent import AgentSettings, MeterAgent
from meters.dataset import Counters
from meters.link import BrokerLogin
from meters.outbox import Outbox
from meters.reading import MeterIdentity
from tests.meters.brokers import RealBroker, until
from tests.meters.chain import PERIOD_MS, START_MS, Chain, make_genesis, meter_key

USERS = (BrokerUser("M1", "meter-secret", "meter"), BrokerUser("dc0", "node-secret", "node"))
READING_TOPIC = "gridpact/main/meters/M1/reading"
RECEIPT_TOPIC = "gridpact/main/meters/M1/receipt"
pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["amqtt", "mosquitto"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RealBroker]:
    running = RealBroker(request.param, tmp_path / "broker", USERS)
    await running.start()
    yield running
    await running.stop()


class SteadyMeter:
    """One Wh in per second, one out per two seconds; knows its past like a replay."""

    knows_past = True

    def read(self, now_ms: int) -> Counters:
        return Counters((now_ms - START_MS) // 1000, (now_ms - START_MS) // 2000)


@dataclass
class Street:
    """One meter, its agent's parts, and a clock that the test moves."""

    folder: Path
    broker: RealBroker
    now_ms: int = START_MS
    max_validity_ms: int = 86_400_000
    login: BrokerUser = USERS[0]
    settings: AgentSettings = field(default_factory=lambda: AgentSettings(PERIOD_MS, START_MS, retry_ms=200, max_retry_ms=1_000))

    def __post_init__(self) -> None:
        self.genesis = make_genesis(["M1"], self.max_validity_ms)
        self.outbox_file = self.folder / "outbox.sqlite"

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[MeterAgent]:
        outbox = Outbox(self.outbox_file, "test/main/M1")
        identity = MeterIdentity.of(self.genesis, "M1", meter_key("M1"))
        login = BrokerLogin(self.broker.address, self.login.name, self.login.password)
        agent = MeterAgent(identity, self.settings, SteadyMeter(), outbox, login, lambda: self.now_ms)
        stop = asyncio.Event()
        task = asyncio.create_task(agent.run(stop))
        try:
            yield agent
        finally:
            stop.set()
            await asyncio.wait_for(task, 15)
            outbox.close()


@dataclass
class Listener:
    """What a node sees: all messages under the meter's topics, and a way to answer."""

    client: aiomqtt.Client
    raws: list[bytes] = field(default_factory=list)

    async def listen(self) -> None:
        await self.client.subscribe("gridpact/main/meters/+/reading", qos=1)
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            self.raws.append(message.payload)

    async def send(self, payload: bytes) -> None:
        await self.client.publish(RECEIPT_TOPIC, payload, qos=1)

    def sequences(self) -> set[int]:
        return {reading_of(raw).sequence for raw in self.raws}


def reading_of(raw: bytes) -> SubmitReading:
    call = decode_call(bytes(decode_transaction(raw).body.call))
    assert isinstance(call, SubmitReading)
    return call


@asynccontextmanager
async def node(broker: RealBroker) -> AsyncIterator[Listener]:
    client = aiomqtt.Client(broker.address.host, broker.port, username=USERS[1].name, password=USERS[1].password, identifier="dc0")
    async with client:
        listener = Listener(client)
        task = asyncio.create_task(listener.listen())
        await asyncio.sleep(0)
        try:
            yield listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_reading_is_published_until_it_is_proven(broker: RealBroker, tmp_path: Path) -> None:
    street = Street(tmp_path, broker)
    chain = Chain(street.genesis)
    async with node(broker) as seen, street.agent() as agent:
        street.now_ms = START_MS + PERIOD_MS
        assert await agent.take_readings() == 2
        await until(lambda: len(seen.raws) >= 5, "published again and again")
        assert agent.status.pending == 2
        assert agent.status.published == 2
        for raw in seen.raws:
            assert signature_is_valid(decode_transaction(raw))
        first = next(raw for raw in seen.raws if reading_of(raw).sequence == 1)
        assert reading_of(first).time_ms == START_MS
        by_sequence = {reading_of(raw).sequence: raw for raw in seen.raws}
        assert reading_of(by_sequence[2]).time_ms == START_MS + PERIOD_MS
        assert (reading_of(by_sequence[2]).import_wh, reading_of(by_sequence[2]).export_wh) == (900, 450)
        notices = chain.notices([by_sequence[1], by_sequence[2]])
        await seen.send(encode(notices[0]))
        await until(lambda: agent.status.proven == 1, "first proven")
        await seen.send(encode(notices[0]))
        await seen.send(encode(notices[1]))
        await until(lambda: agent.status.proven == 2, "second proven")
        assert agent.status.pending == 0


async def test_worthless_receipts_delete_nothing(broker: RealBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    street = Street(tmp_path, broker)
    liar = Chain(street.genesis, tuple(Ed25519Signer(bytes([90 + index]) * 32) for index in range(4)))
    chain = Chain(street.genesis)
    with caplog.at_level(logging.WARNING, "gridpact.meters"):
        async with node(broker) as seen, street.agent() as agent:
            street.now_ms = START_MS + PERIOD_MS
            await agent.take_readings()
            await until(lambda: seen.sequences() == {1, 2}, "both published")
            one, two = (next(raw for raw in seen.raws if reading_of(raw).sequence == sequence) for sequence in (1, 2))
            good = chain.notices([one, two])
            swapped = ReceiptNotice(good[1].transaction_id, good[0].proof)
            for payload in (b"", b"\xc1garbage", encode(liar.notices([one])[0]), encode(swapped), bytes(300_000)):
                await seen.send(payload)
            await until(lambda: caplog.text.count("a receipt is worthless") >= 5, "all refused")
            assert agent.status.proven == 0
            assert agent.status.pending == 2
            await seen.send(encode(good[0]))
            await until(lambda: agent.status.proven == 1, "a good one still counts")


async def test_a_proven_refusal_is_counted_apart(broker: RealBroker, tmp_path: Path) -> None:
    street = Street(tmp_path, broker)
    chain = Chain(street.genesis)
    async with node(broker) as seen, street.agent() as agent:
        await agent.take_readings()
        await until(lambda: seen.sequences() == {1}, "published")
        await seen.send(encode(chain.notices([seen.raws[0]], code="COUNTER_FELL")[0]))
        await until(lambda: agent.status.refused == 1, "refused")
        assert (agent.status.proven, agent.status.pending) == (0, 0)


async def test_an_expired_reading_is_signed_again_and_the_old_proof_still_counts(broker: RealBroker, tmp_path: Path) -> None:
    street = Street(tmp_path, broker, max_validity_ms=800_000)
    chain = Chain(street.genesis)
    async with node(broker) as seen, street.agent() as agent:
        await agent.take_readings()
        await until(lambda: seen.sequences() == {1}, "published")
        street.now_ms = START_MS + 700_000
        await until(lambda: len({decode_transaction(raw).id for raw in seen.raws}) == 2, "signed again")
        old, new = seen.raws[0], seen.raws[-1]
        assert reading_of(old) == reading_of(new)
        assert decode_transaction(new).body.nonce == 2
        assert decode_transaction(new).body.valid_until_ms == street.now_ms + 700_000
        street.now_ms = START_MS + PERIOD_MS
        await agent.take_readings()
        await until(lambda: seen.sequences() == {1, 2}, "the next one")
        later = next(raw for raw in seen.raws if reading_of(raw).sequence == 2)
        assert decode_transaction(later).body.nonce == 3
        await seen.send(encode(chain.notices([old])[0]))
        await until(lambda: agent.status.proven == 1, "the old proof settles it")


async def test_nothing_is_lost_when_the_broker_is_killed(broker: RealBroker, tmp_path: Path) -> None:
    street = Street(tmp_path, broker)
    chain = Chain(street.genesis)
    async with street.agent() as agent:
        async with node(broker) as seen:
            await agent.take_readings()
            await until(lambda: seen.sequences() == {1}, "published")
        await broker.kill()
        await until(lambda: not agent.status.connected, "loss noticed")
        street.now_ms = START_MS + 30 * PERIOD_MS
        assert await agent.take_readings() == 30
        await broker.start()
        async with node(broker) as seen:
            await until(lambda: seen.sequences() == set(range(1, 32)), "all published after the broker is back")
            by_sequence = {reading_of(raw).sequence: raw for raw in seen.raws}
            assert [reading_of(by_sequence[place]).time_ms for place in range(1, 32)] == [START_MS + i * PERIOD_MS for i in range(31)]
            for notice in chain.notices(list(by_sequence.values())):
                await seen.send(encode(notice))
            await until(lambda: agent.status.proven == 31, "all proven")


async def test_a_restarted_agent_goes_on_where_it_was(broker: RealBroker, tmp_path: Path) -> None:
    street = Street(tmp_path, broker)
    chain = Chain(street.genesis)
    async with street.agent() as agent:
        street.now_ms = START_MS + 2 * PERIOD_MS
        assert await agent.take_readings() == 3
    street.now_ms = START_MS + 5 * PERIOD_MS
    async with node(broker) as seen, street.agent() as agent:
        assert await agent.take_readings() == 3
        assert await agent.take_readings() == 0
        await until(lambda: seen.sequences() == set(range(1, 7)), "old and new published")
        first_boot, second_boot = (
            {reading_of(raw).boot_id for raw in seen.raws if reading_of(raw).sequence in numbers} for numbers in ((1, 2, 3), (4, 5, 6))
        )
        assert len(first_boot) == len(second_boot) == 1
        assert first_boot != second_boot
        for notice in chain.notices(list({reading_of(raw).sequence: raw for raw in seen.raws}.values())):
            await seen.send(encode(notice))
        await until(lambda: agent.status.pending == 0, "all proven")
    assert agent.status.published == 6


async def test_wrong_password_is_told_and_stored_readings_wait(
    broker: RealBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    street = Street(tmp_path, broker, login=BrokerUser("M1", "wrong", "meter"))
    with caplog.at_level(logging.WARNING, "gridpact.meters"):
        async with street.agent() as agent:
            await agent.take_readings()
            await until(lambda: "ot authori" in caplog.text, "refused by the broker")
            assert (agent.status.pending, agent.status.connected) == (1, False)


async def test_the_last_will_tells_that_a_meter_is_offline(broker: RealBroker, tmp_path: Path) -> None:
    street = Street(tmp_path, broker)
    client = aiomqtt.Client(broker.address.host, broker.port, username=USERS[1].name, password=USERS[1].password, identifier="watcher")
    states: list[bytes] = []

    async def watch() -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            states.append(message.payload)

    async with client:
        await client.subscribe("gridpact/main/meters/+/status", qos=1)
        task = asyncio.create_task(watch())
        async with street.agent() as agent:
            await until(lambda: agent.status.connected, "connected")
            await until(lambda: states[-1:] == [b"online"], "online")
        await until(lambda: states[-1:] == [b"offline"], "offline")
        task.cancel()
