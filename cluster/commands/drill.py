"""``gridpact drill``: faults on real processes, and the check that nothing is lost."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from cluster.drill import DrillResult, DrillSettings, run_drill
from cluster.drill_round import Round
from cluster.faults import FAULTS, FaultName, parse_faults
from cluster.options import RunError, check_json_path, json_option, write_json
from cluster.phases import phase_bar, run_interruptible
from cluster.tables import plural, print_table
from consensus.errors import InputError

EPILOG = """\b
Examples:
  gridpact drill --rounds 10 --fault kill
  gridpact drill --rounds 6 --fault partition,one-way --nodes 7
  gridpact drill --rounds 200 --fault all --keep failed --json drill.json

\b
What each fault does to one node, the primary or a backup in turn:
  kill           signal 9, and a start
  pause          its process stands still
  partition      no byte passes between it and the others (with 7 nodes: it and another)
  one-way        it hears nothing but is heard, or the other way round
  wipe           signal 9, and a start with an empty disk
  corrupt        signal 9, bytes flipped in its block store, and a start
  corrupt-votes  the same in its vote log
  disk-full      none of its files can grow
  clock          its clock jumps by a minute or an hour
  certificate    its TLS certificate has expired
  broker         (no node) the MQTT broker is killed, and comes back without memory"""
DETAILS_UP_TO = 24


def _faults(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[FaultName, ...]:
    """Return the faults that the option names."""
    try:
        return parse_faults(texts)
    except ValueError as error:
        raise click.BadParameter(f"{str(error)[:40]!r} is none of {', '.join(FAULTS)}, all") from error


@click.command(epilog=EPILOG)
@click.option("--rounds", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many faults.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    default=("kill",),
    show_default=True,
    callback=_faults,
    metavar="NAME[,NAME...]",
    help="Which take turns; all for every one. May be repeated.",
)
@click.option("--nodes", type=click.IntRange(4, 7), default=4, show_default=True, help="How many node processes.")
@click.option("--rate", type=click.IntRange(20, 5_000), default=200, show_default=True, help="Transactions per second.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Draws who is hit and how.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Leave the nodes' folders and logs there if the drill fails; DIR must not exist, or be empty.",
)
@json_option
def drill(rounds: int, faults: tuple[FaultName, ...], nodes: int, rate: int, seed: int, keep: Path | None, json_path: str | None) -> None:
    """Let faults hit a cluster of its own under load; check after each that nothing acknowledged is lost, doubled or seen differently."""
    check_json_path(json_path)
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise InputError(f"--keep {keep}", "is not empty")
    settings = DrillSettings(rounds, faults, nodes, rate, seed, keep)
    with phase_bar() as show:
        result = run_interruptible(lambda: run_drill(settings, show))
    write_json(json_path, result)
    if json_path != "-":
        print_result(result)
    if not result.good:
        if keep is not None:
            write_json(str(keep / "drill.json"), result)
        raise RunError("; ".join([str(failure) for failure in result.failures[:3]] + [_kept(keep)]))


def _kept(keep: Path | None) -> str:
    """Say where the evidence is."""
    return f"kept in {keep}" if keep is not None else "nothing was kept (--keep DIR does)"


def _note(one: Round) -> str:
    """Return what there is to say of a round."""
    left_out = f"{', '.join(one.left_out)} left out of the view" if one.left_out else ""
    return "; ".join(part for part in (one.note, left_out) if part)


def _left_out(result: DrillResult) -> list[str]:
    """Say how often a node came back and did not vote."""
    if not result.left_out:
        return []
    return [f"After {plural(result.left_out, 'round')} a node had every block, but waited for another view and did not vote."]


def print_result(result: DrillResult) -> None:
    """Show the result to people."""
    if result.rounds <= DETAILS_UP_TO:
        rows = (
            (
                str(number),
                one.fault,
                one.node,
                one.target,
                f"{one.recovery_s:.2f}",
                f"{one.catch_up_s:.2f}",
                str(one.view_changes),
                _note(one),
            )
            for number, one in enumerate(result.details, 1)
        )
        print_table("Rounds", (">round", "fault", "node", "role", ">recovery s", ">level s", ">views", "note"), rows, narrow=True)
    faults = ((name, str(result.faults[name]), f"{one.p50:.2f}", f"{one.max:.2f}") for name, one in result.recovery_by_fault_s.items())
    print_table("Drill", ("fault", ">rounds", ">recovery p50 s", ">max s"), faults)
    screen = Console()
    screen.print(
        f"{plural(result.rounds, 'round')}, seed {result.seed}. New transactions are final again after p50 {result.recovery_s.p50:.2f} s, "
        f"max {result.recovery_s.max:.2f} s.",
        f"{result.submitted:,} transactions sent, {result.acknowledged:,} acknowledged, {result.committed:,} committed "
        f"in {result.blocks:,} blocks; {result.resent:,} sendings repeated.",
        f"lost {result.lost}, duplicated {result.duplicated}, forks {result.forks}, foreign {result.foreign}, "
        + ("all nodes agree" if result.agree else "THE NODES DO NOT AGREE" if result.forks else "whether the nodes agree is not known"),
        *_left_out(result),
        *(f"VIOLATION in {failure}" for failure in result.failures),
        sep="\n",
        highlight=False,
    )
