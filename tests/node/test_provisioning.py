"""A provisioned cluster: every folder is complete, consistent and alone enough to start from."""

import asyncio
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.crypto import Ed25519Signer
from consensus.errors import InputError
from contracts.genesis import Genesis, MarketRules, Meter, Participant, Tariff, read_genesis
from node.config import load_genesis, read_config
from node.framing import Frame
from node.keys import load_authority, load_tls, read_password, read_signer
from node.provisioning import ClusterPlan, NodePlan, node_toml, provision
from node.transport import PeerAddress, PeerLinks
from node.vote_log import FIRST_START


def key(number: int) -> str:
    return Ed25519Signer(bytes([number]) * 32).public_key.hex()


def plan(count: int = 4) -> ClusterPlan:
    nodes = tuple(
        NodePlan(f"dc{n}", f"DC{n}", "127.0.0.1", 9000 + n, "127.0.0.1", 8000 + n, mqtt_username=f"dc{n}", mqtt_password=f'pass"{n}')
        for n in range(1, count + 1)
    )
    return ClusterPlan(
        chain_id="campus",
        channel="main",
        currency="EUR",
        time_ms=0,
        nodes=nodes,
        participants=(
            Participant("GRID", "grid", key(1), 10**12),
            Participant("OPERATOR", "operator", key(2), 0),
            Participant("HOME1", "prosumer", key(3), 10**9),
            Participant("DC1", "data-centre", key(4), 0),
        ),
        meters=(Meter("METER1", "HOME1", key(5), 20_000),),
        tariff=Tariff((200_000,) * 24, (100_000,) * 24, 50_000),
        market=MarketRules(900_000, 0, 3_600_000, 60_000, 120_000),
        mqtt_url="mqtt://127.0.0.1:1883",
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_node_folder_stands_alone(tmp_path: Path) -> None:
    genesis = provision(tmp_path / "out", plan())
    assert isinstance(genesis, Genesis)
    out = tmp_path / "out"
    in_node = {"node.toml", "genesis.json", "validator.key", "tls.crt", "tls.key", "ca.crt", "mqtt.password", f"data/main/{FIRST_START}"}
    assert files(out) == {"genesis.json", "ca.crt", "ca.key", "README.md"} | {
        f"nodes/dc{n}/{name}" for n in range(1, 5) for name in in_node
    }
    assert "offline" in (out / "README.md").read_text()
    assert read_genesis((out / "genesis.json").read_bytes()) == genesis
    accounts = {participant.account: participant for participant in genesis.participants}
    for number in range(1, 5):
        moved = tmp_path / f"host{number}"
        shutil.copytree(out / f"nodes/dc{number}", moved)
        config = read_config(moved)
        assert load_genesis(config) == genesis
        (key_file,) = config.validator_keys
        signer = read_signer(key_file)
        assert signer.public_key.hex() == genesis.validators[number - 1].public_key
        assert (accounts[f"DC{number}"].public_key == signer.public_key.hex()) == (number != 1)
        load_tls(config.tls.certificate, config.tls.key, config.tls.authority)
        assert config.mqtt is not None
        assert config.mqtt.password_file is not None
        assert read_password(config.mqtt.password_file) == f'pass"{number}'
        assert config.data == moved / "data"
        for path in moved.iterdir():
            secret = path.suffix in (".key", ".password")
            assert (path.stat().st_mode & 0o077 == 0) == secret, path
    assert (out / "ca.key").stat().st_mode & 0o777 == 0o600
    load_authority(out / "ca.crt", out / "ca.key")


def test_options_reach_the_file(tmp_path: Path) -> None:
    changed = replace(
        plan(),
        mqtt_url="mqtts://b:8883",
        mqtt_ca=b"certificate",
        clock_file="../../clock.json",
        log_level="debug",
        log_file="../../logs/{name}.log",
    )
    nodes = (replace(changed.nodes[0], host="10.0.0.1", listen_host="10.9.9.9"), *changed.nodes[1:])
    provision(tmp_path / "out", replace(changed, nodes=nodes))
    config = read_config(tmp_path / "out/nodes/dc1")
    assert config.listen.host == "10.9.9.9"
    assert config.clock_file is not None
    assert config.clock_file.resolve() == tmp_path / "out/clock.json"
    assert config.log_level == "debug"
    assert config.log_file is not None
    assert config.log_file.resolve() == tmp_path / "out/logs/dc1.log"
    assert config.mqtt is not None
    assert config.mqtt.ca_file is not None
    assert config.mqtt.ca_file.read_bytes() == b"certificate"
    assert read_config(tmp_path / "out/nodes/dc2").peers["dc1"].host == "10.0.0.1"


def test_nothing_is_overwritten_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    provision(tmp_path, plan())
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(InputError, match="exists already"):
        provision(tmp_path, plan())
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    (tmp_path / "second/nodes").mkdir(parents=True)
    with pytest.raises(InputError, match="nodes: exists already"):
        provision(tmp_path / "second", plan())
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError):
        provision(tmp_path / "file", plan())


def test_failed_provisioning_leaves_nothing(tmp_path: Path) -> None:
    good = plan()
    for bad in (
        replace(good, nodes=good.nodes[:3]),
        replace(good, nodes=(*good.nodes, good.nodes[0])),
        replace(good, participants=good.participants[1:]),
        replace(good, nodes=(replace(good.nodes[0], name="../evil"), *good.nodes[1:])),
        replace(good, nodes=(replace(good.nodes[0], host="höst"), *good.nodes[1:])),
    ):
        with pytest.raises(InputError):
            provision(tmp_path / "out", bad)
        assert files(tmp_path) == set()


@settings(deadline=None, max_examples=100)
@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_any_text_survives_toml(name: str, url: str) -> None:
    base = plan()
    odd = replace(base, mqtt_url=url, nodes=(base.nodes[0], replace(base.nodes[1], name=name), *base.nodes[2:]))
    text = node_toml(odd, odd.nodes[0])
    try:
        table = tomllib.loads(text)
    except UnicodeError:
        return
    if name not in {node.name for node in base.nodes}:
        assert table["peers"][name]["port"] == 9002
    assert table.get("mqtt", {}).get("url", "") == url


async def test_provisioned_nodes_link_up(tmp_path: Path) -> None:
    provision(tmp_path, plan())
    got: list[tuple[str, Frame]] = []

    async def keep(peer: str, frame: Frame) -> None:
        got.append((peer, frame))

    links = {}
    for number in range(1, 5):
        config = read_config(tmp_path / f"nodes/dc{number}")
        tls = load_tls(config.tls.certificate, config.tls.key, config.tls.authority)
        links[config.name] = PeerLinks(name=config.name, listen=("127.0.0.1", 0), peers={}, tls=tls, on_frame=keep)
    try:
        for one in links.values():
            await one.start()
        for one in links.values():
            one.set_peers({name: PeerAddress("127.0.0.1", other.port) for name, other in links.items()})
        async with asyncio.timeout(20):
            while not all(status.connected for one in links.values() for status in one.status()):  # noqa: ASYNC110  polls state that no event announces
                await asyncio.sleep(0.01)
            links["dc1"].broadcast(Frame("main", 1, b"hello"))
            while len(got) < 3:  # noqa: ASYNC110  as above
                await asyncio.sleep(0.01)
        assert got == [("dc1", Frame("main", 1, b"hello"))] * 3
    finally:
        for one in links.values():
            await one.stop()
