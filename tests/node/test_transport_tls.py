"""Certificates of links: expired ones and those of others, in plain words, and renewed ones without a restart."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from structlog.testing import capture_logs

from consensus.errors import InputError
from node.handshake import EXPIRED, FOREIGN, TlsFileWatch, tls_reason
from node.keys import Authority, create_authority, read_certificate
from node.outgoing import REFUSED
from node.refusals import MAX_TOLD, Refusals
from node.transport import PeerAddress
from tests.node.link_nodes import Node, closed, follower, frame, nodes, read_tls, started, stranger, tls_files, until, write_tls


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority("GridPact test")


async def test_an_expired_certificate_is_refused_in_plain_words_while_the_others_go_on(tmp_path: Path, authority: Authority) -> None:
    late = Node("dc3", tls_files(tmp_path / "dc3", authority, "dc3", expired=True))
    with capture_logs() as logs:
        async with nodes(tmp_path, authority) as (first, second), started(late):
            await until(lambda: first.connected() and second.connected())
            first.dial(second, late)
            late.dial(first, second)
            await until(lambda: first.refused(f"TLS refused: {EXPIRED}") > 4 and second.refused(f"TLS refused: {EXPIRED}") > 1)
            await until(lambda: late.refused(REFUSED) > 2)
            status = first.status("dc3")
            assert (status.connected, status.last_error) == (False, "TLS refused: certificate expired")
            assert late.status("dc1").last_error == REFUSED
            assert not late.connected()
            assert first.guests() == second.guests() == set()
            assert first.links.send("dc2", frame(1))
            assert second.links.send("dc1", frame(2))
            await until(lambda: second.numbers("dc1") == [1] and first.numbers("dc2") == [2])
            assert late.got == []
            seen = list(logs)
    told = [entry for entry in seen if entry.get("peer") == "dc3"]
    assert [(entry["event"], entry["why"]) for entry in told] == [("link down", "TLS refused: certificate expired")]
    dialled_in = [entry for entry in seen if entry["event"] == "connection refused"]
    assert [entry["why"] for entry in dialled_in] == ["TLS refused: certificate expired"] * 2, "one line of each node that was dialled"


async def test_a_node_of_another_authority_is_refused_by_both_sides(tmp_path: Path, authority: Authority) -> None:
    other = Node("dc2", tls_files(tmp_path / "dc2", create_authority("GridPact test"), "dc2"))
    async with started(Node("dc1", tls_files(tmp_path / "dc1", authority, "dc1")), other) as (first, _):
        first.dial(other)
        other.dial(first)
        await until(lambda: first.status("dc2").last_error == other.status("dc1").last_error == f"TLS refused: {FOREIGN}")


async def test_who_speaks_no_tls_is_named_so(tmp_path: Path, authority: Authority) -> None:
    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server, nodes(tmp_path, authority, count=1) as (first,):
        first.links.set_peers({"dc2": PeerAddress("127.0.0.1", server.sockets[0].getsockname()[1])})
        await until(lambda: first.status("dc2").last_error == "TLS refused: the other side speaks no TLS")
        reader, writer = await asyncio.open_connection("127.0.0.1", first.links.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await closed(reader)
        writer.transport.abort()
        await until(lambda: first.refused("TLS refused: the other side speaks no TLS") > 1)


async def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    """dc3 comes with an expired one; the links of the other two stand all the time."""
    folder = tmp_path / "dc3"
    late = Node("dc3", tls_files(folder, authority, "dc3", expired=True))
    async with nodes(tmp_path, authority) as (first, second), started(late):
        first.dial(second, late)
        late.dial(first)
        await until(lambda: EXPIRED in str(first.status("dc3").last_error) and first.status("dc2").connected)
        write_tls(folder, authority, "dc3")
        late.links.reload_tls(read_tls(folder))
        await until(lambda: first.connected() and late.connected())
        assert first.links.send("dc3", frame(1))
        assert late.links.send("dc1", frame(2))
        await until(lambda: late.numbers("dc1") == [1] and first.numbers("dc3") == [2])
        assert first.refused("closed by the peer") == second.refused("closed by the peer") == 0


async def test_connections_that_stand_go_on_over_a_reload(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second), follower(tmp_path, authority, first) as guest:
        await until(lambda: first.connected() and second.connected())
        old = serial(tmp_path / "dc1")
        assert await shown(first, read_tls(tmp_path / "follower").client) == old
        before = [node.links.refused() for node in (second, guest)]
        write_tls(tmp_path / "dc1", authority, "dc1")
        first.links.reload_tls(read_tls(tmp_path / "dc1"))
        contexts = tls_files(tmp_path / "visitor", authority, "visitor")
        assert await shown(first, contexts.client) == serial(tmp_path / "dc1") != old
        first.links.broadcast(frame(1))
        second.links.send("dc1", frame(2))
        await until(lambda: second.numbers("dc1") == [1] and first.numbers("dc2") == [2])
        assert second.links.refused() == before[0]
        foreign = tls_files(tmp_path / "foreign", create_authority("GridPact test"), "dc2")
        foreign.client.verify_mode = ssl.CERT_NONE
        reader, writer = await stranger(first.links.port, foreign.client)
        assert await closed(reader)
        writer.transport.abort()
        await until(lambda: first.refused(f"TLS refused: {FOREIGN}") == 1)  # the new context checks and counts as the old one did


def serial(folder: Path) -> int:
    return read_certificate(folder / "tls.crt").serial_number


async def shown(node: Node, context: ssl.SSLContext) -> int:
    """Return the serial number of the certificate that a node shows now."""
    reader, writer = await stranger(node.links.port, context)
    await reader.readexactly(4)
    der = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(der).serial_number


def test_files_are_read_again_when_they_changed_and_fit_together(tmp_path: Path, authority: Authority) -> None:
    write_tls(tmp_path / "a", authority, "dc1")
    write_tls(tmp_path / "b", authority, "dc1")
    watch = TlsFileWatch(*(tmp_path / "a" / name for name in ("tls.crt", "tls.key", "ca.crt")))
    assert watch.renewed() is None
    with capture_logs() as logs:
        (tmp_path / "b" / "tls.crt").replace(tmp_path / "a" / "tls.crt")
        assert watch.renewed() is None, "the key of it is still to come"
        assert watch.renewed() is None
        assert ["is not the private key" in entry["reason"] for entry in logs] == [True], "said once"
        (tmp_path / "b" / "tls.key").replace(tmp_path / "a" / "tls.key")
        assert watch.renewed() is not None
        assert watch.renewed() is None
        (tmp_path / "a" / "ca.crt").unlink()
        assert watch.renewed() is None
        assert len(logs) == 2
        write_tls(tmp_path / "a", authority, "dc1")
        assert watch.renewed() is not None
    with pytest.raises(InputError):
        read_tls(tmp_path / "b")


def test_reasons_that_nobody_has_words_for_are_still_said() -> None:
    assert tls_reason(ssl.SSLError(1, "UNHEARD_OF")) == "unheard of"


def test_each_trouble_is_told_once_and_always_counted() -> None:
    refusals = Refusals()
    with capture_logs() as logs:
        for number in range(5):
            refusals.note("malformed", "dc2", f"detail {number}")
        refusals.note("silent", "dc2")
        refusals.note("malformed", "dc3")
    assert refusals.counts == {"malformed": 6, "silent": 1}
    assert [(entry["why"], entry["who"]) for entry in logs] == [("malformed", "dc2"), ("silent", "dc2"), ("malformed", "dc3")]
    with capture_logs():
        for number in range(2 * MAX_TOLD):
            refusals.note("malformed", str(number))
    assert len(refusals._told) <= MAX_TOLD


UNDER_UVLOOP = (
    test_an_expired_certificate_is_refused_in_plain_words_while_the_others_go_on,
    test_connections_that_stand_go_on_over_a_reload,
)


@pytest.mark.parametrize("scenario", UNDER_UVLOOP)
def test_the_same_under_uvloop(
    tmp_path: Path, authority: Authority, scenario: Callable[[Path, Authority], Coroutine[None, None, None]]
) -> None:
    uvloop.run(scenario(tmp_path, authority))
