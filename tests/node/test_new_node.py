"""The folder of one more node for a cluster that exists."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from consensus.errors import InputError
from node.config import load_genesis, read_config
from node.keys import load_tls, read_signer
from node.new_node import NewNode, make_next_key, make_node
from node.vote_log import FIRST_START
from tests.node.running_cluster import RunningCluster

NEW = NewNode("node-9", "10.0.0.9", 9009, 8009)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    RunningCluster(home)
    pattern = home / "nodes" / "node-0" / "node.toml"
    text = pattern.read_text().replace('level = "info"', 'level = "debug"\nfile = "node-0.log"')
    pattern.write_text(text + "\n[retain]\nblocks = 77\n")
    return home


def test_a_new_validator_has_all_that_a_node_needs(home: Path) -> None:
    folder, key = make_node(home, NEW)
    assert folder == home / "nodes" / "node-9"
    config = read_config(folder)
    genesis = load_genesis(config)
    assert genesis == load_genesis(read_config(home / "nodes" / "node-0"))
    (key_file,) = config.validator_keys
    assert read_signer(key_file).public_key == key
    assert key.hex() not in [validator.public_key for validator in genesis.validators]
    load_tls(config.tls.certificate, config.tls.key, config.tls.authority)
    assert set(config.peers) == {f"node-{index}" for index in range(4)}
    assert (config.listen.host, config.listen.port, config.http.host, config.http.port) == ("10.0.0.9", 9009, "127.0.0.1", 8009)
    assert (config.log_level, config.log_file, config.retain_blocks) == ("debug", folder / "node-9.log", 77)
    assert (config.data / "main" / FIRST_START).exists()
    assert config.data == folder / "data"
    assert {path.name for path in folder.iterdir() if path.stat().st_mode & 0o077 == 0} == {"validator.key", "tls.key"}
    assert folder.stat().st_mode & 0o077 == 0


def test_a_follower_has_no_key(home: Path) -> None:
    folder, key = make_node(home, NewNode("watcher", "10.0.0.9", 9009, 8009, http_host="0.0.0.0", listen_host="0.0.0.0", follows=True))
    config = read_config(folder)
    assert (key, config.validator_keys, config.mqtt) == (b"", (), None)
    assert (config.listen.host, config.http.host) == ("0.0.0.0", "0.0.0.0")
    with pytest.raises(InputError, match="only follows"):
        make_next_key(folder)


def test_a_next_key_is_made_once_and_leaves_the_rest_of_the_configuration_as_it_is(home: Path) -> None:
    folder, key = make_node(home, NEW)
    before = tomllib.loads((folder / "node.toml").read_text())
    following = make_next_key(folder)
    assert following == make_next_key(folder) != key
    assert [read_signer(path).public_key for path in read_config(folder).validator_keys] == [key, following]
    after = tomllib.loads((folder / "node.toml").read_text())
    assert after.pop("next_validator_key")
    assert after == before


def test_what_stands_in_the_way_is_named_and_nothing_is_left_half_made(home: Path) -> None:
    make_node(home, NEW)
    with pytest.raises(InputError, match="exists already"):
        make_node(home, NEW)
    (home / "ca.key").rename(home / "ca.away")
    with pytest.raises(InputError, match=r"ca\.key"):
        make_node(home, NewNode("node-10", "10.0.0.10", 9010, 8010))
    with pytest.raises(InputError, match="holds no node's folder"):
        make_node(home / "nodes" / "node-0", NEW)
    assert sorted(path.name for path in (home / "nodes").iterdir()) == [*(f"node-{index}" for index in range(4)), "node-9"]
