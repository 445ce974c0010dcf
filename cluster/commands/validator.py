"""``gridpact validator``: who the data-centre nodes are, and changing that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from cluster.options import RunError, check_json_path, json_option, write_json
from cluster.tables import print_table, short
from cluster.voting import Decision, decide, node_folders, vote_log_of, voters_in
from consensus.errors import InputError
from contracts.calls import VoteOnValidators
from contracts.genesis import Genesis
from node.client import GridPactClient, NodeUnreachable
from node.config import read_config
from node.http.views import ValidatorSetsView
from node.keys import read_signer
from node.new_node import NewNode, make_next_key, make_node

EPILOG = """\b
Examples (the cluster's folder holds nodes/NAME, as `gridpact init` and `up` make it):
  gridpact validator list --home cluster
  gridpact validator new node-5 --cluster cluster --host 10.0.0.5
  gridpact validator add node-5 --home cluster          # one vote per node folder that is here
  gridpact validator remove node-2 --home nodes/node-1  # this node's vote; the others vote on their hosts"""
PEER_PORT, HTTP_PORT = 9000, 8080
home_option = click.option(
    "--home",
    "homes",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    required=True,
    metavar="DIR",
    help="A node's folder, or a cluster's with all that are here; may be repeated.",
)
wait_option = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the change is in force.")


@click.group(epilog=EPILOG)
def validator() -> None:
    """Show, add, remove and replace data-centre nodes that vote, and their keys.

    The validators decide: each operator runs the command with the folder of the own node, which signs its vote. When enough have voted (see
    list), a new epoch is announced; it begins some blocks later.
    """


@validator.command("list", epilog="Example: gridpact validator list --node http://10.0.0.1:8080")
@click.option("--home", "homes", type=click.Path(path_type=Path, file_okay=False), multiple=True, metavar="DIR", help="As for add.")
@click.option("--node", "nodes", metavar="URL", multiple=True, help="URL of a node, instead of --home; may be repeated.")
@json_option
def list_(homes: tuple[Path, ...], nodes: tuple[str, ...], json_path: str | None) -> None:
    """Show the present and the announced sets, open votes, and proven misbehaviour."""
    check_json_path(json_path)
    if not nodes and not homes:
        raise InputError("--home, --node", "one of them is needed")
    urls, genesis = (list(nodes), None) if nodes else _urls(homes)
    sets = asyncio.run(_ask(urls, genesis))
    if json_path is not None:
        write_json(json_path, sets)
        return
    _print(sets)


@validator.command(epilog="Example: gridpact validator new node-5 --cluster cluster --host 10.0.0.5")
@click.argument("name")
@click.option("--cluster", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="With nodes/ and ca.key.")
@click.option("--host", required=True, help="Where the other nodes reach it.")
@click.option("--port", type=click.IntRange(1, 65_535), default=PEER_PORT, show_default=True, help="For the other nodes.")
@click.option("--http-port", type=click.IntRange(1, 65_535), default=HTTP_PORT, show_default=True, help="For API and dashboard.")
@click.option("--http-host", default="", metavar="HOST", help="Where its API listens.  [default: as for the other nodes]")
@click.option("--listen", "listen_host", default="", metavar="HOST", help="Where it listens for the others.  [default: --host]")
@click.option("--follow", "follows", is_flag=True, help="It gets no validator key: it follows, serves queries and forwards transactions.")
@json_option
def new(name: str, cluster: Path, json_path: str | None, **asked: Any) -> None:  # noqa: ANN401 - the other options
    """Write the folder of one more node: keys, certificate, configuration. Nothing changes on the chain."""
    check_json_path(json_path)
    folder, key = make_node(cluster, NewNode(name=name, **asked))
    if json_path is not None:
        write_json(json_path, {"name": name, "folder": str(folder), "public_key": key.hex(), "follows": asked["follows"]})
        return
    click.echo(f"{folder}: copy it to {asked['host']}, there: gridpact node run --home {folder.name}")
    if not asked["follows"]:
        click.echo(f"It follows until the validators have voted for it: gridpact validator add {name} --home ... (public key {key.hex()})")


@validator.command(epilog="Example: gridpact validator add node-5 --home cluster")
@click.argument("name")
@home_option
@click.option("--key", metavar="HEX", help="Its public key.  [default: from its folder, if that is under --home]")
@click.option("--host", help="Where the other nodes reach it.  [default: from its folder]")
@click.option("--port", type=click.IntRange(1, 65_535), help="The same.  [default: from its folder]")
@click.option("--account", metavar="NAME", help="Participant that earns its fees.  [default: the operator's]")
@click.option(
    "--log",
    metavar="HEX",
    help="Id of its vote log, as its status says; '' if its data were never deleted.  [default: asked of the node, if its folder is here]",
)
@wait_option
@json_option
def add(
    name: str,
    homes: tuple[Path, ...],
    key: str | None,
    host: str | None,
    port: int | None,
    account: str | None,
    log: str | None,
    wait: bool,
    json_path: str | None,
) -> int:
    """Vote to add a validator. Start its node before the new epoch begins, so that it has caught up by then.

    All must name the same vote log: a seat that belongs to another one than the node has counts as failed until the node has renewed it.
    """
    folder = _folder_of(name, homes)
    config = read_config(folder) if folder is not None else None
    if key is None and config is not None and config.validator_keys:
        key = read_signer(config.validator_keys[0]).public_key.hex()
    host = host or (config.listen.host if config is not None and config.listen.host not in ("0.0.0.0", "::") else None)  # noqa: S104
    port = port or (config.listen.port if config is not None else None)
    if key is None or host is None or port is None:
        raise InputError("--key, --host, --port", f"are needed: no folder of {name} under --home says them")
    if log is None:
        log = asyncio.run(vote_log_of(folder)).hex() if folder is not None else ""
    change = VoteOnValidators(0, "add", name, _key(key), account or "OPERATOR", host, port, log=_hex("--log", log))
    return _vote(homes, change, wait, json_path)


@validator.command(epilog="Example: gridpact validator remove node-2 --home cluster")
@click.argument("name")
@home_option
@wait_option
@json_option
def remove(name: str, homes: tuple[Path, ...], wait: bool, json_path: str | None) -> int:
    """Vote to remove a validator. Its node goes on as a follower, or may be stopped once the new epoch has begun."""
    return _vote(homes, VoteOnValidators(0, "remove", name), wait, json_path)


@validator.command(epilog="Example: gridpact validator key --home nodes/node-2")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="The node's folder.")
@json_option
def key(home: Path, json_path: str | None) -> None:
    """Make the next key of a node, beside the present one. Restart the node, then let the validators vote: gridpact validator rotate."""
    check_json_path(json_path)
    public_key = make_next_key(home).hex()
    if json_path is not None:
        write_json(json_path, {"name": read_config(home).name, "public_key": public_key})
        return
    name = read_config(home).name
    click.echo(f"next key of {name}: {public_key}")
    click.echo(f"Restart {name}, so that it holds both; then: gridpact validator rotate {name} --key {public_key} --home ...")


@validator.command(epilog="Example: gridpact validator rotate node-2 --home cluster")
@click.argument("name")
@home_option
@click.option("--key", metavar="HEX", help="Its next public key.  [default: from its folder, if that is under --home]")
@wait_option
@json_option
def rotate(name: str, homes: tuple[Path, ...], key: str | None, wait: bool, json_path: str | None) -> int:
    """Vote to replace a validator's key by its next one (see gridpact validator key). Its node must run with both."""
    folder = _folder_of(name, homes)
    if key is None and folder is not None:
        keys = read_config(folder).validator_keys
        key = read_signer(keys[-1]).public_key.hex() if len(keys) > 1 else None
    if key is None:
        raise InputError("--key", f"is needed: no folder under --home holds a next key of {name}; gridpact validator key makes one")
    return _vote(homes, VoteOnValidators(0, "replace", name, _key(key)), wait, json_path)


def _key(text: str) -> bytes:
    value = _hex("--key", text)
    if len(value) != 32:
        raise InputError("--key", f"{len(value)} bytes, a public key has 32")
    return value


def _hex(option: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InputError(option, "is not hexadecimal") from error


def _folder_of(name: str, homes: tuple[Path, ...]) -> Path | None:
    return next((folder for folder in node_folders(homes) if read_config(folder).name == name), None)


def _vote(homes: tuple[Path, ...], change: VoteOnValidators, wait: bool, json_path: str | None) -> int:
    check_json_path(json_path)
    voters, genesis = voters_in(homes)

    def say(text: str) -> None:
        if json_path != "-":
            click.echo(text)

    try:
        decision = asyncio.run(decide(voters, genesis, change, say, wait=wait))
    except TimeoutError as error:
        raise RunError(str(error)) from error
    write_json(json_path, decision)
    if not decision.decided:
        say(_still_needed(decision))
    return 0


def _still_needed(decision: Decision) -> str:
    missing = decision.needed - len(decision.votes)
    return f"not decided: {decision.needed} validators must vote for it, {max(missing, 0)} more than those here"


def _urls(homes: tuple[Path, ...]) -> tuple[list[str], Genesis]:
    voters, genesis = voters_in(homes)
    return [voter.url for voter in voters], genesis


async def _ask(urls: list[str], genesis: Genesis | None) -> ValidatorSetsView:
    async with GridPactClient(urls, genesis) as client:
        try:
            return await client.validators()
        except NodeUnreachable as error:
            raise RunError(str(error)) from error


def _print(sets: ValidatorSetsView) -> None:
    for epoch in (sets.present, *sets.announced):
        title = f"Epoch {epoch.number}, {epoch.state}, from block {epoch.first_height}; {epoch.votes_needed} votes decide a change"
        rows = ((one.name, one.account, f"{one.host}:{one.port}" if one.host else "", one.public_key[:16]) for one in epoch.members)
        print_table(title, ("validator", "fees to", "address", "key"), rows)
    for change in sets.changes:
        who = ", ".join(change.approvals)
        click.echo(
            f"open: {change.action} {change.member.name} ({short(change.change)}), {len(change.approvals)} of {change.needed}: {who}"
        )
    for offence in sets.offences:
        click.echo(f"double signing: {offence.validator}, {offence.kind} of epoch {offence.epoch}, sequence {offence.sequence}")
