"""Results of simulations for people: tables, traces, and how to see a failure again."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cluster.options import RunError, cannot_write, write_json
from cluster.simulation.bugs import BugReport, markdown_of
from cluster.simulation.exhaustive import Exploration
from cluster.simulation.runner import Report
from cluster.simulation.shrink import Replay
from cluster.tables import plural, print_table

LAST_LINES = 60
MOST_FAILURES = 20


def show_report(report: Report, json_path: str | None) -> None:
    """Show what many runs came to.

    Raises:
        RunError: something was violated.
    """
    write_json(json_path, report)
    if json_path is None:
        rows = [
            ("runs, cluster sizes", f"{report.runs:,}, {', '.join(map(str, report.nodes))}"),
            (
                "steps, blocks, transactions, view changes",
                f"{report.events:,}, {report.blocks:,}, {report.transactions:,}, {report.view_changes:,}",
            ),
            ("simulated time", f"{report.simulated_s:,.0f} s"),
            ("simulated per real hour", f"{report.simulated_h_per_wall_h:,.1f} h"),
            ("runs per second and core", f"{report.runs_per_s_per_core:,.1f} on {plural(report.cores, 'core')}"),
            *((f"fault {name}", f"{count:,}") for name, count in report.faults.items()),
        ]
        print_table("Simulation", ("measure", ">value"), rows)
    screen = Console(stderr=True)
    for failure in report.failures[:MOST_FAILURES]:
        screen.print(f"seed {failure.seed}, {failure.nodes} nodes: {failure.what}", markup=False, highlight=False)
        screen.print(f"  {failure.command}", markup=False, highlight=False, soft_wrap=True)
    if report.failures:
        raise RunError(f"{plural(len(report.failures), 'run')} of {report.runs} violated something")


def show_replay(replay: Replay, trace: Path | None, json_path: str | None) -> None:
    """Show one run: its schedule, its last steps, and how it ended.

    Raises:
        RunError: something was violated, or the trace cannot be written.
    """
    write_json(json_path, replay.outcome)
    if trace is not None:
        try:
            trace.write_text("\n".join((*replay.schedule, *replay.lines)) + "\n", encoding="utf-8")
        except OSError as error:
            raise cannot_write(trace, error) from error
    if json_path is None:
        screen = Console(soft_wrap=True, highlight=False)
        screen.print(f"Schedule ({replay.dropped} entries left out):" if replay.dropped else "Schedule:")
        for line in replay.schedule:
            screen.print(f"  {line}", markup=False)
        screen.print(f"Last steps of {len(replay.lines):,}:")
        for line in replay.lines[-LAST_LINES:]:
            screen.print(line, markup=False)
    violated = replay.outcome.safety or replay.outcome.liveness
    if violated:
        raise RunError(f"seed {replay.outcome.seed}: {violated}")


def show_bugs(report: BugReport, json_path: str | None, markdown: Path | None) -> None:
    """Show how planted bugs were caught.

    Raises:
        RunError: one was not, or the table cannot be written.
    """
    write_json(json_path, report)
    if markdown is not None:
        try:
            markdown.write_text(markdown_of(report), encoding="utf-8")
        except OSError as error:
            raise cannot_write(markdown, error) from error
    if json_path is None:
        rows = (
            (
                catch.bug,
                str(catch.nodes),
                ", ".join(catch.checkers) or "nobody",
                str(catch.first) if catch.caught else "-",
                f"{catch.median:g}" if catch.caught else "-",
                str(catch.allowed),
            )
            for catch in report.bugs
        )
        print_table("Planted bugs", ("bug", ">nodes", "caught by", ">first seed", ">median", ">allowed"), rows)
    if report.missed:
        raise RunError(f"not caught: {', '.join(report.missed)}")


def show_exploration(report: Exploration, json_path: str | None) -> None:
    """Show what the exploration of view changes found.

    Raises:
        RunError: a decision did not hold.
    """
    write_json(json_path, report)
    if json_path is None:
        rows = (
            ("ways of delivering messages in view 0", f"{report.schedules:,}"),
            ("different states that they lead to", f"{report.states:,}"),
            ("view changes run to the end of view 1", f"{report.view_changes:,}"),
            ("after a decision in view 0", f"{report.decided:,}"),
            ("decisions contradicted", str(len(report.contradictions))),
            ("new views that decided nothing", str(report.stuck)),
        )
        print_table("View changes of four replicas", ("measure", ">value"), rows)
    if not report.good:
        first = report.contradictions[0] if report.contradictions else None
        raise RunError(f"with Byzantine replica {first.byzantine}: {first.what}" if first else f"{report.stuck} new views decided nothing")
