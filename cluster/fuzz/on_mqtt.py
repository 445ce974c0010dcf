"""The target `mqtt`: the fuzzer plays the broker, and publishes to the real meter feed of a node in front of a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from cluster.fuzz.forgery import Forger
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import TEXTS, Mutator
from cluster.fuzz.running import RunningChannel
from cluster.fuzz.target import refused
from cluster.fuzz.world import METERS, history
from consensus.codec import Decoder, Wire, encode
from consensus.errors import DecodeError
from consensus.transaction import decode_transaction
from contracts.topics import BrokerAddress, Purpose, meter_topic
from node.meter_feed import BrokerSettings, MeterFeed

RENEW_AFTER = 20_000
ACKNOWLEDGED_S = 20.0
MAX_TOPIC_BYTES = 65_535
CONNECT, PUBLISH, PUBACK, SUBSCRIBE, PINGREQ = 1, 3, 4, 8, 12
TOPICS = (
    "gridpact/main/meters/m-ada/status", "gridpact/main/meters/m-ada/receipt", "gridpact/other/meters/m-ada/reading", "x", "a/" * 300,
    "$SYS",
)  # fmt: skip


class Publication(Wire, frozen=True):
    """One input: what the broker delivers.

    Fields:
        topic: in UTF-8, as it should be.
        header: low four bits of the packet: duplicate, quality of service, retained.
        payload: of the message.
    """

    topic: bytes
    header: int
    payload: bytes


_decode_publication = Decoder(Publication, "publication")


class Broker:
    """As much of a broker as the feed needs: it accepts connection, subscription and receipts, and counts what is acknowledged.

    Attributes:
        port: where it listens.
        acknowledged: numbers of the messages that the feed has acknowledged and nobody has asked for.
    """

    def __init__(self) -> None:
        self.port = 0
        self.acknowledged: set[int] = set()
        self.connections = 0
        self.subscribed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._number = 0

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    def publish(self, publication: Publication) -> int | None:
        """Send a message; return its number, None if it needs no acknowledgement."""
        if self._writer is None or self._writer.is_closing():
            raise LawBrokenError("the feed has hung up")
        quality = publication.header >> 1 & 3
        number = None
        body = len(publication.topic).to_bytes(2, "big") + publication.topic
        if quality:
            self._number = number = self._number % 65_535 + 1
            body += number.to_bytes(2, "big")
        self._writer.write(bytes((PUBLISH << 4 | publication.header & 15,)) + _length(len(body) + len(publication.payload)))
        self._writer.write(body + publication.payload)
        return number

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.connections += 1
        try:
            while True:
                kind = (await reader.readexactly(1))[0] >> 4
                body = await reader.readexactly(await _read_length(reader))
                if kind == CONNECT:
                    writer.write(b"\x20\x02\x00\x00")
                elif kind == SUBSCRIBE:
                    writer.write(b"\x90\x03" + body[:2] + b"\x01")
                    self.subscribed.set()
                elif kind == PINGREQ:
                    writer.write(b"\xd0\x00")
                elif kind == PUBLISH:
                    start = 2 + int.from_bytes(body[:2], "big")
                    writer.write(b"\x40\x02" + body[start : start + 2])
                elif kind == PUBACK:
                    self.acknowledged.add(int.from_bytes(body[:2], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            self.subscribed.clear()


def _length(size: int) -> bytes:
    """Return a length as MQTT writes it."""
    out = bytearray()
    while True:
        size, low = size >> 7, size & 127
        out.append(low | (128 if size else 0))
        if not size:
            return bytes(out)


async def _read_length(reader: asyncio.StreamReader) -> int:
    size = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        size |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return size


class MqttTarget:
    """Every input is one message; it must be acknowledged (taken in, or refused for good), whatever it is."""

    stateful = True
    renew_after = RENEW_AFTER

    def __init__(self, folder: Path) -> None:
        self._running = running = RunningChannel(folder / "channel")
        self._forger = Forger(running.channel.application.view, running.clock.now_ms, METERS)
        self._broker = running.do(self._open())
        settings = BrokerSettings(BrokerAddress("127.0.0.1", self._broker.port, tls=False), "", "")
        self._feed = MeterFeed(
            channel=running.channel.name,
            node="dc3",
            broker=settings,
            submit=running.channel.submit,
            find_proof=running.channel.transaction_proof,
        )
        running.do(self._connect())
        raws = [raw for _, (_, raws) in zip(range(40), history(running.play.genesis), strict=False) for raw in raws]
        readings = [raw for raw in raws if decode_transaction(raw).body.sender in METERS]
        self._seeds = tuple(encode(Publication(_topic(raw), 2, raw)) for raw in readings)

    async def _open(self) -> Broker:
        broker = Broker()
        await broker.start()
        return broker

    async def _connect(self) -> None:
        await self._feed.start()
        await self._broker.subscribed.wait()

    def seeds(self) -> Sequence[bytes]:
        """Return readings: executed ones and new ones."""
        return self._seeds

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return a message with another topic, other flags, another payload."""
        try:
            known = _decode_publication(data)
        except DecodeError:
            return mutator.pick(self._seeds)
        topic, header, payload = known.topic, known.header, known.payload
        if mutator.chance(0.15):
            text = mutator.pick((mutator.text(topic.decode("utf-8", "replace")), mutator.pick(TOPICS), mutator.pick(TEXTS)))
            other = text.encode("utf-8", "surrogatepass")[:60_000]
            topic = other if may_be_published(other) or mutator.chance(0.002) else topic
        if mutator.chance(0.1):
            header = mutator.pick((0, 1, 2, 3, 10, 2))
        if mutator.chance(0.85):
            payload = self._forger.change(payload, mutator)
        return encode(Publication(topic, header, payload))

    def run(self, data: bytes) -> str:
        """Publish the message, and a second one that is refused at once (so that the feed does not wait for more); wait for both."""
        try:
            publication = _decode_publication(data)
        except DecodeError as error:
            return refused(error)
        if publication.header >> 1 & 3 > 1 or len(publication.topic) > MAX_TOPIC_BYTES:
            return "refused: more than a broker may send"
        before, codes = self._feed.status(), self._feed.refusals()
        held = self._running.do(self._publish(publication, before.acknowledged + 2))
        self._running.check()
        if not held:
            return "refused: the feed hung up"
        after = self._feed.status()
        received, acknowledged = after.received - before.received, after.acknowledged - before.acknowledged
        if (received, acknowledged) != (2, 2):
            raise LawBrokenError(f"of 2 messages {received} received, {acknowledged} acknowledged")
        for code, count in self._feed.refusals().items():
            if count > codes.get(code, 0) + (code == "MALFORMED"):
                return f"refused: {code}"
        return "accepted: stored"

    async def _publish(self, publication: Publication, acknowledged: int) -> bool:
        """Publish, and wait until the feed has acknowledged so many; tell False if it hung up instead, and came again.

        Raises:
            LawBrokenError: neither happens, or it hung up for no reason.
        """
        broker = self._broker
        connections, wanted = broker.connections, {broker.publish(publication), broker.publish(Publication(b"x", 2, b""))}
        wanted.discard(None)
        try:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                while not wanted <= broker.acknowledged or self._feed.status().acknowledged < acknowledged:
                    if broker.connections > connections and broker.subscribed.is_set():
                        break
                    await asyncio.sleep(0.0005)
        except TimeoutError:
            self._running.mishaps.raise_first()
            raise LawBrokenError(f"not acknowledged: {self._feed.status()}") from None
        broker.acknowledged.clear()
        if broker.connections > connections and may_be_published(publication.topic):
            raise LawBrokenError(f"the feed hung up: {self._feed.status()}")
        return broker.connections == connections

    def check(self) -> None:
        """Check that the feed is connected.

        Raises:
            LawBrokenError: it is not.
        """
        if not self._feed.status().connected:
            raise LawBrokenError("the feed is not connected")

    def close(self) -> None:
        """Stop feed, broker and channel."""
        self._running.do(self._feed.stop())
        self._running.do(self._broker.stop())
        self._running.close()


def may_be_published(topic: bytes) -> bool:
    """Tell whether a broker may deliver on this topic (MQTT 3.1.1, sections 3.3.2 and 4.7): the library hangs up on any other."""
    try:
        text = topic.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and not any(letter in text for letter in "#+")


def _topic(raw: bytes) -> bytes:
    return meter_topic("main", decode_transaction(raw).body.sender, Purpose.READING).encode()
