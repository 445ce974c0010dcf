"""Many meters in one process: ``gridpact up`` runs a whole street with it, a Raspberry Pi a single one."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from consensus.crypto import Signer
from consensus.errors import InputError
from contracts.genesis import Genesis
from meters.agent import AgentSettings, MeterAgent, MeterStatus
from meters.link import BrokerLogin, sleep_unless
from meters.outbox import Outbox
from meters.reading import CounterSource, MeterIdentity

TICK_S = 0.05
STATUS_EVERY_S = 1.0
DISK_THREADS = 4
_FILES_PER_METER = 4
_FILES_BESIDE = 64


class FleetStatus(msgspec.Struct, frozen=True):
    """What ``status.json`` holds: totals over all meters (from their first day on), then each meter."""

    published: int
    proven: int
    refused: int
    pending: int
    connected: int
    meters: tuple[MeterStatus, ...]


@dataclass(frozen=True, slots=True)
class FleetMeter:
    """One meter of a fleet.

    Attributes:
        meter: its id, which is its user name at the broker too unless ``login`` says otherwise.
        signer: holds its key.
        source: its counters.
        outbox: file of its outbox; the folder is made if it does not exist.
        login: how it reaches the broker.
    """

    meter: str
    signer: Signer
    source: CounterSource
    outbox: Path
    login: BrokerLogin


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """A fleet.

    Attributes:
        genesis: the chain; its meters need not be in it (nobody will prove their readings then).
        meters: who takes part.
        settings: how each of them works.
        now_ms: chain time.
        status_file: where the status is written every second, whole and at once; its folder is made if it does not exist.
    """

    genesis: Genesis
    meters: tuple[FleetMeter, ...]
    settings: AgentSettings
    now_ms: Callable[[], int]
    status_file: Path


async def run_fleet(config: FleetConfig, stop: asyncio.Event) -> None:
    """Run all meters until ``stop`` is set.

    Raises:
        InputError: the interval does not divide the chain's period, or two meters share a name.
        OutboxError: an outbox cannot be opened, or its disk failed while a proof was recorded.
    """
    period_ms = config.genesis.market.period_ms
    if period_ms % config.settings.interval_ms:
        raise InputError("interval", f"{config.settings.interval_ms} ms does not divide the period of {period_ms} ms")
    if len({meter.meter for meter in config.meters}) != len(config.meters):
        raise InputError("meters", "two have the same name")
    _allow_files(len(config.meters))
    config.status_file.parent.mkdir(parents=True, exist_ok=True)
    outboxes = _outboxes(config)
    with ThreadPoolExecutor(DISK_THREADS, "gridpact-meter-disk") as executor:
        agents = [_agent(config, meter, outbox, executor) for meter, outbox in zip(config.meters, outboxes, strict=True)]
        logging.getLogger("gridpact.meters").info("%d meters start", len(agents))
        try:
            async with asyncio.TaskGroup() as group:
                work = [agent.run(stop) for agent in agents]
                for part in (*work, _tick(agents, config.now_ms, stop), _report(agents, config.status_file, stop)):
                    group.create_task(_together(part, stop))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        finally:
            _write_status(agents, config.status_file)
            _close(outboxes)


def _outboxes(config: FleetConfig) -> list[Outbox]:
    """Open every outbox, or none."""
    outboxes: list[Outbox] = []
    try:
        for meter in config.meters:
            meter.outbox.parent.mkdir(parents=True, exist_ok=True)
            outboxes.append(Outbox(meter.outbox, f"{config.genesis.chain_id}/{config.genesis.channel}/{meter.meter}"))
    except BaseException:
        _close(outboxes)
        raise
    return outboxes


def _close(outboxes: list[Outbox]) -> None:
    for outbox in outboxes:
        outbox.close()


def _agent(config: FleetConfig, meter: FleetMeter, outbox: Outbox, executor: ThreadPoolExecutor) -> MeterAgent:
    identity = MeterIdentity.of(config.genesis, meter.meter, meter.signer)
    return MeterAgent(identity, config.settings, meter.source, outbox, meter.login, config.now_ms, executor)


async def _together(part: Coroutine[object, object, None], stop: asyncio.Event) -> None:
    """Run one part of the fleet; if it fails, all others stop."""
    try:
        await part
    finally:
        stop.set()


async def _tick(agents: list[MeterAgent], now_ms: Callable[[], int], stop: asyncio.Event) -> None:
    """Let every meter take its readings when they are due."""
    while not stop.is_set():
        now = now_ms()
        due = [agent for agent in agents if agent.next_due_ms <= now]
        if due:
            await asyncio.gather(*(agent.take_readings() for agent in due))
        await sleep_unless(stop, TICK_S)


async def _report(agents: list[MeterAgent], path: Path, stop: asyncio.Event) -> None:
    while not stop.is_set():
        _write_status(agents, path)
        await sleep_unless(stop, STATUS_EVERY_S)


def fleet_status(agents: list[MeterAgent]) -> FleetStatus:
    """Return the status of all meters, and its totals."""
    meters = tuple(agent.status for agent in agents)
    return FleetStatus(
        published=sum(meter.published for meter in meters),
        proven=sum(meter.proven for meter in meters),
        refused=sum(meter.refused for meter in meters),
        pending=sum(meter.pending for meter in meters),
        connected=sum(meter.connected for meter in meters),
        meters=meters,
    )


def _write_status(agents: list[MeterAgent], path: Path) -> None:
    """Replace the status file at once, so that a reader never sees half of it."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(msgspec.json.encode(fleet_status(agents)) + b"\n")
    fresh.replace(path)


def _allow_files(meters: int) -> None:
    """Raise this process's limit of open files as far as the fleet needs (as far as the system lets it)."""
    needed = meters * _FILES_PER_METER + _FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard))
