"""Where everything of one local cluster is: the file ``<home>/cluster.json``.

Paths are relative to the home, so that a home can be moved. The file holds the passwords of the broker: mode 0600.

Layout of a home::

    cluster.json  genesis.json  clock.json
    nodes/<name>/      one node: node.toml, keys, certificates, data
    keys/<account>.key owner keys of the accounts
    meters/            keys, outboxes and status.json of the meters
    logs/<process>.log
    run/<process>.pid
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from consensus.errors import InputError
from contracts.calls import Name, TimeMs
from contracts.genesis import Genesis, PositiveMs, read_genesis

TOPOLOGY_FILE = "cluster.json"
GENESIS_FILE = "genesis.json"
CLOCK_FILE = "clock.json"
BROKER_FOLDER = "broker"
NODES_FOLDER = "nodes"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the parts of the file: unknown keys are refused."""


class NodePlace(_Part, frozen=True):
    """One node: its folder, where its peers and its clients reach it, and the account that earns its fees."""

    name: Name
    folder: str
    peer_host: str
    peer_port: int
    http_url: str
    account: Name


class BrokerPlace(_Part, frozen=True):
    """The MQTT broker. ``passwords`` holds one password per user name (empty for a broker that asks for none)."""

    url: str
    embedded: bool
    passwords: dict[str, str]
    ca_file: str = ""


class Household(_Part, frozen=True):
    """One household: its account and meter, their key files, and the column of the data that its meter replays."""

    account: Name
    meter: Name
    key_file: str
    meter_key_file: str
    column: str


class Topology(_Part, frozen=True):
    """A local cluster.

    Fields:
        data: household data that the meters replay; "" is the data that comes with the project.
        data_digest: SHA-256 of that file, hexadecimal.
        data_start_ms, data_end_ms: what the data cover, in their own time; 0 where that is not known.
        offset_ms: how much later the chain lives than the data (0 in a replay of the data's own time).
        start_ms: start of the first delivery period, chain time.
        period_ms: length of a delivery period, chain time.
        speed: chain time passes so many times faster than real time.
        clock: "replay" follows the clock file, "real" is the machine's time.
        home: folder of the file (not stored).
    """

    version: int
    chain_id: Name
    channel: Name
    market: str
    data: str
    data_digest: str
    interpolated: bool
    offset_ms: int
    start_ms: TimeMs
    period_ms: PositiveMs
    speed: float
    clock: Literal["replay", "real"]
    nodes: tuple[NodePlace, ...]
    broker: BrokerPlace
    households: tuple[Household, ...]
    home: str = "."
    data_start_ms: TimeMs = 0
    data_end_ms: TimeMs = 0

    @property
    def root(self) -> Path:
        """Folder of the cluster."""
        return Path(self.home)

    @property
    def clock_file(self) -> Path:
        """The clock that all processes of the cluster follow."""
        return self.root / CLOCK_FILE

    @property
    def genesis_file(self) -> Path:
        """The genesis of the chain."""
        return self.root / GENESIS_FILE

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Folder of the pid files."""
        return self.root / "run"

    @property
    def meters(self) -> Path:
        """Folder of the meters."""
        return self.root / "meters"

    @property
    def http_urls(self) -> tuple[str, ...]:
        """Base URLs of the nodes' HTTP APIs."""
        return tuple(node.http_url for node in self.nodes)

    def path(self, relative: str) -> Path:
        """Return the place of a file that the topology names."""
        return self.root / relative

    def genesis(self) -> Genesis:
        """Read the genesis file.

        Raises:
            InputError: it is missing or does not fit.
        """
        return read_genesis(read_file(self.genesis_file), str(self.genesis_file))


def read_file(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {(error.strerror or str(error)).lower()}") from error


def read_topology(home: Path) -> Topology:
    """Read the topology of the cluster under ``home``.

    Raises:
        InputError: there is no cluster, or its file does not fit.
    """
    path = home / TOPOLOGY_FILE
    if not path.exists():
        raise InputError(str(home), "holds no cluster; `gridpact up` makes one, --home names another folder")
    try:
        topology = msgspec.json.decode(read_file(path), type=Topology)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(str(path), str(error)) from error
    if topology.version != 1:
        raise InputError(f"{path}: version", f"{topology.version} is not known")
    return msgspec.structs.replace(topology, home=str(home))


def write_topology(topology: Topology) -> None:
    """Write the file, readable by its owner only, whole or not at all."""
    path = topology.root / TOPOLOGY_FILE
    partial = path.with_suffix(".new")
    stored = msgspec.structs.replace(topology, home=".")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(stored), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
