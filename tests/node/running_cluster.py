"""Four real nodes in this process: TLS links, LevelDB on disk, HTTP API, real signatures; with a broker if the test has one."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster import ports
from consensus.crypto import Ed25519Signer
from consensus.transaction import sign_transaction
from contracts.calls import Transfer
from contracts.genesis import ConsensusRules, Genesis, MarketRules, Meter, Participant, Tariff
from node.client import GridPactClient
from node.config import read_config
from node.provisioning import ClusterPlan, NodePlan, provision
from node.service import run_node

HOUR_MS = 3_600_000


def free_ports(count: int) -> list[int]:
    return list(itertools.islice(ports.free_ports(), count))


def member(number: int) -> Ed25519Signer:
    return Ed25519Signer(number.to_bytes(32, "big"))


class RunningCluster:
    """Nodes that can be stopped and started one by one; ``password`` is what they all tell the broker at ``mqtt_url``."""

    def __init__(
        self,
        home: Path,
        nodes: int = 4,
        rules: ConsensusRules | None = None,
        meters: Sequence[Meter] = (),
        mqtt_url: str = "",
        password: str = "",
    ) -> None:
        self.home, self.nodes = home, nodes
        ports = free_ports(2 * nodes)
        now_ms = int(time.time() * 1000)
        accounts = ["GRID", "OPERATOR", "alice", "bob"]
        roles = ["grid", "operator", "prosumer", "consumer"]
        self.genesis: Genesis = provision(
            home,
            ClusterPlan(
                chain_id="test-chain",
                channel="main",
                currency="USD",
                time_ms=now_ms,
                nodes=tuple(
                    NodePlan(
                        f"node-{i}",
                        f"fees-{i}",
                        "127.0.0.1",
                        ports[i],
                        "127.0.0.1",
                        ports[nodes + i],
                        mqtt_username=f"node-{i}" if password else "",
                        mqtt_password=password,
                    )
                    for i in range(nodes)
                ),
                participants=tuple(
                    Participant(account, role, member(i + 1).public_key.hex(), 1_000_000_000)  # type: ignore[arg-type]
                    for i, (account, role) in enumerate(zip(accounts, roles, strict=True))
                ),
                meters=tuple(meters),
                mqtt_url=mqtt_url,
                tariff=Tariff((300_000,) * 24, (300_000,) * 24, 80_000),
                market=MarketRules(HOUR_MS, now_ms // HOUR_MS + 24, 2 * HOUR_MS, 0, HOUR_MS // 3),
                consensus=rules or ConsensusRules(),
            ),
        )
        self.urls = [f"http://127.0.0.1:{port}" for port in ports[nodes:]]
        self._stops: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, index: int) -> None:
        self._stops[index] = asyncio.Event()
        config = read_config(self.home / "nodes" / f"node-{index}")
        self._tasks[index] = asyncio.create_task(run_node(config, self._stops[index]))

    async def stop(self, index: int) -> None:
        self._stops[index].set()
        await self._tasks.pop(index)

    async def __aenter__(self) -> RunningCluster:
        for index in range(self.nodes):
            self.start(index)
        await self.until(lambda statuses: len(statuses) == self.nodes)
        return self

    async def __aexit__(self, *_: object) -> None:
        for stop in self._stops.values():
            stop.set()
        await asyncio.gather(*self._tasks.values())

    def client(self, *indices: int) -> GridPactClient:
        return GridPactClient([self.urls[i] for i in indices or range(self.nodes)], self.genesis)

    async def statuses(self) -> list[dict[str, object]]:
        """Return the status of every node that answers."""
        import aiohttp  # noqa: PLC0415

        found = []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2)) as session:
            for index in sorted(self._tasks):
                if self._tasks[index].done():
                    self._tasks[index].result()
                try:
                    async with session.get(self.urls[index] + "/v1/status") as answer:
                        found.append(await answer.json())
                except aiohttp.ClientError:
                    continue
        return found

    async def until(self, holds: Callable[[list[dict[str, object]]], bool], timeout_s: float = 30.0) -> list[dict[str, object]]:
        """Poll all nodes until something holds.

        Raises:
            AssertionError: it does not in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            statuses = await self.statuses()
            if holds(statuses):
                return statuses
            if time.monotonic() > deadline:
                raise AssertionError(f"not reached in {timeout_s} s: {statuses}")
            await asyncio.sleep(0.05)

    def transfer(self, nonce: int, amount_micro: int = 1_000, sender: str = "alice", to: str = "bob", valid_ms: int = HOUR_MS) -> bytes:
        number = ["GRID", "OPERATOR", "alice", "bob"].index(sender) + 1
        return sign_transaction(
            member(number),
            chain_id="test-chain",
            channel="main",
            sender=sender,
            nonce=nonce,
            valid_until_ms=int(time.time() * 1000) + valid_ms,
            call=Transfer(to, amount_micro),
        )
