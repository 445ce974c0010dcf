"""``gridpact soak``: hours of load on an own cluster. What becomes of memory and disk, how fast does a node come back?

1. If no rate is given, a short bench finds the highest; half of it is the rate.
2. The load (:mod:`cluster.soak_load`) runs; memory of every node is noted. Every few minutes the load is held, and all that was promised is
   looked for on every node (:mod:`cluster.inspection`).
3. A node loses its disk and comes back, first by snapshot under load, then by executing every block while nothing else is to be done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import aiohttp
import msgspec
from msgspec import structs

from cluster.bench import BenchSettings, Latency, run_bench
from cluster.chain_book import ChainBook, Violation
from cluster.checkers import percentile
from cluster.history import History
from cluster.inspection import inspect, open_book
from cluster.lab import Lab
from cluster.load import BlockWatch, LoadClient
from cluster.load_stream import LoadStream
from cluster.options import RunError
from cluster.soak_load import Cast, SoakStream, soak_plan
from cluster.soak_memory import NodeMemory, Samples
from cluster.stage import Stage
from cluster.usage import cores, cpu_seconds, folder_bytes, rss_mb
from cluster.workload import BALANCE_MICRO
from node.config import CONFIG_FILE

CAST = 250
CALIBRATION_S = 15.0
SAMPLE_S = 5.0
CHECK_EVERY_S = 300.0
MOST_OPEN_S = 10
"""So many seconds of load may be under way; if the cluster cannot keep up, less is sent, and the result shows it."""
ATTEMPT_TIMEOUT_S, BLOCK_TIMEOUT_S = 10.0, 5.0
ARCHIVE = "\n[snapshots]\nfetch = false\n"

Report = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """What is asked for.

    Attributes:
        rate: transactions per second; None: half of what a short bench reaches.
        rejoin: whether a node loses its disk at the end.
    """

    nodes: int = 4
    duration_s: float = 3_600.0
    rate: int | None = None
    rejoin: bool = True


class Return(msgspec.Struct, frozen=True):
    """How a node that had lost its disk came back.

    Fields:
        height, transactions: of the chain that it had to get.
        seconds: from the start of its process until it had all blocks of that moment, and voted again.
        first_height: lowest block that it has then: 1 if it executed every one, above the snapshot's height if it took one.
        cpu_s: processor time of its process until then.
    """

    height: int
    transactions: int
    first_height: int
    seconds: float
    cpu_s: float


class SoakResult(msgspec.Struct, frozen=True):
    """The outcome; the names of the fields are those of the interface.

    Fields:
        duration_s: under load, without the pauses for checks. tps: committed / duration_s.
        disk_bytes_per_transaction: all files of a node's data, the greatest of all nodes, over the transactions of the chain.
        by_snapshot, by_blocks: how a wiped node came back; None if that was not tried.
        replay_to_live: transactions per second of ``by_blocks`` over ``tps``; its start and the way back to its vote included.
        violations: what went wrong; empty in a good soak.
    """

    nodes: int
    cores: int
    rate: int
    duration_s: float
    sent: int
    committed: int
    refused: int
    tps: float
    latency_ms: Latency
    blocks: int
    views: int
    memory: tuple[NodeMemory, ...]
    disk_bytes_per_transaction: float
    by_snapshot: Return | None
    by_blocks: Return | None
    replay_to_live: float | None
    violations: tuple[Violation, ...]

    @property
    def good(self) -> bool:
        """Whether nothing was lost, counted twice, forked or invented."""
        return not self.violations


async def run_soak(settings: SoakSettings, report: Report) -> SoakResult:
    """Run one soak.

    Args:
        report: takes phase, share done (0 to 1) and a note.

    Raises:
        RunError: the cluster does not start, or a node ends by itself.
    """
    rate = settings.rate if settings.rate is not None else await _half_speed(settings.nodes, report)
    cast = Cast.make(CAST)
    report("starting nodes", 0.0, "")
    async with AsyncExitStack() as stack:
        connections = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        session = await stack.enter_async_context(connections)
        lab = await stack.enter_async_context(Lab(settings.nodes, partial(soak_plan, cast)))
        history = History()
        watch = BlockWatch(session, lab.urls, history, time.monotonic, BLOCK_TIMEOUT_S)
        client = LoadClient(session, lab.urls, history, time.monotonic, ATTEMPT_TIMEOUT_S)
        load = LoadStream(settings.nodes, SoakStream(lab.genesis, cast).sign, history, client, rate, MOST_OPEN_S * rate)
        stage = Stage(lab, session, history, watch, load, None)
        return await _Soak(settings, stage, cast, rate, report).run()


async def _half_speed(nodes: int, report: Report) -> int:
    settings = BenchSettings(nodes, CALIBRATION_S, None, "mixed")
    result = await run_bench(settings, lambda progress: report("highest rate", progress.share, progress.note))
    if not result.good:
        raise RunError("the bench that finds the highest rate failed")
    return max(1, round(result.tps / 2))


class _Soak:
    """One soak on a stage that is set up."""

    def __init__(self, settings: SoakSettings, stage: Stage, cast: Cast, rate: int, report: Report) -> None:
        self._settings = settings
        self._stage = stage
        self._opening = {one.name: BALANCE_MICRO for one in cast.payers}
        self._rate = rate
        self._report = report
        self._samples = Samples()
        self._loaded_s = 0.0
        self._found: list[Violation] = []

    async def run(self) -> SoakResult:
        """Put the load on for as long as was asked for, then let a node come back."""
        stage = self._stage
        book = await open_book(stage, self._opening)
        work = [asyncio.create_task(stage.watch.run()), asyncio.create_task(stage.load.run())]
        try:
            while self._loaded_s < self._settings.duration_s and not self._found:
                await self._stretch(min(CHECK_EVERY_S, self._settings.duration_s - self._loaded_s), work)
                async with stage.quiet():
                    await self._check(book, 0)
            disk_bytes = await asyncio.to_thread(self._disk_bytes)
            result = self._result(book, disk_bytes, max((head.view for head in await stage.heads() if head is not None), default=0))
            if self._settings.rejoin and not self._found:
                result = await self._come_back_twice(book, result)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await stage.load.cancel()
        return result

    async def _stretch(self, seconds: float, work: Sequence[asyncio.Task[None]]) -> None:
        """Let the load run for a while, and note what the nodes use.

        Raises:
            RunError: a node ended.
        """
        stage, started_s = self._stage, time.monotonic()
        before_s, total_s = self._loaded_s, self._settings.duration_s
        while (elapsed_s := time.monotonic() - started_s) < seconds:
            await asyncio.sleep(min(SAMPLE_S, seconds - elapsed_s))
            for task in work:
                if task.done():
                    task.result()
            for index in range(self._settings.nodes):
                stage.lab.check_running(index)
            self._loaded_s = before_s + time.monotonic() - started_s
            memory_mb = tuple(rss_mb(stage.lab.pid(index)) for index in range(self._settings.nodes))
            self._samples.note(self._loaded_s, memory_mb)
            note = f"{stage.history.certified_count:,} certified, {max(memory_mb):,.0f} MB"
            self._report("load", min(1.0, self._loaded_s / total_s), note)

    async def _check(self, book: ChainBook, suspect: int) -> None:
        """Look for everything that was promised."""
        self._report("checking", 0.0, f"{book.transactions:,} transactions checked before")
        self._found += await inspect(self._stage, book, [suspect])

    def _disk_bytes(self) -> int:
        """Return what the fattest node keeps on the disk."""
        lab = self._stage.lab
        return max(folder_bytes(lab.node_folder(index) / "data") for index in range(self._settings.nodes))

    async def _come_back_twice(self, book: ChainBook, result: SoakResult) -> SoakResult:
        stage = self._stage
        primary, _ = await stage.primary()
        victim = (primary + 1) % self._settings.nodes
        by_snapshot = await self._come_back(victim, book, "snapshot")
        async with stage.quiet():
            await self._check(book, victim)
            config = stage.lab.node_folder(victim) / CONFIG_FILE
            config.write_text(config.read_text(encoding="utf-8") + ARCHIVE, encoding="utf-8")
            by_blocks = await self._come_back(victim, book, "every block")
            await self._check(book, victim)
        return structs.replace(
            result,
            by_snapshot=by_snapshot,
            by_blocks=by_blocks,
            replay_to_live=round(by_blocks.transactions / by_blocks.seconds / result.tps, 1),
            violations=tuple(self._found),
        )

    async def _come_back(self, victim: int, book: ChainBook, way: str) -> Return:
        """Destroy a node's disk, start it, and wait until it has everything and votes.

        Raises:
            RunError: it is not in time, or ends.
        """
        stage = self._stage
        transactions, height = book.transactions, book.height
        self._report("rejoin", 0.0, f"{stage.lab.names[victim]} gets {transactions:,} transactions by {way}")
        await asyncio.to_thread(stage.lab.kill, victim)
        await stage.wipe(victim)
        started_s = time.monotonic()
        stage.lab.start(victim)
        await stage.wait_level()
        seconds, cpu_s = time.monotonic() - started_s, cpu_seconds(stage.lab.pid(victim))
        head = (await stage.heads())[victim]
        if head is None:
            raise RunError(f"{stage.lab.names[victim]} does not answer after it came back")
        return Return(height, transactions, head.first_height, round(seconds, 2), round(cpu_s, 2))

    def _result(self, book: ChainBook, disk_bytes: int, view: int) -> SoakResult:
        history = self._stage.history
        latencies = history.latencies_ms()
        return SoakResult(
            nodes=self._settings.nodes,
            cores=cores(),
            rate=self._rate,
            duration_s=round(self._loaded_s, 1),
            sent=history.sent_count,
            committed=history.certified_count,
            refused=len(history.refusals) + book.refused,
            tps=round(history.certified_count / self._loaded_s, 1),
            latency_ms=Latency(*(round(percentile(latencies, share), 1) for share in (0.5, 0.95, 0.99, 1.0))),
            blocks=book.height,
            views=view,
            memory=tuple(self._samples.of_node(index) for index in range(self._settings.nodes)),
            disk_bytes_per_transaction=round(disk_bytes / max(1, book.transactions), 1),
            by_snapshot=None,
            by_blocks=None,
            replay_to_live=None,
            violations=tuple(self._found),
        )
