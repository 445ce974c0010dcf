"""The main job, for real: nodes, broker, meters and agents as processes, real data, a chain that settles."""

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from cluster.broker import BrokerUser, new_password, write_access_files, write_mosquitto_config
from cluster.ports import free_ports, port_is_free
from cluster.processes import is_running, read_pid_file
from cluster.topology import read_topology

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 180.0
SMALL = ("--speed", "120", "--households", "6")


def gridpact(*arguments):
    """Return the command line of ``gridpact ARGUMENTS``."""
    return [sys.executable, "-m", "cluster", *arguments]


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRIDPACT")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def run(*arguments, timeout=DEADLINE_S):
    return subprocess.run(gridpact(*arguments), env=environment(), capture_output=True, text=True, timeout=timeout, check=False)


def start(*arguments, log):
    with log.open("wb") as output:
        return subprocess.Popen(gridpact(*arguments), env=environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def until(condition, deadline_s=90.0):
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return value


def answer(url):
    """Return the JSON that a node answers, None while it does not."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - a node of this test
            return json.load(response)
    except OSError:
        return None


@pytest.fixture
def mosquitto(tmp_path):
    """A real broker with users; its URL and the file of its users' passwords."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    names = [f"node-{number}" for number in range(1, 5)] + [f"B{number:02d}" for number in range(1, 7)]
    users = [BrokerUser(name, new_password(), "node" if name.startswith("node") else "meter") for name in names]
    folder = Path(tempfile.mkdtemp(prefix="gridpact-mosquitto-"))
    passwords, access = write_access_files(folder, "main", users)
    port = next(free_ports())
    config = folder / "mosquitto.conf"
    write_mosquitto_config(config, port=port, passwords=passwords, access=access, state=folder / "state")
    config.write_text(config.read_text() + f"user {getpass.getuser()}\n")
    users_file = tmp_path / "users.txt"
    users_file.write_text("".join(f"{user.name}:{user.password}\n" for user in users))
    with (folder / "log").open("wb") as log:
        broker = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: not port_is_free(port), 20.0)
        yield f"mqtt://127.0.0.1:{port}", users_file
    finally:
        broker.terminate()
        broker.wait(20)
        shutil.rmtree(folder)


def processes(home):
    return [process for path in (home / "run").glob("*.pid") if (process := read_pid_file(path)) is not None]


def check_good(summary, settled, settled_now):
    assert summary["nodes"] == 4
    assert summary["agree"] is True
    assert summary["supply_conserved"] is True
    assert len(set(summary["head_hashes"])) == len(set(summary["state_roots"])) == 1
    assert len(summary["head_hashes"]) == len(summary["state_roots"]) == 4
    assert summary["readings_committed"] == summary["readings_published"] > 0
    assert summary["periods_settled"] >= settled
    assert summary["periods_settled_now"] >= settled_now
    for period in {bill["period"] for bill in summary["bills"]}:
        bills = [bill for bill in summary["bills"] if bill["period"] == period]
        flows = [bill["earned_micro"] - bill["paid_micro"] - bill["penalty_micro"] - bill["fee_micro"] for bill in bills]
        assert sum(flows) == 0, f"the bills of period {period} do not sum to zero"


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """A cluster that settled two periods and ended by itself, its home and what the run said."""
    home = tmp_path_factory.mktemp("up") / "home"
    out = home.with_name("out.json")
    done = run("up", "--home", str(home), "--periods", "2", *SMALL, "--json", str(out))
    assert done.returncode == 0, done.stderr
    return home, json.loads(out.read_text()), done


def test_up_trades_settles_and_agrees(settled):
    _, summary, done = settled
    check_good(summary, 2, 2)
    assert summary["orders"] > 0
    assert summary["trades"] > 0
    assert summary["energy_traded_wh"] > 0
    assert summary["energy_grid_wh"] > 0
    assert summary["interpolated"] is True
    assert "interpolated" in done.stderr
    assert "Traceback" not in done.stderr
    assert "all at the same head" in done.stdout
    accounts = {bill["account"] for bill in summary["bills"]}
    assert {"GRID", "home-B01", "home-B06"} <= accounts


def test_nothing_runs_afterwards(settled):
    home, _, _ = settled
    assert processes(home) == []
    done = run("status", "--home", str(home), "--json", "-")
    status = json.loads(done.stdout)
    assert status["running"] is False
    assert [node["state"] for node in status["nodes"]] == ["stopped"] * 4


def test_every_store_passes_the_audit_and_a_flipped_byte_does_not(settled, tmp_path):
    home, _, _ = settled
    assert run("verify", "--home", str(home)).returncode == 0
    node = tmp_path / "node-1"
    subprocess.run(["cp", "-a", str(home / "nodes" / "node-1"), str(node)], check=True)
    blocks = max((node / "data" / "main" / "blocks").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blocks.read_bytes())
    data[len(data) // 2] ^= 0x10
    blocks.write_bytes(data)
    report = run("verify", "--home", str(node), "--json", "-")
    assert report.returncode == 1
    assert json.loads(report.stdout)["ok"] is False


def test_a_second_start_goes_on_with_the_same_chain_and_ctrl_c_ends_it_cleanly(settled):
    home, before, _ = settled
    out = home.with_name("second.json")
    again = start("up", "--home", str(home), "--json", str(out), log=home.with_name("second.log"))
    try:
        url = read_topology(home).http_urls[0]
        until(lambda: (totals := answer(f"{url}/v1/totals")) and totals["periods_settled"] > before["periods_settled"])
        refused = run("up", "--home", str(home))
        assert refused.returncode == 2
        assert "runs already" in refused.stderr
        status = json.loads(run("status", "--home", str(home), "--json", "-").stdout)
        assert status["healthy"] is True
        assert all(process["running"] for process in status["processes"])
        assert "node-3" in run("logs", "node-3", "--home", str(home)).stdout
        again.send_signal(signal.SIGINT)
        assert again.wait(90) == 0
    finally:
        again.kill()
        again.wait()
    summary = json.loads(out.read_text())
    check_good(summary, before["periods_settled"] + 1, 1)
    assert summary["height"] > before["height"]
    assert processes(home) == []


def test_a_killed_node_comes_back_and_down_ends_the_cluster(settled):
    home, _, _ = settled
    running = start("up", "--home", str(home), log=home.with_name("third.log"))
    try:
        topology = read_topology(home)
        url = topology.http_urls[1]
        height = until(lambda: (status := answer(f"{url}/v1/status")) and status["height"])
        victim = until(lambda: read_pid_file(home / "run" / "node-2.pid"))
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: (now := read_pid_file(home / "run" / "node-2.pid")) is not None and now != victim)
        until(lambda: (status := answer(f"{url}/v1/status")) and status["height"] > height)
        done = run("down", "--home", str(home))
        assert done.returncode == 0, done.stderr
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()
    assert processes(home) == []
    assert "nothing runs" in run("down", "--home", str(home)).stdout


def test_when_the_launcher_is_killed_everything_ends_and_the_chain_goes_on_later(settled):
    home, _, _ = settled
    running = start("up", "--home", str(home), log=home.with_name("fourth.log"))
    try:
        url = read_topology(home).http_urls[0]
        before = until(lambda: answer(f"{url}/v1/totals"))
        until(lambda: len(processes(home)) == 8)
        children = processes(home)
    finally:
        running.kill()
        running.wait()
    until(lambda: not any(is_running(process) for process in children))
    out = home.with_name("fifth.json")
    done = run("up", "--home", str(home), "--periods", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    check_good(json.loads(out.read_text()), before["periods_settled"] + 1, 1)


def test_up_with_a_real_broker(mosquitto, tmp_path):
    url, users = mosquitto
    home, out = tmp_path / "home", tmp_path / "out.json"
    done = run("up", "--home", str(home), "--broker", url, "--broker-users", str(users), "--periods", "1", *SMALL, "--json", str(out))
    assert done.returncode == 0, done.stderr
    check_good(json.loads(out.read_text()), 1, 1)
    assert not (home / "logs" / "broker.log").exists()


def test_a_broker_out_of_reach_ends_a_run_that_was_to_end_by_itself(tmp_path):
    home, url = tmp_path / "home", f"mqtt://127.0.0.1:{next(free_ports())}"
    done = run("up", "--home", str(home), "--broker", url, "--periods", "1", *SMALL)
    assert done.returncode == 1
    assert f"meters cannot reach {url}: Connection refused" in done.stderr.splitlines()[-1]
    assert processes(home) == []
