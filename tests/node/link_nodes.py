"""Nodes that are nothing but links, over real TLS sockets on loopback."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from node.framing import Frame, FrameKind
from node.incoming import MAX_GUESTS
from node.keys import Authority, TlsContexts, authority_pem, issue_certificate, load_tls, write_secret
from node.transport import LinkTimes, PeerAddress, PeerLinks, PeerLinkStatus

FAST = LinkTimes(keepalive_ms=50, silence_ms=400, handshake_ms=2_000, backoff_ms=20, max_backoff_ms=100)
PATIENT = LinkTimes(keepalive_ms=50, silence_ms=20_000, handshake_ms=5_000, backoff_ms=20, max_backoff_ms=100)
NAMES = ("dc1", "dc2", "dc3", "dc4")
QUEUE_BYTES = 32 << 20
DEADLINE_S = 20.0
NOWHERE = PeerAddress("127.0.0.1", 1)


def write_tls(folder: Path, authority: Authority, name: str, *, expired: bool = False) -> None:
    """Write a node's three files, over old ones if there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = issue_certificate(authority, name, ["127.0.0.1"])
    (folder / "tls.key").unlink(missing_ok=True)
    write_secret(folder / "tls.key", pair.key)
    (folder / "tls.crt").write_bytes(_expired(pair.certificate, authority) if expired else pair.certificate)
    (folder / "ca.crt").write_bytes(authority_pem(authority).certificate)


def _expired(pem: bytes, authority: Authority) -> bytes:
    """Return the same certificate, valid until yesterday."""
    old = x509.load_pem_x509_certificate(pem)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, old.public_key(), old.serial_number, extensions=list(old.extensions)
    ).not_valid_before(now - datetime.timedelta(days=30))
    signed = builder.not_valid_after(now - datetime.timedelta(days=1)).sign(authority.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def read_tls(folder: Path) -> TlsContexts:
    return load_tls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")


def tls_files(folder: Path, authority: Authority, name: str, *, expired: bool = False) -> TlsContexts:
    write_tls(folder, authority, name, expired=expired)
    return read_tls(folder)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110  polls state that no event announces
            await asyncio.sleep(0.005)


class Node:
    """Links with a list of what came in."""

    def __init__(
        self,
        name: str,
        tls: TlsContexts,
        times: LinkTimes = PATIENT,
        max_queue_bytes: int = QUEUE_BYTES,
        max_guests: int = MAX_GUESTS,
        port: int = 0,
    ) -> None:
        self.name = name
        self.got: list[tuple[str, Frame]] = []
        self.handle: Callable[[str, Frame], Awaitable[None]] = self.keep
        self.links = PeerLinks(
            name=name,
            listen=("127.0.0.1", port),
            peers={},
            tls=tls,
            on_frame=self.on_frame,
            max_queue_bytes=max_queue_bytes,
            max_guests=max_guests,
            times=times,
        )

    async def on_frame(self, peer: str, frame: Frame) -> None:
        await self.handle(peer, frame)

    async def keep(self, peer: str, frame: Frame) -> None:
        self.got.append((peer, frame))

    @property
    def address(self) -> PeerAddress:
        return PeerAddress("127.0.0.1", self.links.port)

    def dial(self, *others: "Node") -> None:
        """Have these nodes as peers, and nobody else."""
        self.links.set_peers({other.name: other.address for other in others})

    def status(self, name: str) -> PeerLinkStatus:
        return {status.name: status for status in self.links.status()}[name]

    def guests(self) -> set[str]:
        return {status.name for status in self.links.status() if status.guest}

    def connected(self) -> bool:
        return all(status.connected for status in self.links.status())

    def refused(self, why: str) -> int:
        return self.links.refused().get(why, 0)

    def numbers(self, peer: str) -> list[int]:
        """Return the numbers of the frames that came from a node, in order."""
        return [number_of(frame) for sender, frame in self.got if sender == peer]


@asynccontextmanager
async def started(*made: Node) -> AsyncIterator[tuple[Node, ...]]:
    """Listen; nobody dials."""
    try:
        for node in made:
            await node.links.start()
        yield made
    finally:
        for node in made:
            await node.links.stop()


@asynccontextmanager
async def nodes(
    tmp_path: Path,
    authority: Authority,
    count: int = 2,
    times: LinkTimes = PATIENT,
    max_queue_bytes: int = QUEUE_BYTES,
    max_guests: int = MAX_GUESTS,
) -> AsyncIterator[tuple[Node, ...]]:
    """Nodes that all dial each other."""
    made = [Node(name, tls_files(tmp_path / name, authority, name), times, max_queue_bytes, max_guests) for name in NAMES[:count]]
    async with started(*made):
        for node in made:
            node.dial(*(other for other in made if other is not node))
        yield tuple(made)


@asynccontextmanager
async def follower(
    tmp_path: Path,
    authority: Authority,
    *peers: Node,
    name: str = "follower",
    times: LinkTimes = PATIENT,
    max_queue_bytes: int = QUEUE_BYTES,
) -> AsyncIterator[Node]:
    """A node that dials the others and is dialled by nobody."""
    node = Node(name, tls_files(tmp_path / name, authority, name), times, max_queue_bytes)
    async with started(node):
        node.dial(*peers)
        await until(node.connected)
        yield node


def frame(number: int, size: int = 0) -> Frame:
    return Frame("main", int(FrameKind.CONSENSUS), number.to_bytes(4, "big") + bytes(size))


def number_of(one: Frame) -> int:
    return int.from_bytes(one.body[:4], "big")


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
