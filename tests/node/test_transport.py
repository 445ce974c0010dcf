"""Links between validators over real TLS sockets on loopback."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from consensus.errors import InputError
from node.framing import KEEPALIVE, MAX_FRAME_BYTES, Frame, pack_frame
from node.keys import Authority, create_authority
from node.transport import LinkTimes, PeerAddress, PeerLinks
from tests.node.link_nodes import (
    DEADLINE_S,
    FAST,
    NAMES,
    Node,
    closed,
    frame,
    nodes,
    read_tls,
    started,
    stranger,
    tls_files,
    until,
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority("GridPact test")


async def test_frames_arrive_in_order_from_every_peer(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=3) as (first, second, third):
        await until(lambda: first.connected() and second.connected() and third.connected())
        for number in range(200):
            assert first.links.send("dc2", frame(number))
        third.links.broadcast(frame(7))
        await until(lambda: len(second.got) == 201 and len(first.got) == 1)
        assert [got for peer, got in second.got if peer == "dc1"] == [frame(number) for number in range(200)]
        assert first.got == [("dc3", frame(7))]
        assert [status.name for status in first.links.status()] == ["dc2", "dc3"]
        status = first.status("dc2")
        assert status.last_seen_ms is not None
        assert (status.queued_bytes, status.dropped, status.last_error, status.guest) == (0, 0, None, False)


async def test_large_frames_and_unknown_peers(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await until(first.connected)
        assert first.links.send("dc2", frame(1, 5_000_000))
        assert not first.links.send("dc2", frame(1, MAX_FRAME_BYTES))
        assert not first.links.send("dc9", frame(1))
        assert not first.links.send("dc1", frame(1))
        await until(lambda: len(second.got) == 1)
        assert second.got == [("dc1", frame(1, 5_000_000))]
        assert first.links.refused()["too large"] == 1
        assert first.links.refused()["unknown node"] == 2


async def test_link_comes_back_after_the_peer_restarts(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, times=FAST) as (first, second):
        await until(first.connected)
        port = second.links.port
        await second.links.stop()
        await until(lambda: not first.connected())
        await until(lambda: not first.links.send("dc2", frame(1)))
        status = first.status("dc2")
        assert status.dropped > 0
        assert status.queued_bytes == 0
        assert status.last_error is not None
        async with started(Node("dc2", read_tls(tmp_path / "dc2"), FAST, port=port)) as (again,):
            await until(first.connected)
            assert first.status("dc2").last_error is None
            assert first.links.send("dc2", frame(2))
            await until(lambda: bool(again.got))
            assert again.got[-1] == ("dc1", frame(2))


async def test_a_peer_that_dials_is_dialled_at_once_however_long_the_pause_was(tmp_path: Path, authority: Authority) -> None:
    sleepy = LinkTimes(keepalive_ms=50, silence_ms=20_000, handshake_ms=5_000, backoff_ms=3_600_000, max_backoff_ms=3_600_000)
    tls = [tls_files(tmp_path / name, authority, name) for name in NAMES[:2]]
    async with started(Node("dc1", tls[0], sleepy)) as (first,):
        async with started(Node("dc2", tls[1])) as (second,):
            address = second.address
        first.links.set_peers({"dc2": address})
        await until(lambda: not first.links.send("dc2", frame(1)))  # the first dial failed: the next is an hour away
        async with started(Node("dc2", tls[1], port=address.port)) as (second,):
            second.dial(first)
            await until(first.connected)


async def test_slow_reader_holds_back_and_the_queue_is_bounded(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, times=FAST, max_queue_bytes=1 << 20) as (first, second):
        await until(first.connected)
        gate = asyncio.Event()

        async def wait(peer: str, got: Frame) -> None:
            await gate.wait()
            await second.keep(peer, got)

        second.handle = wait
        sent = 0
        async with asyncio.timeout(DEADLINE_S):
            while first.links.send("dc2", frame(sent, 50_000)):
                sent += 1
                await asyncio.sleep(0)
        status = first.links.status()[0]
        assert status.dropped == 1
        assert status.queued_bytes <= 1 << 20
        assert len(second.got) == 0
        await asyncio.sleep(2 * FAST.silence_ms / 1000)
        assert first.connected(), "a peer that is busy with a frame is not dead"
        gate.set()
        await until(lambda: len(second.got) == sent)
        assert [got for _, got in second.got] == [frame(number, 50_000) for number in range(sent)]


async def test_certificate_of_another_authority_is_refused(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await until(first.connected)
        foreign = tls_files(tmp_path / "foreign", create_authority("another cluster"), "dc2")
        with pytest.raises(ssl.SSLError):
            await stranger(first.links.port, foreign.client)
        foreign.client.verify_mode = ssl.CERT_NONE
        reader, writer = await stranger(first.links.port, foreign.client)
        writer.write(pack_frame(frame(1)))
        assert await closed(reader)
        writer.transport.abort()
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        plain.check_hostname = False
        plain.verify_mode = ssl.CERT_NONE
        reader, writer = await stranger(first.links.port, plain)
        assert await closed(reader)
        writer.transport.abort()
        await until(lambda: sum(count for why, count in first.links.refused().items() if why.startswith("TLS refused")) >= 2)
        assert first.got == []
        assert second.links.send("dc1", frame(2))
        await until(lambda: first.got == [("dc2", frame(2))])


async def test_old_tls_is_refused(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, _second):
        contexts = tls_files(tmp_path / "old", authority, "dc2")
        contexts.client.minimum_version = ssl.TLSVersion.TLSv1_2
        contexts.client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await stranger(first.links.port, contexts.client)


@pytest.mark.parametrize("name", ["dc1", "no name", "../dc9", "dc9\n"])
async def test_right_authority_but_wrong_name_is_refused(tmp_path: Path, authority: Authority, name: str) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await until(first.connected)
        contexts = tls_files(tmp_path / "wrong", authority, name)
        reader, writer = await stranger(first.links.port, contexts.client)
        writer.write(pack_frame(frame(1)))
        assert await closed(reader)
        writer.transport.abort()
        assert first.links.refused()["wrong name"] == 1
        assert first.got == []
        assert second.connected()


async def test_dialler_leaves_a_server_with_the_wrong_name(tmp_path: Path, authority: Authority) -> None:
    contexts = tls_files(tmp_path / "impostor", authority, "dc3")
    got = bytearray()

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(KEEPALIVE)
        got.extend(await reader.read())
        writer.close()

    server = await asyncio.start_server(impostor, "127.0.0.1", 0, ssl=contexts.server)
    async with server, nodes(tmp_path, authority, times=FAST) as (first, _second):
        first.links.send("dc2", frame(1))
        first.links.set_peers({"dc2": PeerAddress("127.0.0.1", server.sockets[0].getsockname()[1])})
        await until(lambda: first.links.refused().get("wrong name", 0) > 1)
        assert not first.connected()
        assert bytes(got) == b""


GARBAGE = {
    "oversized": (MAX_FRAME_BYTES + 1).to_bytes(4, "big") + b"x" * 10,
    "largest length": b"\xff" * 64,
    "no frame": (5).to_bytes(4, "big") + b"hello",
    "wrong types": (4).to_bytes(4, "big") + b"\x93\x01\x02\x03",
    "too many parts": (5).to_bytes(4, "big") + b"\x94\xa0\x01\xc4\x00",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_closes_its_connection_and_nothing_else(tmp_path: Path, authority: Authority, data: bytes) -> None:
    async with nodes(tmp_path, authority, count=3) as (first, second, third):
        await until(third.connected)
        await second.links.stop()
        contexts = tls_files(tmp_path / "bad", authority, "dc2")
        reader, writer = await stranger(first.links.port, contexts.client)
        writer.write(pack_frame(frame(3)) + data)
        assert await closed(reader)
        writer.transport.abort()
        assert first.links.refused()["malformed"] == 1
        assert third.links.status()[0].connected
        third.links.send("dc1", frame(4))
        await until(lambda: ("dc3", frame(4)) in first.got)
        assert ("dc2", frame(3)) in first.got
        assert len(first.got) == 2


async def test_truncated_frame_is_dropped(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await second.links.stop()
        contexts = tls_files(tmp_path / "cut", authority, "dc2")
        _, writer = await stranger(first.links.port, contexts.client)
        writer.write(pack_frame(frame(5)) + pack_frame(frame(6, 1000))[:500])
        await until(lambda: first.got == [("dc2", frame(5))])
        writer.close()
        _, writer = await stranger(first.links.port, contexts.client)
        writer.write(pack_frame(frame(8)))
        await until(lambda: ("dc2", frame(8)) in first.got)
        assert first.got == [("dc2", frame(5)), ("dc2", frame(8))]
        writer.transport.abort()


async def test_later_connection_of_a_peer_replaces_the_earlier(tmp_path: Path, authority: Authority) -> None:
    """A peer that came back after a power cut must not wait for its dead connection to be noticed."""
    async with nodes(tmp_path, authority) as (first, second):
        await second.links.stop()
        contexts = tls_files(tmp_path / "twice", authority, "dc2")
        reader, writer = await stranger(first.links.port, contexts.client)
        assert await reader.readexactly(4) == KEEPALIVE
        _, again = await stranger(first.links.port, contexts.client)
        assert await closed(reader)
        again.write(pack_frame(frame(1)))
        await until(lambda: first.got == [("dc2", frame(1))])
        writer.transport.abort()
        again.transport.abort()


async def test_silent_connection_is_closed(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, times=FAST) as (first, second):
        await second.links.stop()
        contexts = tls_files(tmp_path / "silent", authority, "dc2")
        reader, writer = await stranger(first.links.port, contexts.client)
        assert await closed(reader)
        await until(lambda: first.links.refused().get("silent", 0) == 1)
        writer.transport.abort()


async def test_half_open_link_is_noticed(tmp_path: Path, authority: Authority) -> None:
    """A peer that takes the connection and never says anything (a frozen machine) does not count as connected."""
    contexts = tls_files(tmp_path / "frozen", authority, "dc2")

    async def frozen(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server = await asyncio.start_server(frozen, "127.0.0.1", 0, ssl=contexts.server)
    async with nodes(tmp_path, authority, times=FAST) as (first, _second):
        first.links.set_peers({"dc2": PeerAddress("127.0.0.1", server.sockets[0].getsockname()[1])})
        await until(lambda: first.links.refused().get("silent", 0) > 1)
        assert not first.connected()
        server.close()


async def test_failing_handler_reaches_the_loop_and_closes_one_connection(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await until(second.connected)
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context.get("exception")))

        async def fail(peer: str, got: Frame) -> None:
            raise RuntimeError(f"frame {got.kind} of {peer}")

        first.handle = fail
        second.links.send("dc1", frame(1))
        await until(lambda: bool(seen))
        assert str(seen[0]) == "frame 1 of dc2"
        first.handle = first.keep
        await until(lambda: second.connected() and second.links.send("dc1", frame(2)) and ("dc2", frame(2)) in first.got)


async def test_address_in_use_is_a_clear_error(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, _second):
        port = first.links.port
        contexts = tls_files(tmp_path / "again", authority, "dc3")

        async def ignore(_peer: str, _frame: Frame) -> None:
            return

        links = PeerLinks(name="dc3", listen=("127.0.0.1", port), peers={}, tls=contexts, on_frame=ignore)
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            await links.start()
        with pytest.raises(InputError, match="not started"):
            _ = links.port


UNDER_UVLOOP = (
    test_frames_arrive_in_order_from_every_peer,
    test_link_comes_back_after_the_peer_restarts,
    test_slow_reader_holds_back_and_the_queue_is_bounded,
    test_certificate_of_another_authority_is_refused,
    test_half_open_link_is_noticed,
)


@pytest.mark.parametrize("scenario", UNDER_UVLOOP)
def test_the_same_under_uvloop(
    tmp_path: Path, authority: Authority, scenario: Callable[[Path, Authority], Coroutine[None, None, None]]
) -> None:
    uvloop.run(scenario(tmp_path, authority))
