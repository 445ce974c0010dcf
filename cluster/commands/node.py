"""``gridpact node run``: one data-centre node in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.processes import EXIT_KEEP_DISK
from cluster.running import run_until_stopped
from consensus.errors import InvariantViolation
from node.config import read_config
from node.key_value import StoreDamagedError
from node.logs import set_up_logging
from node.service import NodeFailedError, run_node


@click.group()
def node() -> None:
    """One data-centre node."""


@node.command("run", epilog="Example: gridpact node run --home /srv/gridpact/node-1")
@click.option(
    "--home", type=click.Path(path_type=Path), required=True, help="Folder of the node, with its node.toml (or that file itself)."
)
def node_run(home: Path) -> int:
    """Run one node until Ctrl-C or SIGTERM, which stop it cleanly.

    Exit status 3 when its own store is damaged, or when it broke a rule that must hold (its result differs from a certified one): it
    cannot repair that by itself, and starting it again does not help. Its data stays as it is.
    """
    config = read_config(home)
    set_up_logging(config.log_level, config.log_file, node=config.name)
    try:
        run_until_stopped(lambda stop: run_node(config, stop))
    except (StoreDamagedError, InvariantViolation) as error:
        causes = error.causes if isinstance(error, NodeFailedError) else (error,)
        if any(isinstance(cause, StoreDamagedError) for cause in causes):
            what = f"its store is damaged ({error})"
        elif any(isinstance(cause, InvariantViolation) for cause in causes):
            what = f"it broke a rule that must hold ({error}) and votes no more"
        else:
            raise
        remedy = f"move {config.data.absolute()} away, keep it, and start again: the node catches up from the others"
        click.echo(f"gridpact: {what}; {remedy}", err=True)
        return EXIT_KEEP_DISK
    return 0
