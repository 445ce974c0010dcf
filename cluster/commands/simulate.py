"""``gridpact simulate``: the real core and ledger in a virtual world, from one seed per run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from cluster.options import check_json_path, json_option
from cluster.phases import phase_bar
from cluster.simulation.bugs import edits_of, find_bug, hunt
from cluster.simulation.exhaustive import BYZANTINE, add_up
from cluster.simulation.habits import HABITS
from cluster.simulation.runner import Workers, cores, run_many
from cluster.simulation.settings import CALM_MS, FAULTS, Settings
from cluster.simulation.telling import show_bugs, show_exploration, show_replay, show_report

TICKS_HELP = "Virtual ms in which everything must commit once the faults have stopped."
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


def habit_names(text: str) -> tuple[str, ...]:
    """Return what Byzantine nodes do (a click option's ``type``).

    Raises:
        click.BadParameter: one is not known.
    """
    unknown = [name for name in text.split(",") if name not in HABITS]
    if unknown:
        raise click.BadParameter(f"{unknown[0][:40]!r} is no habit; there are {', '.join(HABITS)}")
    return tuple(text.split(","))


@click.command(epilog="Example: gridpact simulate --seeds 0:10000 --nodes 4,5,7 --faults all --json result.json")
@click.option("--seeds", type=seed_range, default="0:200", show_default=True, metavar="A:B", help="One run per seed, B not included.")
@click.option("--nodes", type=sizes, default="4", show_default=True, metavar="N[,N...]", help="How many validators: 4 to 10.")
@click.option("--faults", type=fault_names, default="all", show_default=True, metavar="all|none|NAME,...", help=f"{', '.join(FAULTS)}.")
@click.option("--byzantine", type=click.IntRange(0, 3), metavar="K", help="Exactly so many Byzantine nodes.  [default: as the seed says]")
@click.option("--habits", type=habit_names, metavar="NAME,...", help="What Byzantine nodes do.  [default: as the seed says]")
@click.option("--ticks", type=click.IntRange(1_000, 10_000_000), default=CALM_MS, show_default=True, metavar="N", help=TICKS_HELP)
@click.option("--signatures", type=click.Choice(["simulated", "real"]), default="simulated", help="A keyed hash (default), or Ed25519.")
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="Worker processes.  [default: one per core]")
@click.option("--replay", type=click.IntRange(0), metavar="SEED", help="Run one seed and print how it went.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="With --replay: write every step here.")
@click.option("--shrink", is_flag=True, help="With --replay: leave out of the schedule what it does not take to fail.")
@click.option("--plant", metavar="NAME", help="Run with a planted bug (their names: --bugs).")
@click.option("--bugs", is_flag=True, help="Plant every bug of the table; each must be caught.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="With --bugs: write the table here, too.")
@click.option("--exhaustive", is_flag=True, help="Explore every view change of a small bounded schedule.")
@json_option
def simulate(
    seeds: range,
    nodes: tuple[int, ...],
    faults: tuple[str, ...],
    byzantine: int | None,
    habits: tuple[str, ...] | None,
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
    settings = tuple(Settings(one, faults, byzantine, habits or (), ticks, signatures == "real", planted) for one in nodes)
    _check_byzantine(settings)
    edits, workers = edits_of(planted), jobs or cores()
    with phase_bar() as show:
        if exhaustive:
            show("exploring", 0.0, "")
            with Workers(workers, edits) as pool:
                exploration = add_up(pool.explore(BYZANTINE))
        elif bugs:
            hunted = hunt(workers, lambda done, total, name: show("hunting", done / total, name))
        elif replay is not None:
            show("replaying", 0.0, f"seed {replay}")
            with Workers(1, edits) as pool:
                replayed = pool.replay(settings[0], replay, shrink=shrink)
        else:
            report = run_many(settings, seeds, workers, lambda done, total, bad: show("simulating", done / total, _note(done, bad)), edits)
    if exhaustive:
        show_exploration(exploration, json_path)
    elif bugs:
        show_bugs(hunted, json_path, markdown)
    elif replay is not None:
        show_replay(replayed, trace, json_path)
    else:
        show_report(report, json_path)


def _note(done: int, failed: int) -> str:
    return f"{done:,} runs, {failed} violations" if failed else f"{done:,} runs"


def _check_byzantine(settings: Sequence[Settings]) -> None:
    """Check that not more nodes are Byzantine than may be faulty.

    Raises:
        click.UsageError: there are more.
    """
    for one in settings:
        if one.byzantine is not None and one.byzantine > one.faulty:
            raise click.UsageError(f"--byzantine {one.byzantine}: of {one.nodes} nodes at most {one.faulty} may be faulty")
