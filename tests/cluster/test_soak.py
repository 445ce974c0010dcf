"""A short soak on real processes, and the parts that judge a long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.commands.soak import soak, soak_rate
from cluster.soak_memory import Samples, slope


def test_a_short_soak_loses_nothing_and_its_node_comes_back_both_ways(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    outcome = CliRunner().invoke(soak, ["--duration", "6", "--rate", "60", "--json", str(file)])
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(file.read_text())
    assert not result["violations"]
    assert result["committed"] >= 6 * 60 / 2
    assert result["refused"] == 0
    assert len(result["memory"]) == 4 and all(20 < one["end_mb"] < 1_000 for one in result["memory"])
    assert 100 < result["disk_bytes_per_transaction"] < 100_000
    for way in ("by_snapshot", "by_blocks"):
        assert result[way]["first_height"] == 1, "too short for a snapshot"
        assert result[way]["transactions"] >= 180 and result[way]["seconds"] > 0 and result[way]["cpu_s"] > 0


def test_slope_is_that_of_the_line_that_fits_best() -> None:
    assert slope([(0, 5), (1, 7), (2, 9)]) == pytest.approx(2)
    assert slope([(0, 1), (1, 0), (2, 1)]) == pytest.approx(0)
    assert slope([(3, 1)]) == slope([]) == 0


def test_the_slope_of_the_second_half_ignores_how_memory_grew_at_first() -> None:
    samples = Samples()
    for minute in range(121):
        samples.note(minute * 60.0, (min(100.0, 10.0 + 2 * minute), 50.0 + minute))
    filled, leaking = samples.of_node(0), samples.of_node(1)
    assert filled.slope_mb_per_h == pytest.approx(0) and filled.end_mb == 100
    assert leaking.slope_mb_per_h == pytest.approx(60)
    assert (leaking.early_mb, leaking.half_mb, leaking.end_mb) == (62, 110, 170)


@pytest.mark.parametrize(("text", "rate"), [("half", None), ("250", 250)])
def test_rates(text: str, rate: int | None) -> None:
    assert soak_rate(text) == rate


@pytest.mark.parametrize("text", ["max", "0", "-1", "1.5", "x"])
def test_bad_rates_are_refused_with_a_reason(text: str) -> None:
    outcome = CliRunner().invoke(soak, ["--rate", text])
    assert outcome.exit_code == 2
    assert text in outcome.output
