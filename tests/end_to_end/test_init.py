"""A cluster made by ``gridpact init``, in real time: its nodes run from their folders, its meters publish through Mosquitto."""

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.ports import free_ports, port_is_free

ROOT = Path(__file__).resolve().parents[2]
NODES = 4
PERIOD_S = 5
LEAD_S = 15


def command(*arguments):
    return [sys.executable, "-m", "cluster", *arguments]


def environment():
    return {**{name: value for name, value in os.environ.items() if not name.startswith("GRIDPACT")}, "PYTHONPATH": str(ROOT)}


def run(*arguments):
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=120, check=False)


def until(condition, deadline_s=60.0):
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return value


def ports_in_a_row(count):
    """Return the first of ``count`` ports in a row that are free."""
    return next(port for port in free_ports() if all(port_is_free(port + step) for step in range(count)))


@pytest.fixture
def children():
    """Processes of the test; they are ended in the opposite order."""
    started = []
    yield started
    for child in reversed(started):
        child.terminate()
    for child in reversed(started):
        assert child.wait(30) is not None


@pytest.fixture
def short_folder():
    folder = Path(tempfile.mkdtemp(prefix="gridpact-init-"))
    yield folder
    shutil.rmtree(folder)


def start_mosquitto(files, folder, children):
    """Run a real broker with the files that init wrote, in places of the test's own."""
    text = (files / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/", f"{files}/").replace("/var/lib/mosquitto/", f"{folder}/").replace(" 0.0.0.0", " 127.0.0.1")
    config = folder / "mosquitto.conf"
    config.write_text(text + f"user {getpass.getuser()}\n")
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    children.append(subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def healthy(url):
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as response:  # noqa: S310 - a node of this test
            return response.status == 200
    except OSError:
        return False


def test_nodes_run_from_their_folders_and_meters_prove_their_readings(short_folder, children):
    out, broker_port = short_folder / "cluster", next(free_ports())
    start_s = (int(time.time()) + LEAD_S) // PERIOD_S * PERIOD_S
    made = run(
        "init", "--nodes", str(NODES), "--hosts", "127.0.0.1", "--out", str(out), "--households", "2", "--period", f"{PERIOD_S}s",
        "--start", datetime.fromtimestamp(start_s, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "--broker", f"mqtt://127.0.0.1:{broker_port}",
        "--port", str(ports_in_a_row(NODES)), "--http-port", str(ports_in_a_row(NODES)), "--json", "-",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    start_mosquitto(out / "broker", short_folder, children)
    until(lambda: not port_is_free(broker_port))
    for node in result["nodes"]:
        with (short_folder / f"{node['name']}.log").open("wb") as log:
            moved = short_folder / f"host-of-{node['name']}"
            shutil.move(node["folder"], moved)
            arguments = command("node", "run", "--home", str(moved))
            children.append(subprocess.Popen(arguments, env=environment(), stdout=log, stderr=subprocess.STDOUT))
    until(lambda: all(healthy(node["http_url"]) for node in result["nodes"]))
    meters = run("meter", "simulate", "--home", str(out), "--meter", "B02", "--readings", "2", "--json", str(short_folder / "out.json"))
    assert meters.returncode == 0, meters.stderr
    status = json.loads((short_folder / "out.json").read_text())
    assert status["published"] == status["proven"] >= 2
    assert [meter["meter"] for meter in status["meters"]] == ["B02"]
    shown = json.loads(run("status", "--home", str(out), "--json", "-").stdout)
    assert shown["healthy"] is True
    assert shown["totals"]["readings_accepted"] >= 2
