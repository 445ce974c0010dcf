"""One dialled link: queue, dialling with backoff, writing, keepalives, and what comes back."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from consensus.errors import DecodeError
from node.frame_queue import FrameQueue
from node.framing import KEEPALIVE, Frame, FrameSplitter
from node.handshake import common_name, set_no_delay, tls_reason

READ_BYTES = 256 * 1024
REFUSED = "closed by the peer at once: it refuses this node (its certificate, or one guest too many)"
"""TLS 1.3 checks the dialler's certificate last, and asyncio does not send what it finds wrong."""

OnFrame = Callable[[str, Frame], Awaitable[None]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """Patience of links, real milliseconds.

    Attributes:
        keepalive_ms: a side that wrote nothing for so long sends a keepalive.
        silence_ms: a connection on which nothing came for so long is closed.
        handshake_ms: for TCP and TLS together.
        backoff_ms, max_backoff_ms: pause after a failed attempt, first and doubled at most up to (less a random part).
    """

    keepalive_ms: int = 1_000
    silence_ms: int = 10_000
    handshake_ms: int = 5_000
    backoff_ms: int = 100
    max_backoff_ms: int = 3_000


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where another node listens."""

    host: str
    port: int


class OutgoingLink:
    """Carries frames to one node, and takes those that it answers with (it does so if it does not dial this node).

    While the node is away (an attempt to dial it failed) frames are dropped at once instead of growing stale in the queue.

    Args:
        name: common name that its certificate must have.
        address: where it listens.
        context: TLS context with this node's certificate.
        max_queue_bytes: bound of the queue.
        times: keepalives and patience.
        on_frame: awaited for every frame that comes back; it is cancelled when the link ends.
        on_seen: called when bytes come back.

    Attributes:
        queue: where frames for the node are put.
        connected: it takes our frames (it answered a keepalive over the present connection).
        last_error: why the last attempt or connection ended; None while connected, and before the first attempt.
        failures: how often each of these happened.
    """

    def __init__(
        self,
        *,
        name: str,
        address: PeerAddress,
        context: ssl.SSLContext,
        max_queue_bytes: int,
        times: LinkTimes,
        on_frame: OnFrame,
        on_seen: Callable[[str], None],
    ) -> None:
        self.name = name
        self.queue = FrameQueue(max_queue_bytes)
        self.connected = False
        self.last_error: str | None = None
        self.failures: Counter[str] = Counter()
        self._address = address
        self._context = context
        self._times = times
        self._on_frame = on_frame
        self._on_seen = on_seen
        self._peer_is_up = asyncio.Event()
        self._course: asyncio.Timeout | None = None
        self._heard = False
        self._told: set[str] = set()

    @property
    def address(self) -> PeerAddress:
        """Where the node is dialled."""
        return self._address

    def retarget(self, address: PeerAddress) -> None:
        """Leave the present connection, if any, and dial another address at once."""
        self._address = address
        if self._course is not None and not self._course.expired():
            self._course.reschedule(asyncio.get_running_loop().time())

    def use(self, context: ssl.SSLContext) -> None:
        """Dial with another certificate from the next attempt on; that one comes at once if the link is down."""
        self._context = context
        self.hurry()

    def hurry(self) -> None:
        """Dial again at once: something has changed (the peer has just dialled us, so it is up)."""
        self._peer_is_up.set()

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None) as self._course:
                        await self._keep_up()
                self._down("address changed", keep=True)
        finally:
            self._course = None
            self.connected = False
            self.queue.shut()

    async def _keep_up(self) -> None:
        """Dial the present address again and again."""
        pause_ms = self._times.backoff_ms
        while True:
            self._down(await self._attempt(), keep=self._heard)
            if self._heard:
                pause_ms = self._times.backoff_ms
            self._peer_is_up.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_ms * random.uniform(0.5, 1.0) / 1000):  # noqa: S311  jitter, no secret
                    await self._peer_is_up.wait()
            pause_ms = min(2 * pause_ms, self._times.max_backoff_ms)

    def _down(self, why: str, *, keep: bool) -> None:
        if keep:
            self.queue.hold()
        else:
            self.queue.shut()
        if why not in self._told or self.connected:
            self._told.add(why)
            _log.warning("link down", peer=self.name, why=why)
        self.failures[why] += 1
        self.connected, self.last_error = False, why

    async def _attempt(self) -> str:
        """Dial, serve until the connection ends, and say why it did."""
        self._heard = False
        try:
            async with asyncio.timeout(self._times.handshake_ms / 1000):
                reader, writer = await asyncio.open_connection(
                    self._address.host, self._address.port, ssl=self._context, server_hostname="", ssl_shutdown_timeout=1.0
                )
        except ssl.SSLError as error:
            return f"TLS refused: {tls_reason(error)}"
        except TimeoutError:
            return "no answer in time"
        except OSError as error:
            return f"cannot connect: {_plain(error)}"
        try:
            if common_name(writer) != self.name:
                return "wrong name"
            set_no_delay(writer)
            return await self._serve(reader, writer)
        except ssl.SSLError as error:
            return f"{'broken' if self._heard else 'TLS refused'}: {tls_reason(error)}"
        except OSError as error:
            return f"broken: {error.strerror or type(error).__name__}" if self._heard else REFUSED
        except DecodeError:
            return "malformed answer"
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Write frames and read what comes back until one of the two ends.

        Raises:
            OSError: the connection broke.
            DecodeError: something else than frames came back.
        """
        writer.write(KEEPALIVE)
        reading = asyncio.create_task(self._read(reader))
        writing = asyncio.create_task(self.queue.pour(writer, self._times.keepalive_ms))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            error = (reading if reading.done() else writing).exception()
            if error is None:
                return reading.result()
            if isinstance(error, OSError | DecodeError):
                raise error
            reading.get_loop().call_exception_handler({"message": "handling a frame failed", "exception": error, "task": reading})
            return "handling a frame failed"
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> str:
        splitter = FrameSplitter()
        while True:
            try:
                async with asyncio.timeout(self._times.silence_ms / 1000):
                    data = await reader.read(READ_BYTES)
            except TimeoutError:
                return "silent"
            if not data:
                return "closed by the peer" if self._heard else REFUSED
            self._on_seen(self.name)
            for frame in splitter.feed(data):
                if not self.connected:
                    self._up()
                if frame is not None:
                    await self._on_frame(self.name, frame)

    def _up(self) -> None:
        self._heard, self.connected, self.last_error = True, True, None
        self._told.clear()
        _log.info("link up", peer=self.name)
        self.queue.open()


def _plain(error: OSError) -> str:
    """Return the reason without the address that asyncio puts into it (a name that is not found has no positive number)."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror or str(error) or "closed by the peer"
