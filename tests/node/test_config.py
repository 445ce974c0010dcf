"""node.toml: what is right is resolved, what is wrong is named."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import InputError
from node.config import MAX_CONFIG_BYTES, NodeConfig, read_config

GOOD = """
name = "dc1"
genesis = "genesis.json"
validator_key = "validator.key"
next_validator_key = "keys/next.key"
data = "/var/lib/gridpact"

[tls]
certificate = "tls.crt"
key = "tls.key"
authority = "ca.crt"

[listen]
host = "10.0.0.1"
port = 9000

[http]
host = "127.0.0.1"
port = 0

[mqtt]
url = "mqtts://broker.example:8884"
username = "dc1"
password_file = "mqtt.password"
ca_file = "broker.crt"

[clock]
mode = "replay"
file = "../../clock.json"

[log]
level = "debug"
file = "node.log"

[retain]
blocks = 5000

[snapshots]
every_blocks = 250
fetch = false

[peers.dc2]
host = "10.0.0.2"
port = 9000

[peers."dc.3"]
host = "dc3.example"
port = 9001
"""


def config_of(folder: Path, text: str) -> NodeConfig:
    (folder / "node.toml").write_text(text, encoding="utf-8")
    return read_config(folder / "node.toml")


def test_everything_is_read_and_paths_are_resolved(tmp_path: Path) -> None:
    config = config_of(tmp_path, GOOD)
    assert read_config(tmp_path) == config
    assert config.name == "dc1"
    assert config.genesis == tmp_path / "genesis.json"
    assert config.validator_keys == (tmp_path / "validator.key", tmp_path / "keys/next.key")
    assert config.data == Path("/var/lib/gridpact")
    assert config.blocks_folder("main") == Path("/var/lib/gridpact/main/blocks")
    assert config.votes_folder("main") == Path("/var/lib/gridpact/main/votes")
    assert config.snapshots_folder("main") == Path("/var/lib/gridpact/main/snapshots")
    assert config.channel_folder("main") == Path("/var/lib/gridpact/main")
    assert (config.retain_blocks, config.snapshot_every, config.fetch_snapshots) == (5_000, 250, False)
    assert (config.tls.certificate, config.tls.key, config.tls.authority) == (
        tmp_path / "tls.crt",
        tmp_path / "tls.key",
        tmp_path / "ca.crt",
    )
    assert (config.listen.host, config.listen.port, config.http.host, config.http.port) == ("10.0.0.1", 9000, "127.0.0.1", 0)
    assert config.mqtt is not None
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.tls, config.mqtt.username) == ("broker.example", 8884, True, "dc1")
    assert (config.mqtt.password_file, config.mqtt.ca_file) == (tmp_path / "mqtt.password", tmp_path / "broker.crt")
    assert config.clock_file == tmp_path / "../../clock.json"
    assert (config.log_level, config.log_file) == ("debug", tmp_path / "node.log")
    assert {name: (peer.host, peer.port) for name, peer in config.peers.items()} == {
        "dc2": ("10.0.0.2", 9000),
        "dc.3": ("dc3.example", 9001),
    }


def test_what_may_be_left_out(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("[mqtt]")] + GOOD[GOOD.index("[peers.dc2]") :]
    config = config_of(tmp_path, text)
    assert config.mqtt is None
    assert config.clock_file is None
    assert (config.log_level, config.log_file) == ("info", None)
    assert (config.retain_blocks, config.snapshot_every, config.fetch_snapshots) == (0, 1_000, True)
    plain = config_of(tmp_path, text + '\n[mqtt]\nurl = "mqtt://[::1]"\n')
    assert plain.mqtt is not None
    assert (plain.mqtt.host, plain.mqtt.port, plain.mqtt.tls, plain.mqtt.password_file) == ("::1", 1883, False, None)


def test_the_keys_say_whether_a_node_votes(tmp_path: Path) -> None:
    one_key = GOOD.replace('next_validator_key = "keys/next.key"\n', "")
    assert config_of(tmp_path, one_key).validator_keys == (tmp_path / "validator.key",)
    assert config_of(tmp_path, one_key.replace('validator_key = "validator.key"\n', "")).validator_keys == ()


WRONG = [
    ('\nname = "dc1"', "", "node.toml", "missing required key 'name'"),
    ('\nname = "dc1"', "\nname = 5", "name", "Expected 'str', got 'int'"),
    ('\nname = "dc1"', '\nname = "../x"', "name", "matching regex"),
    ('\nname = "dc1"', '\nname = "dc2"', "peers.dc2", "is this node itself"),
    ('\nname = "dc1"', '\nname = "dc1"\nnmae = "x"', "node.toml", "unknown key 'nmae'"),
    ('key = "tls.key"\n', 'kye = "tls.key"\n', "tls", "unknown key 'kye'"),
    ('key = "tls.key"\n', "", "tls", "missing required key 'key'"),
    ("port = 0", "port = 65536", "http.port", "<= 65535"),
    ("port = 0", "port = -1", "http.port", ">= 0"),
    ("port = 0", 'port = "8080"', "http.port", "Expected 'int', got 'str'"),
    ("port = 9001", "port = 0", "peers.dc.3.port", ">= 1"),
    ('host = "10.0.0.1"', 'host = "a b"', "listen.host", "regex"),
    ('level = "debug"', 'level = "loud"', "log.level", "loud"),
    ('mode = "replay"', 'mode = "warp"', "clock.mode", "warp"),
    ('mode = "replay"', 'mode = "real"', "clock.file", "mode is real"),
    ('file = "../../clock.json"', "", "clock.file", "is missing"),
    ("mqtts://broker.example:8884", "http://broker.example", "mqtt.url", "not of the form"),
    ("mqtts://broker.example:8884", "mqtts://", "mqtt.url", "not of the form"),
    ("mqtts://broker.example:8884", "mqtts://h:99999", "mqtt.url", "out of range"),
    ("mqtts://broker.example:8884", "mqtts://h:x", "mqtt.url", ""),
    ("mqtts://broker.example:8884", "mqtts://u:p@h", "mqtt.url", "must hold no password"),
    ("mqtts://broker.example:8884", "mqtts://h/topic", "mqtt.url", "after the port"),
    ("mqtts://broker.example:8884", "mqtt://h", "mqtt.ca_file", "mqtts"),
    ('username = "dc1"\n', "", "mqtt.username", "is missing"),
    ('\nvalidator_key = "validator.key"', "", "validator_key", "there is a next_validator_key"),
    ("blocks = 5000", "blocks = -1", "retain.blocks", ">= 0"),
    ("blocks = 5000", "block = 5", "retain", "unknown key 'block'"),
    ("every_blocks = 250", "every_blocks = -1", "snapshots.every_blocks", ">= 0"),
    ("every_blocks = 250", "every_blocks = 2.5", "snapshots.every_blocks", "got 'float'"),
    ("[listen]", "[listen", "node.toml", "is not TOML"),
    ("[listen]", "listen = 3\n[x]", "", ""),
]


@pytest.mark.parametrize(("old", "new", "key", "reason"), WRONG)
def test_every_mistake_is_named_with_file_and_key(tmp_path: Path, old: str, new: str, key: str, reason: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(InputError) as caught:
        config_of(tmp_path, GOOD.replace(old, new))
    assert caught.value.field.startswith(str(tmp_path / "node.toml"))
    assert caught.value.field.endswith(key)
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'node.toml'}: No such file")):
        read_config(tmp_path)
    (tmp_path / "node.toml").write_bytes(b"name = \xff")
    with pytest.raises(InputError, match="UTF-8"):
        read_config(tmp_path)
    (tmp_path / "node.toml").write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(InputError, match="longer than"):
        read_config(tmp_path)
    (tmp_path / "node.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(InputError):
        read_config(tmp_path)


TABLES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.booleans() | st.floats(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["host", "port", "name", "x"]), values, max_size=3),
    max_leaves=6,
)


def toml_value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(part) for part in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}" for letter in value) + '"'
    return str(value).lower()


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(set(re.findall(r"^(\w+) = (.*)$", GOOD, re.MULTILINE)))), TABLES)
def test_any_value_anywhere_is_taken_or_named(tmp_path_factory: pytest.TempPathFactory, line: tuple[str, str], value: object) -> None:
    folder = tmp_path_factory.mktemp("config")
    text = GOOD.replace(f"{line[0]} = {line[1]}", f"{line[0]} = {toml_value(value)}", 1)
    try:
        config_of(folder, text)
    except InputError as error:
        assert error.field.startswith(str(folder / "node.toml"))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_garbage_is_never_a_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("config")
    (folder / "node.toml").write_bytes(data)
    with pytest.raises(InputError):
        read_config(folder)
