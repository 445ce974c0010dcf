"""The bench as users run it: real node processes, a few seconds at a low rate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {
    "nodes", "cores", "kind", "sent", "committed", "lost", "duplicated", "rejected", "duration_s", "tps", "latency_ms", "blocks",
    "verify_us", "crypto_bound_tps", "efficiency", "cpu_us_per_tx_per_node", "rss_mb_max", "agree",
}  # fmt: skip


def gridpact(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cluster", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize("kind", ["mixed", "transfer"])
def test_bench_commits_everything_it_sends(kind):
    done = gridpact("bench", "--duration", "3", "--rate", "100", "--kind", kind, "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) >= KEYS
    assert set(result["latency_ms"]) == {"p50", "p95", "p99", "max"}
    assert (result["nodes"], result["kind"], result["agree"]) == (4, kind, True)
    assert (result["lost"], result["duplicated"], result["rejected"], result["forks"], result["foreign"]) == (0, 0, 0, 0, 0)
    assert result["sent"] == result["committed"] == 300
    assert result["tps"] == pytest.approx(result["committed"] / result["duration_s"], rel=0.01)
    assert result["crypto_bound_tps"] == pytest.approx(result["cores"] / (4 * result["verify_us"]) * 1e6, rel=0.01)
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"] <= result["latency_ms"]["max"]
    assert result["cpu_us_per_tx_per_node"] > 0
    assert result["rss_mb_max"] > 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nodes", "3"),
        ("--nodes", "8"),
        ("--rate", "0"),
        ("--rate", "fast"),
        ("--kind", "everything"),
        ("--duration", "-1"),
        ("--json", "/no/where"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments):
    done = gridpact("bench", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert arguments[0] in done.stderr
