"""The ``gridpact`` command.

Exit status: 0 success, 1 a failed run, 2 wrong usage or bad input (one line on standard error that names file, field
and reason), 3 a node whose disk needs a person (store damaged, or a rule broken), 130 stopped by Ctrl-C. A traceback is a bug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click

from cluster.lazy_group import Entry, LazyGroup
from cluster.parent import PARENT_VARIABLE, end_with_parent
from consensus.errors import GridPactError, InputError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

ENTRIES = {
    "up": Entry("cluster.commands.up:up", "Start a local cluster on real household data; trade and settle."),
    "status": Entry("cluster.commands.manage:status", "Show what runs under a home folder."),
    "logs": Entry("cluster.commands.manage:logs", "Show the logs of a cluster's processes."),
    "down": Entry("cluster.commands.manage:down", "Stop a cluster."),
    "market": Entry("cluster.commands.market:market", "Book, trades, bills and orders, through any node."),
    "auction": Entry("cluster.commands.auction:auction", "Clear a double auction offline on a JSON case."),
    "settle": Entry("cluster.commands.settle:settle", "Settle delivered against traded energy offline on a JSON case."),
    "bench": Entry("cluster.commands.bench:bench", "Load test on own node processes."),
    "soak": Entry("cluster.commands.soak:soak", "Hours of load: memory, disk, and how fast a node comes back."),
    "drill": Entry("cluster.commands.drill:drill", "Faults on real processes; checks that nothing is lost."),
    "fuzz": Entry("cluster.commands.fuzz:fuzz", "Hostile input for everything that takes bytes from outside."),
    "simulate": Entry("cluster.commands.simulate:simulate", "Deterministic simulation of consensus with faults, one run per seed."),
    "init": Entry("cluster.commands.init:init", "Write genesis, keys, certificates and config, one folder per host."),
    "node": Entry("cluster.commands.node:node", "One data-centre node."),
    "validator": Entry("cluster.commands.validator:validator", "Who votes: show, add, remove, change keys."),
    "verify": Entry("cluster.commands.verify:verify", "Audit a store offline."),
    "snapshot": Entry("cluster.commands.snapshot:snapshot", "The certified state as one file: export, import, show."),
    "meter": Entry("cluster.commands.meter:meter", "Meters: simulate."),
    "broker": Entry("cluster.commands.broker:broker", "The embedded MQTT broker of a local cluster.", hidden=True),
    "fleet": Entry("cluster.commands.fleet:fleet", "The simulated meters of a local cluster.", hidden=True),
    "agents": Entry("cluster.commands.agents:agents", "The trading agents of a local cluster.", hidden=True),
}

EPILOG = """\b
Examples:
  gridpact up                                    # Ctrl-C stops everything
  gridpact up --periods 4 --json result.json     # ends by itself
  gridpact market book                           # while it runs"""


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print the installed version, and end."""
    if asked:
        try:
            click.echo(f"gridpact {version('gridpact')}")
        except PackageNotFoundError:
            click.echo("gridpact, not installed: run from its source")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    entries=ENTRIES,
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version and exit.")
def cli() -> None:
    """A permissioned ledger for microgrid electricity markets."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. Installed as ``gridpact``."""
    if PARENT_VARIABLE in os.environ:
        end_with_parent()
    try:
        result = cli.main(args=None if arguments is None else list(arguments), prog_name="gridpact", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        return _fail(_usage_line(error), EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except InputError as error:
        return _fail(str(error), EXIT_USAGE)
    except GridPactError as error:
        return _fail(str(error), EXIT_FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        return _fail(f"{error.filename or 'operating system'}: {(error.strerror or str(error)).lower()}", EXIT_FAILED)
    return result if isinstance(result, int) else 0


def _usage_line(error: click.ClickException) -> str:
    """Return a click error in one line, with the command to ask for help."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "gridpact"
    return f"{message} (see {command} --help)"


def _fail(line: str, status: int) -> int:
    """Print one line on standard error and return ``status``."""
    click.echo("gridpact: " + " ".join(line.split()), err=True)
    return status
