"""``gridpact soak``: hours of load, and what they cost."""

from __future__ import annotations

import click
from rich.console import Console

from cluster.commands.bench import rate_per_s
from cluster.options import RunError, check_json_path, json_option, write_json
from cluster.phases import phase_bar, run_interruptible
from cluster.soak import Return, SoakResult, SoakSettings, run_soak
from cluster.tables import print_table

EPILOG = """\b
Examples:
  gridpact soak --duration 3600 --json soak.json
  gridpact soak --duration 600 --rate 200 --nodes 7 --no-rejoin"""


def soak_rate(text: str) -> int | None:
    """Return a rate in transactions per second, None for ``half`` (a click option's ``type``).

    Raises:
        click.BadParameter: it is neither.
    """
    if text == "half":
        return None
    if text == "max":
        raise click.BadParameter("'max' is neither 'half' nor a number from 1 to 1000000")
    return rate_per_s(text)


@click.command(epilog=EPILOG)
@click.option("--nodes", type=click.IntRange(4, 7), default=4, show_default=True, help="How many node processes.")
@click.option(
    "--duration", type=click.FloatRange(5, 7 * 86_400), default=3_600.0, show_default=True, metavar="SECONDS", help="How long to send."
)
@click.option(
    "--rate", type=soak_rate, default="half", show_default=True, metavar="half|N", help="Transactions per second; half of the highest."
)
@click.option("--rejoin/--no-rejoin", default=True, show_default=True, help="Let a node lose its disk at the end, and come back.")
@json_option
def soak(nodes: int, duration: float, rate: int | None, rejoin: bool, json_path: str | None) -> None:
    """Hours of load: payments, orders, readings, periods that clear and settle; memory, disk, and how fast a node comes back."""
    check_json_path(json_path)
    with phase_bar() as show:
        result = run_interruptible(lambda: run_soak(SoakSettings(nodes, duration, rate, rejoin), show))
    write_json(json_path, result)
    if json_path is None:
        print_result(result)
    if not result.good:
        raise RunError("; ".join(violation.text for violation in result.violations[:3]))


def print_result(result: SoakResult) -> None:
    """Show the result to people."""
    latency = result.latency_ms
    rows = [
        ("time under load, rate", f"{result.duration_s:,.0f} s, {result.rate:,} per second"),
        ("sent, committed, refused", f"{result.sent:,}, {result.committed:,}, {result.refused:,}"),
        ("transactions per second", f"{result.tps:,.0f}"),
        ("latency until certified, p50 / p99 / max", f"{latency.p50:,.0f} / {latency.p99:,.0f} / {latency.max:,.0f} ms"),
        ("blocks, views", f"{result.blocks:,}, {result.views}"),
        ("disk per transaction", f"{result.disk_bytes_per_transaction:,.0f} bytes"),
    ]
    rows += [
        (
            f"memory of node {number}: early, half, end",
            f"{one.early_mb:,.0f}, {one.half_mb:,.0f}, {one.end_mb:,.0f} MB, {one.slope_mb_per_h:+,.1f} MB/h",
        )
        for number, one in enumerate(result.memory, 1)
    ]
    rows += [("back under load", _words(result.by_snapshot)), ("back by every block", _words(result.by_blocks))]
    if result.replay_to_live is not None:
        rows.append(("replay against live", f"{result.replay_to_live:.1f} times as fast"))
    print_table(f"Soak: {result.nodes} nodes, {result.cores} cores", ("measure", ">value"), rows)
    Console().print("nothing lost, duplicated or forked" if result.good else f"{len(result.violations)} VIOLATIONS", highlight=False)


def _words(back: Return | None) -> str:
    if back is None:
        return "not tried"
    way = "every block" if back.first_height == 1 else f"blocks from {back.first_height:,} on"
    return f"{back.transactions:,} transactions in {back.seconds:,.1f} s ({way}, {back.cpu_s:,.1f} s of processor)"
