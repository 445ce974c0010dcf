"""A node's configuration: ``node.toml``, checked before anything starts.

::

    name = "dc1"                      # this validator's name in the genesis file
    genesis = "genesis.json"          # paths are relative to this file
    validator_key = "validator.key"   # left out: this node follows without a vote
    next_validator_key = "next.key"   # may be left out: the key that takes over when the validators have decided on it
    data = "data"

    [tls]
    certificate = "tls.crt"
    key = "tls.key"
    authority = "ca.crt"

    [listen]                          # for the other nodes
    host = "0.0.0.0"
    port = 9000

    [http]                            # API, dashboard, metrics
    host = "127.0.0.1"
    port = 8080

    [mqtt]                            # where meters publish; may be left out
    url = "mqtts://broker.example:8883"
    username = "dc1"
    password_file = "mqtt.password"
    ca_file = "broker-ca.crt"         # may be left out

    [clock]                           # may be left out
    mode = "real"                     # or "replay", with file = "clock.json"

    [log]                             # may be left out
    level = "info"                    # debug, info, warning, error
    file = "node.log"                 # may be left out: standard error

    [retain]                          # may be left out
    blocks = 100000                   # older blocks go; 0 keeps all (the default)

    [snapshots]                       # may be left out
    every_blocks = 1000               # the same on all nodes; 0: none
    fetch = true                      # false: execute every block, however far behind (an archive)

    [peers.dc2]                       # the other validators
    host = "10.0.0.2"
    port = 9000
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from consensus.errors import InputError
from contracts.calls import Name
from contracts.genesis import Genesis, read_genesis
from node.block_store import BLOCKS_FOLDER
from node.snapshots import SNAPSHOTS_FOLDER
from node.vote_log import VOTES_FOLDER

T = TypeVar("T")

CONFIG_FILE = "node.toml"
DEFAULT_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}
MAX_CONFIG_BYTES = 1 << 20

Host = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")]
Port = Annotated[int, Meta(ge=0, le=65535)]
PeerPort = Annotated[int, Meta(ge=1, le=65535)]
PathText = Annotated[str, Meta(min_length=1)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the parts of the file: unknown keys are refused."""


class Address(_Part, frozen=True):
    """Where to listen; port 0 takes any free one."""

    host: Host
    port: Port


class PeerPlace(_Part, frozen=True):
    """Where another validator is reached."""

    host: Host
    port: PeerPort


class TlsFiles(_Part, frozen=True):
    """Certificate and key of this node, certificate of the cluster's authority."""

    certificate: PathText
    key: PathText
    authority: PathText


class MqttFiles(_Part, frozen=True):
    """The broker and how this node signs in; empty: without a password, with the system's authorities."""

    url: Annotated[str, Meta(min_length=1)]
    username: str = ""
    password_file: str = ""
    ca_file: str = ""


class ClockChoice(_Part, frozen=True):
    """Where chain time comes from."""

    mode: Literal["real", "replay"] = "real"
    file: str = ""


class LogChoice(_Part, frozen=True):
    """What is logged where; no file: standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    file: str = ""


class RetainChoice(_Part, frozen=True):
    """How many of the last blocks are kept; 0 keeps all."""

    blocks: Annotated[int, Meta(ge=0, le=2**53)] = 0


class SnapshotChoice(_Part, frozen=True):
    """At which multiples of the height snapshots are made (0: never), and whether those of others are taken."""

    every_blocks: Annotated[int, Meta(ge=0, le=2**31)] = 1_000
    fetch: bool = True


class NodeFile(_Part, frozen=True):
    """The file as it is written, paths unresolved."""

    name: Name
    genesis: PathText
    data: PathText
    tls: TlsFiles
    listen: Address
    http: Address
    peers: dict[str, PeerPlace]
    validator_key: str = ""
    next_validator_key: str = ""
    mqtt: MqttFiles | None = None
    clock: ClockChoice = ClockChoice()
    log: LogChoice = LogChoice()
    retain: RetainChoice = RetainChoice()
    snapshots: SnapshotChoice = SnapshotChoice()


class TlsPaths(msgspec.Struct, frozen=True):
    """Resolved :class:`TlsFiles`."""

    certificate: Path
    key: Path
    authority: Path


class MqttConfig(msgspec.Struct, frozen=True):
    """Resolved :class:`MqttFiles`. ``tls`` says whether the scheme is mqtts."""

    url: str
    host: str
    port: int
    tls: bool
    username: str
    password_file: Path | None
    ca_file: Path | None


class NodeConfig(msgspec.Struct, frozen=True):
    """The checked configuration of one node, with absolute paths; make it with :func:`read_config`.

    Fields:
        path: the file that it came from.
        validator_keys: files of the keys, the present one first; none for a node that only follows.
        clock_file: of the replay clock; None for real time.
        log_file: None for standard error.
    """

    path: Path
    name: str
    genesis: Path
    validator_keys: tuple[Path, ...]
    data: Path
    tls: TlsPaths
    listen: Address
    http: Address
    peers: dict[str, PeerPlace]
    mqtt: MqttConfig | None
    clock_file: Path | None
    log_level: str
    log_file: Path | None
    retain_blocks: int
    snapshot_every: int
    fetch_snapshots: bool

    def channel_folder(self, channel: str) -> Path:
        """Return the folder of a channel's databases."""
        return self.data / channel

    def blocks_folder(self, channel: str) -> Path:
        """Return the folder of a channel's block store."""
        return self.data / channel / BLOCKS_FOLDER

    def snapshots_folder(self, channel: str) -> Path:
        """Return the folder of a channel's snapshots."""
        return self.data / channel / SNAPSHOTS_FOLDER

    def votes_folder(self, channel: str) -> Path:
        """Return the folder of a channel's vote log."""
        return self.data / channel / VOTES_FOLDER


def read_config(path: Path) -> NodeConfig:
    """Read and check a configuration.

    Args:
        path: ``node.toml``, or the folder that it stands in.

    Raises:
        InputError: names file, key and reason.
    """
    if path.is_dir():
        path = path / CONFIG_FILE
    path = path.absolute()
    return _resolve(path, _decode(path, _read(path)))


def load_genesis(config: NodeConfig) -> Genesis:
    """Read the genesis file of a configuration.

    Raises:
        InputError: the genesis is wrong, or the configuration names nobody to talk to.
    """
    genesis = read_genesis(_read(config.genesis), str(config.genesis))
    if not config.peers:
        raise InputError(f"{config.path}: peers", "are missing: where are the other data-centre nodes?")
    return genesis


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(64 * MAX_CONFIG_BYTES)
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error
    except ValueError as error:
        raise InputError(str(path), str(error)) from error
    return data


def _decode(path: Path, data: bytes) -> NodeFile:
    if len(data) > MAX_CONFIG_BYTES:
        raise InputError(str(path), f"is longer than {MAX_CONFIG_BYTES} bytes")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(str(path), "is not UTF-8 text") from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(str(path), f"is not TOML: {error}") from error
    peers = table.get("peers")
    if isinstance(peers, dict):
        for name, place in peers.items():
            _convert(path, place, PeerPlace, f"peers.{name}")
    return _convert(path, table, NodeFile, "")


def _convert(path: Path, value: object, kind: type[T], where: str) -> T:
    """Check one table; ``where`` is its key in the file, as msgspec does not name the keys of a mapping."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        key = (where + place.rstrip("`")).lstrip(".")
        raise InputError(f"{path}: {key}" if key else str(path), _plain(reason)) from error
    except (TypeError, RecursionError) as error:
        raise InputError(str(path), str(error)) from error


def _plain(reason: str) -> str:
    """Turn msgspec's words into ours, where they speak of objects and fields."""
    return reason.replace("Object ", "").replace("field", "key").replace("`", "'")


def _resolve(path: Path, file: NodeFile) -> NodeConfig:
    folder = path.parent

    def resolved(text: str) -> Path:
        return folder / text

    if file.clock.mode == "replay" and not file.clock.file:
        raise InputError(f"{path}: clock.file", "is missing (mode is replay)")
    if file.clock.mode == "real" and file.clock.file:
        raise InputError(f"{path}: clock.file", "is given, but mode is real")
    if file.next_validator_key and not file.validator_key:
        raise InputError(f"{path}: validator_key", "is missing (there is a next_validator_key)")
    if file.name in file.peers:
        raise InputError(f"{path}: peers.{file.name}", "is this node itself")
    return NodeConfig(
        path=path,
        name=file.name,
        genesis=resolved(file.genesis),
        validator_keys=tuple(resolved(key) for key in (file.validator_key, file.next_validator_key) if key),
        data=resolved(file.data),
        tls=TlsPaths(resolved(file.tls.certificate), resolved(file.tls.key), resolved(file.tls.authority)),
        listen=file.listen,
        http=file.http,
        peers=file.peers,
        mqtt=_resolve_mqtt(path, file.mqtt) if file.mqtt is not None else None,
        clock_file=resolved(file.clock.file) if file.clock.file else None,
        log_level=file.log.level,
        log_file=resolved(file.log.file) if file.log.file else None,
        retain_blocks=file.retain.blocks,
        snapshot_every=file.snapshots.every_blocks,
        fetch_snapshots=file.snapshots.fetch,
    )


def _resolve_mqtt(path: Path, mqtt: MqttFiles) -> MqttConfig:
    field = f"{path}: mqtt.url"
    try:
        parts = urlsplit(mqtt.url)
        port = parts.port
    except ValueError as error:
        raise InputError(field, str(error)) from error
    if parts.scheme not in DEFAULT_MQTT_PORTS or not parts.hostname:
        raise InputError(field, f"{mqtt.url!r} is not of the form mqtt://HOST:PORT or mqtts://HOST:PORT")
    if parts.username or parts.password:
        raise InputError(field, "must hold no password; use username and password_file")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise InputError(field, f"{mqtt.url!r} has something after the port")
    if mqtt.password_file and not mqtt.username:
        raise InputError(f"{path}: mqtt.username", "is missing (there is a password_file)")
    if mqtt.ca_file and parts.scheme != "mqtts":
        raise InputError(f"{path}: mqtt.ca_file", "is of use with an mqtts url only")
    return MqttConfig(
        url=mqtt.url,
        host=parts.hostname,
        port=port or DEFAULT_MQTT_PORTS[parts.scheme],
        tls=parts.scheme == "mqtts",
        username=mqtt.username,
        password_file=path.parent / mqtt.password_file if mqtt.password_file else None,
        ca_file=path.parent / mqtt.ca_file if mqtt.ca_file else None,
    )
