"""``gridpact simulate``: the real core and ledger in a virtual world, from one seed per run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from cluster.options import RunError, cannot_write, check_json_path, json_option, write_json
from cluster.phases import phase_bar
from cluster.simulation.bugs import BUGS, BugReport, edits_of, find_bug, hunt
from cluster.simulation.exhaustive import ExhaustiveReport, explore
from cluster.simulation.runner import Report, Workers, cores, run_many
from cluster.simulation.settings import CALM_MS, FAULTS, Settings
from cluster.simulation.shrink import Replay
from cluster.tables import print_table

NODES = (4, 5, 6, 7, 10)
LAST_LINES = 60
_SEEDS = re.compile(r"^(\d{1,12}):(\d{1,12})$")


def seed_range(text: str) -> range:
    """Return the seeds ``A:B``, B not included (a click option's ``type``).

    Raises:
        click.BadParameter: it is not a range.
    """
    match = _SEEDS.match(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise click.BadParameter(f"{text[:40]!r} is not a range of seeds such as 0:1000")
    return range(int(match[1]), int(match[2]))


def sizes(text: str) -> tuple[int, ...]:
    """Return cluster sizes such as ``4,5,6`` (a click option's ``type``).

    Raises:
        click.BadParameter: one is not a number from 4 to 10.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 4 <= int(part) <= 10 for part in parts):
        raise click.BadParameter(f"{text[:40]!r} is not a list of cluster sizes from 4 to 10, such as 4,5,7")
    return tuple(dict.fromkeys(int(part) for part in parts))


def fault_names(text: str) -> tuple[str, ...]:
    """Return the faults that ``all``, ``none`` or a list of names stands for (a click option's ``type``).

    Raises:
        click.BadParameter: one is not known.
    """
    if text in ("all", "none"):
        return FAULTS if text == "all" else ()
    names = text.split(",")
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise click.BadParameter(f"{unknown[0][:40]!r} is no fault; there are {', '.join(FAULTS)}")
    return tuple(name for name in FAULTS if name in names)


@click.command(epilog="Example: gridpact simulate --seeds 0:10000 --nodes 4,5,7 --faults all --json result.json")
@click.option("--seeds", type=seed_range, default="0:200", show_default=True, metavar="A:B", help="One run per seed, B not included.")
@click.option("--nodes", type=sizes, default="4", show_default=True, metavar="N[,N...]", help="How many validators.")
@click.option("--faults", type=fault_names, default="all", show_default=True, metavar="all|NAME,...", help=f"Out of {', '.join(FAULTS)}.")
@click.option("--byzantine", type=click.IntRange(0, 3), metavar="K", help="Exactly so many Byzantine nodes.  [default: the seed decides]")
@click.option("--ticks", type=click.IntRange(1_000, 10_000_000), default=CALM_MS, show_default=True, metavar="N",
              help="Virtual ms in which everything must commit once the faults have stopped.")  # fmt: skip
@click.option("--signatures", type=click.Choice(["simulated", "real"]), default="simulated", show_default=True,
              help="A keyed hash, or Ed25519.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 256), help="Worker processes.  [default: one per core]")
@click.option("--replay", type=click.IntRange(0), metavar="SEED", help="Run one seed and print how it went.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="With --replay: write every step here.")
@click.option("--shrink", is_flag=True, help="With --replay: leave out of the schedule what it does not take to fail.")
@click.option("--plant", metavar="NAME", help="Run with a planted bug.")
@click.option("--bugs", is_flag=True, help="Run the table of planted bugs: each must be caught.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="With --bugs: write the table here, too.")
@click.option("--exhaustive", is_flag=True, help="Explore every view change of a small bounded schedule.")
@json_option
def simulate(
    seeds: range,
    nodes: tuple[int, ...],
    faults: tuple[str, ...],
    byzantine: int | None,
    ticks: int,
    signatures: str,
    jobs: int | None,
    replay: int | None,
    trace: Path | None,
    shrink: bool,
    plant: str | None,
    bugs: bool,
    markdown: Path | None,
    exhaustive: bool,
    json_path: str | None,
) -> None:
    """Run the real consensus core and ledger on a virtual network, clock and disk with faults; the same seed gives the same run."""
    check_json_path(json_path)
    planted = "" if plant is None else find_bug(plant).name
    settings = tuple(_settings(one, faults, byzantine, ticks, signatures == "real", planted) for one in nodes)
    workers = jobs or cores()
    if exhaustive:
        _show_exhaustive(explore_with_bar(planted), json_path)
    elif bugs:
        _show_bugs(_hunt_with_bar(workers), json_path, markdown)
    elif replay is not None:
        with Workers(1, edits_of(planted)) as pool:
            _show_replay(pool.replay(settings[0], replay, shrink=shrink), trace, json_path)
    else:
        with phase_bar() as show:
            report = run_many(settings, seeds, workers, lambda done, total, bad: show("simulating", done / total, _note(done, bad)),
                              edits_of(planted))  # fmt: skip
        _show_report(report, json_path)


def _note(done: int, failed: int) -> str:
    return f"{done:,} runs, {failed} violations" if failed else f"{done:,} runs"


def _settings(nodes: int, faults: tuple[str, ...], byzantine: int | None, ticks: int, real: bool, plant: str) -> Settings:
    settings = Settings(nodes, faults, byzantine, ticks, real, plant)
    if byzantine is not None and byzantine > settings.faulty:
        raise click.UsageError(f"--byzantine {byzantine}: of {nodes} nodes at most {settings.faulty} may be faulty")
    return settings
