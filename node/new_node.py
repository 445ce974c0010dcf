"""The folder of one more node for a cluster that exists: a validator about to be added, or a node that only follows.

It is made like the folders of ``provision``, after the pattern of a node that the cluster's folder holds already.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consensus.errors import InputError
from node.config import CONFIG_FILE, load_genesis, read_config
from node.keys import create_signer, issue_certificate, load_authority, read_signer, write_secret
from node.provisioning import (
    CA_CERTIFICATE,
    CA_KEY,
    DATA_FOLDER,
    GENESIS_FILE,
    MQTT_CA,
    MQTT_PASSWORD,
    NODES_FOLDER,
    TLS_CERTIFICATE,
    TLS_KEY,
    VALIDATOR_KEY,
    mark_first_start,
    toml_text,
)

NEXT_KEY = "next.key"
COPIED = (GENESIS_FILE, CA_CERTIFICATE, MQTT_PASSWORD, MQTT_CA)


@dataclass(frozen=True, slots=True)
class NewNode:
    """What is new about it.

    Attributes:
        host, port: where the others reach it; listen_host: where it listens for them (empty: at ``host``).
        http_host, http_port: where its API listens.
        follows: it gets no validator key.
    """

    name: str
    host: str
    port: int
    http_port: int
    http_host: str = ""
    listen_host: str = ""
    follows: bool = False


def make_node(cluster: Path, new: NewNode) -> tuple[Path, bytes]:
    """Write the folder ``nodes/NAME`` of a cluster's folder (made by ``gridpact init`` or ``up``).

    Returns:
        The folder, and the public key of its validator (empty if it follows).

    Raises:
        InputError: there is no cluster, its authority's key is not there, or the folder exists.
    """
    nodes = cluster / NODES_FOLDER
    target = nodes / new.name
    if target.exists() or target.is_symlink():
        raise InputError(str(target), "exists already; nothing is overwritten")
    patterns = sorted(folder for folder in nodes.iterdir() if (folder / CONFIG_FILE).is_file()) if nodes.is_dir() else []
    if not patterns:
        raise InputError(str(cluster), f"holds no node's folder under {NODES_FOLDER}; it must be what `gridpact init` or `up` made")
    authority = load_authority(cluster / CA_CERTIFICATE, cluster / CA_KEY)
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=nodes) as work:
            home = Path(work) / new.name
            home.mkdir(mode=0o700)
            for name in COPIED:
                if (patterns[0] / name).exists():
                    shutil.copy2(patterns[0] / name, home / name)
            pair = issue_certificate(authority, new.name, [new.host])
            (home / TLS_CERTIFICATE).write_bytes(pair.certificate)
            write_secret(home / TLS_KEY, pair.key)
            key = b"" if new.follows else create_signer(home / VALIDATOR_KEY).public_key
            (home / CONFIG_FILE).write_text(_config(patterns, new), encoding="utf-8")
            config = read_config(home)
            mark_first_start(home / DATA_FOLDER / load_genesis(config).channel)
            home.rename(target)
    except OSError as error:
        raise InputError(str(error.filename or target), error.strerror or str(error)) from error
    return target, key


def _config(patterns: list[Path], new: NewNode) -> str:
    """Return the configuration: that of the first pattern, with another name, other addresses, and all others as peers."""
    table = tomllib.loads((patterns[0] / CONFIG_FILE).read_text(encoding="utf-8"))
    pattern_name = table["name"]
    table["name"] = new.name
    table["data"] = DATA_FOLDER
    table.pop("next_validator_key", None)
    if new.follows:
        table.pop("validator_key", None)
        table.pop("mqtt", None)
    else:
        table["validator_key"] = VALIDATOR_KEY
    table["listen"] = {"host": new.listen_host or new.host, "port": new.port}
    table["http"] = {"host": new.http_host or table["http"]["host"], "port": new.http_port}
    if "file" in table.get("log", {}):
        table["log"]["file"] = table["log"]["file"].replace(pattern_name, new.name)
    peers: dict[str, Any] = {}
    for folder in patterns:
        peers.update(tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("peers", {}))
    table["peers"] = {name: place for name, place in sorted(peers.items()) if name != new.name}
    return _toml(table)


def _toml(table: dict[str, Any]) -> str:
    """Return a table of our configuration as TOML (texts, numbers, tables, and one level of tables in ``peers``)."""
    lines = [_line(key, value) for key, value in table.items() if not isinstance(value, dict)]
    for title, part in table.items():
        if title == "peers":
            for name, place in part.items():
                lines += ["", f"[peers.{toml_text(name)}]", *(_line(key, value) for key, value in place.items())]
        elif isinstance(part, dict):
            lines += ["", f"[{title}]", *(_line(key, value) for key, value in part.items())]
    return "\n".join(lines) + "\n"


def _line(key: str, value: str | int) -> str:
    return f"{key} = {toml_text(value) if isinstance(value, str) else value}"


def make_next_key(home: Path) -> bytes:
    """Make the next key of a validator beside the present one, and name it in its configuration.

    A next key that is there already is returned as it is.

    Returns:
        The public key.

    Raises:
        InputError: the folder is no node's, or it has no present key.
    """
    config = read_config(home)
    if not config.validator_keys:
        raise InputError(f"{config.path}: validator_key", "is missing: this node only follows")
    if len(config.validator_keys) > 1:
        return read_signer(config.validator_keys[1]).public_key
    text = config.path.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.split("=")[0].strip() == "validator_key")
    partial = config.path.with_suffix(".new")
    try:
        signer = create_signer(config.path.parent / NEXT_KEY)
        partial.write_text(text.replace(line, f"{line}\n{_line('next_validator_key', NEXT_KEY)}", 1), encoding="utf-8")
        partial.replace(config.path)
    except OSError as error:
        raise InputError(str(error.filename or home), error.strerror or str(error)) from error
    return signer.public_key
