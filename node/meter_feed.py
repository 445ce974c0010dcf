"""Takes readings in from MQTT, and tells meters what became of them and who the validators are.

Law: a message is acknowledged only when the channel has stored it, or has refused it for good. What is not acknowledged comes again, from
the broker or (it may lose things) from the meter itself, which publishes until it holds a proof. Duplicates are normal.

Back-pressure: while the channel is full, or does not know the present state, nothing is acknowledged and nothing more is taken from the
connection; if the broker sends on regardless, the feed hangs up until there is room.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import aiomqtt
import structlog

from consensus.application import OK
from consensus.codec import encode
from consensus.errors import InputError
from consensus.proofs import TransactionProof
from consensus.transaction import MAX_TRANSACTION_BYTES, decode_transaction
from contracts.topics import BrokerAddress, Purpose, ReceiptNotice, every_meter, meter_topic, parse_topic
from node.epoch_notices import EpochNotices
from node.http.views import PASSING

SOURCE = "mqtt"
BATCH = 200
LINGER_S = 0.005
MAX_WAITING = 10_000
MAX_RECEIPTS = 10_000
RECEIPTS_AT_ONCE = 64
KEEPALIVE_S = 20
TIMEOUT_S = 10.0
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
STABLE_S = 5.0
FIRST_FULL_S = 0.02
MAX_FULL_S = 1.0
GOODBYE_S = 1.0
CANCEL_AGAIN_S = 0.2
_REFUSED = 0x80
_NO_DELAY = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)


class SubmissionLike(Protocol):
    """What the channel answers to one transaction (``node.channel.Submission``)."""

    @property
    def id(self) -> str:
        """Transaction id, hex; empty if it could not be decoded."""

    @property
    def code(self) -> str:
        """``OK`` = stored (or known already), ``FULL``, ``BEHIND`` = try again later, else refused for good."""

    @property
    def detail(self) -> str:
        """Why it was refused."""


Submit = Callable[[Sequence[bytes], str], Awaitable[Sequence[SubmissionLike]]]
FindProof = Callable[[bytes], TransactionProof | None]
OnCount = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """How the node reaches the broker.

    Attributes:
        address: host, port and whether to use TLS.
        username, password: credentials; empty user name for none.
        tls: context for TLS; None if the address is without.
    """

    address: BrokerAddress
    username: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None = None


class FeedStatus(NamedTuple):
    """State of the connection, and counts since the process started."""

    connected: bool
    received: int
    acknowledged: int
    refused: int
    waiting: int
    receipts_published: int
    receipts_dropped: int
    last_error: str


class _Arrived(NamedTuple):
    """A message that passed the first checks: the broker's message number, the meter that it is from, the transaction."""

    mid: int
    qos: int
    meter: str
    id: bytes
    raw: bytes


class MeterFeed:
    """A node's persistent MQTT session for one channel.

    Args:
        channel: whose readings to take in.
        node: the node's name; it names the session at the broker and the topic of its proofs, so no two nodes may share it.
        broker: how to reach it.
        submit: the channel's intake.
        find_proof: looks up the proof of a transaction that a certified block holds already, so that a meter that asks again (by
            publishing again) gets its receipt; None if somebody else does that.
        on_count: told of every count as it happens: name (a field of :class:`FeedStatus`) and how many.
    """

    def __init__(
        self,
        *,
        channel: str,
        node: str,
        broker: BrokerSettings,
        submit: Submit,
        find_proof: FindProof | None = None,
        on_count: OnCount | None = None,
    ) -> None:
        self._channel = channel
        self._identifier = f"gridpact-{channel}-node-{node}"
        self._filter = every_meter(channel, Purpose.READING)
        self._broker = broker
        self._submit = submit
        self._find_proof = find_proof
        self._on_count = on_count
        self._counts: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._receipts: deque[tuple[str, bytes]] = deque()
        self._receipt_waits = asyncio.Event()
        self._epochs = EpochNotices(channel, node)
        self._client: aiomqtt.Client | None = None
        self._connected = False
        self._last_error = ""
        self._task: asyncio.Task[None] | None = None
        self._logger = structlog.get_logger("gridpact.meter_feed").bind(channel=channel, node=node)

    async def start(self) -> None:
        """Start the feed; it connects as soon as the broker is there. See :meth:`wait` for its failures."""
        self._task = asyncio.create_task(self.run(), name=f"meter feed {self._identifier}")

    async def wait(self) -> None:
        """Wait until the feed ends: it does so only when it is stopped, or with the exception that the channel's intake raised."""
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def stop(self) -> None:
        """End the feed; what was not acknowledged comes again.

        One cancellation may get lost: ``asyncio.wait_for`` drops it if the connection breaks at the same moment (until Python 3.12), and
        aiomqtt puts its own error in its place if the goodbye takes too long.
        """
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=GOODBYE_S)

    def publish_receipt(self, meter: str, notice: bytes) -> None:
        """Send a meter an encoded ``ReceiptNotice``, soon.

        If too many wait, the oldest is dropped and counted: its meter publishes the reading again, and gets another.

        Raises:
            InputError: ``meter`` is not a name.
        """
        topic = meter_topic(self._channel, meter, Purpose.RECEIPT)
        if len(self._receipts) >= MAX_RECEIPTS:
            self._receipts.popleft()
            self._count("receipts_dropped", 1)
        self._receipts.append((topic, notice))
        self._receipt_waits.set()

    def publish_epochs(self, changes: Sequence[bytes]) -> None:
        """Let all meters know the validators, soon and again on every new connection, until others are given.

        Args:
            changes: encoded ``EpochChange`` values by rising epoch, from 1 on.
        """
        self._epochs.put(changes)

    def status(self) -> FeedStatus:
        """Return the state of the connection and the counts."""
        counts = self._counts
        waiting = 0 if self._client is None else len(self._client.messages)
        return FeedStatus(
            self._connected,
            counts["received"],
            counts["acknowledged"],
            counts["refused"],
            waiting,
            counts["receipts_published"],
            counts["receipts_dropped"],
            self._last_error,
        )

    def refusals(self) -> dict[str, int]:
        """Return how many messages were refused for good, by code."""
        return dict(sorted(self._refusals.items()))

    async def run(self) -> None:
        """Hold the session for ever, over every loss of the connection.

        Raises:
            Exception: what ``submit`` raises; nothing is acknowledged then.
        """
        backoff_s = FIRST_BACKOFF_S
        while True:
            started_s = time.monotonic()
            client = self._client = self._make_client()
            try:
                async with client:
                    await self._session(client)
            except (aiomqtt.MqttError, OSError) as error:
                self._last_error = str(error)
                self._logger.warning("broker session ended", error=str(error), retry_s=round(backoff_s, 1))
            finally:
                self._connected = False
                self._client = None
                _abandon(client)
            backoff_s = FIRST_BACKOFF_S if time.monotonic() - started_s > STABLE_S else min(backoff_s * 2, MAX_BACKOFF_S)
            await asyncio.sleep(backoff_s * random.SystemRandom().uniform(0.5, 1.0))

    def _make_client(self) -> aiomqtt.Client:
        broker = self._broker
        client = aiomqtt.Client(
            broker.address.host,
            broker.address.port,
            username=broker.username or None,
            password=broker.password or None,
            identifier=self._identifier,
            clean_session=False,
            keepalive=KEEPALIVE_S,
            timeout=TIMEOUT_S,
            tls_context=broker.tls if broker.address.tls else None,
            socket_options=_NO_DELAY,
        )
        client.pending_calls_threshold = 1000
        client._client.manual_ack_set(True)
        return client

    async def _session(self, client: aiomqtt.Client) -> None:
        """Work on one connection; ends by exception only."""
        tasks = [asyncio.create_task(self._take_in(client))]
        try:
            granted = await client.subscribe(self._filter, qos=1)
            if any(code >= _REFUSED if isinstance(code, int) else code.is_failure for code in granted):
                raise aiomqtt.MqttError(f"the broker refuses the subscription to {self._filter}")
            self._connected, self._last_error = True, ""
            self._logger.info("broker session holds", broker=f"{self._broker.address.host}:{self._broker.address.port}")
            tasks += [asyncio.create_task(work) for work in (self._send_receipts(client), self._epochs.send(client))]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _end(tasks)

    async def _take_in(self, client: aiomqtt.Client) -> None:
        """Take in what arrives, in batches."""
        while True:
            messages = [await anext(client.messages)]
            if not len(client.messages):
                await asyncio.sleep(LINGER_S)
            while len(client.messages) and len(messages) < BATCH:
                messages.append(await anext(client.messages))
            self._count("received", len(messages))
            arrived = [checked for message in messages if (checked := self._check(client, message)) is not None]
            await self._store(client, arrived)

    def _check(self, client: aiomqtt.Client, message: aiomqtt.Message) -> _Arrived | None:
        """Return a message that the channel should see; refuse it for good otherwise."""
        payload = message.payload if isinstance(message.payload, bytes) else b""
        meter = message.topic.value
        try:
            topic = parse_topic(message.topic.value)
            meter = topic.meter
            if len(payload) > MAX_TRANSACTION_BYTES:
                raise InputError("transaction", f"{len(payload)} bytes, more than the limit of {MAX_TRANSACTION_BYTES}")
            transaction = decode_transaction(payload)
        except InputError as error:
            self._refuse(client, message.mid, message.qos, meter, "MALFORMED", str(error))
            return None
        if (topic.purpose, topic.channel) != (Purpose.READING, self._channel):
            self._refuse(client, message.mid, message.qos, meter, "WRONG_TOPIC", message.topic.value)
            return None
        if transaction.body.sender != meter:
            self._refuse(client, message.mid, message.qos, meter, "WRONG_SENDER", f"signed by {transaction.body.sender[:64]}")
            return None
        return _Arrived(message.mid, message.qos, meter, transaction.id, payload)

    async def _store(self, client: aiomqtt.Client, arrived: list[_Arrived]) -> None:
        """Give a batch to the channel, again and again while it cannot take them, and acknowledge what it decides on."""
        pause_s = FIRST_FULL_S
        while arrived:
            raws = [item.raw for item in arrived]
            answers = await asyncio.shield(
                asyncio.ensure_future(self._submit(raws, SOURCE))
            )  # a lost connection never cuts an intake short
            again = []
            for item, answer in zip(arrived, answers, strict=True):
                if answer.code in PASSING:
                    again.append(item)
                elif answer.code == OK:
                    self._acknowledge(client, item.mid, item.qos)
                    self._answer(item)
                else:
                    self._refuse(client, item.mid, item.qos, item.meter, answer.code, answer.detail)
            arrived = again
            if arrived:
                if len(client.messages) > MAX_WAITING:
                    raise aiomqtt.MqttError(f"{len(client.messages)} messages wait and the channel is full: hanging up")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_FULL_S)

    def _answer(self, item: _Arrived) -> None:
        """Send the receipt if the chain holds the reading already: the meter has missed it."""
        proof = None if self._find_proof is None else self._find_proof(item.id)
        if proof is not None:
            self.publish_receipt(item.meter, encode(ReceiptNotice(item.id, proof)))

    def _refuse(self, client: aiomqtt.Client, mid: int, qos: int, meter: str, code: str, detail: str) -> None:
        """Count and log a message that will never be taken, and acknowledge it, so that it does not come again."""
        self._count("refused", 1)
        self._refusals[code] += 1
        self._logger.warning("reading refused", meter=meter[:64], code=code, detail=detail[:200])
        self._acknowledge(client, mid, qos)

    def _acknowledge(self, client: aiomqtt.Client, mid: int, qos: int) -> None:
        """Acknowledge on the connection that the message came by (on a lost one this does nothing)."""
        if qos:
            client._client.ack(mid, qos)
        self._count("acknowledged", 1)

    async def _send_receipts(self, client: aiomqtt.Client) -> None:
        """Publish waiting receipts, in bursts."""
        while True:
            await self._receipt_waits.wait()
            self._receipt_waits.clear()
            while self._receipts:
                burst = [self._receipts.popleft() for _ in range(min(RECEIPTS_AT_ONCE, len(self._receipts)))]
                try:
                    await asyncio.gather(*(client.publish(topic, notice, qos=1) for topic, notice in burst))
                except aiomqtt.MqttError:
                    self._count("receipts_dropped", len(burst))
                    raise
                self._count("receipts_published", len(burst))

    def _count(self, name: str, amount: int) -> None:
        self._counts[name] += amount
        if self._on_count is not None:
            self._on_count(name, amount)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended (see :meth:`MeterFeed.stop` for why once is not enough)."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


def _abandon(client: aiomqtt.Client) -> None:
    """Close what is left of a connection; one that timed out while it was made would otherwise keep its socket."""
    inner = client._client
    if inner.socket() is not None:
        inner.disconnect()
