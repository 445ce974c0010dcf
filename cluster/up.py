"""`gridpact up`: starts a local cluster, watches it trade and settle, and ends it cleanly.

The walk: broker and nodes start -> all nodes healthy -> meters and agents start -> the clock is released -> periods are cleared and
settled -> Ctrl-C or the last period -> agents end, meters publish what they have left -> all nodes at one head -> summary -> all end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field, replace

from cluster.chain_clock import hold_clock, release_clock
from cluster.display import Setting, delivering_line, settled_line
from cluster.fleet_signal import DRAIN_SIGNAL
from cluster.monitor import Monitor
from cluster.options import RunError
from cluster.processes import Supervisor, command_line
from cluster.progress import Progress
from cluster.snapshot import NodeState, Snapshot
from cluster.summary import Replay, Summary, Timing, summarise
from cluster.tables import plural
from cluster.topology import Topology
from cluster.troubles import broker_trouble, lap_note, replay_laps
from contracts.events import Billed
from contracts.views import LedgerTotals
from node.clock import ReplayClock

POLL_S = 0.5
WAIT_POLL_S = 0.1
HEALTHY_TIMEOUT_S = 60.0
METERS_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 30.0
AGREE_TIMEOUT_S = 30.0
STALL_S = 60.0
STALL_PERIODS = 4
BROKER, FLEET, AGENTS = "broker", "fleet", "agents"


@dataclass(slots=True)
class Stop:
    """Whether the user asked to stop (first signal), and whether at once (second signal)."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def signalled(self) -> None:
        """Note one signal."""
        (self.hurry if self.asked.is_set() else self.asked).set()

    def listen(self) -> None:
        """Note SIGTERM and Ctrl-C of this process from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.signalled)


class Run:
    """One run of a local cluster.

    Args:
        topology: which cluster.
        setting: for the display.
        progress: who is told.
        periods: end after so many newly settled periods; None: never.
        stop: the user's wish to end.
    """

    def __init__(self, topology: Topology, setting: Setting, progress: Progress, periods: int | None, stop: Stop) -> None:
        self._topology = topology
        self._setting = setting
        self._progress = progress
        self._periods = periods
        self._stop = stop
        self._supervisor = Supervisor(topology.logs, topology.run)
        self._monitor = Monitor(topology, self._is_running)
        self._began = time.monotonic()
        self._healthy_s = 0.0
        self._clock: ReplayClock | None = None
        self._first_settled = 0
        self._next_settled: int | None = None
        self._last_cleared = 0
        self._bills: list[Billed] = []
        self._moved_at = self._began
        self._lap = 0
        self._height = 0

    async def run(self) -> Summary | None:
        """Run to the end; None if the user stopped it before it was healthy.

        Raises:
            RunError: a process refused to run, the nodes did not become healthy, or nothing moved any more.
            InputError: a file of the home does not fit.
        """
        try:
            self._start_nodes()
            if not await self._until_healthy():
                return None
            self._start_edge()
            await self._until_meters()
            await self._begin()
            await self._watch()
            return await self._finish()
        finally:
            await self._end()

    # --------------------------------------------------------------------------------------------------------------- start

    def _start_nodes(self) -> None:
        if self._topology.broker.embedded:
            self._supervisor.start(BROKER, command_line("broker", "run", "--home", self._topology.home))
        for node in self._topology.nodes:
            self._supervisor.start(node.name, command_line("node", "run", "--home", str(self._topology.path(node.folder))))

    def _start_edge(self) -> None:
        self._supervisor.start(FLEET, command_line("fleet", "run", "--home", self._topology.home))
        self._supervisor.start(AGENTS, command_line("agents", "--home", self._topology.home))

    async def _until_healthy(self) -> bool:
        """Wait until every node is healthy; False if the user stopped it."""
        deadline = self._began + HEALTHY_TIMEOUT_S
        while not self._stop.asked.is_set():
            self._look_after()
            nodes = await self._monitor.nodes()
            if all(node.healthy for node in nodes):
                self._healthy_s = time.monotonic() - self._began
                self._progress.event(f"{len(nodes)} nodes are healthy after {self._healthy_s:.1f} s")
                return True
            self._progress.waiting("waiting for " + _unhealthy(nodes))
            if time.monotonic() > deadline:
                raise RunError(f"not healthy after {HEALTHY_TIMEOUT_S:.0f} s: {_unhealthy(nodes)}; see {self._topology.logs.absolute()}")
            await asyncio.sleep(WAIT_POLL_S)
        return False

    async def _until_meters(self) -> None:
        """Wait until all meters are connected to the broker, but not for ever: they go on trying.

        Raises:
            RunError: none of them is, and the run is to end by itself.
        """
        deadline = time.monotonic() + METERS_TIMEOUT_S
        while not self._stop.asked.is_set() and time.monotonic() < deadline:
            self._look_after()
            counts = self._monitor.meters()
            if counts.connected == counts.meters:
                self._progress.event(f"{counts.meters} meters are connected")
                return
            self._progress.waiting(f"waiting for the meters: {counts.connected} of {counts.meters} connected")
            await asyncio.sleep(WAIT_POLL_S)
        trouble = broker_trouble(self._topology.broker.url, self._monitor.meters(), self._supervisor.last_lines(FLEET))
        if trouble and self._periods is not None and not self._stop.asked.is_set():
            raise RunError(f"{trouble} (tried for {METERS_TIMEOUT_S:.0f} s)")

    async def _begin(self) -> None:
        """Let chain time run."""
        totals = await self._monitor.totals()
        self._first_settled = totals.periods_settled
        self._next_settled = totals.last_settled_period + 1 if totals.periods_settled else None
        self._clock = release_clock(self._topology)
        self._lap = replay_laps(self._topology, self._clock.now_ms())
        self._moved_at = time.monotonic()

    # --------------------------------------------------------------------------------------------------------------- watch

    async def _watch(self) -> None:
        """Show what happens until the user stops it or the last period is settled."""
        while not self._stop.asked.is_set():
            self._look_after()
            snapshot = replace(await self._monitor.snapshot(self._chain_ms()), troubles=self._troubles())
            await self._tell(snapshot)
            self._progress.show(snapshot)
            totals = snapshot.totals
            if self._periods is not None and totals is not None and totals.periods_settled - self._first_settled >= self._periods:
                return
            self._check_stall(snapshot)
            await self._pause(POLL_S)

    async def _tell(self, snapshot: Snapshot) -> None:
        """Tell of periods that were cleared or settled since the last time, and of the data's end."""
        if (lap := replay_laps(self._topology, snapshot.chain_ms)) > self._lap:
            self._lap = lap
            self._progress.note(lap_note(self._topology.data_start_ms, self._topology.data_end_ms))
        delivering = snapshot.delivering
        if delivering is not None and delivering.period > self._last_cleared:
            self._last_cleared = delivering.period
            self._progress.event(f"cleared  {delivering_line(delivering, self._setting.currency)}")
        if snapshot.totals is not None:
            await self._collect(snapshot.totals)

    async def _collect(self, totals: LedgerTotals) -> None:
        """Take the bills of newly settled periods."""
        if totals.periods_settled == 0:
            return
        if self._next_settled is None:
            self._next_settled = totals.last_settled_period - totals.periods_settled + 1
        while self._next_settled <= totals.last_settled_period:
            market, bills = await self._monitor.period(self._next_settled)
            self._next_settled += 1
            self._bills += bills
            if market is not None:
                self._progress.event(f"settled  {settled_line(market, bills, self._setting)}")

    def _check_stall(self, snapshot: Snapshot) -> None:
        height = max(node.height for node in snapshot.nodes)
        now = time.monotonic()
        if height > self._height:
            self._height, self._moved_at = height, now
        limit_s = STALL_S + STALL_PERIODS * self._topology.period_ms / self._topology.speed / 1000
        if self._periods is not None and now - self._moved_at > limit_s:
            raise RunError(f"no block for {limit_s:.0f} s: {_unhealthy(snapshot.nodes) or 'all nodes say that they are healthy'}")

    # -------------------------------------------------------------------------------------------------------------- finish

    async def _finish(self) -> Summary:
        """Let what is under way come to its end, and take stock."""
        self._progress.waiting("ending: no new orders and readings; those that are on their way still get onto the chain")
        await asyncio.to_thread(self._supervisor.stop, [AGENTS])
        await self._drain_meters()
        await asyncio.to_thread(self._supervisor.stop, [FLEET])
        nodes, totals = await self._take_stock()
        await self._collect(totals)
        return summarise(
            nodes,
            totals,
            self._monitor.meters(),
            tuple(self._bills),
            self._setting,
            Replay(self._topology.start_ms, self._topology.period_ms, self._topology.speed, self._topology.interpolated),
            Timing(self._healthy_s, time.monotonic() - self._began),
        )

    async def _drain_meters(self) -> None:
        """Let the meters take no more readings, and wait until each one they took is proven."""
        fleet = self._supervisor.children.get(FLEET)
        if fleet is None or not fleet.running:
            return
        asked_ns = time.time_ns()
        os.kill(fleet.process.pid, DRAIN_SIGNAL)
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < deadline and not self._stop.hurry.is_set():
            self._look_after()
            counts, written_ns = self._monitor.meters(), self._monitor.meters_written_ns()
            if counts.pending == 0 and written_ns > asked_ns:
                return
            self._progress.waiting(
                f"ending: {plural(counts.pending, 'reading')} not proven yet" if counts.pending else "ending: the meters finish"
            )
            await asyncio.sleep(WAIT_POLL_S)
        self._progress.note(f"{plural(self._monitor.meters().pending, 'reading')} not proven yet; they stay in the meters' outboxes")

    async def _take_stock(self) -> tuple[tuple[NodeState, ...], LedgerTotals]:
        """Return nodes and totals at one head that all nodes have, or as they are after a while."""
        deadline = time.monotonic() + AGREE_TIMEOUT_S
        while True:
            self._look_after()
            before = await self._monitor.nodes()
            snapshot = Snapshot(0, 1.0, before)
            settled = snapshot.agreed and all(node.pending == 0 for node in before)
            if settled or time.monotonic() > deadline or self._stop.hurry.is_set():
                totals = await self._monitor.totals()
                nodes = await self._monitor.nodes()
                if not settled or [node.head_hash for node in nodes] == [node.head_hash for node in before]:
                    return nodes, totals
            self._progress.waiting("ending: waiting until all nodes have the same head")
            await asyncio.sleep(WAIT_POLL_S)

    async def _end(self) -> None:
        """End all processes, the edge first, and let chain time stand still where it is."""
        self._progress.waiting("stopping all processes")
        for names in ([AGENTS, FLEET], [node.name for node in self._topology.nodes], [BROKER]):
            for killed in await asyncio.to_thread(self._supervisor.stop, names):
                self._progress.note(f"{killed} did not end in time and was killed")
        if self._clock is not None:
            hold_clock(self._topology, self._clock.now_ms())
        await self._monitor.close()

    # --------------------------------------------------------------------------------------------------------------- small

    def _look_after(self) -> None:
        """Restart what ended by itself.

        Raises:
            RunError: a process refuses to run, or the store of a node is damaged and chain time does not run yet.
        """
        for line in self._supervisor.check():
            self._progress.note(line)
        for child in self._supervisor.children.values():
            if child.gave_up and (self._clock is None or not child.store_damaged):
                raise RunError(f"{child.name}: {self._supervisor.last_words(child.name)}")

    def _troubles(self) -> tuple[str, ...]:
        """Return what is wrong now; a node that stays down does not stop the others."""
        down = [child.name for child in self._supervisor.children.values() if child.store_damaged]
        lines = [f"{name} stays down: {self._supervisor.last_words(name)}" for name in down]
        trouble = broker_trouble(self._topology.broker.url, self._monitor.meters(), self._supervisor.last_lines(FLEET))
        return (*lines, trouble) if trouble else tuple(lines)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until the user asks to stop."""
        try:
            await asyncio.wait_for(self._stop.asked.wait(), seconds)
        except TimeoutError:
            return

    def _chain_ms(self) -> int:
        return self._clock.now_ms() if self._clock is not None else self._topology.start_ms

    def _is_running(self, name: str) -> bool:
        child = self._supervisor.children.get(name)
        return child is not None and child.running


def _unhealthy(nodes: tuple[NodeState, ...]) -> str:
    """Name the nodes that are not healthy, each with the reason."""
    named = [f"{node.name} ({node.state}{': ' + node.reason if node.reason and node.state != 'starting' else ''})" for node in nodes]
    return ", ".join(text for text, node in zip(named, nodes, strict=True) if not node.healthy)


def run_cluster(topology: Topology, setting: Setting, progress: Progress, periods: int | None) -> Summary | None:
    """Run a local cluster until it has settled ``periods`` new periods or the user stops it; see :class:`Run`.

    Raises:
        GridPactError: as :meth:`Run.run`.
    """

    async def main() -> Summary | None:
        stop = Stop()
        stop.listen()
        return await Run(topology, setting, progress, periods, stop).run()

    with progress:
        return asyncio.run(main())
