"""``gridpact status``, ``logs`` and ``down``: look at a cluster that runs, read its logs, stop it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from pathlib import Path

import click
import msgspec

from cluster.display import chain_time, kwh
from cluster.homes import LAUNCHER
from cluster.monitor import Monitor
from cluster.options import RunError, home_option, json_option, write_json
from cluster.processes import ProcessId, is_running, read_pid_file, terminate
from cluster.snapshot import NodeState, Snapshot
from cluster.tables import console, plural, print_table
from cluster.topology import Topology, read_topology
from consensus.errors import InputError
from node.clock import ReplayClock, wall_ms

DOWN_TIMEOUT_S = 120.0
POLL_S = 0.1
FOLLOW_S = 0.3


class ProcessState(msgspec.Struct, frozen=True):
    """One process of a cluster: its id while it runs."""

    name: str
    pid: int | None
    running: bool


@click.command(epilog="Example: gridpact status --json -")
@home_option
@json_option
def status(home: Path, json_path: str | None) -> None:
    """Show what runs under --home: processes, nodes, meters and the market."""
    topology = read_topology(home)
    processes = process_states(topology)
    snapshot = asyncio.run(_snapshot(topology, {state.name for state in processes if state.running}))
    if json_path != "-":
        _print_status(topology, processes, snapshot)
    write_json(json_path, _status_json(topology, processes, snapshot))


def process_states(topology: Topology) -> list[ProcessState]:
    """Return the processes of a cluster: those it ran last, and those that it consists of."""
    names = [LAUNCHER, "broker", *(node.name for node in topology.nodes), "fleet", "agents"]
    if not topology.broker.embedded:
        names.remove("broker")
    found = {name: read_pid_file(topology.run / f"{name}.pid") for name in names}
    return [ProcessState(name, process.pid if process else None, process is not None) for name, process in found.items()]


async def _snapshot(topology: Topology, running: set[str]) -> Snapshot:
    monitor = Monitor(topology, lambda name: name in running)
    try:
        chain_ms = ReplayClock(topology.clock_file).now_ms() if topology.clock == "replay" else wall_ms()
        return await monitor.snapshot(chain_ms)
    finally:
        await monitor.close()


def _print_status(topology: Topology, processes: list[ProcessState], snapshot: Snapshot) -> None:
    running = any(state.running for state in processes)
    click.echo(
        f"the cluster under {topology.root.absolute()} {'runs' if running else 'is stopped'}; chain time {chain_time(snapshot.chain_ms)}"
    )
    pids = ", ".join(f"{state.name} {state.pid or '-'}" for state in processes)
    console().print(f"process ids: {pids}", highlight=False)
    rows = [_node_row(node) for node in snapshot.nodes]
    print_table("nodes", ("name", "API and dashboard", "state", ">height", ">view", ">peers", "head"), rows, narrow=True)
    for node in snapshot.nodes:
        if node.reason:
            click.echo(f"{node.name}: {node.reason}")
    counts = snapshot.meters
    connected = str(counts.connected) if running else "-"
    click.echo(f"meters: {connected} of {counts.meters} connected; {plural(counts.published, 'reading')} published, {counts.proven} proven")
    totals = snapshot.totals
    if totals is not None:
        click.echo(
            f"market: {plural(totals.periods_settled, 'period')} settled, {plural(totals.orders, 'order')}, "
            f"{plural(totals.trades, 'trade')}, "
            f"{kwh(totals.energy_traded_wh)} traded, {kwh(totals.energy_grid_wh)} with the grid"
        )


def _node_row(node: NodeState) -> tuple[str, ...]:
    """Return the line of one node; "-" stands for what nobody told."""
    known = (str(node.height), str(node.view), str(node.peers), node.head_hash[:8]) if node.head_hash else ("-",) * 4
    return (node.name, node.url, node.state, *known)


def _status_json(topology: Topology, processes: list[ProcessState], snapshot: Snapshot) -> dict[str, object]:
    return {
        "home": str(Path(topology.home).absolute()),
        "running": any(state.running for state in processes),
        "healthy": snapshot.all_healthy,
        "agree": snapshot.agreed,
        "chain_ms": snapshot.chain_ms,
        "processes": processes,
        "nodes": snapshot.nodes,
        "meters": snapshot.meters,
        "totals": snapshot.totals,
    }


@click.command(epilog="Example: gridpact logs node-1 agents --follow")
@click.argument("names", metavar="[PROCESS]...", nargs=-1)
@home_option
@click.option("--lines", type=click.IntRange(0, 1_000_000), default=20, show_default=True, help="Lines of each log, from the end.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
def logs(names: tuple[str, ...], home: Path, lines: int, follow: bool) -> None:
    """Show the logs of the processes under --home; of some of them, if they are named."""
    topology = read_topology(home)
    paths = {path.stem: path for path in sorted(topology.logs.glob("*.log"))}
    for name in names:
        if name not in paths:
            raise InputError(f"process {name}", f"has no log; there are {', '.join(paths) or 'none yet'}")
    chosen = {name: paths[name] for name in names or paths}
    places = {name: _print_tail(name, path, lines) for name, path in chosen.items()}
    while follow:
        for name, path in chosen.items():
            places[name] = _print_new(name, path, places[name])
        time.sleep(FOLLOW_S)


def _print_tail(name: str, path: Path, lines: int) -> int:
    """Print the last lines of a log; return where it ends."""
    click.echo(f"==> {name} <==")
    with path.open("rb") as file:
        for line in deque(file, maxlen=lines):
            click.echo(line.decode("utf-8", "replace").rstrip("\n"))
        return file.tell()


def _print_new(name: str, path: Path, place: int) -> int:
    """Print whole lines that were written after ``place``; return where they end. A log that was begun anew is read from its start."""
    size = path.stat().st_size if path.exists() else 0
    if size == place:
        return place
    with path.open("rb") as file:
        file.seek(place if size > place else 0)
        data = file.read()
        end = file.tell()
    whole, _, rest = data.rpartition(b"\n")
    for line in whole.decode("utf-8", "replace").splitlines():
        click.echo(f"{name}: {line}")
    return end - len(rest)


@click.command(epilog="Example: gridpact down --home .gridpact")
@home_option
def down(home: Path) -> None:
    """Stop the cluster under --home: its launcher ends it cleanly; what is left over is stopped by process id."""
    topology = read_topology(home)
    states = [state for state in process_states(topology) if state.running]
    if not states:
        click.echo("nothing runs")
        return
    launcher = read_pid_file(topology.run / f"{LAUNCHER}.pid")
    if launcher is not None:
        click.echo("asking the cluster to end; it lets what is under way come to its end first", err=True)
        _end_launcher(launcher)
    left = [process for path in sorted(topology.run.glob("*.pid")) if (process := read_pid_file(path)) is not None]
    killed = terminate(left)
    for path in topology.run.glob("*.pid"):
        path.unlink(missing_ok=True)
    click.echo(f"stopped {len(states)} processes" + (f", {len(killed)} of them by force" if killed else ""))


def _end_launcher(launcher: ProcessId) -> None:
    terminate([launcher], DOWN_TIMEOUT_S)
    if is_running(launcher):
        raise RunError(f"process {launcher.pid} does not end")
