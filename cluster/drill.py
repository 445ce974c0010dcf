"""``gridpact drill``: faults on real node processes under load; nothing acknowledged may be lost, counted twice or seen differently.

Workload (:mod:`cluster.workload`), faults (:mod:`cluster.faults`), history (:mod:`cluster.history`) and checkers
(:mod:`cluster.checkers`) are kept apart; this module is the schedule. A round:

1. wait until transactions become final, and all nodes are level and connected;
2. hit the primary or a backup, and take the time until a transaction that was first sent *after* the fault is final: that is the
   recovery;
3. leave the node down a little longer, so that it must catch up;
4. end the fault, and wait until the node is connected again and has caught up with what the others had then.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import aiohttp
import msgspec

from cluster import faults
from cluster.bench import collect_chains
from cluster.checkers import OK, Findings, StoredChain, check_chains, percentile
from cluster.collect import Head, read_head, wait_equal_heads
from cluster.faults import FaultName
from cluster.history import NEVER, History
from cluster.lab import Lab, lab_plan
from cluster.load import Batch, BlockWatch, LoadClient, make_batches
from cluster.options import RunError
from cluster.workload import BALANCE_MICRO, Actors, Kind, make_actors, sign_range
from node.clock import wall_ms

ACCOUNTS, METERS = 60, 30
BATCH = 10
BATCHES_PER_S = 20
ATTEMPT_TIMEOUT_S = 1.5
PORTION = 200
LOAD_KINDS: tuple[Kind, ...] = ("transfer", "reading")
LOOK_BACK = 1_000
HEAD_TIMEOUT_S = 1.0
ROUND_TIMEOUT_S = 60.0
DOWN_S = 1.0
POLL_S = 0.05
AGREE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class DrillSettings:
    """What is asked for; every fault takes its turn."""

    rounds: int = 10
    faults: tuple[FaultName, ...] = ("kill",)
    nodes: int = 4


class Recovery(msgspec.Struct, frozen=True):
    """Seconds from a fault until a transaction first sent after it was final."""

    p50: float
    max: float


class Round(msgspec.Struct, frozen=True):
    """What happened in one round; ``view_changes`` counts those from before the fault until the node had caught up."""

    fault: str
    target: str
    node: str
    recovery_s: float
    catch_up_s: float
    view_changes: int


class DrillResult(msgspec.Struct, frozen=True):
    """The outcome; the names of the fields are those of the interface.

    Fields:
        submitted: transactions sent at least once. committed: of these, in certified blocks.
        lost: acknowledged by a node, but missing on one. duplicated: in a chain twice, or counted twice in a balance.
        forks: heights with different blocks. foreign: transactions that nobody sent.
        resent: sendings that repeated an earlier one, for want of an answer.
        recovery_s: over all rounds. catch_up_s: until the node that was hit had caught up.
    """

    rounds: int
    faults: dict[str, int]
    submitted: int
    acknowledged: int
    committed: int
    rejected: int
    lost: int
    duplicated: int
    forks: int
    foreign: int
    agree: bool
    recovery_s: Recovery
    recovery_primary_s: Recovery
    recovery_backup_s: Recovery
    catch_up_s: Recovery
    resent: int
    blocks: int
    views: int
    details: tuple[Round, ...]

    @property
    def good(self) -> bool:
        """Whether nothing was lost, counted twice, forked or invented, and all nodes agree."""
        return self.agree and not (self.lost or self.duplicated or self.forks or self.foreign)


class _Load:
    """The stream of a drill: transfers and readings in turn, signed a portion at a time, sent at a steady rate, re-sent until answered.

    Args:
        lab: the cluster, by its URLs and its genesis.
        actors: who sends.
        history: where everything is noted.
        client: sends.
    """

    def __init__(self, lab: Lab, actors: Actors, history: History, client: LoadClient) -> None:
        self._lab = lab
        self._actors = actors
        self._history = history
        self._client = client
        self._sends: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send until cancelled. Requests without an answer go on by themselves."""
        due_s = time.monotonic()
        for number, batch in enumerate(self._batches()):
            task = asyncio.create_task(self._client.send(batch, number % len(self._lab.urls)))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)
            due_s = max(due_s + 1 / BATCHES_PER_S, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    @property
    def answered(self) -> bool:
        """Whether every request has its answer."""
        return not self._sends

    async def cancel(self) -> None:
        """Give up on requests without an answer."""
        for task in self._sends:
            task.cancel()
        await asyncio.gather(*self._sends, return_exceptions=True)

    def _batches(self) -> Iterator[Batch]:
        for first in itertools.count(step=PORTION):
            numbers = range(first, first + PORTION)
            parts = [sign_range(self._lab.genesis, self._actors, kind, numbers, wall_ms()) for kind in LOAD_KINDS]
            raws = [raw for pair in zip(*parts, strict=True) for raw in pair]
            yield from make_batches(self._history, self._history.add(raws), BATCH)


async def run_drill(settings: DrillSettings, report: Callable[[str, float, str], None]) -> DrillResult:
    """Run a drill.

    Args:
        report: takes phase, share done (0 to 1) and a note.

    Raises:
        RunError: the cluster does not recover in time, or a node ends by itself.
    """
    actors = make_actors(ACCOUNTS, METERS)
    report("starting nodes", 0.0, "")
    history = History()
    connections = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
    async with connections as session, Lab(settings.nodes, partial(lab_plan, actors)) as lab:
        rounds = await _run_rounds(settings, lab, actors, session, history, report)
        report("checking", 1.0, "")
        await wait_equal_heads(session, lab.urls, AGREE_TIMEOUT_S)
        chains = await collect_chains(lab, session, [name for name, _ in actors.accounts])
        head = await read_head(session, lab.urls[0])
    findings = check_chains(
        chains,
        acknowledged=history.acknowledged_ids(),
        sent=history.sent_ids(),
        payments=history.payments_by_id(),
        opening_balances={name: BALANCE_MICRO for name, _ in actors.accounts},
    )
    return _result(rounds, history, chains, findings, head.view if head is not None else 0)


async def _run_rounds(
    settings: DrillSettings,
    lab: Lab,
    actors: Actors,
    session: aiohttp.ClientSession,
    history: History,
    report: Callable[[str, float, str], None],
) -> list[Round]:
    """Put the load on, run all rounds, take it off and wait until what was acknowledged is final."""
    client = LoadClient(session, lab.urls, history, time.monotonic, ATTEMPT_TIMEOUT_S)
    stage = Stage(lab, session, history, BlockWatch(session, lab.urls, history, time.monotonic))
    load = _Load(lab, actors, history, client)
    watching, sending = asyncio.create_task(stage.watch.run()), asyncio.create_task(load.run())
    rounds: list[Round] = []
    try:
        for number in range(settings.rounds):
            report("drill", number / settings.rounds, f"round {number + 1} of {settings.rounds}")
            rounds.append(await run_round(stage, faults.fault_of_round(settings.faults, number), number))
            _check(watching, sending)
        report("draining", 1.0, "")
        sending.cancel()
        await stage.watch.wait_until(lambda: load.answered and not history.open_positions(), ROUND_TIMEOUT_S)
    finally:
        for task in (watching, sending):
            task.cancel()
        await asyncio.gather(watching, sending, return_exceptions=True)
        await load.cancel()
    return rounds


def _check(*tasks: asyncio.Task[None]) -> None:
    """Raise what ended a task that should still run."""
    for task in tasks:
        if task.done():
            task.result()


@dataclass(frozen=True, slots=True)
class Stage:
    """What a round plays on."""

    lab: Lab
    session: aiohttp.ClientSession
    history: History
    watch: BlockWatch


async def run_round(stage: Stage, fault: FaultName, number: int) -> Round:
    """Let one fault happen and end.

    Raises:
        RunError: the cluster does not recover, or the node does not catch up, in time.
    """
    lab = stage.lab
    await _wait_final(stage, time.monotonic(), "before the fault")
    await _wait_level(stage)
    target = faults.target_of_round(number)
    primary, view = await _primary(stage)
    victim = faults.choose_victim(target, primary, len(lab.urls), number)
    struck_s = time.monotonic()
    await faults.inject(fault, lab, victim)
    final_s = await _wait_final(stage, struck_s, f"after {fault} of {lab.names[victim]}, the {target}")
    await asyncio.sleep(DOWN_S)
    ended_s = time.monotonic()
    faults.end(fault, lab, victim)
    await _wait_level(stage)
    level_s = time.monotonic()
    _, view_after = await _primary(stage)
    return Round(fault, target, lab.names[victim], round(final_s - struck_s, 3), round(level_s - ended_s, 3), view_after - view)


async def _wait_final(stage: Stage, since_s: float, when: str) -> float:
    """Wait until a transaction that was first sent after ``since_s`` is final; return when that was.

    Raises:
        RunError: none is in time.
    """
    history = stage.history
    first = sum(1 for sent in history.sent_s if sent != NEVER)

    def found() -> float | None:
        times = [
            history.certified_s[position]
            for position in range(max(0, first - LOOK_BACK), len(history))
            if history.sent_s[position] >= since_s and history.certified_s[position] != NEVER
        ]
        return min(times, default=None)

    if not await stage.watch.wait_until(lambda: found() is not None, ROUND_TIMEOUT_S):
        raise RunError(f"nothing became final within {ROUND_TIMEOUT_S:g} s {when}")
    return found() or since_s


async def _wait_level(stage: Stage) -> None:
    """Wait until all nodes are connected with each other and have everything that the highest one had at the beginning.

    Raises:
        RunError: they do not in time, or one ended.
    """
    deadline = time.monotonic() + ROUND_TIMEOUT_S
    goal = max((head.certified for head in await _heads(stage) if head is not None), default=0)
    while True:
        heads = await _heads(stage)
        left = [index for index, head in enumerate(heads) if head is None or not head.linked or head.certified < goal]
        if not left:
            return
        for index in left:
            stage.lab.check_running(index)
        if time.monotonic() > deadline:
            names = ", ".join(stage.lab.names[index] for index in left)
            raise RunError(f"{names}: not connected and at height {goal} within {ROUND_TIMEOUT_S:g} s")
        await asyncio.sleep(POLL_S)


async def _heads(stage: Stage) -> list[Head | None]:
    return list(await asyncio.gather(*(read_head(stage.session, url, HEAD_TIMEOUT_S) for url in stage.lab.urls)))


async def _primary(stage: Stage) -> tuple[int, int]:
    """Return the index of the primary that most nodes follow, and its view."""
    named = Counter((head.primary, head.view) for head in await _heads(stage) if head is not None)
    (primary, view), _ = named.most_common(1)[0]
    return stage.lab.names.index(primary), view


def _spread(seconds: list[float]) -> Recovery:
    rising = sorted(seconds)
    return Recovery(percentile(rising, 0.5), percentile(rising, 1.0))


def _result(rounds: list[Round], history: History, chains: list[StoredChain], findings: Findings, views: int) -> DrillResult:
    failed = sum(code != OK for block in chains[0].blocks for code in block.codes)
    present = {transaction for block in chains[0].blocks for transaction in block.transactions}
    return DrillResult(
        rounds=len(rounds),
        faults=dict(sorted(Counter(one.fault for one in rounds).items())),
        submitted=history.sent_count,
        acknowledged=len(history.acknowledged_ids()),
        committed=len(present & history.sent_ids()),
        rejected=len(history.refusals) + failed,
        lost=len(findings.lost),
        duplicated=findings.duplicated_count,
        forks=len(findings.forks),
        foreign=len(findings.foreign),
        agree=findings.agree,
        recovery_s=_spread([one.recovery_s for one in rounds]),
        recovery_primary_s=_spread([one.recovery_s for one in rounds if one.target == "primary"]),
        recovery_backup_s=_spread([one.recovery_s for one in rounds if one.target == "backup"]),
        catch_up_s=_spread([one.catch_up_s for one in rounds]),
        resent=history.resent,
        blocks=len(chains[0].blocks),
        views=views,
        details=tuple(rounds),
    )
