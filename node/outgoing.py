"""One dialled link: queue, dialling with backoff, writing, keepalives."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from node.framing import KEEPALIVE

WRITE_BYTES = 256 * 1024
"""Frames are joined into writes of about this size."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """Patience of links, real milliseconds.

    Attributes:
        keepalive_ms: a dialler that wrote nothing for so long sends a keepalive.
        silence_ms: a connection on which nothing came for so long is closed.
        handshake_ms: for TCP and TLS together.
        backoff_ms, max_backoff_ms: pause after a failed attempt, first and doubled at most up to (less a random part).
    """

    keepalive_ms: int = 1_000
    silence_ms: int = 10_000
    handshake_ms: int = 5_000
    backoff_ms: int = 100
    max_backoff_ms: int = 3_000


class OutgoingLink:
    """Carries frames to one validator.

    While the peer is away (an attempt to dial it failed) frames are dropped at once instead of growing stale in the queue.

    Args:
        name: common name that its certificate must have.
        host, port: where it listens.
        context: TLS context with this node's certificate.
        max_queue_bytes: bound of the queue.
        times: keepalives and patience.
        on_seen: called when bytes come back.
    """

    def __init__(
        self,
        *,
        name: str,
        host: str,
        port: int,
        context: ssl.SSLContext,
        max_queue_bytes: int,
        times: LinkTimes,
        on_seen: Callable[[], None],
    ) -> None:
        self.name = name
        self.connected = False
        self.dropped = 0
        self.queued_bytes = 0
        self.failures: Counter[str] = Counter()
        self._address = (host, port)
        self._context = context
        self._max_queue_bytes = max_queue_bytes
        self._times = times
        self._on_seen = on_seen
        self._queue: deque[bytes] = deque()
        self._away = False
        self._wake = asyncio.Event()
        self._peer_is_up = asyncio.Event()
        self._heard = False

    def put(self, data: bytes) -> bool:
        """Queue one packed frame; False if it is dropped."""
        if self._away or self.queued_bytes + len(data) > self._max_queue_bytes:
            self.dropped += 1
            return False
        self._queue.append(data)
        self.queued_bytes += len(data)
        self._wake.set()
        return True

    def retarget(self, host: str, port: int) -> None:
        """Dial another address from the next attempt on."""
        self._address = (host, port)

    def hurry(self) -> None:
        """Dial again at once: the peer has just dialled us, so it is up."""
        self._peer_is_up.set()

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        pause_ms = self._times.backoff_ms
        while True:
            why = await self._attempt()
            if self._heard:
                pause_ms = self._times.backoff_ms
            else:
                self._give_up_queue()
            if self.failures[why] == 0 or self.connected:
                _log.warning("link down", peer=self.name, why=why)
            self.failures[why] += 1
            self.connected = False
            self._peer_is_up.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_ms * random.uniform(0.5, 1.0) / 1000):  # noqa: S311  jitter, no secret
                    await self._peer_is_up.wait()
            pause_ms = min(2 * pause_ms, self._times.max_backoff_ms)

    async def _attempt(self) -> str:
        """Dial, serve until the connection ends, and say why it did."""
        self._heard = False
        try:
            async with asyncio.timeout(self._times.handshake_ms / 1000):
                reader, writer = await asyncio.open_connection(
                    *self._address, ssl=self._context, server_hostname="", ssl_shutdown_timeout=1.0
                )
        except ssl.SSLError as error:
            return f"TLS refused: {error.reason or error}"
        except TimeoutError:
            return "no answer in time"
        except OSError as error:
            return f"cannot connect: {error.strerror or error}"
        try:
            if common_name(writer) != self.name:
                return "wrong name"
            set_no_delay(writer)
            return await self._serve(reader, writer)
        except (OSError, ssl.SSLError) as error:
            return f"broken: {getattr(error, 'reason', None) or error.strerror or type(error).__name__}"
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Write frames and read keepalives until one of the two ends."""
        writer.write(KEEPALIVE)
        reading = asyncio.create_task(self._read(reader))
        writing = asyncio.create_task(self._write(writer))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            done = reading if reading.done() else writing
            return await done
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> str:
        while True:
            try:
                async with asyncio.timeout(self._times.silence_ms / 1000):
                    data = await reader.read(4096)
            except TimeoutError:
                return "silent"
            if not data:
                return "closed by the peer"
            if data.strip(b"\x00"):
                return "malformed answer"
            self._on_seen()
            self._heard = True
            if not self.connected:
                self.connected, self._away = True, False
                _log.info("link up", peer=self.name)
                self._wake.set()

    async def _write(self, writer: asyncio.StreamWriter) -> str:
        """Write what is queued, once the peer has shown that it takes our frames; keepalives all the time."""
        while True:
            if not (self.connected and self._queue):
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._times.keepalive_ms / 1000):
                        await self._wake.wait()
                except TimeoutError:
                    writer.write(KEEPALIVE)
            else:
                writer.write(self._next_write())
            await writer.drain()

    def _next_write(self) -> bytes:
        """Take frames off the queue, joined up to :data:`WRITE_BYTES`."""
        parts = []
        size = 0
        while self._queue and size < WRITE_BYTES:
            parts.append(self._queue.popleft())
            size += len(parts[-1])
        self.queued_bytes -= size
        return b"".join(parts)

    def _give_up_queue(self) -> None:
        self._away = True
        self.dropped += len(self._queue)
        self._queue.clear()
        self.queued_bytes = 0


def common_name(writer: asyncio.StreamWriter) -> str:
    """Return the common name of the other end's certificate ("" without one)."""
    certificate = writer.get_extra_info("peercert") or {}
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


def set_no_delay(writer: asyncio.StreamWriter) -> None:
    """Send small frames at once."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
