"""Makes a cluster's files: genesis, keys, certificates and one self-contained folder per node, ready to copy to its host.

::

    OUT/genesis.json
    OUT/ca.crt, OUT/ca.key, OUT/README.md          the authority; its key must be kept offline
    OUT/nodes/NAME/node.toml, genesis.json, validator.key, tls.crt, tls.key, ca.crt, mqtt.password

Everything is made beside its place and moved there at the end, so a failure leaves nothing half-made.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from consensus.crypto import Ed25519Signer
from consensus.errors import InputError
from contracts.genesis import ConsensusRules, Genesis, MarketRules, Meter, Participant, Tariff, Validator, check_genesis, write_genesis
from node.config import CONFIG_FILE
from node.keys import Authority, authority_pem, create_authority, create_signer, issue_certificate, write_secret
from node.vote_log import FIRST_START

DATA_FOLDER = "data"
FIRST_START_TEXT = "This node has never signed anything. The first start takes this file away. Never copy it back.\n"
GENESIS_FILE = "genesis.json"
NODES_FOLDER = "nodes"
CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
VALIDATOR_KEY, TLS_CERTIFICATE, TLS_KEY, MQTT_PASSWORD, MQTT_CA = "validator.key", "tls.crt", "tls.key", "mqtt.password", "mqtt-ca.crt"

_README = """# Keys of the cluster {chain_id}

- `ca.key` signs the certificates of nodes. Whoever has it can pass for any node on the network. No node needs it:
  move it to a medium that is kept offline, together with `ca.crt`. It is needed again to add a node or to renew a certificate
  (they last two years).
- `nodes/NAME` is one data-centre node's folder: copy it to that node's host, keep the file modes (`cp -a`, `rsync -a`), then run
  `gridpact node run --home FOLDER` there. Delete the copy here: each `validator.key` should exist once.
- `genesis.json` is the same in every folder and no secret.
"""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One data-centre node.

    Attributes:
        name: of the validator.
        account: earns its fees. One that is no participant of the plan becomes one, with the role data-centre and the validator's key.
        host, port: where the others reach it.
        http_host, http_port: where its API listens.
        listen_host: where it listens for the others; empty: at ``host``.
        mqtt_username, mqtt_password: for the broker; empty: none.
    """

    name: str
    account: str
    host: str
    port: int
    http_host: str
    http_port: int
    listen_host: str = ""
    mqtt_username: str = ""
    mqtt_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """Everything about a cluster but the keys of its validators, which :func:`provision` makes.

    Attributes:
        chain_id, channel, currency, time_ms, participants, meters, tariff, market, consensus: as in the genesis file.
        nodes: validators in their order.
        mqtt_url: broker (empty: none); mqtt_ca: certificate of its authority, PEM (empty: the system's).
        clock_file: replay clock, as it shall stand in ``node.toml`` (relative to the node's folder); empty: real time.
        log_level: of every node; log_file: as it shall stand in ``node.toml``, ``{name}`` is the node's name; empty: standard error.
    """

    chain_id: str
    channel: str
    currency: str
    time_ms: int
    nodes: tuple[NodePlan, ...]
    participants: tuple[Participant, ...]
    meters: tuple[Meter, ...]
    tariff: Tariff
    market: MarketRules
    consensus: ConsensusRules = field(default_factory=ConsensusRules)
    mqtt_url: str = ""
    mqtt_ca: bytes = b""
    clock_file: str = ""
    log_level: str = "info"
    log_file: str = ""


def provision(out: Path, plan: ClusterPlan) -> Genesis:
    """Write the files of a cluster into the folder ``out`` and return its genesis.

    ``out`` may exist, but none of what is written there.

    Raises:
        InputError: the plan does not fit together, something exists already, or cannot be written.
    """
    targets = (GENESIS_FILE, NODES_FOLDER, CA_CERTIFICATE, CA_KEY, "README.md")
    for target in targets:
        if (out / target).exists() or (out / target).is_symlink():
            raise InputError(str(out / target), "exists already; nothing is overwritten")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=out) as work:
            folder = Path(work)
            genesis = _write_all(folder, plan)
            for target in targets:
                (folder / target).rename(out / target)
    except OSError as error:
        raise InputError(str(error.filename or out), error.strerror or str(error)) from error
    return genesis


def _write_all(folder: Path, plan: ClusterPlan) -> Genesis:
    authority = create_authority(f"GridPact {plan.chain_id}")
    signers: dict[str, Ed25519Signer] = {}
    for node in plan.nodes:
        if node.name in signers:
            raise InputError("nodes", f"{node.name} occurs twice")
        home = folder / NODES_FOLDER / _file_name(node.name)
        home.mkdir(parents=True, mode=0o700)
        signers[node.name] = create_signer(home / VALIDATOR_KEY)
    genesis = make_genesis(plan, {name: signer.public_key for name, signer in signers.items()})
    for node in plan.nodes:
        _write_node(folder / NODES_FOLDER / node.name, plan, node, authority, write_genesis(genesis))
    pem = authority_pem(authority)
    (folder / GENESIS_FILE).write_bytes(write_genesis(genesis))
    (folder / CA_CERTIFICATE).write_bytes(pem.certificate)
    write_secret(folder / CA_KEY, pem.key)
    (folder / "README.md").write_text(_README.format(chain_id=plan.chain_id), encoding="utf-8")
    return genesis


def make_genesis(plan: ClusterPlan, public_keys: dict[str, bytes]) -> Genesis:
    """Return the genesis of a plan.

    Args:
        public_keys: of the validators, by name.

    Raises:
        InputError: the parts do not fit together.
    """
    participants = list(plan.participants)
    known = {participant.account for participant in participants}
    validators = []
    for node in plan.nodes:
        key = public_keys[node.name].hex()
        validators.append(Validator(node.name, key, node.account))
        if node.account not in known:
            known.add(node.account)
            participants.append(Participant(node.account, "data-centre", key, 0))
    genesis = Genesis(
        version=1,
        chain_id=plan.chain_id,
        channel=plan.channel,
        currency=plan.currency,
        time_ms=plan.time_ms,
        validators=tuple(validators),
        participants=tuple(participants),
        meters=plan.meters,
        tariff=plan.tariff,
        market=plan.market,
        consensus=plan.consensus,
    )
    check_genesis(genesis)
    return genesis


def _write_node(home: Path, plan: ClusterPlan, node: NodePlan, authority: Authority, genesis: bytes) -> None:
    pair = issue_certificate(authority, node.name, [node.host])
    (home / GENESIS_FILE).write_bytes(genesis)
    (home / TLS_CERTIFICATE).write_bytes(pair.certificate)
    write_secret(home / TLS_KEY, pair.key)
    (home / CA_CERTIFICATE).write_bytes(authority_pem(authority).certificate)
    if node.mqtt_password:
        write_secret(home / MQTT_PASSWORD, node.mqtt_password.encode() + b"\n")
    if plan.mqtt_ca:
        (home / MQTT_CA).write_bytes(plan.mqtt_ca)
    (home / CONFIG_FILE).write_text(node_toml(plan, node), encoding="utf-8")
    mark_first_start(home / DATA_FOLDER / plan.channel)


def mark_first_start(channel_folder: Path) -> None:
    """Say in a channel's new folder that nothing was ever signed with it: so its node may vote from the beginning."""
    channel_folder.mkdir(parents=True)
    (channel_folder / FIRST_START).write_text(FIRST_START_TEXT, encoding="utf-8")


def node_toml(plan: ClusterPlan, node: NodePlan) -> str:
    """Return the configuration file of one node."""
    top: dict[str, str | int] = {"name": node.name, "genesis": GENESIS_FILE, "validator_key": VALIDATOR_KEY, "data": DATA_FOLDER}
    tables: dict[str, dict[str, str | int]] = {
        "tls": {"certificate": TLS_CERTIFICATE, "key": TLS_KEY, "authority": CA_CERTIFICATE},
        "listen": {"host": node.listen_host or node.host, "port": node.port},
        "http": {"host": node.http_host, "port": node.http_port},
    }
    if plan.mqtt_url:
        mqtt: dict[str, str | int] = {"url": plan.mqtt_url}
        if node.mqtt_username:
            mqtt["username"] = node.mqtt_username
        if node.mqtt_password:
            mqtt["password_file"] = MQTT_PASSWORD
        if plan.mqtt_ca:
            mqtt["ca_file"] = MQTT_CA
        tables["mqtt"] = mqtt
    tables["clock"] = {"mode": "replay", "file": plan.clock_file} if plan.clock_file else {"mode": "real"}
    tables["log"] = {"level": plan.log_level}
    if plan.log_file:
        tables["log"]["file"] = plan.log_file.replace("{name}", node.name)
    for peer in plan.nodes:
        if peer.name != node.name:
            tables[f"peers.{toml_text(peer.name)}"] = {"host": peer.host, "port": peer.port}
    parts = ["".join(_toml_line(key, value) for key, value in top.items())]
    parts.extend(f"[{title}]\n" + "".join(_toml_line(key, value) for key, value in table.items()) for title, table in tables.items())
    return "\n".join(parts)


def _toml_line(key: str, value: str | int) -> str:
    return f"{key} = {toml_text(value) if isinstance(value, str) else value}\n"


def toml_text(text: str) -> str:
    """Return ``text`` as a TOML basic string."""
    escaped = "".join(
        f"\\u{ord(letter):04x}" if ord(letter) < 32 or ord(letter) == 127 else f"\\{letter}" if letter in '"\\' else letter
        for letter in text
    )
    return f'"{escaped}"'


def _file_name(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\x00" in name:
        raise InputError("nodes", f"{name!r} cannot be a folder's name")
    return name
