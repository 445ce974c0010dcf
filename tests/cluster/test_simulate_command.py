"""``gridpact simulate`` as people call it."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from cluster.cli import main
from cluster.commands.simulate import fault_names, habit_names, seed_range, simulate, sizes
from cluster.simulation.settings import FAULTS

KEYS = {"runs", "events", "simulated_s", "wall_s", "faults", "safety_violations", "liveness_violations", "failing_seeds"}


def test_a_few_seeds_of_two_sizes(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert main(["simulate", "--seeds", "0:3", "--nodes", "4,5", "--jobs", "1", "--json", str(path)]) == 0
    result = msgspec.json.decode(path.read_bytes())
    assert set(result) >= KEYS
    assert (result["runs"], result["nodes"], result["failing_seeds"]) == (6, [4, 5], [])
    assert result["simulated_s"] > 6 and result["events"] > 1_000


def test_a_violation_ends_with_1_and_the_command_that_replays_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    arguments = ["simulate", "--plant", "sent-before-synced", "--seeds", "7:8", "--faults", "crash", "--jobs", "1", "--json", str(path)]
    assert main(arguments) == 1
    result = msgspec.json.decode(path.read_bytes())
    assert (result["safety_violations"], result["failing_seeds"]) == (1, [7])
    shown = capfd.readouterr().err
    command = "gridpact simulate --nodes 4 --replay 7 --faults crash --plant sent-before-synced"
    assert command in shown
    assert shown.splitlines()[-1] == "gridpact: 1 run of 1 violated something"
    assert main(command.split()[1:]) == 1
    replayed = capfd.readouterr()
    assert "before it was durable" in replayed.err
    assert "Last steps of" in replayed.out


def test_a_replay_writes_its_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.txt"
    assert main(["simulate", "--replay", "4", "--faults", "loss", "--trace", str(trace)]) == 0
    lines = trace.read_text().splitlines()
    assert lines[-1].endswith("all is well")
    out = capfd.readouterr().out
    assert "Schedule:" in out
    assert lines[-1] in out.replace("\n", "\n")
    assert main(["simulate", "--replay", "4", "--trace", str(tmp_path / "no" / "folder")]) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seeds", "5"], "--seeds"),
        (["--seeds", "5:5"], "--seeds"),
        (["--nodes", "3"], "--nodes"),
        (["--nodes", "4,x"], "--nodes"),
        (["--faults", "rain"], "--faults"),
        (["--habits", "smoking"], "--habits"),
        (["--byzantine", "2", "--nodes", "4"], "--byzantine 2"),
        (["--plant", "tree"], "--plant"),
        (["--replay", "-1"], "--replay"),
    ],
)
def test_wrong_usage(arguments: list[str], named: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *arguments]) == 2
    error = capfd.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_values_of_options() -> None:
    assert seed_range("3:9") == range(3, 9)
    assert sizes("4,7,4,10") == (4, 7, 10)
    assert fault_names("none") == ()
    assert fault_names("all") == FAULTS
    assert fault_names("crash,loss") == ("loss", "crash")
    assert habit_names("lie,flood") == ("lie", "flood")
    for kind, text in ((seed_range, "9:3"), (sizes, ""), (fault_names, ""), (habit_names, "")):
        with pytest.raises(click.BadParameter):
            kind(text)


def test_help_names_every_fault() -> None:
    shown = " ".join(CliRunner().invoke(simulate, ["--help"], terminal_width=2_000).output.split())
    assert all(fault in shown for fault in FAULTS)
    assert "Example: gridpact simulate" in shown
