"""``gridpact fleet run``: the simulated meters that ``gridpact up`` starts for itself."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.fleet import run_topology_fleet
from cluster.options import home_option
from cluster.running import log_to_stderr, run_until_stopped
from cluster.topology import read_topology


@click.group(hidden=True)
def fleet() -> None:
    """The simulated meters of a local cluster."""


@fleet.command("run", epilog="Example: gridpact fleet run --home .gridpact")
@home_option
def fleet_run(home: Path) -> None:
    """Run all meters of a cluster in the foreground."""
    log_to_stderr()
    topology = read_topology(home)
    run_until_stopped(lambda stop: run_topology_fleet(topology, stop))
