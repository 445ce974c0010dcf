"""Links to the other validators over TLS 1.3 with mutual certificates.

Every node dials every other. A dialled connection carries frames one way, from the dialler; back come keepalives only. So there are two
connections per pair, and neither side waits for the other to read. Who is at the other end is the common name of its certificate,
checked on both sides before the first frame counts.

Frames may get lost: when a queue is full, when a link breaks, while a peer is away. That is counted, never an error, and the protocol
sends again. Whatever a peer sends, at worst its connection is closed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from consensus.errors import DecodeError, InputError
from node.clock import wall_ms
from node.framing import KEEPALIVE, Frame, FrameSplitter, pack_frame
from node.keys import TlsContexts
from node.outgoing import LinkTimes, OutgoingLink, common_name, set_no_delay

OnFrame = Callable[[int, Frame], Awaitable[None]]
READ_BYTES = 256 * 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Another validator: its name (common name of its certificate) and where it listens."""

    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PeerLinkStatus:
    """How the link to one validator is doing.

    Attributes:
        index: of the validator.
        connected: it takes our frames (it answered a keepalive over the present connection).
        last_seen_ms: Unix time of the last bytes from it over either connection, None if never.
        queued_bytes: waiting to be written to it.
        dropped: frames for it that were dropped since the start.
    """

    index: int
    name: str
    connected: bool
    last_seen_ms: int | None
    queued_bytes: int
    dropped: int


class PeerLinks:
    """All links of one node.

    Args:
        index: this validator.
        listen: host and port for the others to dial; port 0 takes a free one, see :attr:`port`.
        peers: the other validators by index (an entry for ``index`` itself is left out).
        tls: contexts with this node's certificate.
        on_frame: awaited for every frame, with the sender's index; while it waits, nothing more is read from that peer.
        max_queue_bytes: bound of the queue to each peer.
        times: keepalives and patience.
    """

    def __init__(
        self,
        *,
        index: int,
        listen: tuple[str, int],
        peers: Mapping[int, PeerAddress],
        tls: TlsContexts,
        on_frame: OnFrame,
        max_queue_bytes: int = 32 * 1024 * 1024,
        times: LinkTimes | None = None,
    ) -> None:
        self._index = index
        self._listen = listen
        self._tls = tls
        self._on_frame = on_frame
        self._times = times or LinkTimes()
        self._seen_ms: dict[int, int] = {}
        self._refused: Counter[str] = Counter()
        self._peers = {peer: address for peer, address in peers.items() if peer != index}
        self._by_name = {address.name: peer for peer, address in self._peers.items()}
        self._outgoing = {
            peer: OutgoingLink(
                name=address.name,
                host=address.host,
                port=address.port,
                context=tls.client,
                max_queue_bytes=max_queue_bytes,
                times=self._times,
                on_seen=partial(self._saw, peer),
            )
            for peer, address in self._peers.items()
        }
        self._incoming: dict[int, asyncio.StreamWriter] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen, and dial all others.

        Raises:
            InputError: the address cannot be listened on.
        """
        host, port = self._listen
        self._tls.server.sslobject_class = _counting(partial(self._count, "TLS refused"))
        try:
            self._server = await asyncio.start_server(
                self._accept,
                host,
                port,
                ssl=self._tls.server,
                ssl_handshake_timeout=self._times.handshake_ms / 1000,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:
            raise InputError("listen", f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._tasks = [asyncio.create_task(link.run(), name=f"link to {link.name}") for link in self._outgoing.values()]

    async def stop(self) -> None:
        """Close everything; queued frames are dropped."""
        if self._server is not None:
            self._server.close()
        for task in (*self._tasks, *self._readers):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._readers, return_exceptions=True)
        self._tasks = []
        self._server = None

    @property
    def port(self) -> int:
        """The port listened on.

        Raises:
            InputError: not started.
        """
        if self._server is None or not self._server.sockets:
            raise InputError("listen", "is not started")
        return int(self._server.sockets[0].getsockname()[1])

    def send(self, peer: int, frame: Frame) -> bool:
        """Queue a frame for one validator; False if it was dropped (unknown or absent peer, queue full, too large): that is counted."""
        link = self._outgoing.get(peer)
        if link is None:
            self._refused["unknown peer"] += 1
            return False
        data = self._packed(frame)
        return link.put(data) if data is not None else False

    def broadcast(self, frame: Frame) -> None:
        """Queue a frame for all other validators; it is encoded once."""
        data = self._packed(frame)
        if data is not None:
            for link in self._outgoing.values():
                link.put(data)

    def status(self) -> list[PeerLinkStatus]:
        """Return how each link is doing, by index."""
        return [
            PeerLinkStatus(peer, link.name, link.connected, self._seen_ms.get(peer), link.queued_bytes, link.dropped)
            for peer, link in sorted(self._outgoing.items())
        ]

    def refused(self) -> dict[str, int]:
        """Return why connections were closed and frames not sent, with counts since the start (for metrics)."""
        counts = Counter(self._refused)
        for link in self._outgoing.values():
            counts.update(link.failures)
        return dict(counts)

    def retarget(self, peer: int, host: str, port: int) -> None:
        """Dial a validator at another address from the next attempt on.

        Raises:
            InputError: there is no such validator.
        """
        if peer not in self._outgoing:
            raise InputError("peer", f"{peer} is no other validator")
        self._outgoing[peer].retarget(host, port)

    # ----------------------------------------------------------------------------------------------------------- incoming

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._receive(reader, writer), name="incoming link")
        self._readers.add(task)
        task.add_done_callback(self._received)

    def _received(self, task: asyncio.Task[None]) -> None:
        self._readers.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            task.get_loop().call_exception_handler({"message": "handling a frame failed", "exception": error, "task": task})

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pulse: asyncio.Task[None] | None = None
        try:
            peer = self._identify(writer)
            if peer is not None:
                pulse = asyncio.create_task(self._pulse(writer), name="pulse")
                await self._serve(peer, reader)
        except DecodeError as error:
            self._refuse("malformed", str(error), writer)
        except TimeoutError:
            self._refuse("silent", "nothing came in time", writer)
        except (OSError, ssl.SSLError) as error:
            self._refuse("broken", str(error), writer)
        finally:
            if pulse is not None:
                pulse.cancel()
            for index in [index for index, known in self._incoming.items() if known is writer]:
                del self._incoming[index]
            writer.transport.abort()

    def _identify(self, writer: asyncio.StreamWriter) -> int | None:
        """Return whose connection this is; it replaces an earlier one of the same validator, which must be dead."""
        name = common_name(writer)
        peer = self._by_name.get(name)
        if peer is None:
            self._refuse("wrong name", f"certificate of {name!r}, who is no other validator", writer)
            return None
        set_no_delay(writer)
        previous = self._incoming.get(peer)
        if previous is not None:
            previous.transport.abort()
        self._incoming[peer] = writer
        self._outgoing[peer].hurry()
        return peer

    async def _pulse(self, writer: asyncio.StreamWriter) -> None:
        """Show the dialler that we live and take its frames, even while a frame is being handled."""
        with suppress(OSError):
            while not writer.is_closing():
                writer.write(KEEPALIVE)
                await asyncio.sleep(self._times.keepalive_ms / 1000)

    async def _serve(self, peer: int, reader: asyncio.StreamReader) -> None:
        splitter = FrameSplitter()
        while True:
            async with asyncio.timeout(self._times.silence_ms / 1000):
                data = await reader.read(READ_BYTES)
            if not data:
                return
            self._saw(peer)
            for frame in splitter.feed(data):
                if frame is not None:
                    await self._on_frame(peer, frame)

    def _saw(self, peer: int) -> None:
        self._seen_ms[peer] = wall_ms()

    def _count(self, why: str) -> None:
        self._refused[why] += 1

    def _packed(self, frame: Frame) -> bytes | None:
        try:
            return pack_frame(frame)
        except DecodeError as error:
            self._refused["too large"] += 1
            _log.error("frame not sent", reason=str(error))
            return None

    def _refuse(self, why: str, detail: str, writer: asyncio.StreamWriter) -> None:
        self._refused[why] += 1
        _log.warning("connection closed", why=why, detail=detail, address=str(writer.get_extra_info("peername")))


def _counting(count: Callable[[], None]) -> type[ssl.SSLObject]:
    """Return the class for a TLS context that calls ``count`` when a handshake fails (asyncio tells nobody)."""

    class CountingObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError:
                count()
                raise

    return CountingObject
