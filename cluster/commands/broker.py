"""``gridpact broker run``: the embedded MQTT broker that ``gridpact up`` starts for itself."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.broker import EmbeddedBrokerConfig, serve_broker
from cluster.options import home_option
from cluster.running import log_to_stderr, run_until_stopped
from cluster.topology import BROKER_FOLDER, read_topology
from contracts.topics import parse_broker_url


@click.group(hidden=True)
def broker() -> None:
    """The embedded MQTT broker of a local cluster."""


@broker.command("run", epilog="Example: gridpact broker run --home .gridpact")
@home_option
def broker_run(home: Path) -> None:
    """Run the embedded broker in the foreground."""
    log_to_stderr()
    topology = read_topology(home)
    address = parse_broker_url(topology.broker.url)
    folder = topology.path(BROKER_FOLDER)
    config = EmbeddedBrokerConfig(folder / "passwords", folder / "access", address.host, address.port)
    run_until_stopped(lambda stop: serve_broker(config, stop))
