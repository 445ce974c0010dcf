"""``gridpact drill``: faults on real processes, and the check that nothing is lost."""

from __future__ import annotations

import click
from rich.console import Console

from cluster.drill import DrillResult, DrillSettings, run_drill
from cluster.faults import FAULTS, FaultName
from cluster.options import RunError, check_json_path, json_option, write_json
from cluster.phases import phase_bar, run_interruptible
from cluster.tables import print_table


@click.command(epilog="Example: gridpact drill --rounds 10 --fault kill")
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many faults.")
@click.option(
    "--fault", type=click.Choice((*FAULTS, "all")), default="kill", show_default=True, help="kill -9, pause (SIGSTOP), or both in turn."
)
@click.option("--nodes", type=click.IntRange(4, 7), default=4, show_default=True, help="How many node processes.")
@json_option
def drill(rounds: int, fault: str, nodes: int, json_path: str | None) -> None:
    """Kill or pause the primary and backups in turn under load; check that nothing acknowledged is lost, doubled or seen differently."""
    check_json_path(json_path)
    chosen: tuple[FaultName, ...] = tuple(name for name in FAULTS if fault in (name, "all"))
    with phase_bar() as show:
        result = run_interruptible(lambda: run_drill(DrillSettings(rounds, chosen, nodes), show))
    write_json(json_path, result)
    if json_path is None:
        print_result(result)
    if not result.good:
        raise RunError(_verdict(result))


def print_result(result: DrillResult) -> None:
    """Show the result to people."""
    rows = (
        (str(number), one.fault, one.target, one.node, f"{one.recovery_s:.2f}", f"{one.catch_up_s:.2f}", str(one.view_changes))
        for number, one in enumerate(result.details, 1)
    )
    print_table("Drill", (">round", "fault", "target", "node", ">s until commits resume", ">s until caught up", ">view changes"), rows)
    screen = Console()
    screen.print(
        f"Commits resume after p50 {result.recovery_s.p50:.2f} s, max {result.recovery_s.max:.2f} s "
        f"(primary {result.recovery_primary_s.p50:.2f}, backup {result.recovery_backup_s.p50:.2f}).",
        f"{result.submitted:,} transactions sent, {result.committed:,} committed in {result.blocks:,} blocks; "
        f"{result.resent:,} sendings repeated.",
        _verdict(result),
        sep="\n",
        highlight=False,
    )


def _verdict(result: DrillResult) -> str:
    agree = "all nodes agree" if result.agree else "NODES DISAGREE"
    return f"lost {result.lost}, duplicated {result.duplicated}, forks {result.forks}, foreign {result.foreign}, {agree}"
