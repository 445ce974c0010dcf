"""Makes the folder of a lab: node folders, and what an experiment wants to be able to disturb beside the nodes themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from cluster.broker import BrokerUser, new_password, write_access_files
from cluster.links import Link
from cluster.ports import HOST, free_ports
from cluster.topology import BROKER_FOLDER, CLOCK_FILE, NODES_FOLDER, BrokerPlace, NodePlace, Topology, write_topology
from contracts.genesis import Genesis
from node.clock import ReplayTime, wall_ms, write_replay_time
from node.config import CONFIG_FILE
from node.provisioning import ClusterPlan, NodePlan, node_toml, provision

MakePlan = Callable[[tuple[NodePlan, ...]], ClusterPlan]


@dataclass(frozen=True, slots=True)
class LabParts:
    """What a lab has besides its nodes, so that it can be disturbed.

    Attributes:
        proxied: every node finds every other through a proxy, so that links can be cut.
        own_clocks: every node has a clock file of its own, so that its time can be put wrong.
        meters: names of meters that publish through an embedded broker; without any there is none.
    """

    proxied: bool = False
    own_clocks: bool = False
    meters: tuple[str, ...] = ()


class LabPlaces(NamedTuple):
    """Where everything of a lab is.

    Attributes:
        links: for each link, the port where its proxy listens, and the one that it passes connections on to; empty without proxies.
        broker_url: empty without a broker.
        passwords: of the broker's users.
    """

    genesis: Genesis
    nodes: tuple[NodePlan, ...]
    links: dict[Link, tuple[int, int]]
    broker_url: str
    passwords: dict[str, str]


def build_lab(folder: Path, nodes: int, make_plan: MakePlan, parts: LabParts) -> LabPlaces:
    """Write all files of a lab.

    Raises:
        InputError: something is in the way, or cannot be written.
    """
    free = free_ports()
    names = tuple(f"node-{number + 1}" for number in range(nodes))
    users = tuple(BrokerUser(name, new_password(), "node") for name in names) if parts.meters else ()
    users += tuple(BrokerUser(meter, new_password(), "meter") for meter in parts.meters)
    passwords = {user.name: user.password for user in users}
    plans = tuple(
        NodePlan(
            name,
            f"dc-{number + 1}",
            HOST,
            next(free),
            HOST,
            next(free),
            mqtt_username=name if users else "",
            mqtt_password=passwords.get(name, ""),
        )
        for number, name in enumerate(names)
    )
    plan = make_plan(plans)
    broker_url = f"mqtt://{HOST}:{next(free)}" if users else ""
    plan = replace(plan, mqtt_url=broker_url, clock_file=CLOCK_FILE if parts.own_clocks else plan.clock_file)
    genesis = provision(folder, plan)
    for name in ("logs", "run"):
        (folder / name).mkdir()
    links = {pair: (next(free), plans[pair[1]].port) for pair in itertools.permutations(range(nodes), 2)} if parts.proxied else {}
    if links:
        _lead_through(folder, plan, links)
    if parts.own_clocks:
        for name in names:
            set_clock(folder / NODES_FOLDER / name, 0)
    if users:
        write_access_files(folder / BROKER_FOLDER, genesis.channel, users)
    _describe(folder, plan, plans, broker_url, passwords)
    return LabPlaces(genesis, plans, links, broker_url, passwords)


def set_clock(node_folder: Path, offset_ms: int) -> None:
    """Let a node's clock be so much ahead of the machine's (negative: behind); a running node sees it soon."""
    now_ms = wall_ms()
    write_replay_time(node_folder / CLOCK_FILE, ReplayTime(now_ms + offset_ms, now_ms, 1.0, False))


def _lead_through(folder: Path, plan: ClusterPlan, links: dict[Link, tuple[int, int]]) -> None:
    """Let every node dial the proxies instead of the others."""
    for index, node in enumerate(plan.nodes):
        seen = tuple(
            other if place == index else replace(other, host=HOST, port=links[index, place][0]) for place, other in enumerate(plan.nodes)
        )
        text = node_toml(replace(plan, nodes=seen), node)
        (folder / NODES_FOLDER / node.name / CONFIG_FILE).write_text(text, encoding="utf-8")


def _describe(folder: Path, plan: ClusterPlan, nodes: tuple[NodePlan, ...], broker_url: str, passwords: dict[str, str]) -> None:
    """Write the file that lets other commands (logs, verify, the broker) find their way in a lab that is kept."""
    write_topology(
        Topology(
            version=1,
            chain_id=plan.chain_id,
            channel=plan.channel,
            market="auction",
            data="",
            data_digest="",
            interpolated=False,
            offset_ms=0,
            start_ms=plan.time_ms,
            period_ms=plan.market.period_ms,
            speed=1.0,
            clock="real",
            nodes=tuple(
                NodePlace(
                    node.name,
                    f"{NODES_FOLDER}/{node.name}",
                    node.host,
                    node.port,
                    f"http://{node.http_host}:{node.http_port}",
                    node.account,
                )
                for node in nodes
            ),
            broker=BrokerPlace(broker_url, bool(broker_url), passwords),
            households=(),
            home=str(folder),
        )
    )
