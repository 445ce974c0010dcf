"""TCP proxies between nodes that can be cut like a cable: bytes vanish, connections hang, and nobody is told.

A :class:`LinkProxy` stands where one node dials another, and passes bytes both ways. Each way can be closed by itself. While one is
closed, nothing comes out at its end, not even that the connection has ended; and no new connection is made at all, since its packets
need both ways. What is said meanwhile stays with the sender, as it does when nobody acknowledges its packets.

When the way is open again a connection goes on, and what was held back comes late: TCP would have kept sending it. Or it is cut off
(:meth:`LinkProxy.cut_off`): one end would have given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from enum import Enum
from typing import cast


class Way(Enum):
    """Direction of bytes through a proxy: from the one who dialled, or to them."""

    FORTH = "forth"
    BACK = "back"


class LinkProxy:
    """Stands between one node and the place that it dials.

    Args:
        host, port: where to listen; port 0 takes a free one.
        target: host and port to pass connections on to.
    """

    def __init__(self, host: str, port: int, target: tuple[str, int]) -> None:
        self.target = target
        self._place = (host, port)
        self._closed: frozenset[Way] = frozenset()
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._server = await asyncio.get_running_loop().create_server(self._dialled, *self._place)

    def stop(self) -> None:
        """Stop listening and cut off all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut_off()

    @property
    def port(self) -> int:
        """The port listened on; 0 unless started."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    @property
    def connections(self) -> int:
        """Number of connections that pass here, those that wait for a closed way included."""
        return len(self._pairs)

    def is_open(self, way: Way | None = None) -> bool:
        """Tell whether bytes pass this way (None: both)."""
        return way not in self._closed if way is not None else not self._closed

    def close_ways(self, ways: Collection[Way]) -> None:
        """Close these ways and open the others."""
        self._closed = frozenset(ways)
        for pair in list(self._pairs):
            pair.follow()

    def cut_off(self) -> None:
        """End all connections at both ends, whatever is under way."""
        for pair in list(self._pairs):
            pair.cut_off()

    def forget(self, pair: _Pair) -> None:
        """Forget a connection that has ended at both ends."""
        self._pairs.discard(pair)

    def _dialled(self) -> _End:
        pair = _Pair(self)
        self._pairs.add(pair)
        return pair.dialler


class _Pair:
    """One connection through a proxy: the end of the one who dialled, and the end at the target."""

    def __init__(self, proxy: LinkProxy) -> None:
        self.proxy = proxy
        self.dialler = _End(self, Way.FORTH)
        self.target = _End(self, Way.BACK)
        self._connecting: asyncio.Task[None] | None = None

    def other(self, end: _End) -> _End:
        """Return the opposite end."""
        return self.target if end is self.dialler else self.dialler

    def follow(self) -> None:
        """Do what the ways allow now: connect to the target, pass on, hold back."""
        if self._connecting is None and self.proxy.is_open():
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        self.dialler.follow()
        self.target.follow()

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.target, *self.proxy.target)
        except OSError:
            self.cut_off()

    def cut_off(self) -> None:
        """End both ends, and forget the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.dialler.cut_off()
        self.target.cut_off()
        self.proxy.forget(self)

    def ended(self) -> None:
        """Forget the connection if both ends are gone."""
        if self.dialler.gone and (self.target.gone or self._connecting is None):
            self.proxy.forget(self)


class _End(asyncio.Protocol):
    """One end of a connection: what comes in here goes out at the other end, if the way is open and the other end takes it."""

    def __init__(self, pair: _Pair, way: Way) -> None:
        self.gone = False
        self._pair = pair
        self._way = way
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] = []
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket; it is read only when there is somewhere to go with what comes."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by inheritance
        self._pair.follow()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, or keep what was under way when reading stopped."""
        self._held.append(data)
        self.follow()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end (the other end is told when the way is open)."""
        self.gone, self._transport = True, None
        self.follow()
        self._pair.other(self).follow()
        self._pair.ended()

    def pause_writing(self) -> None:
        """This end takes no more for now."""
        self._full = True
        self._pair.other(self).follow()

    def resume_writing(self) -> None:
        """This end takes bytes again."""
        self._full = False
        self._pair.other(self).follow()

    def follow(self) -> None:
        """Pass on what came, and read on, if it can go out at the other end; else leave it with the sender."""
        passes = self._pair.proxy.is_open(self._way) and self._pair.other(self).takes
        if passes:
            held, self._held = self._held, []
            self._pair.other(self).put(held, last=self.gone)
        if self._transport is not None and not self._transport.is_closing():
            if passes:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    @property
    def takes(self) -> bool:
        """Whether this end takes bytes now; one that is gone swallows them."""
        return self.gone or (self._transport is not None and not self._full)

    def put(self, held: list[bytes], *, last: bool) -> None:
        """Send bytes out at this end, and end it after the last ones."""
        if self._transport is None:
            return
        for data in held:
            self._transport.write(data)
        if last:
            self._transport.close()

    def cut_off(self) -> None:
        """End this end at once."""
        if self._transport is not None:
            self._transport.abort()
