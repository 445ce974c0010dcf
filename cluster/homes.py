"""Opens the home of a local cluster: the existing one if it is what the user asks for, else a new one."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cluster.chain_clock import recover_clock
from cluster.options import EMBEDDED
from cluster.planning import Wishes
from cluster.ports import port_is_free
from cluster.processes import ProcessId, read_pid_file, terminate
from cluster.topology import TOPOLOGY_FILE, Topology, read_topology
from consensus.errors import InputError
from contracts.topics import parse_broker_url

LAUNCHER = "up"


def open_home(home: Path, wishes: Wishes, *, fresh: bool, moved: Callable[[Path], None] = lambda _: None) -> tuple[Topology, bool]:
    """Return the cluster under ``home``, ready to start, and whether it is new.

    Args:
        fresh: move an existing one aside first.
        moved: told where the existing one is then.

    Raises:
        InputError: it runs already, is not what the user asks for, or cannot be made; or a file of it does not fit.
    """
    if (home / TOPOLOGY_FILE).exists():
        check_not_running(home)
        if fresh and (target := move_aside(home)) is not None:
            moved(target)
    if not (home / TOPOLOGY_FILE).exists():
        from cluster.building import create_home  # noqa: PLC0415 - keys, certificates and the broker's parser are for new homes only

        return create_home(home, wishes), True
    topology = read_topology(home)
    check_wishes(topology, wishes)
    terminate(running_processes(home))
    recover_clock(topology)
    _check_ports(topology)
    return topology, False


def check_not_running(home: Path) -> None:
    """Check that no launcher runs this home.

    Raises:
        InputError: one does.
    """
    launcher = read_pid_file(home / "run" / f"{LAUNCHER}.pid")
    if launcher is not None:
        raise InputError(f"--home {home}", f"its cluster runs already (process {launcher.pid}); `gridpact down` stops it")


def running_processes(home: Path) -> list[ProcessId]:
    """Return all processes of a home that still run."""
    found = [read_pid_file(path) for path in sorted((home / "run").glob("*.pid"))]
    return [process for process in found if process is not None]


def _check_ports(topology: Topology) -> None:
    places = [(node.name, port) for node in topology.nodes for port in (node.peer_port, int(node.http_url.rpartition(":")[2]))]
    if topology.broker.embedded:
        places.append(("the broker", parse_broker_url(topology.broker.url).port))
    for name, port in places:
        if not port_is_free(port):
            raise InputError(f"--home {topology.home}", f"another program listens on port {port}, which belongs to {name}")


def move_aside(home: Path) -> Path | None:
    """Rename an existing home so that a fresh one can be made; return its new place. Nothing is ever deleted."""
    if not home.exists():
        return None
    stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%d-%H%M%S")
    target = home.with_name(f"{home.name}.{stamp}")
    try:
        home.rename(target)
    except OSError as error:
        raise InputError(f"--home {home}", f"cannot be renamed to {target.absolute()}: {(error.strerror or str(error)).lower()}") from error
    return target


def check_wishes(topology: Topology, wishes: Wishes) -> None:
    """Check that an existing cluster is what the user asks for; what was not asked for fits.

    Raises:
        InputError: names the first difference and what to do.
    """
    differences: list[tuple[str, object, object]] = [
        ("--nodes", wishes.nodes, len(topology.nodes)),
        ("--households", wishes.households, len(topology.households)),
        ("--period", wishes.period_ms, topology.period_ms),
        ("--speed", wishes.speed, topology.speed),
        ("--start", wishes.start_ms, topology.start_ms),
        ("--market", wishes.market, topology.market),
        ("--broker", wishes.broker, EMBEDDED if topology.broker.embedded else topology.broker.url),
        ("--data", None if wishes.data is None else str(wishes.data.absolute()), topology.data),
    ]
    if wishes.currency is not None or wishes.feed_in_micro is not None:
        genesis = topology.genesis()
        differences.append(("--currency", wishes.currency, genesis.currency))
        feed_in_micro = genesis.tariff.feed_in_micro_per_kwh
        asked = None if wishes.feed_in_micro is None else wishes.feed_in_micro / 1e6
        differences.append(("--feed-in", asked, feed_in_micro / 1e6))
    for option, wish, present in differences:
        if wish is not None and wish != present:
            made = f"the cluster under {topology.root.absolute()} was made with {present or 'the shipped data'}, not {wish}"
            raise InputError(option, f"{made}; use that, another --home, or --fresh, which moves the old cluster aside")
