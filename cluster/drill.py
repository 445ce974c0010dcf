"""``gridpact drill``: faults on real processes under load; nothing acknowledged may be lost, counted twice or seen differently.

Load (:mod:`cluster.load_stream`), faults (:mod:`cluster.faults`), history (:mod:`cluster.history`) and checks (:mod:`cluster.inspection`,
:mod:`cluster.chain_book`) are kept apart; this module is the schedule. A round:

1. transactions become final, and all nodes are level and connected;
2. a fault hits the primary or a backup; how long until a transaction that was first sent *after* it is final, is the recovery;
3. the fault lasts a little longer, so that the node must catch up, and the cluster must go on meanwhile;
4. it ends; the node connects again and catches up with what the others had then;
5. the load is held until all that was promised is final, and what is new on every node is checked.

The first violation ends the drill, so that the disks show it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
from msgspec import structs

from cluster.chain_book import ChainBook, Violation
from cluster.checkers import percentile
from cluster.drill_round import Round, hit, play_round, set_scene
from cluster.faults import FaultName, fault_of_round, target_of_round
from cluster.history import History
from cluster.inspection import inspect, open_book
from cluster.lab import Lab, lab_plan
from cluster.lab_building import LabParts
from cluster.lab_meters import LabMeters, MeterKeys
from cluster.load import BlockWatch, LoadClient
from cluster.load_stream import LoadStream
from cluster.options import RunError
from cluster.stage import Stage
from cluster.workload import BALANCE_MICRO, Actors, Kind, make_actors, sign_range
from contracts.genesis import Genesis
from node.provisioning import ClusterPlan, NodePlan

ACCOUNTS, METERS, BROKER_METERS = 60, 30, 6
ATTEMPT_TIMEOUT_S = 1.5
BLOCK_TIMEOUT_S = 1.5
LOG_LEVEL = "info"
LOAD_KINDS: tuple[Kind, ...] = ("transfer", "reading")


@dataclass(frozen=True, slots=True)
class DrillSettings:
    """What is asked for.

    Attributes:
        faults: they take turns.
        rate: transactions per second.
        seed: draws victims and everything else that is left to chance.
        keep: where the nodes' folders and logs are left when the drill fails; None: nowhere.
    """

    rounds: int = 10
    faults: tuple[FaultName, ...] = ("kill",)
    nodes: int = 4
    rate: int = 200
    seed: int = 1
    keep: Path | None = None


class Recovery(msgspec.Struct, frozen=True):
    """Seconds, over some rounds."""

    p50: float
    max: float


class Failure(msgspec.Struct, frozen=True):
    """A violation, and the round that it was found in."""

    round: int
    fault: str
    node: str
    violation: Violation

    def __str__(self) -> str:
        return f"round {self.round}, {self.fault} of {self.node}: {self.violation.text}"


class DrillResult(msgspec.Struct, frozen=True):
    """The outcome; the names of the fields are those of the interface.

    Fields:
        submitted: transactions sent at least once. committed: of these, in certified blocks.
        lost: acknowledged by a node, but missing on one. duplicated: in a chain twice, or counted twice in a balance.
        forks: heights with different blocks. foreign: transactions that nobody sent.
        rejected: refused for good by a node, or executed with another code than OK. refusals: of these, the first kind, by code.
        withdrawn: acknowledged by nobody but a node whose disk was then destroyed, so sent again by their clients.
        resent: sendings that repeated an earlier one, for want of an answer.
        recovery_s: over all rounds. catch_up_s: until the node that was hit had caught up.
        left_out: rounds after which a node had every block and did not vote: it waited for another view than the others were in.
        readings: confirmed to the meters of the broker's lab.
        failures: what went wrong, and when; empty in a good drill.
    """

    rounds: int
    faults: dict[str, int]
    nodes: int
    seed: int
    submitted: int
    acknowledged: int
    committed: int
    rejected: int
    refusals: dict[str, int]
    withdrawn: int
    lost: int
    duplicated: int
    forks: int
    foreign: int
    agree: bool
    recovery_s: Recovery
    recovery_primary_s: Recovery
    recovery_backup_s: Recovery
    recovery_kill_primary_s: Recovery
    recovery_by_fault_s: dict[str, Recovery]
    catch_up_s: Recovery
    resent: int
    left_out: int
    readings: int
    blocks: int
    views: int
    details: tuple[Round, ...]
    failures: tuple[Failure, ...]

    @property
    def good(self) -> bool:
        """Whether nothing was lost, counted twice, forked or invented, and every node did what it must."""
        return not self.failures


Report = Callable[[str, float, str], None]


async def run_drill(settings: DrillSettings, report: Report) -> DrillResult:
    """Run a drill.

    Args:
        report: takes phase, share done (0 to 1) and a note.

    Raises:
        RunError: the cluster does not start.
    """
    actors = make_actors(ACCOUNTS, METERS)
    keys = MeterKeys.make(BROKER_METERS if "broker" in settings.faults else 0)
    parts = LabParts(
        proxied=any(fault in settings.faults for fault in ("partition", "one-way")),
        own_clocks="clock" in settings.faults,
        meters=keys.names,
    )
    report("starting nodes", 0.0, "")
    async with AsyncExitStack() as stack:
        connections = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        session = await stack.enter_async_context(connections)
        lab = await stack.enter_async_context(Lab(settings.nodes, partial(_plan, actors, keys), settings.keep, parts))
        history = History()
        watch = BlockWatch(session, lab.urls, history, time.monotonic, BLOCK_TIMEOUT_S)
        client = LoadClient(session, lab.urls, history, time.monotonic, ATTEMPT_TIMEOUT_S)
        load = LoadStream(settings.nodes, partial(_sign, lab.genesis, actors), history, client, settings.rate)
        meters = LabMeters(lab, keys) if keys.names else None
        stage = Stage(lab, session, history, watch, load, meters)
        result = await _Drill(settings, stage, actors, report).run()
    if settings.keep is not None and result.good:
        await asyncio.to_thread(shutil.rmtree, settings.keep)
    return result


def _plan(actors: Actors, keys: MeterKeys, nodes: tuple[NodePlan, ...]) -> ClusterPlan:
    plan = lab_plan(actors, nodes)
    return replace(plan, meters=(*plan.meters, *keys.genesis_meters(actors.owner)), log_level=LOG_LEVEL)


def _sign(genesis: Genesis, actors: Actors, numbers: range, now_ms: int) -> list[bytes]:
    """Return transfers and readings in turn."""
    turns = range(numbers.start // 2, numbers.stop // 2)
    parts = [sign_range(genesis, actors, kind, turns, now_ms) for kind in LOAD_KINDS]
    return [raw for pair in zip(*parts, strict=True) for raw in pair]


class _Drill:
    """One drill on a stage that is set up."""

    def __init__(self, settings: DrillSettings, stage: Stage, actors: Actors, report: Report) -> None:
        self._settings = settings
        self._stage = stage
        self._opening = {name: BALANCE_MICRO for name, _ in actors.accounts}
        self._report = report
        self._rounds: list[Round] = []
        self._failures: list[Failure] = []

    async def run(self) -> DrillResult:
        """Put the load on and play all rounds, until one fails."""
        stage, settings = self._stage, self._settings
        book = await open_book(stage, self._opening)
        work = [asyncio.create_task(stage.watch.run()), asyncio.create_task(stage.load.run())]
        if stage.meters is not None:
            work.append(asyncio.create_task(stage.meters.run()))
        try:
            for number in range(settings.rounds):
                self._failures += await self._play(number, book)
                for task in work:
                    if task.done():
                        task.result()
                if self._failures:
                    break
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await stage.load.cancel()
        view = max((head.view for head in await stage.heads() if head is not None), default=0)
        return self._result(book, view)

    async def _play(self, number: int, book: ChainBook) -> list[Failure]:
        """Play one round and check what it left; return what went wrong."""
        stage, settings = self._stage, self._settings
        fault, target = fault_of_round(settings.faults, number), target_of_round(settings.faults, number)
        node: str = target
        try:
            await stage.wait_final(time.monotonic(), "before the fault")
            await stage.wait_level()
            primary, view = await stage.primary()
            scene = set_scene(stage, fault, target, primary, draw_of_round(settings.seed, number))
            aim, node = hit(scene, fault)
            words = f"round {number + 1} of {settings.rounds}: {fault} of {node}" + (f", the {aim}" if aim != node else "")
            self._report("drill", number / settings.rounds, words)
            self._rounds.append(await play_round(scene, fault, view))
            async with stage.quiet():
                found = await inspect(stage, book, scene.victims)
                self._rounds[-1] = structs.replace(self._rounds[-1], left_out=await stage.left_out())
        except RunError as error:
            found = [Violation("failed", str(error))]
        return [Failure(number + 1, fault, node, violation) for violation in found]

    def _result(self, book: ChainBook, view: int) -> DrillResult:
        rounds, history, settings = self._rounds, self._stage.history, self._settings
        kinds = Counter(failure.violation.kind for failure in self._failures)
        meters = self._stage.meters
        return DrillResult(
            rounds=len(rounds),
            faults=dict(sorted(Counter(one.fault for one in rounds).items())),
            nodes=settings.nodes,
            seed=settings.seed,
            submitted=history.sent_count,
            acknowledged=len(history.acknowledged_ids()),
            committed=history.certified_count,
            rejected=len(history.refusals) + book.refused,
            refusals=dict(sorted(Counter(history.refusals.values()).items())),
            withdrawn=self._stage.withdrawn,
            lost=kinds["lost"],
            duplicated=kinds["duplicated"] + kinds["balance"],
            forks=kinds["fork"],
            foreign=kinds["foreign"],
            agree=not kinds["fork"] and not kinds["failed"],
            recovery_s=_spread(rounds, lambda _: True),
            recovery_primary_s=_spread(rounds, lambda one: one.target == "primary"),
            recovery_backup_s=_spread(rounds, lambda one: one.target == "backup"),
            recovery_kill_primary_s=_spread(rounds, lambda one: (one.fault, one.target) == ("kill", "primary")),
            recovery_by_fault_s={
                fault: _of([one.recovery_s for one in rounds if one.fault == fault]) for fault in dict.fromkeys(one.fault for one in rounds)
            },
            catch_up_s=_of([one.catch_up_s for one in rounds]),
            resent=history.resent,
            left_out=sum(1 for one in rounds if one.left_out),
            readings=sum(len(sequences) for sequences in meters.confirmed.values()) if meters is not None else 0,
            blocks=book.height,
            views=view,
            details=tuple(rounds),
            failures=tuple(self._failures),
        )


def draw_of_round(seed: int, number: int) -> random.Random:
    """Return what a round draws from: it does not depend on what happened before, so that a seed gives the same schedule again."""
    return random.Random(f"{seed}/{number}")  # noqa: S311 - no secret


def _spread(rounds: Sequence[Round], wanted: Callable[[Round], bool]) -> Recovery:
    return _of([one.recovery_s for one in rounds if wanted(one)])


def _of(seconds: list[float]) -> Recovery:
    rising = sorted(seconds)
    return Recovery(percentile(rising, 0.5), percentile(rising, 1.0))
