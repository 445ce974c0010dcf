"""MQTT brokers: the embedded one for a cluster on one machine, and the files for a real one (Mosquitto).

Both read the same two files, in Mosquitto's formats: passwords (salted PBKDF2) and an access list. Each node and each meter is a user of
its own. A meter may publish its readings and status, and read its own receipts and set-points, and what the nodes prove about epochs; a
node may read all readings, publish receipts, and prove epochs under its own name. A broker is never trusted: readings are signed,
receipts carry certificates, and what a broker loses is published again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError
from amqtt.session import Session

from consensus.errors import GridPactError, InputError
from contracts.topics import Purpose, epochs_of_node, every_epochs, every_meter, meter_topic

LOOPBACK = "127.0.0.1"
MAX_PACKET_BYTES = 1024 * 1024
_ITERATIONS = 101
"""Mosquitto's own count. Passwords are random 256-bit tokens, which no dictionary holds."""
_SALT_BYTES = 12
_HASH = "$7$"
_MAX_IN_FLIGHT = 1_000


class BrokerUser(NamedTuple):
    """Somebody who may connect.

    Attributes:
        name: user name; of a meter its id, of a node its name.
        password: in clear.
        kind: what the user may do.
    """

    name: str
    password: str
    kind: Literal["meter", "node"]


@dataclass(frozen=True, slots=True)
class EmbeddedBrokerConfig:
    """The embedded broker.

    Attributes:
        passwords, access: the files that :func:`write_access_files` makes.
        host: address to listen on; anything but loopback is for networks that you trust.
        port: 0 for a free one.
    """

    passwords: Path
    access: Path
    host: str = LOOPBACK
    port: int = 0


class AccessRules(NamedTuple):
    """Topic filters that one user may publish to and subscribe to."""

    write: tuple[str, ...]
    read: tuple[str, ...]


def new_password() -> str:
    """Return a random password that nobody can guess (256 bits)."""
    return secrets.token_urlsafe(32)


def access_rules(channel: str, user: BrokerUser) -> AccessRules:
    """Return what ``user`` may publish and read on a channel."""
    if user.kind == "node":
        return AccessRules(
            (every_meter(channel, Purpose.RECEIPT), epochs_of_node(channel, user.name)),
            (every_meter(channel, Purpose.READING), every_meter(channel, Purpose.STATUS)),
        )
    own = {purpose: meter_topic(channel, user.name, purpose) for purpose in Purpose}
    return AccessRules((own[Purpose.READING], own[Purpose.STATUS]), (own[Purpose.RECEIPT], own[Purpose.SETPOINT], every_epochs(channel)))


def write_access_files(folder: Path, channel: str, users: Sequence[BrokerUser]) -> tuple[Path, Path]:
    """Write ``passwords`` and ``access`` into ``folder`` (readable for the owner alone); return their paths.

    Raises:
        InputError: a user has no password or a name that cannot stand in a topic, or two share a name.
    """
    if len({user.name for user in users}) != len(users):
        raise InputError("broker: users", "two have the same name")
    passwords, access = [], []
    for user in users:
        if not user.password:
            raise InputError(f"broker: users: {user.name}", "has no password")
        rules = access_rules(channel, user)
        meter_topic(channel, user.name, Purpose.STATUS)
        passwords.append(f"{user.name}:{hash_password(user.password)}\n")
        access.append(f"user {user.name}\n")
        access.extend(f"topic write {topic}\n" for topic in rules.write)
        access.extend(f"topic read {topic}\n" for topic in rules.read)
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("passwords", passwords), ("access", access)):
        path = folder / name
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text("".join(lines), encoding="utf-8")
    return folder / "passwords", folder / "access"


def write_mosquitto_config(
    path: Path,
    *,
    port: int,
    passwords: Path,
    access: Path,
    state: Path,
    host: str = LOOPBACK,
    tls: MosquittoTls | None = None,
    run_as: str = "",
) -> None:
    """Write a configuration for Mosquitto that keeps what it has acknowledged.

    Args:
        path: the configuration file.
        port: where it listens.
        passwords, access: from :func:`write_access_files`; Mosquitto's user must be able to read them.
        state: folder for Mosquitto's database; made if it does not exist.
        host: address to listen on.
        tls: certificates; with a certificate authority for clients, a client's certificate names the user.
        run_as: system user that Mosquitto becomes if root starts it; empty for its own.
    """
    state.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Keep sessions, and write them out at every change: the default settings lost 500 of 500 acknowledged messages on a kill.",
        "persistence true",
        f"persistence_location {state}/",
        "autosave_interval 1",
        "autosave_on_changes true",
        "# Never drop a queued reading; let many be under way to a node that acknowledges them in batches.",
        "max_queued_messages 0",
        f"max_inflight_messages {_MAX_IN_FLIGHT}",
        f"max_packet_size {MAX_PACKET_BYTES}",
        "set_tcp_nodelay true",
        "per_listener_settings false",
        "allow_anonymous false",
        f"password_file {passwords}",
        f"acl_file {access}",
        f"listener {port} {host}",
    ]
    if run_as:
        lines.append(f"user {run_as}")
    if tls is not None:
        lines += [f"certfile {tls.certificate}", f"keyfile {tls.key}"]
        if tls.client_ca is not None:
            lines += [f"cafile {tls.client_ca}", "require_certificate true", "use_identity_as_username true"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class MosquittoTls(NamedTuple):
    """TLS files of a Mosquitto listener; ``client_ca`` asks every client for a certificate of this authority."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def hash_password(password: str, salt: bytes | None = None) -> str:
    """Return a password as Mosquitto's password files hold it (PBKDF2 with SHA-512)."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    derived = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"{_HASH}{_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}"


def password_matches(password: str, stored: str) -> bool:
    """Tell whether ``password`` is the one that ``stored`` was made from; False for anything that is not such a hash."""
    if not stored.startswith(f"{_HASH}{_ITERATIONS}$"):
        return False
    try:
        salt = base64.b64decode(stored.split("$")[3], validate=True)
    except (ValueError, IndexError):
        return False
    return hmac.compare_digest(hash_password(password, salt).encode(), stored.encode())


def topic_matches(topic: str, allowed: str) -> bool:
    """Tell whether a topic, or a filter to subscribe to, lies within an allowed filter (``+`` for a level, no ``#``)."""
    levels, allowed_levels = topic.split("/"), allowed.split("/")
    return len(levels) == len(allowed_levels) and all(
        wanted == level or (wanted == "+" and level != "#") for level, wanted in zip(levels, allowed_levels, strict=True)
    )


class _LockedBroker(Broker):  # type: ignore[misc]  # amqtt has no types
    """amqtt's broker with users and an access list.

    amqtt has plugins for both. They are not used, because they give up control between two messages: amqtt goes through its
    subscriptions meanwhile, and loses the message for everybody else if a new one comes in just then.
    """

    def __init__(self, config: BrokerConfig, passwords: dict[str, str], rules: dict[str, AccessRules]) -> None:
        super().__init__(config)
        self._passwords = passwords
        self._rules = rules

    async def _authenticate(self, session: Session, _: ListenerConfig) -> bool:
        stored = self._passwords.get(session.username or "")
        return stored is not None and password_matches(session.password or "", stored)

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        rules = self._rules.get(session.username or "")
        if rules is None:
            return False
        return any(topic_matches(topic, allowed) for allowed in (rules.write if action == Action.PUBLISH else rules.read))

    def port(self) -> int:
        """Return the port that it listens on."""
        server = self._servers["default"].instance
        port: int = server.sockets[0].getsockname()[1]
        return port


async def serve_broker(config: EmbeddedBrokerConfig, stop: asyncio.Event, on_ready: Callable[[int], None] | None = None) -> None:
    """Run the embedded broker until ``stop`` is set. It keeps nothing on disk.

    Args:
        on_ready: called with the port once it listens.

    Raises:
        InputError: a file cannot be read or used.
        GridPactError: the broker cannot listen.
    """
    host = f"[{config.host}]" if ":" in config.host else config.host
    settings = BrokerConfig(listeners={"default": ListenerConfig(bind=f"{host}:{config.port}")}, plugins={})
    broker = _LockedBroker(settings, _read_passwords(config.passwords), _read_access(config.access))
    try:
        await broker.start()
    except BrokerError as error:
        raise GridPactError(f"the broker cannot listen on {config.host}:{config.port}: {error}") from error
    try:
        if on_ready is not None:
            on_ready(broker.port())
        await stop.wait()
    finally:
        await broker.shutdown()


def _read_passwords(path: Path) -> dict[str, str]:
    passwords = {}
    for number, line in _lines(path):
        name, separator, stored = line.partition(":")
        if not separator or not stored.startswith(_HASH):
            raise InputError(f"{path}: line {number}", "is not NAME:$7$...")
        passwords[name] = stored
    return passwords


def _read_access(path: Path) -> dict[str, AccessRules]:
    """Read an access list: ``user NAME`` lines, each followed by its ``topic read|write FILTER`` lines."""
    rules: dict[str, AccessRules] = {}
    name = ""
    for number, line in _lines(path):
        words = line.split(" ")
        if words[0] == "user" and len(words) == 2:
            name = words[1]
            rules[name] = AccessRules((), ())
        elif words[0] == "topic" and len(words) == 3 and words[1] in ("read", "write") and name and "#" not in words[2]:
            write, read = rules[name]
            rules[name] = AccessRules((*write, words[2]), read) if words[1] == "write" else AccessRules(write, (*read, words[2]))
        else:
            raise InputError(f"{path}: line {number}", "is neither 'user NAME' nor 'topic read|write FILTER' (without '#')")
    return rules


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"cannot be read: {error}") from error
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
