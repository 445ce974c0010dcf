"""``gridpact fuzz``: hostile input for everything that takes bytes from outside."""

from __future__ import annotations

import secrets
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console

from cluster.fuzz.crashes import CrashFile, read_crash
from cluster.fuzz.crew import AUTO, ENGINES, FuzzSettings, run_fuzz, work_folder
from cluster.fuzz.law import Failure
from cluster.fuzz.report import FuzzResult
from cluster.fuzz.targets import TABLE, TARGETS, shared
from cluster.fuzz.trial import Trial
from cluster.options import RunError, check_json_path, json_option, write_json
from cluster.phases import phase_bar, run_interruptible
from cluster.tables import plural, print_table
from cluster.usage import cores
from consensus.errors import InputError

ALL = "all"
DEFAULT_S = 60.0
EPILOG = """\b
Examples:
  gridpact fuzz --seconds 60                          # all targets
  gridpact fuzz --target http --inputs 5000 --seed 1
  gridpact fuzz --total 10000000 --jobs 1 --json out.json
  gridpact fuzz --replay fuzz-crashes/http-0123456789ab.json"""
_LIST = "\n".join(f"  {name:<14}{entry.about}" for name, entry in TABLE.items())


_HELP = f"""Feed hostile input to everything that takes bytes from outside; it must be taken, or refused as documented.

Valid inputs are changed as values and as bytes. Whatever else an input leads to (another exception, a broken promise, too much time,
growing memory, a dead process) is a crash: the input is written to a file, and the command to replay it is printed. Exit status 1 then.

\b
Targets:
{_LIST}"""


@click.command(epilog=EPILOG, help=_HELP)
@click.option("--target", "targets", multiple=True, type=click.Choice((*TABLE, ALL)), help="What to feed; may be repeated.  [default: all]")
@click.option("--seconds", type=click.FloatRange(0.5, 30 * 86_400), metavar="S", help="Time for all targets together.  [default: 60]")
@click.option("--inputs", type=click.IntRange(1), metavar="N", help="Inputs for each target, instead of a time.")
@click.option("--total", type=click.IntRange(1), metavar="N", help="Inputs for all targets together: the slow ones get fewer.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="The same seed gives the same inputs.  [default: a new one]")
@click.option(
    "--engine", type=click.Choice(ENGINES), default=AUTO, show_default=True, help="atheris (guided by coverage) or the built-in one."
)
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="Processes.  [default: one for each core]")
@click.option(
    "--corpus", type=click.Path(path_type=Path, file_okay=False), help="Folder of inputs to begin with; good new ones are kept there."
)
@click.option(
    "--crashes", type=click.Path(path_type=Path, file_okay=False), default="fuzz-crashes", show_default=True, help="Folder for crash files."
)
@click.option(
    "--replay", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Feed one crash file again, and nothing else."
)
@json_option
def fuzz(
    targets: tuple[str, ...],
    seconds: float | None,
    inputs: int | None,
    total: int | None,
    seed: int | None,
    engine: str,
    jobs: int | None,
    corpus: Path | None,
    crashes: Path,
    replay: Path | None,
    json_path: str | None,
) -> None:
    """Fuzz, or replay."""
    check_json_path(json_path)
    if replay is not None:
        run_replay(replay, json_path)
        return
    names = tuple(TABLE) if not targets or ALL in targets else tuple(dict.fromkeys(targets))
    budget_s, wanted = budget(names, seconds, inputs, total)
    number = secrets.randbelow(2**32) if seed is None else seed
    settings = FuzzSettings(names, budget_s, wanted, number, engine, jobs or cores(), corpus, crashes)
    with phase_bar() as show:
        result = run_interruptible(lambda: run_fuzz(settings, show))
    write_json(json_path, result)
    if json_path != "-":
        print_result(result)
    if result.crashes:
        raise RunError(f"{plural(result.crashes, 'crash').replace('crashs', 'crashes')} found")


def budget(
    names: Sequence[str], seconds: float | None, inputs: int | None, total: int | None
) -> tuple[float | None, dict[str, int] | None]:
    """Return the time for all targets, or the number of inputs for each.

    Raises:
        InputError: more than one of the three is given.
    """
    given = [option for option, value in (("--seconds", seconds), ("--inputs", inputs), ("--total", total)) if value is not None]
    if len(given) > 1:
        raise InputError(given[1], f"there is a budget already ({given[0]})")
    if total is not None:
        return None, shared(total, names)
    if inputs is not None:
        return None, dict.fromkeys(names, inputs)
    return (DEFAULT_S if seconds is None else seconds), None


def print_result(result: FuzzResult) -> None:
    """Show the result to people."""
    rows = [
        (
            name,
            f"{target.inputs:,}",
            f"{target.inputs_per_cpu_s:,.0f}",
            f"{100 * target.accepted / max(1, target.inputs):.0f} %",
            f"{target.outcomes:,}",
            f"{target.corpus:,}",
            f"{target.rss_start_mb:.0f}",
            f"{target.rss_warm_mb:.0f}",
            f"{target.rss_end_mb:.0f}",
            str(target.crashes),
        )
        for name, target in result.targets.items()
    ]
    columns = (
        "target", ">inputs", ">per core s", ">accepted", ">outcomes", ">corpus", ">MB first", ">MB warm", ">MB last", ">crashes"
    )  # fmt: skip
    print_table("Fuzzing", columns, rows)
    screen = Console(soft_wrap=True)
    budget = f"{result.inputs:,} inputs in {result.wall_s:.0f} s, {plural(result.jobs, 'process').replace('processs', 'processes')}"
    screen.print(f"{budget}, engine {result.engine}, seed {result.seed}, crashes {result.crashes}.", highlight=False, markup=False)
    for crash in result.found:
        place = f" at {crash.place}" if crash.place else ""
        screen.print(
            f"{crash.target}: {crash.error}{place}", f"  gridpact fuzz --replay {crash.file}", sep="\n", highlight=False, markup=False
        )


class Replayed(msgspec.Struct, frozen=True):
    """What came of a replay.

    Fields:
        error, place: how an input failed; empty if all were handled as they must be.
        peak_kb: most memory that Python held for it.
    """

    target: str
    inputs: int
    reproduced: bool
    error: str
    place: str
    peak_kb: int


def run_replay(path: Path, json_path: str | None) -> None:
    """Feed a crash file again.

    Raises:
        InputError: it is none.
        RunError: it still leads to a failure.
    """
    file = read_crash(path)
    if file.target not in TARGETS:
        raise InputError(str(path), f"names the target {file.target[:64]!r}, which there is none of")
    result, failure = replay_crash(file)
    write_json(json_path, result)
    if json_path != "-":
        click.echo(f"{result.target}: {plural(result.inputs, 'input')}, at most {result.peak_kb:,} KB of Python's memory")
        click.echo("every input was taken, or refused as documented" if failure is None else failure.trace.rstrip())
    if result.reproduced:
        raise RunError(f"{path}: {result.error}" + (f" at {result.place}" if result.place else ""))


def replay_crash(file: CrashFile) -> tuple[Replayed, Failure | None]:
    """Feed the inputs of a crash file to a new target; return what came of it."""
    with work_folder() as folder:
        trial = Trial(file.target, TARGETS[file.target], Path(folder), lambda _crash: None)
        tracemalloc.start()
        failure = trial.replay([bytes.fromhex(data) for data in file.inputs])
        peak_kb = tracemalloc.get_traced_memory()[1] // 1024
        tracemalloc.stop()
        trial.close()
    if failure is None:
        return Replayed(file.target, len(file.inputs), False, "", "", peak_kb), None
    return Replayed(file.target, len(file.inputs), True, failure.text, failure.place, peak_kb), failure
