"""``gridpact snapshot``: the state of a channel as one file, that a new or lagging node can begin with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from cluster.counting import count_bar
from cluster.options import check_json_path, json_option, write_json
from cluster.tables import plural
from consensus.block import Header
from consensus.errors import InputError
from consensus.snapshot import SnapshotManifest, verify_snapshot
from contracts.genesis import Genesis
from node.block_store import ChannelStore
from node.config import NodeConfig, load_genesis, read_config
from node.genesis_block import start_store
from node.key_value import StoreBusyError
from node.snapshot_file import SnapshotFile, adopt_snapshot_file, write_snapshot_file
from node.snapshots import BEING_MADE, SNAPSHOTS_FOLDER, SnapshotShelf, StoredSnapshot, stored_snapshots
from node.vote_log import VoteLog


class Node(NamedTuple):
    """The folder of one node, read."""

    config: NodeConfig
    genesis: Genesis

    @property
    def blocks(self) -> Path:
        """Folder of its block store."""
        return self.config.blocks_folder(self.genesis.channel)

    @property
    def shelf(self) -> Path:
        """Folder of the snapshots that it makes by itself."""
        return self.config.channel_folder(self.genesis.channel) / SNAPSHOTS_FOLDER

    def newest(self) -> StoredSnapshot | None:
        """Return the newest snapshot that the node made by itself."""
        found = stored_snapshots(self.shelf)
        return found[-1] if found else None


def _node(home: Path) -> Node:
    config = read_config(home)
    return Node(config, load_genesis(config))


_home_option = click.option(
    "--home", type=click.Path(path_type=Path), required=True, help="Folder of the node, with its node.toml (or that file itself)."
)


@click.group()
def snapshot() -> None:
    """The certified state of a channel as one file, for a new or lagging node."""


# ------------------------------------------------------------------------------------------------------------------ export


@snapshot.command(epilog="Example: gridpact snapshot export --home /srv/gridpact/node-1 --out state.snapshot")
@_home_option
@click.option("--out", type=click.Path(path_type=Path), help="The file.  [default: CHAIN-CHANNEL-HEIGHT.snapshot]")
@json_option
def export(home: Path, out: Path | None, json_path: str | None) -> None:
    """Write the state of the node under --home, with the certificate that proves it, into a file.

    From a stopped node it is the state after its last block, if that has its certificate. While the node runs, and if the certificate
    is missing, it is the newest snapshot that the node made by itself; the output says which.
    """
    check_json_path(json_path)
    node = _node(home)
    if out is not None:
        _check_free(out)
    with _source(node) as (found, remark):
        manifest, header = _manifest(node.genesis, found)
        path = out if out is not None else Path(f"{header.chain_id}-{header.channel}-{header.height}.snapshot")
        _check_free(path)
        with count_bar("chunks") as count:
            write_snapshot_file(path, found, count)
    entries, size_bytes = sum(mark.count for mark in manifest.chunks), path.stat().st_size
    if json_path != "-":
        if remark:
            click.echo(remark)
        click.echo(f"{path}: the state after block {header.height}, {_sizes(entries, manifest, size_bytes)}")
    write_json(json_path, {"file": str(path), "remark": remark, **_facts(header, manifest, entries, size_bytes)})


def _check_free(path: Path) -> None:
    if path.exists():
        raise InputError(f"--out {path}", "exists already; nothing is overwritten")


@contextmanager
def _source(node: Node) -> Iterator[tuple[StoredSnapshot, str]]:
    """Give the snapshot to export, and what is to be said about it; one that is made for this goes afterwards."""
    if not node.blocks.is_dir():
        raise InputError(str(node.blocks), "there is no store; the node never ran")
    try:
        store = ChannelStore.open(node.blocks)
    except StoreBusyError:
        yield _kept(node, "the node is running"), "the node is running: this is the newest snapshot that it made by itself"
        return
    try:
        head = store.head()
        if head is None or head.height == 0:
            raise InputError(str(store.path), "holds no block yet")
        certificate = store.certificate(head.height)
        if certificate is None:
            why = f"block {head.height}, the last one, has no certificate yet"
            yield _kept(node, why), f"{why}: this is the newest snapshot that the node made by itself"
            return
        node.shelf.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=BEING_MADE, dir=node.shelf) as work:
            shelf = SnapshotShelf(Path(work))
            shelf.make(store.state.pinned(), head, certificate, store.epoch_changes(), share_percent=100)
            yield stored_snapshots(Path(work))[-1], ""
    finally:
        store.close()


def _kept(node: Node, why: str) -> StoredSnapshot:
    found = node.newest()
    if found is None:
        raise InputError(str(node.blocks), f"{why}, and it keeps no snapshot; let it run until one is there, or stop it and try again")
    return found


def _manifest(genesis: Genesis, found: StoredSnapshot) -> tuple[SnapshotManifest, Header]:
    manifest = found.manifest()
    return manifest, verify_snapshot((genesis.validator_set,), manifest)[0]


# ------------------------------------------------------------------------------------------------------------------ import


@snapshot.command("import", epilog="Example: gridpact snapshot import state.snapshot --home /srv/gridpact/node-4")
@click.argument("file", type=click.Path(path_type=Path))
@_home_option
@click.option("--force", is_flag=True, help="Replace the blocks and the state that the node has; they must be older.")
@json_option
def import_(file: Path, home: Path, force: bool, json_path: str | None) -> None:
    """Let the node under --home begin with the state in FILE instead of fetching every block since genesis.

    The node must be stopped. Everything is checked against its genesis: the certificate by the validators, every entry by its hash. If
    something is wrong nothing changes.
    """
    check_json_path(json_path)
    node = _node(home)
    found = SnapshotFile(file)
    try:
        header, _ = verify_snapshot((node.genesis.validator_set,), found.manifest)
    except InputError as error:
        raise InputError(str(file), str(error)) from error
    try:
        store = ChannelStore.open(node.blocks)
    except StoreBusyError as error:
        raise InputError(f"--home {home}", "the node is running; stop it first") from error
    try:
        before = store.head()
        height = before.height if before is not None else 0
        _check_place(store, height, header.height, force)
        start_store(node.genesis, store)
        with count_bar("chunks") as count:
            entries = adopt_snapshot_file(store, found, header, count)
    finally:
        store.close()
    VoteLog.open(node.config.votes_folder(node.genesis.channel)).close()
    if json_path != "-":
        what = f", in place of what was there up to block {height}" if height else ""
        click.echo(f"{node.config.name}: has the state after block {header.height} ({plural(entries, 'value')}){what}")
        click.echo("start the node: it fetches the blocks after that from the others")
    write_json(json_path, {"home": str(home), "replaced_height": height, **_facts(header, found.manifest, entries, found.size_bytes)})


def _check_place(store: ChannelStore, height: int, new_height: int, force: bool) -> None:
    if height >= new_height:
        raise InputError(str(store.path), f"is at height {height} already, the snapshot is of height {new_height}")
    if height and not force:
        what = f"holds blocks up to height {height}; --force puts the snapshot of height {new_height} in their place"
        raise InputError(str(store.path), what)


# -------------------------------------------------------------------------------------------------------------------- show


@snapshot.command(epilog="Example: gridpact snapshot show state.snapshot")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, json_path: str | None) -> None:
    """Show of what block FILE holds the state, after checking that it is whole and that all entries give the state root.

    Whether the validators signed it needs their keys, which stand in the genesis file: `import` checks that.
    """
    check_json_path(json_path)
    found = SnapshotFile(file)
    with count_bar("chunks") as count:
        entries = sum(len(chunk) for chunk in found.chunks(count))
    header, manifest = found.header, found.manifest
    if json_path != "-":
        click.echo(f"{file}: whole; the state after block {header.height} of chain {header.chain_id}, channel {header.channel}")
        click.echo(f"  {_sizes(entries, manifest, found.size_bytes)}")
        click.echo(f"  block {header.hash.hex()}")
        click.echo(f"  state {header.state_root.hex()}")
        signers = ", ".join(str(vote.validator) for vote in manifest.certificate.votes)
        click.echo(f"  certificate with the signatures of validators {signers} (not checked: that needs the genesis file)")
    write_json(json_path, _facts(header, manifest, entries, found.size_bytes))


def _sizes(entries: int, manifest: SnapshotManifest, size_bytes: int) -> str:
    return f"{plural(entries, 'value')} in {plural(len(manifest.chunks), 'chunk')}, {size_bytes:,} bytes"


def _facts(header: Header, manifest: SnapshotManifest, entries: int, size_bytes: int) -> dict[str, object]:
    return {
        "chain_id": header.chain_id,
        "channel": header.channel,
        "height": header.height,
        "time_ms": header.time_ms,
        "header_hash": header.hash.hex(),
        "state_root": header.state_root.hex(),
        "entries": entries,
        "chunks": len(manifest.chunks),
        "size_bytes": size_bytes,
        "signers": [vote.validator for vote in manifest.certificate.votes],
    }
