"""``gridpact verify``: audits stores offline."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import click

from cluster.counting import count_bar
from cluster.options import check_json_path, home_option, json_option, write_json
from cluster.tables import plural
from cluster.topology import NODES_FOLDER, TOPOLOGY_FILE
from consensus.errors import InputError
from node.audit import AuditReport, audit
from node.audit_report import Progress as OnBlock
from node.config import CONFIG_FILE, load_genesis, read_config

EPILOG = """\b
Examples:
  gridpact verify --home .gridpact                  # every node of a local cluster
  gridpact verify --home /srv/gridpact/node-1       # one node
  gridpact verify --home .gridpact --json report.json"""


class Target(NamedTuple):
    """One node's store."""

    name: str
    folder: Path


@click.command(epilog=EPILOG)
@home_option
@json_option
def verify(home: Path, json_path: str | None) -> int:
    """Audit the stores under --home: hash links, Merkle roots, certificates, signatures, and all state executed again.

    Works on a copy: nothing is changed, and the nodes may run. Exit status 1 when something is wrong.
    """
    check_json_path(json_path)
    reports = {}
    for target in targets(home):
        with count_bar(target.name) as on_block:
            reports[target.name] = _audit(target, on_block)
        if json_path != "-":
            print_report(target.name, reports[target.name])
    if json_path != "-" and not all(report.ok for report in reports.values()):
        click.echo("remedy: end the cluster, move nodes/NAME/data of a damaged node away, start again: it catches up from the others")
    good = all(report.ok for report in reports.values())
    write_json(json_path, {"ok": good, "nodes": {name: {"ok": report.ok, **asdict(report)} for name, report in reports.items()}})
    return 0 if good else 1


def targets(home: Path) -> list[Target]:
    """Return the stores under a cluster's or a node's folder.

    Raises:
        InputError: it is neither.
    """
    if (home / CONFIG_FILE).is_file():
        return [Target(read_config(home).name, home)]
    nodes = sorted((home / NODES_FOLDER).glob(f"*/{CONFIG_FILE}"))
    if not (home / TOPOLOGY_FILE).is_file() and not nodes:
        raise InputError(f"--home {home}", f"holds neither a cluster ({TOPOLOGY_FILE}) nor a node ({CONFIG_FILE})")
    return [Target(read_config(path).name, path.parent) for path in nodes]


def _audit(target: Target, on_block: OnBlock) -> AuditReport:
    config = read_config(target.folder)
    genesis = load_genesis(config)
    return audit(config.channel_folder(genesis.channel), genesis, on_block)


def print_report(name: str, report: AuditReport) -> None:
    """Show what the audit of one node found."""
    verdict = "good" if report.ok else plural(len(report.faults), "fault")
    if report.height < 0:
        counts = "no block could be read" if report.faults else "the store is empty"
    else:
        counts = f"{plural(report.blocks, 'block')} up to height {report.height}, {plural(report.transactions, 'transaction')}"
        counts += f", certified up to {report.certified_height}"
    click.echo(f"{name}: {verdict}; {counts}")
    for note in report.notes:
        click.echo(f"  note: {note}")
    for fault in report.faults:
        where = "" if fault.height is None else f"block {fault.height}: "
        click.echo(f"  {where}{fault.what}: {fault.detail}")
