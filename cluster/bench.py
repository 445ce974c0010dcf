"""``gridpact bench``: how much an own cluster takes, with every guarantee on.

Node processes of their own, TLS between them, synced stores; every node checks every client signature. Transactions are signed before the
clock starts. A transaction is final when the block that holds it is certified; latency is counted from its sending (with ``--rate``:
from when it was due) until then. Afterwards every node's chain is read and held against what was sent.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import aiohttp
import msgspec

from cluster.checkers import OK, Findings, StoredChain, check_chains, percentile, with_codes
from cluster.collect import read_chain, read_head, wait_equal_heads
from cluster.history import NEVER, History
from cluster.lab import Lab, lab_plan
from cluster.load import Batch, BlockWatch, LoadClient, make_batches
from cluster.options import RunError
from cluster.usage import cores, cpu_seconds, peak_rss_mb
from cluster.workload import BALANCE_MICRO, Actors, Kind, make_actors, sign_stream
from consensus.transaction import decode_transaction, signature_is_valid
from node.clock import wall_ms

ACCOUNTS, METERS = 500, 250
BATCH = 100
IN_FLIGHT = 2_000
OPEN_LOOP_TICKS_PER_S = 50
SUPPLY_SHARE = 0.75
"""Share of what the signatures alone would allow that is signed in advance for the highest rate; the run ends early if it is used up."""
VERIFIED = 1_000
DRAIN_TIMEOUT_S = 60.0
AGREE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What is asked for.

    Attributes:
        rate: transactions per second; None: as many as it takes.
        in_flight: how many may be under way at once; latency at the highest rate is about this over the rate.
    """

    nodes: int = 4
    duration_s: float = 20.0
    rate: int | None = None
    kind: Kind = "transfer"
    in_flight: int = IN_FLIGHT


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the bench is: a phase, its share done (0 to 1), and what there is to say."""

    phase: str
    share: float
    note: str = ""


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds until the certified block was seen."""

    p50: float
    p95: float
    p99: float
    max: float


class BenchResult(msgspec.Struct, frozen=True):
    """The outcome; the names of the fields are those of the interface.

    Fields:
        committed: sent transactions in certified blocks. rejected: refused by a node, or executed with a code other than OK.
        lost: acknowledged by a node, but missing on one. duplicated: in a chain twice, or counted twice in a balance.
        duration_s: from the first sending to the last sight of a certified transaction.
        tps: committed / duration_s.
        verify_us: one client signature on one core, measured in this run.
        crypto_bound_tps: what the cores could do if they did nothing but check client signatures, each node every one.
        cpu_us_per_tx_per_node: processor time of the node processes, for everything they do.
        generator_cpu_us_per_tx: of the process that makes the load, on the same cores.
        view_changes: how often the primary was replaced during the run.
        forks, foreign: heights with different blocks, transactions that nobody sent.
    """

    nodes: int
    cores: int
    kind: str
    rate: int | None
    sent: int
    committed: int
    lost: int
    duplicated: int
    rejected: int
    duration_s: float
    tps: float
    latency_ms: Latency
    blocks: int
    verify_us: float
    crypto_bound_tps: float
    efficiency: float
    cpu_us_per_tx_per_node: float
    generator_cpu_us_per_tx: float
    rss_mb_max: float
    view_changes: int
    forks: int
    foreign: int
    agree: bool

    @property
    def good(self) -> bool:
        """Whether nothing was lost, counted twice, forked or invented, and all nodes agree."""
        return self.agree and not (self.lost or self.duplicated or self.forks or self.foreign)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured while the load ran."""

    started_s: float
    cpu_s: float
    own_cpu_s: float
    rss_mb: float


async def run_bench(settings: BenchSettings, report: Callable[[Progress], None]) -> BenchResult:
    """Run one load test.

    Raises:
        RunError: a node does not start, ends by itself or cannot be read.
    """
    actors = make_actors(ACCOUNTS, METERS)
    report(Progress("starting nodes", 0.0))
    async with Lab(settings.nodes, partial(lab_plan, actors)) as lab:
        history = History()
        verify_us = await _sign(settings, lab, actors, history, report)
        batches = make_batches(history, range(len(history)), batch_size(settings.rate))
        gc.collect()
        gc.freeze()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
            measured = await _load(settings, lab, session, history, batches, report)
            report(Progress("checking", 0.0))
            await wait_equal_heads(session, lab.urls, AGREE_TIMEOUT_S)
            chains = await collect_chains(lab, session, [name for name, _ in actors.accounts])
            head = await read_head(session, lab.urls[0])
    opening = {name: BALANCE_MICRO for name, _ in actors.accounts} if settings.kind == "transfer" else {}
    findings = check_chains(
        chains,
        acknowledged=history.acknowledged_ids(),
        sent=history.sent_ids(),
        payments=history.payments_by_id(),
        opening_balances=opening,
    )
    return _result(settings, history, chains, findings, measured, verify_us, head.view if head is not None else 0)


def batch_size(rate: int | None) -> int:
    """Return how many transactions go into one request."""
    return BATCH if rate is None else max(1, min(BATCH, rate // OPEN_LOOP_TICKS_PER_S))


async def collect_chains(lab: Lab, session: aiohttp.ClientSession, accounts: list[str]) -> list[StoredChain]:
    """Read every node's chain, with the results of the first (equal blocks have equal results: their hashes cover them)."""
    chains = [
        await read_chain(session, name, url, accounts, receipts=index == 0)
        for index, (name, url) in enumerate(zip(lab.names, lab.urls, strict=True))
    ]
    return with_codes(chains)


async def _sign(settings: BenchSettings, lab: Lab, actors: Actors, history: History, report: Callable[[Progress], None]) -> float:
    """Sign the whole supply, and return the time that checking one signature takes, us."""
    report(Progress("signing", 0.0))
    sample = next(sign_stream(lab.genesis, actors, settings.kind, VERIFIED, wall_ms(), 1))
    verify_us = measure_verify_us(sample)
    bound = crypto_bound_tps(cores(), settings.nodes, verify_us)
    count = round(settings.duration_s * (settings.rate if settings.rate is not None else SUPPLY_SHARE * bound))
    stream = sign_stream(lab.genesis, actors, settings.kind, max(count, 1), wall_ms(), cores())
    while (chunk := await asyncio.to_thread(next, stream, None)) is not None:
        history.add(chunk)
        report(Progress("signing", len(history) / count, f"{len(history):,} transactions"))
    return verify_us


def measure_verify_us(raws: list[bytes]) -> float:
    """Return the time to check one client signature on one core, us.

    Raises:
        RunError: one does not check.
    """
    transactions = [decode_transaction(raw) for raw in raws]
    started = time.process_time()
    valid = all(signature_is_valid(transaction) for transaction in transactions)
    spent_s = time.process_time() - started
    if not valid:
        raise RunError("a signature of the test's own does not check")
    return spent_s / len(transactions) * 1e6


def crypto_bound_tps(core_count: int, nodes: int, verify_us: float) -> float:
    """Return how many transactions per second the cores allow if every node checks every signature, and nothing else is done."""
    return core_count / (nodes * verify_us) * 1e6


async def _load(
    settings: BenchSettings,
    lab: Lab,
    session: aiohttp.ClientSession,
    history: History,
    batches: list[Batch],
    report: Callable[[Progress], None],
) -> _Measured:
    """Put the load on, wait until all of it is final, and measure."""
    now = time.monotonic
    client = LoadClient(session, lab.urls, history, now)
    watch = BlockWatch(session, lab.urls[-1:], history, now)
    pids = [lab.pid(index) for index in range(settings.nodes)]
    watching = asyncio.create_task(watch.run())
    reporting = asyncio.create_task(_report(settings, history, now(), report))
    cpu_before, own_before = sum(map(cpu_seconds, pids)), time.process_time()
    started_s = now()
    sends: set[asyncio.Task[None]] = set()
    try:
        await _pump(settings, client, watch, history, batches, sends, started_s)
        report(Progress("draining", 1.0))
        await watch.wait_until(lambda: _under_way(history, len(sends)) == 0, DRAIN_TIMEOUT_S)
    finally:
        for task in (watching, reporting, *sends):
            task.cancel()
        await asyncio.gather(watching, reporting, *sends, return_exceptions=True)
    for index in range(settings.nodes):
        lab.check_running(index)
    cpu_s = sum(map(cpu_seconds, pids)) - cpu_before
    return _Measured(started_s, cpu_s, time.process_time() - own_before, max(map(peak_rss_mb, pids)))


async def _pump(
    settings: BenchSettings,
    client: LoadClient,
    watch: BlockWatch,
    history: History,
    batches: list[Batch],
    sends: set[asyncio.Task[None]],
    started_s: float,
) -> None:
    """Send batch after batch, at the rate asked for or as fast as they become final, until the time is over."""
    sent, ends_s = 0, started_s + settings.duration_s
    for number, batch in enumerate(batches):
        due_s = None
        if settings.rate is not None:
            due_s = started_s + sent / settings.rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        enough = partial(_has_settled, history, sent + len(batch.positions) - settings.in_flight)
        fits = await watch.wait_until(enough, max(0.0, ends_s - time.monotonic()))
        if not fits or time.monotonic() >= ends_s:
            return
        task = asyncio.create_task(client.send(batch, number % settings.nodes, due_s))
        sends.add(task)
        task.add_done_callback(sends.discard)
        sent += len(batch.positions)


def _settled(history: History) -> int:
    """Return how many transactions will not come back: final or refused."""
    return history.certified_count + len(history.refusals)


def _has_settled(history: History, count: int) -> bool:
    return _settled(history) >= count


def _under_way(history: History, sends: int) -> int:
    """Return how much is neither final nor refused, requests without an answer included."""
    return sends + sum(1 for when in history.sent_s if when != NEVER) - _settled(history)


async def _report(settings: BenchSettings, history: History, started_s: float, report: Callable[[Progress], None]) -> None:
    while True:
        await asyncio.sleep(0.25)
        elapsed_s = time.monotonic() - started_s
        note = f"{history.certified_count:,} certified, {history.certified_count / elapsed_s:,.0f} per second"
        report(Progress("load", min(1.0, elapsed_s / settings.duration_s), note))


def _result(
    settings: BenchSettings,
    history: History,
    chains: list[StoredChain],
    findings: Findings,
    measured: _Measured,
    verify_us: float,
    views: int,
) -> BenchResult:
    committed = history.certified_count
    ended_s = history.last_certified_s()
    duration_s = ended_s - measured.started_s if ended_s != NEVER else settings.duration_s
    latencies = history.latencies_ms()
    tps = committed / duration_s
    bound = crypto_bound_tps(cores(), settings.nodes, verify_us)
    failed = sum(code != OK for block in chains[0].blocks for code in block.codes)
    latency = Latency(*(round(percentile(latencies, share), 1) for share in (0.5, 0.95, 0.99, 1.0)))
    return BenchResult(
        nodes=settings.nodes,
        cores=cores(),
        kind=settings.kind,
        rate=settings.rate,
        sent=history.sent_count,
        committed=committed,
        lost=len(findings.lost),
        duplicated=findings.duplicated_count,
        rejected=len(history.refusals) + failed,
        duration_s=round(duration_s, 3),
        tps=round(tps, 1),
        latency_ms=latency,
        blocks=len(chains[0].blocks),
        verify_us=round(verify_us, 2),
        crypto_bound_tps=round(bound, 1),
        efficiency=round(tps / bound, 4),
        cpu_us_per_tx_per_node=round(measured.cpu_s * 1e6 / max(1, committed) / settings.nodes, 1),
        generator_cpu_us_per_tx=round(measured.own_cpu_s * 1e6 / max(1, committed), 1),
        rss_mb_max=round(measured.rss_mb, 1),
        view_changes=views,
        forks=len(findings.forks),
        foreign=len(findings.foreign),
        agree=findings.agree,
    )
