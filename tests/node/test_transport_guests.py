"""Nodes that dial in and are dialled by nobody: followers, validators about to join, and whoever else has a certificate."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from node.framing import KEEPALIVE, Frame, FrameSplitter, pack_frame
from node.incoming import GUEST_SLICE_S
from node.keys import Authority, create_authority
from node.outgoing import REFUSED
from node.transport import PeerAddress
from tests.node.link_nodes import (
    DEADLINE_S,
    FAST,
    Node,
    closed,
    follower,
    frame,
    nodes,
    number_of,
    read_tls,
    started,
    stranger,
    tls_files,
    until,
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority("GridPact test")


async def test_a_guest_gets_broadcasts_and_answers_over_its_own_connection(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second), follower(tmp_path, authority, first, second) as guest:
        await until(lambda: first.connected() and second.connected() and first.guests() == second.guests() == {"follower"})
        assert guest.links.send("dc1", frame(1))
        await until(lambda: first.got == [("follower", frame(1))])
        assert first.links.send("follower", frame(2))
        first.links.broadcast(frame(3))
        await until(lambda: guest.got == [("dc1", frame(2)), ("dc1", frame(3))])
        await until(lambda: second.got == [("dc1", frame(3))])
        first.links.broadcast(frame(4), ["dc1", "dc2"])
        first.links.broadcast(frame(5), ["follower"])
        first.links.broadcast(frame(6), first.links.peers)
        await until(lambda: guest.numbers("dc1") == [2, 3, 5] and second.numbers("dc1") == [3, 4, 6])
        status = first.status("follower")
        assert (status.guest, status.connected, status.dropped, status.queued_bytes) == (True, True, 0, 0)
        assert status.last_seen_ms is not None
        assert [status.name for status in first.links.status()] == ["dc2", "follower"]
        assert first.refused("unknown node") == 0


async def test_large_frames_go_both_ways_of_one_connection(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=1) as (first,), follower(tmp_path, authority, first) as guest:
        await until(lambda: first.guests() == {"follower"})
        for number in range(3):
            assert first.links.send("follower", frame(number, 5_000_000))
            assert guest.links.send("dc1", frame(number, 5_000_000))
        await until(lambda: guest.numbers("dc1") == first.numbers("follower") == [0, 1, 2])


async def test_a_guest_comes_back(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, _second):
        for number in range(3):
            name = f"follower-{number % 2}"
            async with follower(tmp_path, authority, first, name=name) as guest:
                await until(lambda name=name: first.guests() == {name})
                assert first.links.send(name, frame(number))
                await until(lambda guest=guest, number=number: guest.numbers("dc1") == [number])
            await until(lambda: first.guests() == set())
            assert not first.links.send(name, frame(9))
        assert first.refused("unknown node") == 3


async def test_the_newest_connection_of_a_guest_counts(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=1, max_guests=1) as (first,):
        contexts = tls_files(tmp_path / "twice", authority, "follower")
        reader, writer = await stranger(first.links.port, contexts.client)
        assert await reader.readexactly(4) == KEEPALIVE
        newer, again = await stranger(first.links.port, contexts.client)
        assert await closed(reader)
        assert await newer.readexactly(4) == KEEPALIVE
        assert first.links.send("follower", frame(1))
        splitter, got = FrameSplitter(), []
        async with asyncio.timeout(DEADLINE_S):
            while not got:
                got += [one for one in splitter.feed(await newer.read(4096)) if one is not None]
        assert got == [frame(1)]
        writer.transport.abort()
        again.transport.abort()


async def test_guests_past_the_limit_are_refused_until_one_goes(tmp_path: Path, authority: Authority) -> None:
    third = Node("three", tls_files(tmp_path / "three", authority, "three"))
    async with (
        nodes(tmp_path, authority, max_guests=2) as (first, second),
        follower(tmp_path, authority, first, name="one"),
        follower(tmp_path, authority, first, name="two") as two,
        started(third),
    ):
        third.dial(first)
        await until(lambda: first.refused("too many guests") > 1)
        assert first.guests() == {"one", "two"}
        assert not third.connected()
        assert third.status("dc1").last_error == REFUSED
        assert first.links.send("two", frame(1))
        assert second.links.send("dc1", frame(2))
        await until(lambda: two.numbers("dc1") == [1] and first.numbers("dc2") == [2])
        await two.links.stop()
        await until(third.connected)
        assert first.links.send("three", frame(3))
        await until(lambda: third.numbers("dc1") == [3])


GARBAGE = {
    "largest length": b"\xff" * 64,
    "no frame": (5).to_bytes(4, "big") + b"hello",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_of_a_guest_closes_its_connection_and_nothing_else(tmp_path: Path, authority: Authority, data: bytes) -> None:
    async with nodes(tmp_path, authority) as (first, second), follower(tmp_path, authority, first) as guest:
        await until(second.connected)
        contexts = tls_files(tmp_path / "bad", authority, "bad")
        reader, writer = await stranger(first.links.port, contexts.client)
        writer.write(pack_frame(frame(1)) + data)
        assert await closed(reader)
        writer.transport.abort()
        assert first.refused("malformed") == 1
        assert first.got == [("bad", frame(1))]
        await until(lambda: first.guests() == {"follower"})
        second.links.send("dc1", frame(2))
        guest.links.send("dc1", frame(3))
        await until(lambda: first.numbers("dc2") == [2] and first.numbers("follower") == [3])


async def test_a_silent_guest_is_let_go(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, times=FAST) as (first, second):
        reader, writer = await stranger(first.links.port, tls_files(tmp_path / "mute", authority, "mute").client)
        assert await closed(reader)
        writer.transport.abort()
        assert first.refused("silent") > 0
        await until(lambda: first.guests() == set() and second.connected())


async def test_a_guest_that_takes_nothing_fills_its_own_queue_only(tmp_path: Path, authority: Authority) -> None:
    async with (
        nodes(tmp_path, authority, max_queue_bytes=1 << 20) as (first, second),
        follower(tmp_path, authority, first, name="slow") as slow,
        follower(tmp_path, authority, first, name="quick") as quick,
    ):
        await until(lambda: first.guests() == {"slow", "quick"} and first.connected())
        gate = asyncio.Event()

        async def wait(peer: str, got: Frame) -> None:
            await gate.wait()
            await slow.keep(peer, got)

        slow.handle = wait
        sent = 0
        async with asyncio.timeout(DEADLINE_S):
            while first.status("slow").dropped == 0:
                first.links.broadcast(frame(sent, 50_000))
                sent += 1
                await until(lambda sent=sent: quick.numbers("dc1") == second.numbers("dc1") == list(range(sent)))
        assert first.status("slow").queued_bytes <= 1 << 20
        assert first.status("slow").connected, "busy is not dead"
        assert first.status("quick").dropped == first.status("dc2").dropped == 0
        gate.set()
        await until(lambda: slow.numbers("dc1") == list(range(sent - 1)))
        await slow.links.stop()
        await until(lambda: first.refused("dropped for guests") == 1)


async def test_guests_wait_in_one_line_and_validators_pass_it(tmp_path: Path, authority: Authority) -> None:
    async with (
        nodes(tmp_path, authority) as (first, second),
        follower(tmp_path, authority, first, name="one") as one,
        follower(tmp_path, authority, first, name="two") as two,
    ):
        await until(lambda: first.connected() and second.connected())
        gate, entered = asyncio.Event(), []

        async def wait(peer: str, got: Frame) -> None:
            entered.append(peer)
            if peer == "one":
                await gate.wait()
            await first.keep(peer, got)

        first.handle = wait
        one.links.send("dc1", frame(1))
        await until(lambda: entered == ["one"])
        two.links.send("dc1", frame(2))
        for number in range(50):
            second.links.send("dc1", frame(number))
            await until(lambda number=number: first.numbers("dc2") == list(range(number + 1)))
        assert "two" not in entered
        gate.set()
        await until(lambda: first.numbers("one") == [1] and first.numbers("two") == [2])


async def test_a_flood_of_a_guest_leaves_the_loop_to_others(tmp_path: Path, authority: Authority) -> None:
    """Between two turns of the event loop a guest gets one slice of time, however much it sends."""
    async with nodes(tmp_path, authority) as (first, second):
        await until(lambda: first.connected() and second.connected())
        cost_s, per_turn = GUEST_SLICE_S / 10, [0]

        async def ticks() -> None:
            while True:
                per_turn.append(0)
                await asyncio.sleep(0)

        async def costly(peer: str, got: Frame) -> None:
            if peer == "flood":
                time.sleep(cost_s)  # noqa: ASYNC251  it stands for work that does not yield
                per_turn[-1] += 1
            await first.keep(peer, got)

        first.handle = costly
        ticking = asyncio.create_task(ticks())
        _, writer = await stranger(first.links.port, tls_files(tmp_path / "flood", authority, "flood").client)
        writer.write(b"".join(pack_frame(frame(number)) for number in range(300)))
        for number in range(20):
            second.links.send("dc1", frame(number))
            await until(lambda number=number: first.numbers("dc2") == list(range(number + 1)))
        assert len(first.numbers("flood")) < 300, "the frames of the validator came in between"
        await until(lambda: first.numbers("flood") == list(range(300)))
        ticking.cancel()
        writer.transport.abort()
        assert max(per_turn) <= 2 * GUEST_SLICE_S / cost_s


async def test_a_peer_that_answers_garbage_is_left(tmp_path: Path, authority: Authority) -> None:
    contexts = tls_files(tmp_path / "odd", authority, "dc2")

    async def odd(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(KEEPALIVE + pack_frame(frame(1)) + b"\xff" * 64)

    server = await asyncio.start_server(odd, "127.0.0.1", 0, ssl=contexts.server)
    async with server, nodes(tmp_path, authority, count=1) as (first,), follower(tmp_path, authority, first) as guest:
        port = server.sockets[0].getsockname()[1]
        first.links.set_peers({"dc2": PeerAddress("127.0.0.1", port)})
        await until(lambda: first.refused("malformed answer") > 1)
        assert first.numbers("dc2")[0] == 1
        assert first.links.send("follower", frame(2))
        await until(lambda: guest.numbers("dc1") == [2])


async def test_a_handler_that_fails_on_an_answer_reaches_the_loop_and_the_link_comes_back(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=1) as (first,), follower(tmp_path, authority, first) as guest:
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context.get("exception")))

        async def fail(peer: str, got: Frame) -> None:
            raise RuntimeError(f"frame {number_of(got)} of {peer}")

        guest.handle = fail
        await until(lambda: first.links.send("follower", frame(1)))
        await until(lambda: bool(seen))
        assert str(seen[0]) == "frame 1 of dc1"
        guest.handle = guest.keep
        await until(lambda: first.links.send("follower", frame(2)) and 2 in guest.numbers("dc1"))
        assert guest.refused("handling a frame failed") == 1


async def test_a_restarted_node_finds_its_guests_again(tmp_path: Path, authority: Authority) -> None:
    """The follower redials by itself; what it is sent then arrives."""
    async with nodes(tmp_path, authority, count=1) as (first,), follower(tmp_path, authority, first) as guest:
        port = first.links.port
        await first.links.stop()
        await until(lambda: not guest.connected())
        async with started(Node("dc1", read_tls(tmp_path / "dc1"), port=port)) as (again,):
            await until(lambda: again.guests() == {"follower"} and again.links.send("follower", frame(7)))
            await until(lambda: guest.numbers("dc1") == [7])


UNDER_UVLOOP = (
    test_a_guest_gets_broadcasts_and_answers_over_its_own_connection,
    test_a_guest_that_takes_nothing_fills_its_own_queue_only,
    test_guests_past_the_limit_are_refused_until_one_goes,
)


@pytest.mark.parametrize("scenario", UNDER_UVLOOP)
def test_the_same_under_uvloop(
    tmp_path: Path, authority: Authority, scenario: Callable[[Path, Authority], Coroutine[None, None, None]]
) -> None:
    uvloop.run(scenario(tmp_path, authority))
