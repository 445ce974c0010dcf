"""The targets `genesis` and `config`: the files that people write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.target import Stateless, refused
from cluster.fuzz.texts import change_json, change_toml
from cluster.fuzz.world import VALIDATORS, make_genesis
from consensus.errors import InputError
from contracts.application import LedgerApplication
from contracts.genesis import Genesis, read_genesis, write_genesis
from node.audit_replay import MemoryState
from node.config import CONFIG_FILE, read_config
from node.provisioning import ClusterPlan, NodePlan, node_toml


class GenesisTarget(Stateless):
    """A genesis file: what is accepted is the same file again when it is written, and begins a chain."""

    def __init__(self, _folder: Path) -> None:
        self._seed = write_genesis(make_genesis())

    def seeds(self) -> Sequence[bytes]:
        """Return one genesis file."""
        return (self._seed,)

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return the file changed."""
        return change_json(data, mutator)

    def run(self, data: bytes) -> str:
        """Read the file, write it, begin a chain with it."""
        try:
            genesis = read_genesis(data)
        except InputError as error:
            return refused(error)
        if read_genesis(write_genesis(genesis)) != genesis:
            raise LawBrokenError("another genesis when it is written and read")
        state = MemoryState()
        application = LedgerApplication(genesis, state)
        state.apply(application.init_chain().writes)
        application.commit()
        genesis.validator_set  # noqa: B018 (its keys and thresholds are made here)
        application.next_deadline_ms()
        return f"accepted: {len(genesis.validators)} validators"


class ConfigTarget(Stateless):
    """A ``node.toml``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / CONFIG_FILE
        self._seeds = tuple(_files(make_genesis()))

    def seeds(self) -> Sequence[bytes]:
        """Return the files of two nodes, with and without a broker and a replay."""
        return self._seeds

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return the file changed."""
        return change_toml(data, mutator)

    def run(self, data: bytes) -> str:
        """Read the file."""
        self._path.write_bytes(data)
        try:
            config = read_config(self._path)
        except InputError as error:
            return refused(InputError(error.field.replace(str(self._folder), ""), error.reason))
        if not config.genesis.is_relative_to("/") or config.name in config.peers:
            raise LawBrokenError(f"a configuration is accepted that does not fit: {config}")
        return f"accepted: {len(config.peers)} peers, {'a' if config.mqtt else 'no'} broker"


def _files(genesis: Genesis) -> list[bytes]:
    """Return configuration files as ``gridpact init`` writes them."""
    nodes = tuple(NodePlan(name, name, "127.0.0.1", 9_000 + number, "127.0.0.1", 8_000 + number) for number, name in enumerate(VALIDATORS))
    with_broker = replace(nodes[1], mqtt_username="dc2", mqtt_password="secret")  # noqa: S106 (no secret)

    def plan(*nodes: NodePlan, **more: str) -> ClusterPlan:
        return ClusterPlan(
            genesis.chain_id, genesis.channel, genesis.currency, genesis.time_ms, nodes, genesis.participants, genesis.meters,
            genesis.tariff, genesis.market, genesis.consensus, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    plain = plan(*nodes)
    rich = plan(nodes[0], with_broker, *nodes[2:], mqtt_url="mqtt://127.0.0.1:1883", clock_file="clock.json", log_file="{name}.log")
    return [node_toml(plain, nodes[0]).encode(), node_toml(rich, with_broker).encode()]
