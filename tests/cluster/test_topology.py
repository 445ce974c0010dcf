"""Homes of local clusters: made whole or not at all, read back as written, opened only for what they are."""

import os
import shutil
import stat
import subprocess
import sys

import pytest

from cluster.building import create_cluster, create_home, read_users
from cluster.chain_clock import hold_clock, recover_clock, release_clock
from cluster.cli import main
from cluster.commands.init import host_places
from cluster.homes import check_wishes, move_aside, open_home
from cluster.planning import Wishes, plan_ledger
from cluster.processes import EXIT_KEEP_DISK, write_pid_file
from cluster.topology import read_topology
from consensus.errors import InputError
from meters.dataset import shipped_dataset
from node.block_store import ChannelStore
from node.clock import ReplayClock, read_replay_time
from node.config import load_genesis, read_config
from node.keys import read_signer
from node.provisioning import GENESIS_FILE

QUARTER_MS = 15 * 60_000
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with three households; tests that change it copy it first."""
    home = tmp_path_factory.mktemp("home") / "cluster"
    return create_home(home, Wishes(households=3, speed=120.0))


def test_a_topology_reads_back_as_it_was_written(made):
    assert read_topology(made.root) == made


def test_a_home_can_be_moved(made, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(made.root, moved)
    topology = read_topology(moved)
    assert topology.genesis() == made.genesis()
    config = read_config(topology.path(topology.nodes[0].folder))
    assert config.clock_file is not None
    assert config.clock_file.resolve() == topology.clock_file.resolve()


def test_everything_in_a_home_fits_together(made):
    genesis = made.genesis()
    accounts = {participant.account: participant for participant in genesis.participants}
    meters = {meter.meter: meter for meter in genesis.meters}
    for household in made.households:
        assert accounts[household.account].public_key == read_signer(made.path(household.key_file)).public_key.hex()
        meter = meters[household.meter]
        assert meter.account == household.account
        assert meter.public_key == read_signer(made.path(household.meter_key_file)).public_key.hex()
    for node, validator in zip(made.nodes, genesis.validators, strict=True):
        config = read_config(made.path(node.folder))
        assert load_genesis(config) == genesis
        assert config.name == node.name == validator.name
        assert node.http_url == f"http://127.0.0.1:{config.http.port}"
        assert config.listen.port == node.peer_port
        assert config.mqtt is not None
        assert config.mqtt.url == made.broker.url
        assert config.mqtt.password_file is not None
        assert config.mqtt.password_file.read_text().strip() == made.broker.passwords[node.name]
    ports = [node.peer_port for node in made.nodes] + [int(url.rpartition(":")[2]) for url in (*made.http_urls, made.broker.url)]
    assert len(set(ports)) == 9


def test_secrets_are_for_their_owner_alone(made):
    secret = [made.root / "cluster.json", made.root / "broker" / "passwords", made.root / "ca.key"]
    secret += [made.path(household.key_file) for household in made.households]
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(made.root.stat().st_mode) == 0o700


def test_the_clock_of_a_new_home_is_held_at_genesis(made):
    replay = read_replay_time(made.clock_file)
    assert replay.held
    assert replay.chain_ms == made.genesis().time_ms == made.start_ms - made.period_ms
    assert replay.speed == 120.0


def test_meters_start_at_the_counters_that_the_data_have_at_genesis(made):
    genesis, dataset = made.genesis(), shipped_dataset()
    for meter in genesis.meters:
        assert (meter.import_wh, meter.export_wh) == dataset.counters_at(meter.meter, genesis.time_ms)


def test_a_failure_leaves_nothing(tmp_path):
    users = tmp_path / "users.txt"
    users.write_text("node-1:secret\n")
    with pytest.raises(InputError, match="has no line NAME:PASSWORD for node-2, "):
        create_home(tmp_path / "home", Wishes(broker="mqtt://127.0.0.1:1883", broker_users=users))
    assert [path.name for path in tmp_path.iterdir()] == ["users.txt"]


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        open_home(tmp_path, Wishes(), fresh=False)
    assert (tmp_path / "precious").read_text() == "x"


def test_an_existing_home_is_opened_as_it_is(made, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(made.root, home)
    topology, new = open_home(home, Wishes(), fresh=False)
    assert not new
    assert topology.chain_id == made.chain_id
    open_home(
        home,
        Wishes(
            nodes=4,
            households=3,
            speed=120.0,
            period_ms=QUARTER_MS,
            market="auction",
            broker="embedded",
            currency="USD",
            feed_in_micro=80_000,
        ),
        fresh=False,
    )


@pytest.mark.parametrize(
    ("wishes", "option"),
    [
        (Wishes(nodes=5), "--nodes"),
        (Wishes(households=4), "--households"),
        (Wishes(period_ms=HOUR_MS), "--period"),
        (Wishes(speed=60.0), "--speed"),
        (Wishes(start_ms=0), "--start"),
        (Wishes(broker="mqtt://127.0.0.1:1"), "--broker"),
        (Wishes(currency="EUR"), "--currency"),
        (Wishes(feed_in_micro=60_000), "--feed-in"),
    ],
)
def test_another_wish_for_an_existing_home_is_refused_with_advice(made, wishes, option):
    with pytest.raises(InputError, match="--fresh") as caught:
        check_wishes(made, wishes)
    assert caught.value.field == option


def test_fresh_moves_the_old_home_aside_and_deletes_nothing(made, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(made.root, home)
    told = []
    topology, new = open_home(home, Wishes(households=2), fresh=True, moved=told.append)
    assert new
    assert len(topology.households) == 2
    aside = [path for path in tmp_path.iterdir() if path != home]
    assert aside == told
    assert (aside[0] / GENESIS_FILE).read_bytes() == (made.root / GENESIS_FILE).read_bytes()
    assert move_aside(tmp_path / "absent") is None


def test_a_home_that_runs_is_not_opened_again(made, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(made.root, home)
    write_pid_file(home / "run" / "up.pid", os.getpid())
    for fresh in (False, True):
        with pytest.raises(InputError, match="runs already"):
            open_home(home, Wishes(), fresh=fresh)


def test_chain_time_goes_on_where_it_was_held(made, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(made.root, home)
    topology = read_topology(home)
    held_ms = topology.start_ms + 12_345
    hold_clock(topology, held_ms)
    recover_clock(topology)
    assert ReplayClock(topology.clock_file).now_ms() == held_ms
    assert release_clock(topology).now_ms() >= held_ms
    assert not read_replay_time(topology.clock_file).held


def test_after_a_crash_downtime_is_no_chain_time(made, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(made.root, home)
    topology = read_topology(home)
    began_ms = read_replay_time(topology.clock_file).chain_ms
    release_clock(topology)
    recover_clock(topology)
    replay = read_replay_time(topology.clock_file)
    assert replay.held
    assert replay.chain_ms == began_ms


# ------------------------------------------------------------------------------------------------------------------ planning


def test_the_default_start_has_buyers_and_sellers_whose_records_show_both():
    plan, dataset = plan_ledger(Wishes()), shipped_dataset()
    first_ms = dataset.first_two_sided_ms(HOUR_MS)
    assert first_ms <= plan.genesis_ms < first_ms + HOUR_MS
    nets = [dataset.net_wh(meter, plan.start_ms, plan.start_ms + QUARTER_MS) for meter in dataset.meters]
    assert min(nets) < 0 < max(nets)


def test_the_tariff_is_the_datas_time_of_use_price_and_a_feed_in_of_8_cents():
    tariff = plan_ledger(Wishes()).tariff
    assert set(tariff.buy_weekday_micro_per_kwh) == {220_000, 540_000}
    assert set(tariff.buy_weekend_micro_per_kwh) == {220_000, 400_000}
    assert tariff.feed_in_micro_per_kwh == 80_000


def test_data_without_prices_get_a_flat_tariff(tmp_path):
    data = tmp_path / "mine.csv"
    rows = [f"2024-05-01 {hour:02d}:00:00,{home},1.0,{pv}" for hour in range(4) for home, pv in (("h1", 0), ("h2", 2.5))]
    data.write_text("timestamp,meter_id,load_kw,pv_kw\n" + "\n".join(rows) + "\n")
    plan = plan_ledger(Wishes(data=data, period_ms=HOUR_MS))
    assert set(plan.tariff.buy_weekday_micro_per_kwh) == {300_000}
    assert [(home.account, home.role) for home in plan.households] == [("home-h1", "consumer"), ("home-h2", "prosumer")]
    assert not plan.interpolated


def test_own_currency_and_feed_in_price(tmp_path):
    topology = create_home(tmp_path / "home", Wishes(households=1, currency="EUR", feed_in_micro=61_500))
    genesis = topology.genesis()
    assert genesis.currency == "EUR"
    assert genesis.tariff.feed_in_micro_per_kwh == 61_500


def test_interpolation_is_known():
    assert plan_ledger(Wishes()).interpolated
    assert not plan_ledger(Wishes(period_ms=HOUR_MS)).interpolated


def test_fuses_stand_the_strongest_hour_of_the_data(tmp_path):
    data = tmp_path / "mine.csv"
    data.write_text("timestamp,meter_id,load_kw,pv_kw\n2024-05-01 00:00:00,h1,1,0\n2024-05-01 01:00:00,h1,400,0\n")
    (home,) = plan_ledger(Wishes(data=data)).households
    assert home.fuse_w >= 400_000


@pytest.mark.parametrize("speed", [1.0, 60.0, 120.0, 900.0])
def test_rules_mean_the_same_real_time_at_any_speed(speed):
    plan = plan_ledger(Wishes(speed=speed))
    market = plan.market
    assert plan.consensus.max_drift_ms / speed >= 5_000
    assert 0 < market.gate_closure_before_ms <= market.period_ms // 3
    assert market.open_before_ms == market.period_ms + market.gate_closure_before_ms
    assert market.first_period * market.period_ms == plan.start_ms


# ---------------------------------------------------------------------------------------------------------------- many hosts


def test_init_says_how_mosquitto_can_read_its_files(tmp_path, capsys):
    assert main(["init", "--hosts", "10.0.0.1", "--out", str(tmp_path / "out"), "--households", "1", "--currency", "EUR"]) == 0
    assert "chown mosquitto: /etc/mosquitto/{passwords,access}" in capsys.readouterr().out
    assert read_topology(tmp_path / "out").genesis().currency == "EUR"


def test_a_damaged_store_does_not_keep_the_clock_from_being_held(made, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(made.root, home)
    topology = read_topology(home)
    blocks = read_config(topology.path(topology.nodes[1].folder)).blocks_folder(topology.channel)
    ChannelStore.open(blocks).close()
    (blocks / "CURRENT").write_text("garbage\n")
    release_clock(topology)
    recover_clock(topology)
    assert read_replay_time(topology.clock_file).held
    node = topology.path(topology.nodes[1].folder)
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "node", "run", "--home", str(node)], capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_KEEP_DISK
    assert f"move {node / 'data'} away" in done.stderr.splitlines()[-1]


def test_init_makes_a_real_time_cluster_over_hosts(tmp_path):
    now_ms = 1_800_000_000_000
    places = host_places(5, "10.0.0.1,10.0.0.2,fd00::3", 9000, 8080)
    topology = create_cluster(tmp_path / "out", Wishes(households=2), places, "mqtt://10.0.0.1:1883", now_ms)
    assert [(node.peer_host, node.peer_port) for node in topology.nodes] == [
        ("10.0.0.1", 9000),
        ("10.0.0.2", 9000),
        ("fd00::3", 9000),
        ("10.0.0.1", 9001),
        ("10.0.0.2", 9001),
    ]
    assert topology.nodes[2].http_url == "http://[fd00::3]:8080"
    assert topology.clock == "real"
    assert not topology.clock_file.exists()
    assert now_ms <= topology.start_ms < now_ms + topology.period_ms
    weeks = topology.offset_ms / (7 * 24 * HOUR_MS)
    assert weeks == int(weeks)
    config = read_config(topology.path(topology.nodes[0].folder))
    assert config.clock_file is None
    assert load_genesis(config) == topology.genesis()
    conf = (topology.root / "broker" / "mosquitto.conf").read_text()
    assert str(tmp_path) not in conf
    assert "password_file /etc/mosquitto/passwords" in conf


@pytest.mark.parametrize(
    ("text", "named"),
    [(b"\xff\xfe", "UTF-8"), (b"a:1\nb\n", "line 2"), (b"a:1\na:2\n", "line 2"), (b":x\n", "line 1"), (b"a:\n", "line 1")],
)
def test_a_bad_users_file_names_the_line(text, named, tmp_path):
    path = tmp_path / "users.txt"
    path.write_bytes(text)
    with pytest.raises(InputError, match=named):
        read_users(path)


def test_all_users_that_a_file_lacks_are_named_at_once(tmp_path):
    users = tmp_path / "users.txt"
    users.write_text("node-1:a\nB01:b\n")
    with pytest.raises(InputError, match="for node-2, node-3, node-4, B02;"):
        create_home(tmp_path / "home", Wishes(households=2, broker="mqtt://127.0.0.1:1", broker_users=users))


def test_a_users_file_may_hold_comments(tmp_path):
    path = tmp_path / "users.txt"
    path.write_text("# users\nnode-1:a:b\n\nB01:c\n")
    assert read_users(path) == {"node-1": "a:b", "B01": "c"}
