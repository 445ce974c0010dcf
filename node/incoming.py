"""Connections that other nodes open: who it is, its frames in, keepalives back; and frames back to guests, whom nobody here dials."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec

from consensus.errors import DecodeError, InputError
from contracts.calls import Name
from node.frame_queue import Flow, FrameQueue
from node.framing import KEEPALIVE, MAX_FRAME_BYTES, Frame, FrameSplitter
from node.handshake import common_name, server_context, set_no_delay, tls_reason
from node.outgoing import READ_BYTES, LinkTimes, OnFrame
from node.refusals import Refusals

MAX_GUESTS = 64
GUEST_QUEUE_BYTES = MAX_FRAME_BYTES + 64 * 1024
"""Bound of what waits for one guest: the largest frame finds room."""
GUEST_SLICE_S = 0.001
"""After so much time spent on guests they rest."""
GUEST_REST = 3
"""Their rest, in times of what they took: so guests cost at most a quarter of the node's time while others need it."""
MAX_REST_S = 0.25
NAMELESS = "a node that dialled in"


class IncomingLink:
    """One connection that another node opened.

    Attributes:
        answers: frames for that node may be put into ``queue`` (it is or was a guest).
        queue: what goes back.
    """

    def __init__(self, name: str, writer: asyncio.StreamWriter, max_queue_bytes: int) -> None:
        self.name = name
        self.answers = False
        self.queue = FrameQueue(max_queue_bytes, Flow.OPEN)
        self._writer = writer

    async def pulse(self, keepalive_ms: int) -> None:
        """Show the dialler that we live and take its frames, even while one is being handled; write what waits for it."""
        with suppress(OSError):
            self._writer.write(KEEPALIVE)
            await self.queue.pour(self._writer, keepalive_ms)

    def close(self) -> None:
        """End the connection."""
        self._writer.transport.abort()


class GuestLine:
    """The line in which guests wait: all of them together are handled as one peer is, and rest in between.

    However many frames guests send, the links of validators have their turn after a moment.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._spent_s = 0.0

    async def hand_on(self, name: str, frames: Iterable[Frame | None], on_frame: OnFrame) -> None:
        """Hand frames of one guest on when it is its turn."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            began_s = loop.time()
            for frame in frames:
                if frame is not None:
                    await on_frame(name, frame)
                spent_s = self._spent_s + loop.time() - began_s
                if spent_s >= GUEST_SLICE_S:
                    await asyncio.sleep(min(GUEST_REST * spent_s, MAX_REST_S))
                    self._spent_s, began_s = 0.0, loop.time()
            self._spent_s += loop.time() - began_s


class IncomingLinks:
    """All connections that other nodes opened to this one; one per node, the newest.

    Args:
        name: of this node.
        listen: host and port; port 0 takes a free one.
        context: TLS context with this node's certificate.
        is_peer: tells whether this node dials the node of this name; all others are guests.
        on_frame: awaited for every frame; while it waits, nothing more is read from that node.
        on_seen: called with the name when bytes come.
        on_peer: called with the name when a peer has opened a connection.
        refusals: where troubles are counted.
        times: keepalives and patience.
        max_guests: more are refused.
        max_queue_bytes: bound of what waits for one guest.

    Attributes:
        guests: the connections of nodes that this node does not dial, by name.
    """

    def __init__(
        self,
        *,
        name: str,
        listen: tuple[str, int],
        context: ssl.SSLContext,
        is_peer: Callable[[str], bool],
        on_frame: OnFrame,
        on_seen: Callable[[str], None],
        on_peer: Callable[[str], None],
        refusals: Refusals,
        times: LinkTimes,
        max_guests: int = MAX_GUESTS,
        max_queue_bytes: int = GUEST_QUEUE_BYTES,
    ) -> None:
        self.guests: dict[str, IncomingLink] = {}
        self._name = name
        self._listen = listen
        self._context = server_context(context, self._handshake_failed)
        self._is_peer = is_peer
        self._on_frame = on_frame
        self._on_seen = on_seen
        self._on_peer = on_peer
        self._refusals = refusals
        self._times = times
        self._max_guests = max_guests
        self._max_queue_bytes = max_queue_bytes
        self._links: dict[str, IncomingLink] = {}
        self._guest_line = GuestLine()
        self._readers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            InputError: the address cannot be listened on.
        """
        host, port = self._listen
        try:
            self._server = await asyncio.start_server(
                self._accept,
                host,
                port,
                ssl=self._context,
                ssl_handshake_timeout=self._times.handshake_ms / 1000,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:
            raise InputError("listen", f"cannot listen on {host}:{port}: {error.strerror or error}") from error

    async def stop(self) -> None:
        """Close everything; what waits is dropped."""
        if self._server is not None:
            self._server.close()
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
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

    def use(self, context: ssl.SSLContext) -> None:
        """Show another certificate from the next connection on."""
        self._context.use(context, self._handshake_failed)

    def answering(self, name: str) -> IncomingLink | None:
        """Return the connection over which frames may go back to a node, None if there is none."""
        link = self._links.get(name)
        return link if link is not None and link.answers else None

    def sort(self) -> None:
        """Tell guests from peers anew: call it when the peers changed."""
        self._regroup()
        for link in list(self.guests.values())[self._max_guests :]:
            self._refusals.note("too many guests", link.name, f"more than {self._max_guests}")
            link.close()

    def _regroup(self) -> None:
        self.guests = {name: link for name, link in self._links.items() if not self._is_peer(name)}
        for link in self.guests.values():
            link.answers = True

    # ------------------------------------------------------------------------------------------------------ one connection

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
        name = common_name(writer)
        link = IncomingLink(name, writer, self._max_queue_bytes)
        pulse: asyncio.Task[None] | None = None
        try:
            reason = self._objection(name)
            if reason is not None:
                self._refusals.note(*reason)
                return
            self._take(link)
            set_no_delay(writer)
            pulse = asyncio.create_task(link.pulse(self._times.keepalive_ms), name="pulse")
            await self._serve(name, reader)
        except DecodeError as error:
            self._refusals.note("malformed", name, str(error))
        except TimeoutError:
            self._refusals.note("silent", name, "nothing came in time")
        except OSError as error:
            self._refusals.note("broken", name, str(error))
        finally:
            if pulse is not None:
                pulse.cancel()
            self._drop(link)
            writer.transport.abort()

    def _objection(self, name: str) -> tuple[str, str, str] | None:
        """Tell what is wrong with a node that has a good certificate: why, who and detail; None if it may come in."""
        if name == self._name or not _is_name(name):
            return "wrong name", NAMELESS, f"certificate of {name!r}, which is no other node's name"
        if not self._is_peer(name) and name not in self.guests and len(self.guests) >= self._max_guests:
            return "too many guests", name, f"more than {self._max_guests}"
        return None

    def _take(self, link: IncomingLink) -> None:
        """Take the connection in; it replaces an earlier one of the same node, which must be dead."""
        previous = self._links.pop(link.name, None)
        if previous is not None:
            previous.close()
        self._links[link.name] = link
        self._regroup()
        if self._is_peer(link.name):
            self._on_peer(link.name)

    def _drop(self, link: IncomingLink) -> None:
        if self._links.get(link.name) is link:
            del self._links[link.name]
            self._regroup()
        link.queue.shut()
        if link.queue.dropped:
            self._refusals.counts["dropped for guests"] += link.queue.dropped

    async def _serve(self, name: str, reader: asyncio.StreamReader) -> None:
        splitter = FrameSplitter()
        while True:
            async with asyncio.timeout(self._times.silence_ms / 1000):
                data = await reader.read(READ_BYTES)
            if not data:
                return
            self._on_seen(name)
            if name in self.guests:
                await self._guest_line.hand_on(name, splitter.feed(data), self._on_frame)
                continue
            for frame in splitter.feed(data):
                if frame is not None:
                    await self._on_frame(name, frame)

    def _handshake_failed(self, error: ssl.SSLError) -> None:
        self._refusals.note(f"TLS refused: {tls_reason(error)}", NAMELESS)


def _is_name(text: str) -> bool:
    try:
        msgspec.convert(text, Name)
    except msgspec.ValidationError:
        return False
    return True
