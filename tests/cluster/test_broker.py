"""Who may do what at a broker, the same for the embedded one and for Mosquitto, from the same two files."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.broker import (
    BrokerUser,
    EmbeddedBrokerConfig,
    MosquittoTls,
    hash_password,
    new_password,
    password_matches,
    serve_broker,
    topic_matches,
    write_access_files,
    write_mosquitto_config,
)
from consensus.errors import GridPactError, InputError
from tests.meters.brokers import RealBroker, until

USERS = (
    BrokerUser("M1", "one", "meter"),
    BrokerUser("M2", "two", "meter"),
    BrokerUser("dc0", "zero", "node"),
    BrokerUser("dc1", "uno", "node"),
)
PASSWORDS = {user.name: user.password for user in USERS}
PREFIX = "gridpact/main/meters"


@pytest.fixture(params=["amqtt", "mosquitto"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RealBroker]:
    running = RealBroker(request.param, tmp_path / "broker", USERS)
    await running.start()
    yield running
    await running.stop()


class Person:
    """A client that listens to whatever filter it wants."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.seen: list[tuple[str, bytes]] = []

    async def listen(self, topic: str) -> bool:
        (code,) = await self.client.subscribe(topic, qos=1)
        return not (code >= 128 if isinstance(code, int) else code.is_failure)

    async def collect(self) -> None:
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            self.seen.append((message.topic.value, message.payload))

    async def say(self, topic: str, payload: bytes = b"x") -> None:
        await self.client.publish(topic, payload, qos=1)


@asynccontextmanager
async def person(broker: RealBroker, name: str, *, persistent: bool = False) -> AsyncIterator[Person]:
    client = aiomqtt.Client(
        "127.0.0.1", broker.port, username=name, password=PASSWORDS[name], identifier=f"id-{name}", clean_session=not persistent
    )
    async with client:
        somebody = Person(client)
        task = asyncio.create_task(somebody.collect())
        try:
            yield somebody
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def forge(broker: RealBroker, name: str, topic: str) -> None:
    """Publish what the user may not, as another client; the broker may drop the message, or (Mosquitto) the connection too."""
    client = aiomqtt.Client("127.0.0.1", broker.port, username=name, password=PASSWORDS[name], identifier=f"forger-{name}")
    with contextlib.suppress(aiomqtt.MqttError):
        async with client:
            await client.publish(topic, b"forged", qos=1)


@pytest.mark.asyncio
async def test_each_may_do_its_own_and_nothing_else(broker: RealBroker) -> None:
    async with person(broker, "M1") as one, person(broker, "M2") as two, person(broker, "dc0") as node:
        await node.listen(f"{PREFIX}/+/reading")
        await one.listen(f"{PREFIX}/M1/receipt")
        for spying in (f"{PREFIX}/M1/receipt", f"{PREFIX}/+/receipt", f"{PREFIX}/+/reading", f"{PREFIX}/M1/#", "#", "gridpact/#"):
            await two.listen(spying)
        for forging in (f"{PREFIX}/M1/reading", f"{PREFIX}/M1/receipt", f"{PREFIX}/M2/receipt"):
            await forge(broker, "M2", forging)
        await forge(broker, "dc1", f"{PREFIX}/M2/reading")
        await one.say(f"{PREFIX}/M1/reading", b"mine")
        await until(lambda: node.seen, "the node reads it")
        await node.say(f"{PREFIX}/M1/receipt", b"proof")
        await until(lambda: one.seen, "the meter gets its receipt")
        await two.listen(f"{PREFIX}/M2/receipt")
        await node.say(f"{PREFIX}/M2/receipt", b"end")
        await until(lambda: (f"{PREFIX}/M2/receipt", b"end") in two.seen, "the last one")
        assert node.seen == [(f"{PREFIX}/M1/reading", b"mine")]
        assert one.seen == [(f"{PREFIX}/M1/receipt", b"proof")]
        assert {payload for _, payload in two.seen} == {b"end"}


@pytest.mark.asyncio
async def test_only_known_users_come_in(broker: RealBroker) -> None:
    for name, password in (("M1", "two"), ("M1", ""), ("M9", "one"), (None, None), ("", "")):
        client = aiomqtt.Client("127.0.0.1", broker.port, username=name, password=password, identifier="stranger", timeout=5)
        with pytest.raises(aiomqtt.MqttError):
            async with client:
                pytest.fail(f"{name} came in")


@pytest.mark.asyncio
async def test_a_persistent_session_loses_nothing_while_it_is_away(broker: RealBroker) -> None:
    async with person(broker, "dc1", persistent=True) as node:
        await node.listen(f"{PREFIX}/+/reading")
    async with person(broker, "M1") as one:
        for number in range(1500):
            await one.say(f"{PREFIX}/M1/reading", b"%d" % number)
    async with person(broker, "dc1", persistent=True) as node:
        await until(lambda: len({payload for _, payload in node.seen}) == 1500, "all 1,500")


@pytest.mark.asyncio
async def test_nobody_misses_a_message_while_others_join(broker: RealBroker) -> None:
    """New subscriptions arrive while messages are under way: amqtt loses messages then, if its own access plugin is used."""
    async with person(broker, "dc0") as node, person(broker, "M1") as one, person(broker, "M2") as two:
        await node.listen(f"{PREFIX}/+/reading")

        async def join() -> None:
            for turn in range(60):
                await two.listen(f"{PREFIX}/M2/{'receipt' if turn % 2 else 'setpoint'}")
                await two.client.unsubscribe(f"{PREFIX}/M2/{'receipt' if turn % 2 else 'setpoint'}")

        joining = asyncio.create_task(join())
        for number in range(300):
            await one.say(f"{PREFIX}/M1/reading", b"%d" % number)
        await joining
        await until(lambda: len(node.seen) == 300, "all 300")


@pytest.mark.asyncio
async def test_the_embedded_broker_takes_a_free_port_and_refuses_a_taken_one(tmp_path: Path) -> None:
    passwords, access = write_access_files(tmp_path, "main", USERS)
    stop = asyncio.Event()
    ports: list[int] = []
    task = asyncio.create_task(serve_broker(EmbeddedBrokerConfig(passwords, access), stop, ports.append))
    await until(lambda: ports, "listens")
    with pytest.raises(GridPactError, match="cannot listen"):
        await serve_broker(EmbeddedBrokerConfig(passwords, access, port=ports[0]), stop)
    stop.set()
    await asyncio.wait_for(task, 10)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", ports[0])) != 0


@pytest.mark.asyncio
async def test_bad_files_are_named(tmp_path: Path) -> None:
    passwords, access = write_access_files(tmp_path, "main", USERS)
    bad = tmp_path / "bad"
    for text, message in (("M1 secret\n", "line 1"), ("# fine\n\nM1:plain\n", "line 3")):
        bad.write_text(text)
        with pytest.raises(InputError, match=message):
            await serve_broker(EmbeddedBrokerConfig(bad, access), asyncio.Event())
    for text in ("topic read a/b\n", "user M1\ntopic read #\n", "user M1\ntopic deny a\n", "user\n", "pattern read a\n"):
        bad.write_text(text)
        with pytest.raises(InputError, match=r"bad: line \d"):
            await serve_broker(EmbeddedBrokerConfig(passwords, bad), asyncio.Event())
    with pytest.raises(InputError, match="cannot be read"):
        await serve_broker(EmbeddedBrokerConfig(tmp_path / "absent", access), asyncio.Event())


def test_access_files_are_private_and_hold_no_clear_password(tmp_path: Path) -> None:
    passwords, access = write_access_files(tmp_path, "main", USERS)
    for path in (passwords, access):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "one" not in passwords.read_text().partition(":")[2].split("$")
    for wrong in (
        [BrokerUser("M1", "", "meter")],
        [BrokerUser("M1/+", "x", "meter")],
        [BrokerUser("a:b", "x", "node")],
        [USERS[0], BrokerUser("M1", "other", "node")],
    ):
        with pytest.raises(InputError):
            write_access_files(tmp_path, "main", wrong)


def test_mosquitto_configuration_for_operators(tmp_path: Path) -> None:
    path = tmp_path / "mosquitto.conf"
    tls = MosquittoTls(Path("/etc/tls/cert.pem"), Path("/etc/tls/key.pem"), Path("/etc/tls/ca.pem"))
    write_mosquitto_config(
        path, port=8883, passwords=Path("/etc/p"), access=Path("/etc/a"), state=tmp_path / "s", host="192.0.2.1", tls=tls
    )
    lines = path.read_text().splitlines()
    for line in (
        "persistence true",
        "autosave_interval 1",
        "autosave_on_changes true",
        "max_queued_messages 0",
        "listener 8883 192.0.2.1",
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
    ):
        assert line in lines


def test_passwords() -> None:
    assert len(new_password()) >= 43
    assert new_password() != new_password()
    stored = hash_password("secret")
    assert stored.startswith("$7$101$")
    assert stored != hash_password("secret")
    assert password_matches("secret", stored)
    assert not password_matches("Secret", stored)


@given(st.text(max_size=30), st.text(max_size=60))
def test_any_text_is_no_password_hash(password: str, stored: str) -> None:
    assert not password_matches(password, stored)
    assert not password_matches(password, "$7$101$" + stored)


def test_topic_matches() -> None:
    assert topic_matches("a/b/c", "a/+/c")
    assert topic_matches("a/+/c", "a/+/c")
    for topic in ("a/#", "#", "a/b", "a/b/c/d", "a/b/d", "a/#/c", "+/b/c", ""):
        assert not topic_matches(topic, "a/+/c")
    assert not topic_matches("a/+/c", "a/b/c")
