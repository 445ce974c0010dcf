"""``gridpact init``: the files of a cluster on several hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import msgspec

from cluster.building import HostPlace, create_cluster
from cluster.display import chain_time
from cluster.options import broker_url, chain_time_ms, check_json_path, duration_ms, json_option, tariff_options, write_json
from cluster.planning import Wishes
from cluster.topology import Topology
from consensus.errors import InputError
from node.clock import wall_ms

EPILOG = """\b
Examples:
  gridpact init --nodes 4 --hosts 10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4 --out cluster
  gridpact init --nodes 5 --hosts dc1.example,dc2.example --out cluster --data homes.csv"""
MIN_NODES, MAX_NODES = 4, 7
PEER_PORT, HTTP_PORT = 9000, 8080
LEAD_MS = 3_600_000
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}", re.ASCII)


@click.command(epilog=EPILOG)
@click.option("--nodes", type=click.IntRange(MIN_NODES, MAX_NODES), default=MIN_NODES, show_default=True, help="Data-centre nodes.")
@click.option("--hosts", required=True, metavar="H1,H2,...", help="Where the nodes run; dealt out in turn if there are fewer than nodes.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New folder for the files.")
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE.csv", help="Household data: its homes become the members.")
@click.option("--households", type=click.IntRange(1, 10_000), metavar="N", help="The first N of the data.  [default: all]")
@click.option("--period", "period_ms", type=duration_ms, metavar="DURATION", help="Length of a delivery period.  [default: 15m]")
@click.option("--start", "start_ms", type=chain_time_ms, metavar="TIME", help="First delivery period, UTC.  [default: in an hour or so]")
@click.option("--broker", type=broker_url, metavar="URL", help="MQTT broker.  [default: mqtt:// on the first host, port 1883]")
@click.option("--broker-users", type=click.Path(path_type=Path), metavar="FILE", help="NAME:PASSWORD lines; without it they are made.")
@click.option("--broker-ca", type=click.Path(path_type=Path), metavar="FILE", help="Authority of an mqtts broker, PEM.")
@tariff_options
@click.option("--port", type=click.IntRange(1, 65_000), default=PEER_PORT, show_default=True, help="For the other nodes.")
@click.option("--http-port", type=click.IntRange(1, 65_000), default=HTTP_PORT, show_default=True, help="For API and dashboard.")
@json_option
def init(
    nodes: int,
    hosts: str,
    out: Path,
    broker: str | None,
    port: int,
    http_port: int,
    json_path: str | None,
    **asked: Any,  # noqa: ANN401 - the other options
) -> None:
    """Write genesis, keys, certificates and config of a cluster: one folder per node, ready to copy to its host.

    Chain time is real time. Keys of accounts and meters, and the files for a Mosquitto broker, are written beside the nodes'
    folders. Nothing that exists is overwritten.
    """
    check_json_path(json_path)
    places = host_places(nodes, hosts, port, http_port)
    wishes = Wishes(nodes=nodes, broker=broker, **asked)
    topology = create_cluster(out, wishes, places, broker or f"mqtt://{_bracketed(places[0].host)}:1883", wall_ms() + LEAD_MS)
    if json_path != "-":
        _print(topology)
    write_json(json_path, _result(topology))


def host_places(nodes: int, hosts: str, port: int, http_port: int) -> tuple[HostPlace, ...]:
    """Deal the nodes out to the hosts; two nodes of one host get ports one apart.

    Raises:
        InputError: there is no host, or there are more hosts than nodes.
    """
    names = [name.strip() for name in hosts.split(",")]
    for name in names:
        if not _HOST.fullmatch(name):
            raise InputError("--hosts", f"{name[:64]!r} is neither a host name nor an IP address")
    if len(set(names)) != len(names):
        raise InputError("--hosts", "a host occurs twice; give each once, several nodes may share it")
    if len(names) > nodes:
        raise InputError("--hosts", f"{len(names)} hosts for {nodes} nodes")
    places = []
    for number in range(nodes):
        host, turn = names[number % len(names)], number // len(names)
        listen = "::" if ":" in host else "0.0.0.0"  # noqa: S104 - other hosts must reach it; peers need a certificate
        places.append(HostPlace(f"node-{number + 1}", f"dc-{number + 1}", host, port + turn, host, http_port + turn, listen))
    return tuple(places)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _result(topology: Topology) -> dict[str, object]:
    nodes = [
        {
            "name": node.name,
            "host": node.peer_host,
            "port": node.peer_port,
            "http_url": node.http_url,
            "folder": str(topology.path(node.folder)),
        }
        for node in topology.nodes
    ]
    return {
        "out": topology.home,
        "chain_id": topology.chain_id,
        "genesis_digest": topology.genesis().digest.hex(),
        "start_ms": topology.start_ms,
        "broker": topology.broker.url,
        "nodes": nodes,
        "accounts": [household.account for household in topology.households],
    }


def _print(topology: Topology) -> None:
    topology = msgspec.structs.replace(topology, home=str(topology.root.absolute()))
    click.echo(f"cluster {topology.chain_id} under {topology.home}; first delivery {chain_time(topology.start_ms, '%Y-%m-%d %H:%M')} UTC")
    for node in topology.nodes:
        folder = topology.path(node.folder)
        click.echo(f"  {node.name}: copy {folder} to {node.peer_host}, there: gridpact node run --home {Path(folder).name}")
    if topology.path("broker").exists():
        click.echo(f"  broker {topology.broker.url}: copy the files of {topology.path('broker')} to its /etc/mosquitto")
        click.echo("    they are for their owner only, so let Mosquitto read them: chown mosquitto: /etc/mosquitto/{passwords,access}")
    else:
        click.echo(f"  broker {topology.broker.url}")
    click.echo(f"  keys of members: {topology.path('keys')}, of meters: {topology.path('meters')}")
    click.echo(f"  keep {topology.path('ca.key')} offline")
