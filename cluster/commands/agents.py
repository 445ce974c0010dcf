"""``gridpact agents``: the trading agents of a local cluster, one per household, in one process. Started by ``gridpact up``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from cluster.agents import AgentsConfig, AgentSetup, run_agents
from cluster.options import home_option
from cluster.parent import end_with_parent
from cluster.running import log_to_stderr, run_until_stopped
from cluster.topology import Household, Topology, read_topology
from node.clock import RealClock, ReplayClock
from node.keys import read_signer

HISTORY_FILE = "history.json"
STATUS_FILE = "agents/status.json"


@click.command(epilog="Example: gridpact agents --home .gridpact")
@home_option
def agents(home: Path) -> None:
    """Run one trading agent per household of the cluster under --home until SIGTERM."""
    end_with_parent()
    log_to_stderr()
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    config = agents_config(read_topology(home))
    run_until_stopped(lambda stop: run_agents(config, stop))


def agents_config(topology: Topology) -> AgentsConfig:
    """Return what the agents of a cluster are given.

    Raises:
        InputError: a key or the clock file is missing or does not fit.
    """
    replayed = topology.clock == "replay"
    return AgentsConfig(
        tuple(_setup(topology, number, household) for number, household in enumerate(topology.households)),
        ReplayClock(topology.clock_file).now_ms if replayed else RealClock().now_ms,
        topology.speed if replayed else 1.0,
        topology.root / STATUS_FILE,
    )


def _setup(topology: Topology, number: int, household: Household) -> AgentSetup:
    """Return what one agent is given; each prefers another node, so that the load spreads."""
    urls = topology.http_urls
    first = number % len(urls)
    return AgentSetup(
        household.account,
        household.meter,
        read_signer(topology.path(household.key_file)),
        topology.meters / household.meter / HISTORY_FILE,
        urls[first:] + urls[:first],
    )
