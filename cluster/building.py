"""Makes the home of a new local cluster, whole or not at all."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.broker import BrokerUser, new_password, write_access_files, write_mosquitto_config
from cluster.options import EMBEDDED
from cluster.planning import (
    DEFAULT_NODES,
    DEFAULT_SPEED,
    GRID_BALANCE_MICRO,
    HOUSEHOLD_BALANCE_MICRO,
    LedgerPlan,
    Wishes,
    plan_ledger,
    read_household_data,
    read_household_past,
)
from cluster.ports import HOST, free_ports
from cluster.topology import BROKER_FOLDER, CLOCK_FILE, BrokerPlace, Household, NodePlace, Topology, read_file, write_topology
from consensus.errors import InputError
from contracts.genesis import GRID, OPERATOR, Meter, Participant
from contracts.topics import parse_broker_url
from meters.dataset import Dataset
from node.clock import ReplayTime, wall_ms, write_replay_time
from node.keys import create_signer
from node.provisioning import NODES_FOLDER, ClusterPlan, NodePlan, provision

CHANNEL = "main"
KEYS_FOLDER, METERS_FOLDER, HISTORY_FILE = "keys", "meters", "history.json"
BROKER_CA_FILE = "broker-ca.crt"
MOSQUITTO_FILES, MOSQUITTO_STATE = Path("/etc/mosquitto"), "/var/lib/mosquitto"
MAX_HISTORY_MS = 14 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class HostPlace:
    """Where one node of a cluster lives: its name and addresses."""

    name: str
    account: str
    host: str
    port: int
    http_host: str
    http_port: int
    listen_host: str = ""

    @property
    def http_url(self) -> str:
        """Where clients reach it."""
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return f"http://{host}:{self.http_port}"


@dataclass(frozen=True, slots=True)
class _Recipe:
    """All that goes into a home.

    Attributes:
        embedded: the broker is our own.
        own_users: the broker's users are made here (else they come from a file, or the broker asks for none).
        replay: chain time follows the clock file (else it is real time).
    """

    wishes: Wishes
    plan: LedgerPlan
    places: tuple[HostPlace, ...]
    broker_url: str
    embedded: bool
    own_users: bool
    replay: bool


def create_home(home: Path, wishes: Wishes) -> Topology:
    """Make a new cluster for one machine under ``home``, which must not exist or be empty.

    Raises:
        InputError: something is there, the data or a wish does not fit, or the folder cannot be written.
    """
    _check_place("--home", home)
    plan = plan_ledger(wishes)
    free = free_ports()
    count = wishes.nodes if wishes.nodes is not None else DEFAULT_NODES
    places = tuple(HostPlace(f"node-{number}", f"dc-{number}", HOST, next(free), HOST, next(free)) for number in range(1, count + 1))
    embedded = wishes.broker in (None, EMBEDDED)
    broker_url = f"mqtt://{HOST}:{next(free)}" if embedded else str(wishes.broker)
    return _build(home, _Recipe(wishes, plan, places, broker_url, embedded, embedded, replay=True))


def create_cluster(out: Path, wishes: Wishes, places: tuple[HostPlace, ...], broker_url: str, earliest_ms: int) -> Topology:
    """Make the files of a cluster on several hosts, which lives in real time, under ``out``, which must not exist or be empty.

    Args:
        broker_url: of a broker that is not ours; files for Mosquitto are written if no users are given.
        earliest_ms: earliest start of the first delivery period, Unix ms.

    Raises:
        InputError: something is there, the data or a wish does not fit, or the folder cannot be written.
    """
    if broker_url == EMBEDDED:
        raise InputError("--broker", "the embedded broker serves one machine only; name a real one")
    _check_place("--out", out)
    plan = plan_ledger(wishes, now_ms=earliest_ms)
    return _build(out, _Recipe(wishes, plan, places, broker_url, False, wishes.broker_users is None, replay=False))


def _check_place(option: str, home: Path) -> None:
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise InputError(f"{option} {home}", "exists and is not empty; name another folder")


def _build(home: Path, recipe: _Recipe) -> Topology:
    """Write everything into a folder beside ``home`` and move it there."""
    try:
        home.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{home.name}.new-", dir=home.absolute().parent) as work:
            folder = Path(work) / "home"
            folder.mkdir(mode=0o700)
            topology = _write(folder, recipe)
            if home.exists():
                home.rmdir()
            folder.rename(home)
    except OSError as error:
        raise InputError(str(home), f"cannot be made: {(error.strerror or str(error)).lower()}") from error
    return msgspec.structs.replace(topology, home=str(home))


def _write(folder: Path, recipe: _Recipe) -> Topology:
    """Write keys, genesis, nodes, broker files, the clock and the topology into ``folder``."""
    wishes, plan = recipe.wishes, recipe.plan
    passwords = _passwords(recipe)
    for name in (KEYS_FOLDER, METERS_FOLDER, "logs", "run"):
        (folder / name).mkdir(mode=0o700)
    participants, meters = _write_keys(folder, plan)
    cluster = ClusterPlan(
        chain_id=f"gridpact-{secrets.token_hex(4)}",
        channel=CHANNEL,
        currency=plan.currency,
        time_ms=plan.genesis_ms,
        nodes=tuple(_node_plan(place, passwords) for place in recipe.places),
        participants=participants,
        meters=meters,
        tariff=plan.tariff,
        market=plan.market,
        consensus=plan.consensus,
        mqtt_url=recipe.broker_url,
        mqtt_ca=read_file(wishes.broker_ca) if wishes.broker_ca is not None else b"",
        clock_file=f"../../{CLOCK_FILE}" if recipe.replay else "",
    )
    provision(folder, cluster)
    _write_broker(folder, recipe, passwords)
    _write_histories(folder, plan, read_household_data(wishes), read_household_past(wishes))
    topology = _topology(folder, cluster.chain_id, recipe, passwords)
    if recipe.replay:
        write_replay_time(topology.clock_file, ReplayTime(plan.genesis_ms, wall_ms(), topology.speed, True))
    write_topology(topology)
    return topology


def _write_broker(folder: Path, recipe: _Recipe, passwords: dict[str, str]) -> None:
    """Write the broker's users, and a configuration for Mosquitto if it is not our own."""
    if recipe.wishes.broker_ca is not None:
        shutil.copyfile(recipe.wishes.broker_ca, folder / BROKER_CA_FILE)
    if not recipe.own_users:
        return
    users = [BrokerUser(place.name, passwords[place.name], "node") for place in recipe.places]
    users += [BrokerUser(household.meter, passwords[household.meter], "meter") for household in recipe.plan.households]
    write_access_files(folder / BROKER_FOLDER, CHANNEL, users)
    if not recipe.embedded:
        _write_mosquitto_files(folder / BROKER_FOLDER, parse_broker_url(recipe.broker_url).port)


def _write_mosquitto_files(folder: Path, port: int) -> None:
    """Write a configuration for a Mosquitto whose files lie in Debian's places."""
    state = folder / "state"
    path = folder / "mosquitto.conf"
    everywhere = "0.0.0.0"  # noqa: S104 - meters on other hosts must reach it; every user has a password
    write_mosquitto_config(
        path, port=port, passwords=MOSQUITTO_FILES / "passwords", access=MOSQUITTO_FILES / "access", state=state, host=everywhere
    )
    path.write_text(path.read_text(encoding="utf-8").replace(str(state), MOSQUITTO_STATE), encoding="utf-8")
    state.rmdir()


def _node_plan(place: HostPlace, passwords: dict[str, str]) -> NodePlan:
    password = passwords.get(place.name, "")
    return NodePlan(
        name=place.name,
        account=place.account,
        host=place.host,
        port=place.port,
        http_host=place.listen_host or place.http_host,
        http_port=place.http_port,
        listen_host=place.listen_host,
        mqtt_username=place.name if password else "",
        mqtt_password=password,
    )


def _passwords(recipe: _Recipe) -> dict[str, str]:
    """Return the password of every node and meter at the broker: new ones, those of a file, or none."""
    names = [place.name for place in recipe.places] + [household.meter for household in recipe.plan.households]
    if recipe.own_users:
        return {name: new_password() for name in names}
    path = recipe.wishes.broker_users
    if path is None:
        return {}
    given = read_users(path)
    absent = [name for name in names if name not in given]
    if absent:
        raise InputError(str(path), f"has no line NAME:PASSWORD for {', '.join(absent)}; every node and every meter needs one")
    return {name: given[name] for name in names}


def read_users(path: Path) -> dict[str, str]:
    """Read a file of ``NAME:PASSWORD`` lines.

    Raises:
        InputError: it cannot be read, or a line does not fit.
    """
    try:
        lines = read_file(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(str(path), "is not UTF-8 text") from error
    users: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        name, colon, password = line.strip().partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if not colon or not name or not password:
            raise InputError(f"{path}: line {number}", "is not NAME:PASSWORD")
        if name in users:
            raise InputError(f"{path}: line {number}", f"{name} occurs twice")
        users[name] = password
    return users


def _write_keys(folder: Path, plan: LedgerPlan) -> tuple[tuple[Participant, ...], tuple[Meter, ...]]:
    """Make the keys of accounts and meters; return the participants and meters of the genesis."""

    def account_key(account: str) -> str:
        return create_signer(folder / KEYS_FOLDER / f"{account}.key").public_key.hex()

    participants = [
        Participant(GRID, "grid", account_key(GRID), GRID_BALANCE_MICRO),
        Participant(OPERATOR, "operator", account_key(OPERATOR), 0),
    ]
    meters = []
    for home in plan.households:
        participants.append(Participant(home.account, home.role, account_key(home.account), HOUSEHOLD_BALANCE_MICRO))
        place = folder / METERS_FOLDER / home.meter
        place.mkdir(mode=0o700)
        key = create_signer(place / "key").public_key.hex()
        meters.append(Meter(home.meter, home.account, key, home.fuse_w, home.import_wh, home.export_wh))
    return tuple(participants), tuple(meters)


def _write_histories(folder: Path, plan: LedgerPlan, dataset: Dataset, past: Dataset | None) -> None:
    """Write each household's own records: counters at every period boundary before the chain's start, as far as its data go back.

    Counters of days before the data's first are negative, so that they lead up to the data's zero.
    """
    for home in plan.households:
        records = [] if past is None else _records(past, home.meter, past.start_ms, past.end_ms - 1, plan, ends_at_zero=True)
        first_ms = max(dataset.start_ms, plan.genesis_ms - plan.offset_ms - MAX_HISTORY_MS)
        records += _records(dataset, home.meter, first_ms, plan.genesis_ms - plan.offset_ms, plan, ends_at_zero=False)
        (folder / METERS_FOLDER / home.meter / HISTORY_FILE).write_bytes(msgspec.json.encode(records))


def _records(dataset: Dataset, meter: str, first_ms: int, last_ms: int, plan: LedgerPlan, *, ends_at_zero: bool) -> list[dict[str, int]]:
    """Return counters at the period boundaries from ``first_ms`` to ``last_ms`` (the data's time)."""
    period_ms = plan.market.period_ms
    final = dataset.counters_at(meter, dataset.end_ms) if ends_at_zero else dataset.counters_at(meter, dataset.start_ms)
    records = []
    for time_ms in range(-(-first_ms // period_ms) * period_ms, last_ms + 1, period_ms):
        counters = dataset.counters_at(meter, time_ms)
        records.append(
            {
                "time_ms": time_ms + plan.offset_ms,
                "import_wh": counters.import_wh - final.import_wh,
                "export_wh": counters.export_wh - final.export_wh,
            }
        )
    return records


def _topology(folder: Path, chain_id: str, recipe: _Recipe, passwords: dict[str, str]) -> Topology:
    wishes, plan = recipe.wishes, recipe.plan
    return Topology(
        version=1,
        chain_id=chain_id,
        channel=CHANNEL,
        market=wishes.market or "auction",
        data=plan.data_name,
        data_digest=plan.data_digest,
        data_start_ms=plan.data_start_ms,
        data_end_ms=plan.data_end_ms,
        interpolated=plan.interpolated,
        offset_ms=plan.offset_ms,
        start_ms=plan.start_ms,
        period_ms=plan.market.period_ms,
        speed=(wishes.speed or DEFAULT_SPEED) if recipe.replay else 1.0,
        clock="replay" if recipe.replay else "real",
        nodes=tuple(
            NodePlace(place.name, f"{NODES_FOLDER}/{place.name}", place.host, place.port, place.http_url, place.account)
            for place in recipe.places
        ),
        broker=BrokerPlace(recipe.broker_url, recipe.embedded, passwords, BROKER_CA_FILE if wishes.broker_ca is not None else ""),
        households=tuple(
            Household(home.account, home.meter, f"{KEYS_FOLDER}/{home.account}.key", f"{METERS_FOLDER}/{home.meter}/key", home.meter)
            for home in plan.households
        ),
        home=str(folder),
    )
