"""Short drills as users run them: real node processes under load, real faults, and one planted failure that must be told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import drill_round
from cluster.cli import main
from cluster.fault_nodes import Kill

ROOT = Path(__file__).parents[2]
KEYS = {"rounds", "faults", "submitted", "committed", "lost", "duplicated", "forks", "agree", "recovery_s"}
SEED = "72"
"""Draws short holds and a clock that is ahead (one that is behind is believed for 5 s); any other seed is as good, but may take longer."""


def test_nothing_is_lost_whatever_hits_primary_and_backups(tmp_path):
    out = tmp_path / "drill.json"
    faults = "kill,partition,corrupt-votes,one-way,clock,pause"
    command = ["drill", "--rounds", "6", "--fault", faults, "--rate", "60", "--seed", SEED, "--json", str(out)]
    done = subprocess.run([sys.executable, "-m", "cluster", *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert set(result) >= KEYS
    assert result["rounds"] == 6
    assert result["faults"] == dict.fromkeys(sorted(faults.split(",")), 1)
    assert (result["lost"], result["duplicated"], result["forks"], result["foreign"], result["agree"]) == (0, 0, 0, 0, True)
    assert result["failures"] == []
    assert result["submitted"] >= result["committed"] >= result["acknowledged"] > 0
    rounds = result["details"]
    assert [one["target"] for one in rounds] == ["primary", "backup"] * 3
    assert result["left_out"] == sum(bool(one["left_out"]) for one in rounds)
    assert 0 < result["recovery_s"]["p50"] <= result["recovery_s"]["max"]
    assert 0 < result["recovery_kill_primary_s"]["max"] == rounds[0]["recovery_s"] == result["recovery_by_fault_s"]["kill"]["p50"]
    # The load goes on through the loss of the primary: the view must have changed.
    assert rounds[0]["view_changes"] >= 1
    assert "lost" in done.stdout


class KilledForGood(Kill):
    """A node that nobody starts again: the drill must notice that it does not come back."""

    async def end(self, scene):
        return


def test_a_failure_ends_the_drill_and_is_told_with_its_round_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(drill_round.MAKERS, "kill", KilledForGood)
    keep, out = tmp_path / "kept", tmp_path / "drill.json"
    status = main(["drill", "--rounds", "3", "--fault", "kill", "--rate", "40", "--keep", str(keep), "--json", str(out)])
    assert status == 1
    said = capsys.readouterr()
    assert "round 1, kill of node-1: node-1 ended with status -9" in said.err
    assert f"kept in {keep}" in said.err
    assert "VIOLATION in round 1, kill of node-1" in " ".join(said.out.split())
    result = json.loads(out.read_text())
    assert [(one["round"], one["fault"], one["node"], one["violation"]["kind"]) for one in result["failures"]] == [
        (1, "kill", "node-1", "failed")
    ]
    assert result["agree"] is False
    assert json.loads((keep / "drill.json").read_text()) == result
    assert (keep / "logs" / "node-1.log").stat().st_size > 0
    assert (keep / "nodes" / "node-1" / "data" / "main" / "blocks").is_dir()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fault", "kill,bomb"], "'bomb' is none of kill, pause, partition"),
        (["--nodes", "3"], "--nodes"),
        (["--keep", "."], "--keep .: is not empty"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_starts(arguments, said, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["drill", *arguments]) == 2
    assert said in capsys.readouterr().err
