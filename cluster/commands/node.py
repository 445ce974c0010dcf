"""``gridpact node run``: one data-centre node in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.running import run_until_stopped
from node.config import read_config
from node.logs import set_up_logging
from node.service import run_node


@click.group()
def node() -> None:
    """One data-centre node."""


@node.command("run", epilog="Example: gridpact node run --home /srv/gridpact/node-1")
@click.option(
    "--home", type=click.Path(path_type=Path), required=True, help="Folder of the node, with its node.toml (or that file itself)."
)
def node_run(home: Path) -> None:
    """Run one node until Ctrl-C or SIGTERM, which stop it cleanly."""
    config = read_config(home)
    set_up_logging(config.log_level, config.log_file, node=config.name)
    run_until_stopped(lambda stop: run_node(config, stop))
