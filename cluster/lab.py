"""A cluster for one experiment: own node processes with real TLS and real stores in a temporary folder, no market.

Its genesis holds only test accounts and test meters. Periods are long and begin in hours, so that nothing clears or settles while
it runs, and the balances of the test accounts are moved by transfers alone.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Protocol

import aiohttp

from cluster.lab_building import LabParts, MakePlan, build_lab
from cluster.links import Link, Links
from cluster.options import RunError
from cluster.processes import GRACE_S, Child, Supervisor, command_line
from cluster.topology import NODES_FOLDER
from consensus.crypto import SEED_BYTES, Ed25519Signer
from contracts.genesis import GRID, OPERATOR, ConsensusRules, Genesis, MarketRules, Meter, Participant, Tariff
from contracts.topics import parse_broker_url
from node.clock import wall_ms
from node.provisioning import ClusterPlan, NodePlan

HOUR_MS = 3_600_000
START_TIMEOUT_S = 60.0
BROKER_TIMEOUT_S = 30.0
POLL_S = 0.05
GRID_BALANCE_MICRO = 10**15
BROKER = "broker"


class Lab:
    """Processes that an experiment may start, kill, pause and restart. Use it with ``async with``: it starts them and cleans up.

    Args:
        nodes: how many, 4 to 7.
        make_plan: gives the whole cluster's plan from its nodes' (see :func:`lab_plan`).
        keep: folder to use and keep; None: a temporary one that is removed.
        parts: what there is besides the nodes.

    Attributes:
        folder: where all files are.
        genesis: of the lab's chain.
        names, urls: of the nodes, by validator index.
        broker_url, passwords: of the broker and its users, if there is one.
    """

    def __init__(self, nodes: int, make_plan: MakePlan, keep: Path | None = None, parts: LabParts | None = None) -> None:
        self.folder = keep if keep is not None else Path(tempfile.mkdtemp(prefix="gridpact-lab-"))
        self._kept = keep is not None
        places = build_lab(self.folder, nodes, make_plan, parts or LabParts())
        self.genesis: Genesis = places.genesis
        self.names = tuple(plan.name for plan in places.nodes)
        self.urls = tuple(f"http://{plan.http_host}:{plan.http_port}" for plan in places.nodes)
        self.broker_url, self.passwords = places.broker_url, places.passwords
        self._links = Links(places.links) if places.links else None
        self._processes = Supervisor(self.folder / "logs", self.folder / "run")

    async def __aenter__(self) -> Lab:
        try:
            if self._links is not None:
                await self._links.start()
            if self.broker_url:
                await self.start_broker()
            for index in range(len(self.names)):
                self.start(index)
            await self.wait_healthy(range(len(self.names)))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()

    async def _close(self) -> None:
        for index in range(len(self.names)):
            self.resume(index)
        await asyncio.to_thread(self._processes.stop)
        if self._links is not None:
            await self._links.stop()
        if not self._kept:
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------- processes

    def start(self, index: int) -> None:
        """Start a node that does not run."""
        self._processes.start(self.names[index], command_line("node", "run", "--home", str(self.node_folder(index))))

    def stop(self, index: int) -> None:
        """End a node as its operator would (SIGTERM), and wait until its process is gone."""
        process = self._child(index).process
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            _kill(self._child(index))

    def kill(self, index: int) -> None:
        """Kill a node at once (signal 9) and wait until its process is gone."""
        _kill(self._child(index))

    def pause(self, index: int) -> None:
        """Stop a node's process where it is."""
        self._signal(index, signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """Let a paused process go on."""
        self._signal(index, signal.SIGCONT)

    def pid(self, index: int) -> int:
        """Return the process id of a node."""
        return self._child(index).process.pid

    def node_folder(self, index: int) -> Path:
        """Return the folder of a node."""
        return self.folder / NODES_FOLDER / self.names[index]

    def exit_status(self, index: int) -> int | None:
        """Return with which status a node's process ended, None while it runs."""
        return self._child(index).process.poll()

    def last_lines(self, index: int) -> list[str]:
        """Return the last lines that a node's process wrote since it was started."""
        return self._processes.last_lines(self.names[index])

    def _child(self, index: int) -> Child:
        return self._processes.children[self.names[index]]

    def _signal(self, index: int, number: signal.Signals) -> None:
        child = self._processes.children.get(self.names[index])
        if child is not None and child.process.poll() is None:
            child.process.send_signal(number)

    def check_running(self, index: int) -> None:
        """Check that a node's process still runs.

        Raises:
            RunError: it ended; with its last words.
        """
        status = self.exit_status(index)
        if status is not None:
            raise RunError(f"{self.names[index]} ended with status {status}: {self._processes.last_words(self.names[index])}")

    # -------------------------------------------------------------------------------------------------- links and broker

    async def cut_links(self, links: Collection[Link], *, reset: bool = False) -> None:
        """Let no bytes pass these links any more, and mend all others (``reset``: connections end where a link is mended).

        Raises:
            RunError: this lab has no proxies, or they do not answer.
        """
        if self._links is None:
            raise RunError("the links of this lab cannot be cut: it has no proxies")
        await self._links.cut(links, reset=reset)

    async def start_broker(self) -> None:
        """Start the broker, and wait until it listens.

        Raises:
            RunError: it does not in time.
        """
        address = parse_broker_url(self.broker_url)
        child = self._processes.start(BROKER, command_line("broker", "run", "--home", str(self.folder)))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BROKER_TIMEOUT_S
        while not await _listens(address.host, address.port):
            if not child.running or loop.time() > deadline:
                raise RunError(f"the broker does not listen: {self._processes.last_words(BROKER)}")
            await asyncio.sleep(POLL_S)

    def kill_broker(self) -> None:
        """Kill the broker at once (signal 9) and wait until its process is gone."""
        _kill(self._processes.children[BROKER])

    # ---------------------------------------------------------------------------------------------------------- health

    async def wait_healthy(self, indices: range | list[int], timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until these nodes say that they are fit to serve.

        Raises:
            RunError: one ended, or they are not in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        left = list(indices)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            while left:
                for index in left:
                    self.check_running(index)
                if loop.time() > deadline:
                    raise RunError(f"{', '.join(self.names[index] for index in left)} not healthy after {timeout_s:g} s")
                fit = [await _is_healthy(session, self.urls[index]) for index in left]
                left = [index for index, healthy in zip(left, fit, strict=True) if not healthy]
                if left:
                    await asyncio.sleep(POLL_S)


def _kill(child: Child) -> None:
    child.process.kill()
    child.process.wait()


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url + "/healthz") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


class Senders(Protocol):
    """Who sends in an experiment."""

    def participants(self) -> tuple[Participant, ...]:
        """Return the accounts' genesis entries."""

    def genesis_meters(self) -> tuple[Meter, ...]:
        """Return the meters' genesis entries."""


def lab_plan(senders: Senders, nodes: tuple[NodePlan, ...]) -> ClusterPlan:
    """Return the plan of a lab's cluster: real time, the first delivery period at least two hours ahead, its market open already."""
    now_ms = wall_ms()
    key = Ed25519Signer(secrets.token_bytes(SEED_BYTES)).public_key.hex()
    other = Ed25519Signer(secrets.token_bytes(SEED_BYTES)).public_key.hex()
    return ClusterPlan(
        chain_id=f"lab-{secrets.token_hex(4)}",
        channel="main",
        currency="USD",
        time_ms=now_ms - 2 * HOUR_MS,
        nodes=nodes,
        participants=(
            Participant(GRID, "grid", key, GRID_BALANCE_MICRO),
            Participant(OPERATOR, "operator", other, 0),
            *senders.participants(),
        ),
        meters=senders.genesis_meters(),
        tariff=Tariff((300_000,) * 24, (300_000,) * 24, 80_000),
        market=lab_market(now_ms),
        consensus=ConsensusRules(),
        log_level="warning",
    )


def lab_market(now_ms: int) -> MarketRules:
    """Return market rules with room for as many test orders as a period may have."""
    return MarketRules(
        period_ms=HOUR_MS,
        first_period=now_ms // HOUR_MS + 3,
        open_before_ms=48 * HOUR_MS,
        gate_closure_before_ms=HOUR_MS // 60,
        metering_grace_ms=HOUR_MS,
        max_orders_per_period=100_000,
        max_orders_per_account=100_000,
    )
