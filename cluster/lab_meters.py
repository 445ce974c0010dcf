"""Meters of a lab: real agents with real outboxes at the lab's broker, and a note of everything that they signed and have confirmed."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cluster.lab import Lab
from consensus.crypto import SEED_BYTES, Ed25519Signer
from contracts.genesis import Meter
from contracts.topics import parse_broker_url
from meters.agent import AgentSettings, MeterAgent
from meters.dataset import Counters
from meters.link import BrokerLogin, sleep_unless
from meters.outbox import Outbox
from meters.reading import MeterIdentity, SignedReading
from node.clock import wall_ms

FUSE_W = 10_000
POWER_W = 1_200
INTERVAL_MS = 1_000
RETRY_MS, MAX_RETRY_MS = 1_000, 8_000
TICK_S = 0.05
DISK_THREADS = 2
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class MeterKeys:
    """Names and keys of a lab's meters, before there is a lab."""

    signers: dict[str, Ed25519Signer]

    @classmethod
    def make(cls, count: int) -> MeterKeys:
        """Make fresh keys."""
        return cls({f"meter-{number:02d}": Ed25519Signer(secrets.token_bytes(SEED_BYTES)) for number in range(1, count + 1)})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the meters."""
        return tuple(self.signers)

    def genesis_meters(self, account: str) -> tuple[Meter, ...]:
        """Return the genesis entries of the meters, which count for ``account``."""
        return tuple(Meter(name, account, signer.public_key.hex(), FUSE_W) for name, signer in self.signers.items())


class PausableTime:
    """Chain time that can be stopped for the meters: no reading falls due meanwhile, and all do afterwards."""

    def __init__(self) -> None:
        self._held_ms: int | None = None

    def __call__(self) -> int:
        """Return chain time, ms."""
        return wall_ms() if self._held_ms is None else self._held_ms

    def hold(self) -> None:
        """Stand still."""
        self._held_ms = self()

    def release(self) -> None:
        """Go on."""
        self._held_ms = None


class SteadyLoad:
    """Counters of a home that draws the same power all the time.

    Args:
        start_ms: when the counter was at zero.
    """

    knows_past = True

    def __init__(self, start_ms: int) -> None:
        self._start_ms = start_ms

    def read(self, now_ms: int) -> Counters:
        """Return the counters at ``now_ms``."""
        return Counters(POWER_W * max(0, now_ms - self._start_ms) // HOUR_MS, 0)


class NotedOutbox(Outbox):
    """An outbox that remembers what went through it.

    Attributes:
        signed: ids of all transactions that carried a reading.
        confirmed: sequence numbers that a proof has settled.
        refused: sequence numbers that the chain has refused.
    """

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(path, owner)
        self.signed: set[bytes] = set()
        self.confirmed: set[int] = set()
        self.refused: set[int] = set()

    def append(self, readings: Sequence[SignedReading]) -> None:
        """Store new readings, and note the transactions."""
        super().append(readings)
        self.signed.update(reading.id for reading in readings if reading.raw)

    def replace(self, readings: Sequence[SignedReading]) -> None:
        """Store readings that were signed again, and note the transactions."""
        super().replace(readings)
        self.signed.update(reading.id for reading in readings if reading.raw)

    def settle(self, accepted: Sequence[int], refused: Sequence[int] = (), proven_nonce: int = 0) -> None:
        """Delete readings that are proven, and note them."""
        super().settle(accepted, refused, proven_nonce)
        self.confirmed.update(accepted)
        self.refused.update(refused)


class LabMeters:
    """The meters of a lab, in this process.

    Args:
        lab: has a broker that knows them.
        keys: of the meters.

    Attributes:
        time: what the meters go by.

    Raises:
        OutboxError: an outbox cannot be made.
    """

    def __init__(self, lab: Lab, keys: MeterKeys) -> None:
        self.time = PausableTime()
        self._stop = asyncio.Event()
        self._log = logging.FileHandler(lab.folder / "logs" / "meters.log", delay=True)
        self._disk = ThreadPoolExecutor(DISK_THREADS, "lab-meter-disk")
        self._outboxes: dict[str, NotedOutbox] = {}
        self._agents: list[MeterAgent] = []
        start_ms, genesis = wall_ms(), lab.genesis
        address = parse_broker_url(lab.broker_url)
        settings = AgentSettings(INTERVAL_MS, start_ms, "ntp", RETRY_MS, MAX_RETRY_MS)
        (lab.folder / "meters").mkdir()
        for name, signer in keys.signers.items():
            outbox = NotedOutbox(lab.folder / "meters" / f"{name}.sqlite", f"{genesis.chain_id}/{genesis.channel}/{name}")
            identity = MeterIdentity.of(genesis, name, signer)
            login = BrokerLogin(address, name, lab.passwords[name])
            self._outboxes[name] = outbox
            self._agents.append(MeterAgent(identity, settings, SteadyLoad(start_ms), outbox, login, self.time, self._disk))

    async def run(self) -> None:
        """Take readings and publish them until cancelled. What the meters log goes to a file of the lab meanwhile.

        Raises:
            OutboxError: a disk failed.
        """
        logger = logging.getLogger("gridpact.meters")
        logger.addHandler(self._log)
        logger.propagate = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tick())
                for agent in self._agents:
                    group.create_task(agent.run(self._stop))
        finally:
            logger.propagate = True
            logger.removeHandler(self._log)
            self._log.close()
            self._disk.shutdown()
            for outbox in self._outboxes.values():
                outbox.close()

    async def _tick(self) -> None:
        while True:
            now_ms = self.time()
            await asyncio.gather(*(agent.take_readings() for agent in self._agents if agent.next_due_ms <= now_ms))
            await sleep_unless(self._stop, TICK_S)

    def was_signed(self, transaction_id: bytes) -> bool:
        """Tell whether a meter has signed this transaction."""
        return any(transaction_id in outbox.signed for outbox in self._outboxes.values())

    @property
    def taken(self) -> dict[str, int]:
        """How many readings each meter has taken: they have the sequence numbers from 1 on."""
        return {name: outbox.totals.taken for name, outbox in self._outboxes.items()}

    @property
    def pending(self) -> int:
        """Number of readings that are not proven."""
        return sum(outbox.totals.pending for outbox in self._outboxes.values())

    @property
    def confirmed(self) -> dict[str, frozenset[int]]:
        """Sequence numbers that proofs have settled, by meter."""
        return {name: frozenset(outbox.confirmed) for name, outbox in self._outboxes.items()}

    def refused(self) -> Iterator[tuple[str, int]]:
        """Yield meter and sequence number of the readings that the chain has refused."""
        for name, outbox in self._outboxes.items():
            for sequence in sorted(outbox.refused):
                yield name, sequence
