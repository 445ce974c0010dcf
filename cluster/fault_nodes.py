"""Faults of a node as a whole: killed, stopped for a while, killed with its disk, with a wrong clock, with an expired certificate."""

from __future__ import annotations

import asyncio
import datetime
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cluster.faults import DOWN_S, Fault, Scene
from cluster.lab_building import set_clock
from cluster.options import RunError
from node.clock import wall_ms
from node.keys import Authority, load_authority, read_certificate
from node.provisioning import CA_CERTIFICATE, CA_KEY, TLS_CERTIFICATE

CLOCK_OFFSETS_S = (-3_600, -60, 60, 3_600)
CLOCK_SLACK_S = 20
REFUSED_S = 2.0
EXPIRED_DAYS = 2


class Kill(Fault):
    """Signal 9, and a start."""

    async def strike(self, scene: Scene) -> float:
        """Kill the node."""
        struck_s = time.monotonic()
        await asyncio.to_thread(scene.lab.kill, scene.victim)
        return struck_s

    async def end(self, scene: Scene) -> None:
        """Start it."""
        scene.lab.start(scene.victim)


class Wipe(Kill):
    """Signal 9, and a start without anything on its disk."""

    async def strike(self, scene: Scene) -> float:
        """Kill the node and delete its data."""
        struck_s = await super().strike(scene)
        await scene.stage.wipe(scene.victim)
        return struck_s


class Pause(Fault):
    """The process stands still, its connections stay."""

    async def strike(self, scene: Scene) -> float:
        """Stop the process where it is."""
        struck_s = time.monotonic()
        scene.lab.pause(scene.victim)
        return struck_s

    async def end(self, scene: Scene) -> None:
        """Let it go on."""
        scene.lab.resume(scene.victim)


class Clock(Fault):
    """A clock that jumps, while its node runs, by more than a proposal's time may be wrong."""

    async def strike(self, scene: Scene) -> float:
        """Put the clock wrong."""
        offset_s = scene.random.choice(CLOCK_OFFSETS_S)
        scene.note(f"{abs(offset_s)} s {'ahead' if offset_s > 0 else 'behind'}")
        await self._jump(scene, offset_s)
        return time.monotonic()

    async def hold(self, scene: Scene) -> None:
        """A primary must lose its place; one that is behind is believed until its time lags too far."""

        async def replaced() -> bool:
            return (await scene.stage.primary())[0] != scene.victim

        if scene.target == "primary":
            await scene.stage.wait(replaced, f"{scene.name}, whose clock is wrong, was not replaced as primary")
        await asyncio.sleep(DOWN_S)

    async def end(self, scene: Scene) -> None:
        """Put the clock right."""
        await self._jump(scene, 0)

    async def _jump(self, scene: Scene, offset_s: int) -> None:
        """Set the clock, and wait until the node goes by it."""
        set_clock(scene.lab.node_folder(scene.victim), offset_s * 1_000)

        async def jumped() -> bool:
            head = (await scene.stage.heads())[scene.victim]
            return head is not None and abs(head.clock_ms - wall_ms() - offset_s * 1_000) < CLOCK_SLACK_S * 1_000

        await scene.stage.wait(jumped, f"{scene.name} does not go by its clock, which was set {offset_s} s off")


class Certificate(Fault):
    """A certificate that has expired: the node runs, but the others must refuse its links."""

    def __init__(self) -> None:
        self._good = b""

    async def strike(self, scene: Scene) -> float:
        """Start the node again with a certificate whose time is over."""
        path = scene.lab.node_folder(scene.victim) / TLS_CERTIFICATE
        authority = load_authority(scene.lab.folder / CA_CERTIFICATE, scene.lab.folder / CA_KEY)
        self._good = path.read_bytes()
        struck_s = time.monotonic()
        await self._restart(scene, expired(authority, read_certificate(path)))
        return struck_s

    async def hold(self, scene: Scene) -> None:
        """Wait until the node runs, and see that nobody takes its links."""

        async def answers() -> bool:
            scene.lab.check_running(scene.victim)
            return (await scene.stage.heads())[scene.victim] is not None

        await scene.stage.wait(answers, f"{scene.name}, whose certificate has expired, does not answer its clients")
        await asyncio.sleep(REFUSED_S)
        for name, head in zip(scene.lab.names, await scene.stage.heads(), strict=True):
            linked = [peer.name for peer in head.peers if peer.connected] if head is not None else []
            if linked if name == scene.name else scene.name in linked:
                raise RunError(f"{scene.name}, whose certificate has expired, is linked: {name} is connected with {', '.join(linked)}")

    async def end(self, scene: Scene) -> None:
        """Start the node with its good certificate."""
        await self._restart(scene, self._good)

    async def _restart(self, scene: Scene, certificate: bytes) -> None:
        await asyncio.to_thread(scene.lab.stop, scene.victim)
        (scene.lab.node_folder(scene.victim) / TLS_CERTIFICATE).write_bytes(certificate)
        scene.lab.start(scene.victim)


def expired(authority: Authority, good: x509.Certificate) -> bytes:
    """Return a certificate (PEM) that is like a good one, of the same key and authority, but was valid in the past."""
    end = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=EXPIRED_DAYS)
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(good.issuer)
        .public_key(good.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=EXPIRED_DAYS))
        .not_valid_after(end)
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
