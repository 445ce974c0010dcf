"""``gridpact meter simulate``: simulated meters against the broker of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from cluster.fleet import HoldableTime, chain_clock, fleet_config, read_status_file
from cluster.options import RunError, check_json_path, home_option, json_option, write_json
from cluster.processes import read_pid_file
from cluster.running import log_to_stderr, run_until_stopped
from cluster.topology import Topology, read_topology
from consensus.errors import InputError
from meters.fleet import FleetStatus, run_fleet
from meters.link import sleep_unless

EPILOG = """\b
Examples:
  gridpact meter simulate --home cluster                         # all meters, until Ctrl-C
  gridpact meter simulate --home cluster --meter B01 --readings 4 --json -"""
POLL_S = 0.2
DRAIN_S = 30.0


@click.group()
def meter() -> None:
    """Meters."""


@meter.command(epilog=EPILOG)
@home_option
@click.option("--meter", "meters", multiple=True, metavar="ID", help="Only this meter; may be repeated.  [default: all]")
@click.option("--readings", type=click.IntRange(1, 1_000_000), metavar="N", help="End when each has N more proven.  [default: never]")
@json_option
def simulate(home: Path, meters: tuple[str, ...], readings: int | None, json_path: str | None) -> None:
    """Replay household data as signed readings to the broker of the cluster under --home.

    For a cluster made by `gridpact init`, or one whose meters do not run. A reading leaves a meter's outbox only when the chain
    has proven that it holds it, so the command may be stopped and started at any time.
    """
    check_json_path(json_path)
    topology = read_topology(home)
    running = read_pid_file(topology.run / "fleet.pid")
    if running is not None:
        raise InputError(f"--home {home}", f"its meters run already (process {running.pid})")
    log_to_stderr()
    status = run_until_stopped(lambda stop: _simulate(topology, meters, readings, stop))
    if json_path != "-":
        click.echo(f"{len(status.meters)} meters: {status.published} published, {status.proven} proven, {status.pending} waiting")
    write_json(json_path, status)
    if readings is not None and status.pending:
        raise RunError(f"{status.pending} readings are not proven")


async def _simulate(topology: Topology, meters: tuple[str, ...], readings: int | None, stop: asyncio.Event) -> FleetStatus:
    """Run the meters until ``stop``, or until each has ``readings`` more proven; then let them prove what they have left."""
    time = HoldableTime(chain_clock(topology))
    config = fleet_config(topology, time, meters)
    ended = asyncio.Event()
    fleet = asyncio.create_task(run_fleet(config, ended))
    await _poll(lambda first, now: readings is not None and _proven(first, now) >= readings, topology, fleet, stop, None)
    time.hold()
    if not stop.is_set():
        await _poll(lambda _, now: now.pending == 0, topology, fleet, stop, DRAIN_S)
    ended.set()
    await fleet
    return msgspec.json.decode(read_status_file(topology), type=FleetStatus)


def _proven(first: FleetStatus, now: FleetStatus) -> int:
    """Return how many more readings are proven than at first, of the meter that has least."""
    before = {one.meter: one.proven for one in first.meters}
    return min(one.proven - before.get(one.meter, 0) for one in now.meters)


async def _poll(
    done: Callable[[FleetStatus, FleetStatus], bool],
    topology: Topology,
    fleet: asyncio.Task[None],
    stop: asyncio.Event,
    timeout_s: float | None,
) -> None:
    """Wait until ``done(first status, present status)``, the fleet has failed, the user stops it, or the time is over."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    first: FleetStatus | None = None
    while not stop.is_set() and not fleet.done() and (deadline is None or loop.time() < deadline):
        status = _status(topology)
        if status is not None:
            first = first or status
            if done(first, status):
                return
        await sleep_unless(stop, POLL_S)


def _status(topology: Topology) -> FleetStatus | None:
    try:
        return msgspec.json.decode(read_status_file(topology), type=FleetStatus)
    except (InputError, msgspec.MsgspecError):
        return None
