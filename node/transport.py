"""Links to other nodes over TLS 1.3 with mutual certificates, everybody by name.

A node dials its *peers* (the validators of the chain). A dialled connection carries frames from the dialler; between two nodes that dial
each other only keepalives come back, so there are two connections per pair, and neither side waits for the other to read. A node that
is no peer here and dials in with a certificate of the same authority is a *guest* (it follows without a vote, is about to join, or was
removed): its frames come in over the connection that it opened, and frames for it go back over the same one. Who is at the other end
is the common name of its certificate, checked on both sides before the first frame counts.

Frames may get lost: when a queue is full, when a link breaks, while a node is away. That is counted, never an error, and the protocol
sends again. A frame is given to one connection, so it never arrives twice. Whatever a node sends, at worst its connection is closed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog

from consensus.errors import DecodeError
from node.clock import wall_ms
from node.frame_queue import FrameQueue
from node.framing import Frame, pack_frame
from node.incoming import GUEST_QUEUE_BYTES, MAX_GUESTS, IncomingLinks
from node.keys import TlsContexts
from node.outgoing import LinkTimes, OnFrame, OutgoingLink, PeerAddress
from node.refusals import Refusals

__all__ = ["LinkTimes", "OnFrame", "PeerAddress", "PeerLinkStatus", "PeerLinks"]

MAX_SEEN = 1_000
"""Past so many names, the times of nodes that have gone are forgotten."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PeerLinkStatus:
    """How the link to one node is doing.

    Attributes:
        name: of the node.
        guest: it dialled this node, and this node does not dial it.
        connected: it takes our frames.
        last_seen_ms: Unix time of the last bytes from it over any connection, None if never.
        queued_bytes: waiting to be written to it.
        dropped: frames for it that were dropped over the present link; begins anew with a new link.
        last_error: why dialling it failed or its link ended, in words; None while the link stands.
    """

    name: str
    guest: bool
    connected: bool
    last_seen_ms: int | None
    queued_bytes: int
    dropped: int
    last_error: str | None


class PeerLinks:
    """All links of one node.

    Args:
        name: of this node.
        listen: host and port for the others to dial; port 0 takes a free one, see :attr:`port`.
        peers: whom to dial, by name (an entry for ``name`` itself is left out); :meth:`set_peers` changes it.
        tls: contexts with this node's certificate; :meth:`reload_tls` changes them.
        on_frame: awaited for every frame, with the sender's name; while it waits, nothing more is read from that connection. It is
            cancelled when a link that this node dialled ends, or the links are stopped.
        max_queue_bytes: bound of the queue to each peer (and to each guest, if lower than :data:`node.incoming.GUEST_QUEUE_BYTES`).
        max_guests: more are refused.
        times: keepalives and patience.
    """

    def __init__(
        self,
        *,
        name: str,
        listen: tuple[str, int],
        peers: Mapping[str, PeerAddress],
        tls: TlsContexts,
        on_frame: OnFrame,
        max_queue_bytes: int = 32 * 1024 * 1024,
        max_guests: int = MAX_GUESTS,
        times: LinkTimes | None = None,
    ) -> None:
        self._name = name
        self._tls = tls
        self._on_frame = on_frame
        self._max_queue_bytes = max_queue_bytes
        self._times = times or LinkTimes()
        self._seen_ms: dict[str, int] = {}
        self._refusals = Refusals()
        self._links: dict[str, OutgoingLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._running = False
        self._incoming = IncomingLinks(
            name=name,
            listen=listen,
            context=tls.server,
            is_peer=self._links.__contains__,
            on_frame=on_frame,
            on_seen=self._saw,
            on_peer=lambda peer: self._links[peer].hurry(),
            refusals=self._refusals,
            times=self._times,
            max_guests=max_guests,
            max_queue_bytes=min(max_queue_bytes, GUEST_QUEUE_BYTES),
        )
        self.set_peers(peers)

    async def start(self) -> None:
        """Listen, and dial all peers.

        Raises:
            InputError: the address cannot be listened on.
        """
        await self._incoming.start()
        self._running = True
        for link in self._links.values():
            self._run(link)

    async def stop(self) -> None:
        """Close everything; queued frames are dropped."""
        self._running = False
        for name in list(self._tasks):
            self._end(name)
        await self._incoming.stop()
        await asyncio.gather(*self._ending, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port listened on.

        Raises:
            InputError: not started.
        """
        return self._incoming.port

    # ---------------------------------------------------------------------------------------------------------- membership

    @property
    def peers(self) -> Collection[str]:
        """Names of the nodes that are dialled."""
        return self._links.keys()

    def set_peers(self, peers: Mapping[str, PeerAddress]) -> None:
        """Dial these nodes from now on, and no others; call it from the event loop.

        Links to the same nodes at the same addresses are left alone. A changed address is dialled at once, and what waits for that node
        is kept. The link to a node that is no peer any more ends, and what waits for it is dropped; while it dials this node it is a
        guest. A guest that becomes a peer gets its frames over its own connection until the link to it stands.
        """
        wanted = {name: address for name, address in peers.items() if name != self._name}
        for name in [name for name in self._links if name not in wanted]:
            self._refusals.counts.update(self._links.pop(name).failures)
            self._end(name)
        for name, address in wanted.items():
            link = self._links.get(name)
            if link is None:
                self._add(name, address)
            elif link.address != address:
                link.retarget(address)
        self._incoming.sort()

    def _add(self, name: str, address: PeerAddress) -> None:
        link = self._links[name] = OutgoingLink(
            name=name,
            address=address,
            context=self._tls.client,
            max_queue_bytes=self._max_queue_bytes,
            times=self._times,
            on_frame=self._on_frame,
            on_seen=self._saw,
        )
        if self._running:
            self._run(link)

    def _run(self, link: OutgoingLink) -> None:
        self._tasks[link.name] = asyncio.create_task(link.run(), name=f"link to {link.name}")

    def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def reload_tls(self, tls: TlsContexts) -> None:
        """Use other contexts (a renewed certificate) for all connections to come; those that stand go on, those that fail try again."""
        self._tls = tls
        self._incoming.use(tls.server)
        for link in self._links.values():
            link.use(tls.client)

    # ------------------------------------------------------------------------------------------------------------- sending

    def send(self, name: str, frame: Frame) -> bool:
        """Queue a frame for one peer or guest; False if it was dropped (not known, away, queue full, too large): that is counted."""
        return self._put([name], frame) == 1

    def broadcast(self, frame: Frame, to: Collection[str] | None = None) -> None:
        """Queue a frame for these peers and guests (None: for all); it is encoded once, and this node itself is left out."""
        self._put([*self._links, *self._incoming.guests] if to is None else [name for name in to if name != self._name], frame)

    def _put(self, names: Collection[str], frame: Frame) -> int:
        """Put a frame into the queues of these nodes, and return into how many it went."""
        queues = [queue for name in names if (queue := self._queue(name)) is not None]
        if len(queues) < len(names):
            self._refusals.counts["unknown node"] += len(names) - len(queues)
        if not queues:
            return 0
        try:
            data = pack_frame(frame)
        except DecodeError as error:
            self._refusals.counts["too large"] += 1
            _log.error("frame not sent", reason=str(error))
            return 0
        return sum(queue.put(data) for queue in queues)

    def _queue(self, name: str) -> FrameQueue | None:
        """Return the queue of the one connection over which frames for a node go now."""
        link = self._links.get(name)
        if link is not None and link.connected:
            return link.queue
        answering = self._incoming.answering(name)
        if answering is not None:
            return answering.queue
        return link.queue if link is not None else None

    # -------------------------------------------------------------------------------------------------------------- status

    def status(self) -> list[PeerLinkStatus]:
        """Return how each link is doing: peers in their order, then guests by name."""
        return [self._status(name) for name in (*self._links, *sorted(self._incoming.guests))]

    def _status(self, name: str) -> PeerLinkStatus:
        link, answering = self._links.get(name), self._incoming.answering(name)
        queues = [one.queue for one in (link, answering) if one is not None]
        return PeerLinkStatus(
            name=name,
            guest=link is None,
            connected=answering is not None or (link is not None and link.connected),
            last_seen_ms=self._seen_ms.get(name),
            queued_bytes=sum(queue.size_bytes for queue in queues),
            dropped=sum(queue.dropped for queue in queues),
            last_error=link.last_error if link is not None else None,
        )

    def refused(self) -> dict[str, int]:
        """Return why connections were closed and frames not sent, with counts since the start (for metrics)."""
        counts = Counter(self._refusals.counts)
        for link in self._links.values():
            counts.update(link.failures)
        return dict(counts)

    def _saw(self, name: str) -> None:
        self._seen_ms[name] = wall_ms()
        if len(self._seen_ms) > MAX_SEEN:
            known = {*self._links, *self._incoming.guests}
            self._seen_ms = {name: seen_ms for name, seen_ms in self._seen_ms.items() if name in known}
