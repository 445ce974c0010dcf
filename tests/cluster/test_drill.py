"""A short drill as users run it: kill -9 of the primary and of a backup under load, and a pause of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {"rounds", "faults", "submitted", "committed", "lost", "duplicated", "forks", "agree", "recovery_s"}


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_nothing_is_lost_when_primary_and_backup_fail(fault, tmp_path):
    out = tmp_path / "drill.json"
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "drill", "--rounds", "2", "--fault", fault, "--json", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert set(result) >= KEYS
    assert set(result["recovery_s"]) >= {"p50", "max"}
    assert result["rounds"] == 2
    assert result["faults"] == {fault: 2}
    assert (result["lost"], result["duplicated"], result["forks"], result["foreign"], result["agree"]) == (0, 0, 0, 0, True)
    assert result["submitted"] >= result["committed"] >= result["acknowledged"] > 0
    assert [one["target"] for one in result["details"]] == ["primary", "backup"]
    assert 0 < result["recovery_s"]["p50"] <= result["recovery_s"]["max"]
    # The load goes on through the loss of the primary: the view must have changed.
    assert result["details"][0]["view_changes"] >= 1
