"""Links between validators over real TLS sockets on loopback."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from consensus.errors import InputError
from node.framing import KEEPALIVE, MAX_FRAME_BYTES, Frame, FrameKind, pack_frame
from node.keys import Authority, TlsContexts, authority_pem, create_authority, issue_certificate, load_tls, write_secret
from node.outgoing import LinkTimes
from node.transport import PeerAddress, PeerLinks

FAST = LinkTimes(keepalive_ms=50, silence_ms=400, handshake_ms=2_000, backoff_ms=20, max_backoff_ms=100)
PATIENT = LinkTimes(keepalive_ms=50, silence_ms=20_000, handshake_ms=5_000, backoff_ms=20, max_backoff_ms=100)
NAMES = ("dc1", "dc2", "dc3")
DEADLINE_S = 20.0


def tls_files(folder: Path, authority: Authority, name: str) -> TlsContexts:
    folder.mkdir(parents=True)
    pair = issue_certificate(authority, name, ["127.0.0.1"])
    (folder / "tls.crt").write_bytes(pair.certificate)
    write_secret(folder / "tls.key", pair.key)
    (folder / "ca.crt").write_bytes(authority_pem(authority).certificate)
    return load_tls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority("GridPact test")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110  polls state that no event announces
            await asyncio.sleep(0.005)


class Node:
    """Links with a list of what came in."""

    def __init__(self, index: int, tls: TlsContexts, times: LinkTimes, max_queue_bytes: int, count: int) -> None:
        self.got: list[tuple[int, Frame]] = []
        self.handle: Callable[[int, Frame], Awaitable[None]] = self.keep
        peers = {peer: PeerAddress(NAMES[peer], "127.0.0.1", 1) for peer in range(count)}
        self.links = PeerLinks(
            index=index,
            listen=("127.0.0.1", 0),
            peers=peers,
            tls=tls,
            on_frame=self.on_frame,
            max_queue_bytes=max_queue_bytes,
            times=times,
        )

    async def on_frame(self, peer: int, frame: Frame) -> None:
        await self.handle(peer, frame)

    async def keep(self, peer: int, frame: Frame) -> None:
        self.got.append((peer, frame))

    def connected(self) -> bool:
        return all(status.connected for status in self.links.status())


@asynccontextmanager
async def nodes(
    tmp_path: Path, authority: Authority, count: int = 2, times: LinkTimes = PATIENT, max_queue_bytes: int = 32 << 20
) -> AsyncIterator[list[Node]]:
    made = [
        Node(index, tls_files(tmp_path / NAMES[index], authority, NAMES[index]), times, max_queue_bytes, count) for index in range(count)
    ]
    for node in made:
        await node.links.start()
    for node in made:
        for peer, other in enumerate(made):
            if other is not node:
                node.links.retarget(peer, "127.0.0.1", other.links.port)
    try:
        yield made
    finally:
        for node in made:
            await node.links.stop()


def frame(number: int, size: int = 0) -> Frame:
    return Frame("main", int(FrameKind.CONSENSUS), number.to_bytes(4, "big") + bytes(size))


async def stranger(port: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side closes; False if it keeps the connection beyond the deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while await reader.read(4096):
                pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


async def test_frames_arrive_in_order_from_every_peer(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=3) as (first, second, third):
        await until(lambda: first.connected() and second.connected() and third.connected())
        for number in range(200):
            assert first.links.send(1, frame(number))
        third.links.broadcast(frame(7))
        await until(lambda: len(second.got) == 201 and len(first.got) == 1)
        assert [got for peer, got in second.got if peer == 0] == [frame(number) for number in range(200)]
        assert first.got == [(2, frame(7))]
        status = {status.index: status for status in first.links.status()}
        assert set(status) == {1, 2}
        assert status[1].name == "dc2"
        assert status[1].last_seen_ms is not None
        assert status[1].queued_bytes == 0
        assert status[1].dropped == 0


async def test_large_frames_and_unknown_peers(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await until(first.connected)
        assert first.links.send(1, frame(1, 5_000_000))
        assert not first.links.send(1, frame(1, MAX_FRAME_BYTES))
        assert not first.links.send(9, frame(1))
        assert not first.links.send(0, frame(1))
        await until(lambda: len(second.got) == 1)
        assert second.got == [(0, frame(1, 5_000_000))]
        assert first.links.refused()["too large"] == 1
        assert first.links.refused()["unknown peer"] == 2


async def test_link_comes_back_after_the_peer_restarts(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, times=FAST) as (first, second):
        await until(first.connected)
        await second.links.stop()
        await until(lambda: not first.connected())
        await until(lambda: not first.links.send(1, frame(1)))
        assert first.links.status()[0].dropped > 0
        assert first.links.status()[0].queued_bytes == 0
        again = Node(1, load_tls(*(tmp_path / "dc2" / name for name in ("tls.crt", "tls.key", "ca.crt"))), FAST, 1 << 20, 2)
        await again.links.start()
        try:
            first.links.retarget(1, "127.0.0.1", again.links.port)
            await until(first.connected)
            assert first.links.send(1, frame(2))
            await until(lambda: bool(again.got))
            assert again.got[-1] == (0, frame(2))
        finally:
            await again.links.stop()


async def test_a_peer_that_dials_is_dialled_at_once_however_long_the_pause_was(tmp_path: Path, authority: Authority) -> None:
    sleepy = LinkTimes(keepalive_ms=50, silence_ms=20_000, handshake_ms=5_000, backoff_ms=3_600_000, max_backoff_ms=3_600_000)
    tls = [tls_files(tmp_path / name, authority, name) for name in NAMES[:2]]
    first, second = Node(0, tls[0], sleepy, 1 << 20, 2), Node(1, tls[1], PATIENT, 1 << 20, 2)
    await first.links.start()
    try:
        await until(lambda: not first.links.send(1, frame(1)))  # the first dial failed: the next is an hour away
        await second.links.start()
        first.links.retarget(1, "127.0.0.1", second.links.port)
        second.links.retarget(0, "127.0.0.1", first.links.port)
        await until(first.connected)
    finally:
        await second.links.stop()
        await first.links.stop()


async def test_slow_reader_holds_back_and_the_queue_is_bounded(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, times=FAST, max_queue_bytes=1 << 20) as (first, second):
        await until(first.connected)
        gate = asyncio.Event()

        async def wait(peer: int, got: Frame) -> None:
            await gate.wait()
            await second.keep(peer, got)

        second.handle = wait
        sent = 0
        async with asyncio.timeout(DEADLINE_S):
            while first.links.send(1, frame(sent, 50_000)):
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
        await until(lambda: first.links.refused().get("TLS refused", 0) >= 2)
        assert first.got == []
        assert second.links.send(0, frame(2))
        await until(lambda: first.got == [(1, frame(2))])


async def test_old_tls_is_refused(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, _second):
        contexts = tls_files(tmp_path / "old", authority, "dc2")
        contexts.client.minimum_version = ssl.TLSVersion.TLSv1_2
        contexts.client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await stranger(first.links.port, contexts.client)


@pytest.mark.parametrize("name", ["dc9", "dc1", "operator"])
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
        first.links.send(1, frame(1))
        first.links.retarget(1, "127.0.0.1", server.sockets[0].getsockname()[1])
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
        third.links.send(0, frame(4))
        await until(lambda: (2, frame(4)) in first.got)
        assert (1, frame(3)) in first.got
        assert len(first.got) == 2


async def test_truncated_frame_is_dropped(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await second.links.stop()
        contexts = tls_files(tmp_path / "cut", authority, "dc2")
        _, writer = await stranger(first.links.port, contexts.client)
        writer.write(pack_frame(frame(5)) + pack_frame(frame(6, 1000))[:500])
        await until(lambda: first.got == [(1, frame(5))])
        writer.close()
        _, writer = await stranger(first.links.port, contexts.client)
        writer.write(pack_frame(frame(8)))
        await until(lambda: (1, frame(8)) in first.got)
        assert first.got == [(1, frame(5)), (1, frame(8))]
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
        await until(lambda: first.got == [(1, frame(1))])
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
        first.links.retarget(1, "127.0.0.1", server.sockets[0].getsockname()[1])
        await until(lambda: first.links.refused().get("silent", 0) > 1)
        assert not first.connected()
        server.close()


async def test_failing_handler_reaches_the_loop_and_closes_one_connection(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await until(second.connected)
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context.get("exception")))

        async def fail(peer: int, got: Frame) -> None:
            raise RuntimeError(f"frame {got.kind} of {peer}")

        first.handle = fail
        second.links.send(0, frame(1))
        await until(lambda: bool(seen))
        assert str(seen[0]) == "frame 1 of 1"
        first.handle = first.keep
        await until(lambda: second.connected() and second.links.send(0, frame(2)) and (1, frame(2)) in first.got)


async def test_address_in_use_is_a_clear_error(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, _second):
        port = first.links.port
        contexts = tls_files(tmp_path / "again", authority, "dc3")

        async def ignore(_peer: int, _frame: Frame) -> None:
            return

        links = PeerLinks(index=2, listen=("127.0.0.1", port), peers={}, tls=contexts, on_frame=ignore)
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            await links.start()
        with pytest.raises(InputError, match="not started"):
            _ = links.port
        with pytest.raises(InputError, match="no other validator"):
            first.links.retarget(0, "127.0.0.1", port)


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
