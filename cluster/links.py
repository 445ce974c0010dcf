"""All links between the nodes of a lab, through proxies in a process of their own, so that nothing else there delays a vote.

A link is written as a pair of node indices, (from, to). :meth:`Links.cut` cuts one or more: no byte gets from the one to the other
any more, over whichever connection. What this means for each connection is decided here, since a connection carries bytes both ways: the
proxy (a, b) passes the connections that a dials to b.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Collection, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

import uvloop

from cluster.link_proxy import LinkProxy, Way
from cluster.options import RunError
from cluster.ports import HOST

Link = tuple[int, int]
ANSWER_S = 10.0
END_S = 5.0


class Cut(NamedTuple):
    """An order to the proxies: which links are cut from now on (no others), and whether those that were are cut off (else they go on)."""

    links: frozenset[Link]
    reset: bool = False


class Links:
    """The proxies of a lab, by their process.

    Args:
        places: for each pair (a, b), the port where a finds b from now on, and the one where b listens.
    """

    def __init__(self, places: Mapping[Link, tuple[int, int]]) -> None:
        context = get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_run, args=(far, dict(places)), name="links", daemon=True)
        self._far: Connection | None = far

    async def start(self) -> None:
        """Start the process, and wait until every proxy listens.

        Raises:
            RunError: one cannot.
        """
        await asyncio.to_thread(self._process.start)
        if self._far is not None:
            self._far.close()
            self._far = None
        await self._answer()

    async def cut(self, links: Collection[Link], *, reset: bool = False) -> None:
        """Cut these links, and mend all others.

        Args:
            reset: end the connections that go over links that are mended now; else they go on.

        Raises:
            RunError: the proxies do not answer.
        """
        self._pipe.send(Cut(frozenset(links), reset))
        await self._answer()

    async def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        if self._process.pid is not None:
            await asyncio.to_thread(self._process.join, END_S)
            if self._process.is_alive():
                self._process.kill()

    async def _answer(self) -> None:
        try:
            answered = await asyncio.to_thread(self._pipe.poll, ANSWER_S)
            problem = self._pipe.recv() if answered else f"no answer within {ANSWER_S:g} s"
        except (EOFError, OSError) as error:
            problem = f"ended ({error or type(error).__name__})"
        if problem:
            raise RunError(f"the proxies between the nodes: {problem}")


def around(group: Collection[int], nodes: int) -> frozenset[Link]:
    """Return all links between the nodes of a group and the others, both ways."""
    return frozenset(link for one in group for other in range(nodes) if other not in group for link in ((one, other), (other, one)))


def into(index: int, nodes: int) -> frozenset[Link]:
    """Return all links to a node: without them it is deaf."""
    return frozenset((other, index) for other in range(nodes) if other != index)


def out_of(index: int, nodes: int) -> frozenset[Link]:
    """Return all links from a node: without them it is mute."""
    return frozenset((index, other) for other in range(nodes) if other != index)


def closed_ways(dialled: Link, cut: Collection[Link]) -> frozenset[Way]:
    """Return what cut links mean for the connections of one proxy, which the first of ``dialled`` dials to the second."""
    one, other = dialled
    return frozenset(way for way, link in ((Way.FORTH, (one, other)), (Way.BACK, (other, one))) if link in cut)


def _run(pipe: Connection, places: dict[Link, tuple[int, int]]) -> None:
    """Be the process: serve until the other end of the pipe is closed (Ctrl-C is the launcher's to handle)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe, {link: LinkProxy(HOST, port, (HOST, target)) for link, (port, target) in places.items()}))


async def _serve(pipe: Connection, proxies: dict[Link, LinkProxy]) -> None:
    try:
        for proxy in proxies.values():
            await proxy.start()
    except OSError as error:
        pipe.send(error.strerror or str(error))
        return
    orders: asyncio.Queue[Cut | None] = asyncio.Queue()
    asyncio.get_running_loop().add_reader(pipe.fileno(), _read_order, pipe, orders)
    pipe.send("")
    while (order := await orders.get()) is not None:
        for link, proxy in proxies.items():
            before = proxy.is_open()
            proxy.close_ways(closed_ways(link, order.links))
            if order.reset and not before and proxy.is_open():
                proxy.cut_off()
        pipe.send("")


def _read_order(pipe: Connection, orders: asyncio.Queue[Cut | None]) -> None:
    try:
        orders.put_nowait(pipe.recv())
    except (EOFError, OSError):
        asyncio.get_running_loop().remove_reader(pipe.fileno())
        orders.put_nowait(None)
