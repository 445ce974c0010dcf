"""``gridpact up``: the main job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from cluster.display import Setting, chain_time
from cluster.homes import LAUNCHER, open_home
from cluster.options import (
    DEFAULT_HOME,
    broker_url,
    chain_time_ms,
    check_json_path,
    duration_ms,
    home_option,
    json_option,
    speed,
    tariff_options,
    write_json,
)
from cluster.planning import Wishes
from cluster.processes import write_pid_file
from cluster.progress import Progress, progress_for
from cluster.snapshot import member_accounts
from cluster.summary import Summary, summary_text
from cluster.topology import Topology
from cluster.up import run_cluster

EXIT_INTERRUPTED = 130

EPILOG = """\b
Examples:
  gridpact up                                     # until Ctrl-C
  gridpact up --periods 4 --json result.json      # ends by itself
  gridpact up --data mine.csv --households 20 --period 30m --currency EUR --feed-in 0.06
  gridpact up --broker mqtt://192.168.1.5:1883 --broker-users users.txt"""


@click.command(epilog=EPILOG)
@click.option("--nodes", type=click.IntRange(4, 7), help="Data-centre nodes.  [default: 4]")
@home_option
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE.csv", help="Household data to replay.  [default: the shipped homes]")
@click.option(
    "--start",
    "start_ms",
    type=chain_time_ms,
    metavar="YYYY-MM-DDTHH:MM",
    help="First delivery.  [default: first with buyers and sellers]",
)
@click.option("--households", type=click.IntRange(1, 10_000), metavar="N", help="The first N of the data.  [default: all]")
@click.option("--period", "period_ms", type=duration_ms, metavar="DURATION", help="Length of a delivery period.  [default: 15m]")
@click.option("--speed", type=speed, metavar="X", help="Chain time per real time.  [default: 60]")
@click.option("--periods", type=click.IntRange(1, 1_000_000), metavar="N", help="End after N settled periods.  [default: never]")
@click.option("--broker", type=broker_url, metavar="URL", help="embedded, mqtt://HOST:PORT or mqtts://HOST:PORT.  [default: embedded]")
@click.option("--broker-users", type=click.Path(path_type=Path), metavar="FILE", help="NAME:PASSWORD lines for another broker.")
@click.option("--broker-ca", type=click.Path(path_type=Path), metavar="FILE", help="Authority of an mqtts broker, PEM.")
@click.option("--market", type=click.Choice(["auction"]), help="Market mechanism.  [default: auction]")
@tariff_options
@click.option("--fresh", is_flag=True, help="Move an existing cluster aside and make a new one.")
@json_option
def up(home: Path, periods: int | None, fresh: bool, json_path: str | None, **asked: Any) -> int:  # noqa: ANN401 - the other options
    """Start a local cluster and run it until Ctrl-C.

    Four data-centre nodes, an MQTT broker, one meter per household that replays real data, and one trading agent per
    household. Period after period is traded, cleared and settled. A second start goes on where the first one ended.
    """
    check_json_path(json_path)
    topology, new = open_home(home, Wishes(**asked), fresh=fresh, moved=_say_moved)
    setting = setting_of(topology)
    progress = progress_for(setting)
    for line in start_lines(topology, setting, new=new):
        progress.event(line)
    summary = run_locked(topology, setting, progress, periods)
    if summary is None:
        return EXIT_INTERRUPTED
    write_json(json_path, summary)
    if json_path != "-":
        click.echo(summary_text(summary))
    return 0 if summary.good else 1


def _say_moved(place: Path) -> None:
    click.echo(f"the old cluster is now {place.absolute()}", err=True)


def run_locked(topology: Topology, setting: Setting, progress: Progress, periods: int | None) -> Summary | None:
    """Run the cluster; its home says meanwhile that it runs."""
    pid_file = topology.run / f"{LAUNCHER}.pid"
    write_pid_file(pid_file, os.getpid())
    try:
        return run_cluster(topology, setting, progress, periods)
    finally:
        pid_file.unlink(missing_ok=True)


def setting_of(topology: Topology) -> Setting:
    """Return what the display shows all the time.

    Raises:
        InputError: the genesis file does not fit.
    """
    genesis = topology.genesis()
    suffix = "" if Path(topology.home).absolute() == Path(DEFAULT_HOME).absolute() else f" --home {topology.home}"
    return Setting(
        currency=genesis.currency,
        members=member_accounts(genesis),
        period_ms=topology.period_ms,
        dashboard=topology.http_urls[0],
        hints=(f"Ctrl-C stops.  In another terminal: gridpact status{suffix} | market book{suffix} | logs{suffix}",),
        notice=f"The data are coarser than the periods of {topology.period_ms // 1000} s: counters are interpolated between its values."
        if topology.interpolated
        else "",
    )


def start_lines(topology: Topology, setting: Setting, *, new: bool) -> list[str]:
    """Return what to say at the start."""
    real_s = topology.period_ms / topology.speed / 1000
    made = "new cluster" if new else "going on with the cluster"
    lines = [
        f"{made} under {topology.root.absolute()}: {len(topology.nodes)} nodes, {len(topology.households)} households, "
        f"first delivery {chain_time(topology.start_ms, '%Y-%m-%d %H:%M')}, a period lasts {real_s:g} s",
        f"dashboard: {setting.dashboard}",
    ]
    return [*lines, setting.notice] if setting.notice else lines
