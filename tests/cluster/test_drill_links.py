"""Proxies between nodes: they pass bytes, and a closed way looks like a cut cable, not like a closed connection."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from cluster.link_proxy import LinkProxy, Way
from cluster.links import Links, around, closed_ways, into, out_of
from cluster.options import RunError
from cluster.ports import free_ports

HOST = "127.0.0.1"
SOON_S = 5.0
A_WHILE_S = 0.2


def on_both_loops(test):
    """Run a test on asyncio's own loop, and on the one that the proxies' process has."""
    own = inspect.signature(test)

    def run(new_loop, **arguments):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**arguments))

    chosen = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), chosen])
    return pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])(run)


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self):
        self.got = bytearray()
        self.ended = 0
        self.writers = []
        self.news = asyncio.Condition()

    async def serve(self, reader, writer):
        self.writers.append(writer)
        with suppress(OSError):
            while data := await reader.read(65_536):
                self.got += data
                writer.write(data)
                await writer.drain()
                await self.tell()
        self.ended += 1
        writer.close()
        await self.tell()

    async def tell(self):
        async with self.news:
            self.news.notify_all()

    async def wait(self, done):
        async with asyncio.timeout(SOON_S), self.news:
            await self.news.wait_for(done)


@asynccontextmanager
async def proxied():
    echo = Echo()
    server = await asyncio.start_server(echo.serve, HOST, 0)
    proxy = LinkProxy(HOST, 0, server.sockets[0].getsockname())
    await proxy.start()
    try:
        yield proxy, echo
    finally:
        proxy.stop()
        server.close()
        for writer in echo.writers:
            writer.transport.abort()


async def dial(proxy):
    return await asyncio.open_connection(HOST, proxy.port)


async def read(reader, count):
    async with asyncio.timeout(SOON_S):
        return await reader.readexactly(count)


async def hangs(reader):
    """Whether nothing comes, and no end either: a cut cable tells nothing."""
    try:
        async with asyncio.timeout(A_WHILE_S):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def until(done):
    async with asyncio.timeout(SOON_S):
        while not done():  # noqa: ASYNC110 - it is a state of the proxy, which tells nobody
            await asyncio.sleep(0.01)


@on_both_loops
async def test_bytes_pass_both_ways_and_an_end_is_passed_on():
    async with proxied() as (proxy, echo):
        reader, writer = await dial(proxy)
        sent = bytes(range(256)) * 8_000
        writer.write(sent)
        assert await read(reader, len(sent)) == sent
        writer.close()
        await echo.wait(lambda: echo.ended)
        await until(lambda: proxy.connections == 0)


@on_both_loops
async def test_a_reader_who_does_not_read_stops_the_sender_and_nothing_is_lost():
    async with proxied() as (proxy, echo):
        reader, writer = await dial(proxy)
        sent = bytes(50_000_000)
        writer.write(sent)
        # Nobody reads the echo here: the echo stops reading, so the proxy must stop too, instead of keeping 50 MB in memory.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_WHILE_S):
                await writer.drain()
        assert len(echo.got) < len(sent)
        assert len(await read(reader, len(sent))) == len(sent)
        writer.close()


@pytest.mark.parametrize(("way", "heard"), [(Way.FORTH, b""), (Way.BACK, b"lost?")])
@on_both_loops
async def test_a_closed_way_hangs_and_brings_everything_when_it_opens(way, heard):
    async with proxied() as (proxy, echo):
        reader, writer = await dial(proxy)
        writer.write(b"first")
        assert await read(reader, 5) == b"first"
        proxy.close_ways({way})
        writer.write(b"lost?")
        assert await hangs(reader)
        assert bytes(echo.got) == b"first" + heard
        proxy.close_ways(())
        assert await read(reader, 5) == b"lost?"
        writer.close()


@on_both_loops
async def test_an_end_does_not_come_through_a_cut():
    async with proxied() as (proxy, echo):
        reader, writer = await dial(proxy)
        writer.write(b"x")
        assert await read(reader, 1) == b"x"
        proxy.close_ways(Way)
        echo.writers[0].transport.abort()
        assert await hangs(reader)
        proxy.close_ways(())
        assert await read_to_end(reader) == b""
        writer.close()


async def read_to_end(reader):
    async with asyncio.timeout(SOON_S):
        return await reader.read()


@pytest.mark.parametrize("way", list(Way))
@on_both_loops
async def test_no_connection_is_made_through_a_cut_until_it_is_mended(way):
    async with proxied() as (proxy, echo):
        proxy.close_ways({way})
        reader, writer = await dial(proxy)
        writer.write(b"hello")
        assert await hangs(reader)
        assert not echo.writers
        proxy.close_ways(())
        assert await read(reader, 5) == b"hello"
        writer.close()


@on_both_loops
async def test_connections_can_be_cut_off_at_both_ends():
    async with proxied() as (proxy, echo):
        reader, writer = await dial(proxy)
        writer.write(b"x")
        assert await read(reader, 1) == b"x"
        proxy.cut_off()
        with suppress(ConnectionResetError):
            assert await read_to_end(reader) == b""
        await echo.wait(lambda: echo.ended)
        assert proxy.connections == 0
        writer.close()


@on_both_loops
async def test_a_target_that_is_not_there_ends_the_connection():
    server = await asyncio.start_server(lambda *_: None, HOST, 0)
    place = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    proxy = LinkProxy(HOST, 0, place)
    await proxy.start()
    reader, writer = await dial(proxy)
    with suppress(ConnectionResetError):
        assert await read_to_end(reader) == b""
    await until(lambda: proxy.connections == 0)
    writer.close()
    proxy.stop()


def test_cut_links_close_the_right_ways():
    assert around({0}, 3) == {(0, 1), (1, 0), (0, 2), (2, 0)}
    assert around({0, 1}, 4) == {(0, 2), (2, 0), (0, 3), (3, 0), (1, 2), (2, 1), (1, 3), (3, 1)}
    assert into(1, 3) == {(0, 1), (2, 1)}
    assert out_of(1, 3) == {(1, 0), (1, 2)}
    assert closed_ways((0, 1), {(0, 1)}) == {Way.FORTH}
    assert closed_ways((0, 1), {(1, 0), (1, 2)}) == {Way.BACK}
    assert closed_ways((0, 1), around({0}, 3)) == set(Way)
    assert closed_ways((1, 2), around({0}, 3)) == set()


@pytest.mark.parametrize("reset", [False, True])
async def test_the_process_cuts_and_mends_links_on_order(reset):
    echo = Echo()
    server = await asyncio.start_server(echo.serve, HOST, 0)
    listening = server.sockets[0].getsockname()[1]
    free = free_ports()
    places = {(0, 1): (next(free), listening), (1, 0): (next(free), listening)}
    links = Links(places)
    await links.start()
    try:
        reader, writer = await asyncio.open_connection(HOST, places[0, 1][0])
        beside, other_writer = await asyncio.open_connection(HOST, places[1, 0][0])
        writer.write(b"x")
        assert await read(reader, 1) == b"x"
        # Deaf: node 1 hears nothing, neither what 0 sends it nor what answers its own calls.
        await links.cut(into(1, 2))
        writer.write(b"yy")
        other_writer.write(b"z")
        assert await hangs(reader)
        assert await hangs(beside)
        assert bytes(echo.got) == b"xz"
        await links.cut((), reset=reset)
        if reset:
            with suppress(ConnectionResetError):
                await read_to_end(reader)
        else:
            assert await read(reader, 2) == b"yy"
            assert await read(beside, 1) == b"z"
        for one in (writer, other_writer):
            one.close()
    finally:
        await links.stop()
        server.close()
        for one in echo.writers:
            one.transport.abort()


async def test_a_port_that_is_taken_is_told():
    server = await asyncio.start_server(lambda *_: None, HOST, 0)
    taken = server.sockets[0].getsockname()[1]
    links = Links({(0, 1): (taken, taken)})
    with pytest.raises(RunError, match=r"proxies between the nodes: .*in use"):
        await links.start()
    await links.stop()
    server.close()
