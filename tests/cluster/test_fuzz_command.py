"""``gridpact fuzz`` as a user meets it: a planted fault is found, written down and replayed; a clean run says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.fuzz import atheris_engine
from tests.project import ROOT

PLANTS = {
    "exception": "raise KeyError('planted')",
    "death": "os.abort()",
}
PLANT = """
import os
import sys
import consensus.codec
decode = consensus.codec.Decoder.__call__
def planted(self, data):
    if self._name == "call" and b"ben" in data:
        {fault}
    return decode(self, data)
consensus.codec.Decoder.__call__ = planted
"""


def gridpact(*arguments: str, plant: Path | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, in whose processes a fault may be planted."""
    paths = [str(ROOT)] if plant is None else [str(plant), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "120"}
    command = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found_and_replayed(name: str, tmp_path: Path) -> None:
    plant = tmp_path / "plant"
    plant.mkdir()
    (plant / "sitecustomize.py").write_text(PLANT.format(fault=PLANTS[name]))
    budget = ("fuzz", "--target", "calls", "--inputs", "40", "--seed", "1", "--jobs", "1", "--engine", "mutate", "--json", "out.json")
    done = gridpact(*budget, plant=plant, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["targets"]["calls"]["crashes"] == result["crashes"] == 1
    (found,) = result["found"]
    expected = {"exception": "KeyError: 'planted'", "death": "death: the process ended with SIGABRT"}
    assert found["error"].startswith(expected[name])
    assert f"gridpact fuzz --replay {found['file']}" in done.stdout
    assert "1 crash found" in done.stderr
    file = json.loads((tmp_path / found["file"]).read_text())
    assert len(file["inputs"]) == 1
    assert b"ben" in bytes.fromhex(file["inputs"][0])
    again = gridpact("fuzz", "--replay", found["file"], plant=plant, cwd=tmp_path)
    assert again.returncode == (-6 if name == "death" else 1)
    repaired = gridpact("fuzz", "--replay", found["file"], cwd=tmp_path)
    assert repaired.returncode == 0, repaired.stderr
    assert "every input was taken, or refused as documented" in repaired.stdout


def test_a_process_that_cannot_even_begin_is_one_line(tmp_path: Path) -> None:
    plant = tmp_path / "plant"
    plant.mkdir()
    (plant / "sitecustomize.py").write_text("import os, sys\nif 'cluster.fuzz.worker' in sys.orig_argv:\n    os._exit(3)\n")
    done = gridpact("fuzz", "--target", "calls", "--inputs", "5", "--jobs", "2", plant=plant, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["gridpact: calls: the process ended before it had tried anything: it said nothing"]


def test_a_clean_run_tells_its_numbers_and_keeps_its_corpus(tmp_path: Path) -> None:
    arguments = (
        "fuzz",
        "--target",
        "calls",
        "--target",
        "config",
        "--total",
        "600",
        "--seed",
        "7",
        "--jobs",
        "2",
        "--corpus",
        "good",
        "--json",
        "-",
    )
    done = gridpact(*arguments, "--engine", "mutate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result["targets"]) == ["calls", "config"]
    assert {"inputs", "crashes", "outcomes", "rss_start_mb", "rss_warm_mb", "rss_end_mb", "corpus"} <= set(result["targets"]["calls"])
    assert (result["inputs"], result["crashes"], result["seed"], result["found"]) == (600, 0, 7, [])
    assert result["targets"]["calls"]["inputs"] > result["targets"]["config"]["inputs"]
    assert all(target["rss_start_mb"] > 5 and target["cpu_s"] > 0 for target in result["targets"].values())
    assert result["wall_s"] > 0
    assert len(list((tmp_path / "good" / "calls").iterdir())) == result["targets"]["calls"]["corpus"]
    assert not (tmp_path / "fuzz-crashes").exists()


def test_the_engine_that_was_used_is_named(tmp_path: Path) -> None:
    budget = ("fuzz", "--target", "calls", "--seconds", "1", "--seed", "1", "--jobs", "1")
    done = gridpact(*budget, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = gridpact(*budget, "--engine", "atheris", cwd=tmp_path)
    if atheris_engine.is_installed():
        assert "engine atheris," in done.stdout
        assert wanted.returncode == 0, wanted.stderr
    else:
        assert "engine mutate (atheris is not installed)," in done.stdout
        assert wanted.returncode == 2
        assert "--engine: atheris is not installed" in wanted.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fuzz", "--target", "nothing"], "--target"),
        (["fuzz", "--seconds", "0"], "--seconds"),
        (["fuzz", "--inputs", "0"], "--inputs"),
        (["fuzz", "--seconds", "5", "--inputs", "5"], "--inputs"),
        (["fuzz", "--total", "5", "--inputs", "5"], "--total"),
        (["fuzz", "--total", "0"], "--total"),
        (["fuzz", "--engine", "other"], "--engine"),
        (["fuzz", "--replay", "absent.json"], "absent.json"),
        (["fuzz", "--replay", "other.json"], "other.json: names the target 'moon'"),
        (["fuzz", "--json", "no/such/folder/out.json"], "--json no/such/folder/out.json"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text('{"format": 1, "target": "moon", "error": "", "place": "", "inputs": []}')
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 1
    assert named in shown.err
    assert not (tmp_path / "fuzz-crashes").exists()
