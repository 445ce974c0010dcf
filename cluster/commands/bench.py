"""``gridpact bench``: a load test on own node processes."""

from __future__ import annotations

from collections.abc import Callable

import click
from rich.console import Console

from cluster.bench import BATCH, IN_FLIGHT, BenchResult, BenchSettings, Progress, run_bench
from cluster.options import RunError, check_json_path, json_option, write_json
from cluster.phases import phase_bar, run_interruptible
from cluster.tables import print_table
from cluster.workload import KINDS, Kind


def rate_per_s(text: str) -> int | None:
    """Return a rate in transactions per second, None for ``max`` (a click option's ``type``).

    Raises:
        click.BadParameter: it is neither.
    """
    if text == "max":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000):
        raise click.BadParameter(f"{text[:40]!r} is neither 'max' nor a number from 1 to 1000000")
    return int(text)


@click.command(epilog="Example: gridpact bench --duration 20 --kind mixed --json result.json")
@click.option("--nodes", type=click.IntRange(4, 7), default=4, show_default=True, help="How many node processes.")
@click.option("--duration", type=click.FloatRange(0.5, 3600), default=20.0, show_default=True, metavar="SECONDS", help="How long to send.")
@click.option("--rate", type=rate_per_s, default="max", show_default=True, metavar="max|N", help="Transactions per second.")
@click.option("--kind", type=click.Choice(KINDS), default="transfer", show_default=True, help="What is sent.")
@click.option(
    "--in-flight", type=click.IntRange(BATCH, 20_000), default=IN_FLIGHT, show_default=True, help="Transactions under way at once."
)
@json_option
def bench(nodes: int, duration: float, rate: int | None, kind: Kind, in_flight: int, json_path: str | None) -> None:
    """Load test: own node processes, real TLS, synced stores, every node checks every signature; nothing may be lost or counted twice."""
    check_json_path(json_path)
    settings = BenchSettings(nodes, duration, rate, kind, in_flight)
    with phase_bar() as show:
        result = run_interruptible(lambda: _run(settings, show))
    write_json(json_path, result)
    if json_path is None:
        print_result(result)
    if not result.good:
        raise RunError(_verdict(result))


async def _run(settings: BenchSettings, show: Callable[[str, float, str], None]) -> BenchResult:
    def report(progress: Progress) -> None:
        show(progress.phase, progress.share, progress.note)

    return await run_bench(settings, report)


def print_result(result: BenchResult) -> None:
    """Show the result to people."""
    latency = result.latency_ms
    rows = (
        ("transactions per second", f"{result.tps:,.0f}"),
        (
            "latency until certified, p50 / p95 / p99 / max",
            f"{latency.p50:,.0f} / {latency.p95:,.0f} / {latency.p99:,.0f} / {latency.max:,.0f} ms",
        ),
        ("sent, committed, rejected", f"{result.sent:,}, {result.committed:,}, {result.rejected:,}"),
        ("seconds, blocks, view changes", f"{result.duration_s:.2f}, {result.blocks:,}, {result.view_changes}"),
        ("one signature check", f"{result.verify_us:.1f} us"),
        (f"bound by signatures alone ({result.cores} cores, {result.nodes} nodes)", f"{result.crypto_bound_tps:,.0f} per second"),
        ("efficiency against that bound", f"{100 * result.efficiency:.1f} %"),
        ("processor per transaction and node", f"{result.cpu_us_per_tx_per_node:.0f} us"),
        ("processor of the load generator per transaction", f"{result.generator_cpu_us_per_tx:.0f} us"),
        ("largest memory of a node", f"{result.rss_mb_max:,.0f} MB"),
    )
    print_table(f"Bench: {result.kind}, {result.nodes} nodes", ("measure", ">value"), rows)
    Console().print(_verdict(result), highlight=False)


def _verdict(result: BenchResult) -> str:
    agree = "all nodes agree" if result.agree else "NODES DISAGREE"
    return f"lost {result.lost}, duplicated {result.duplicated}, forks {result.forks}, foreign {result.foreign}, {agree}"
