"""``gridpact snapshot``: what one node exports another begins with; nothing damaged or forged changes a store."""

import hashlib
import json
import random
import struct

import pytest

from cluster.cli import main
from consensus.codec import encode
from consensus.snapshot import Chunk, SnapshotManifest
from node.config import read_config
from node.snapshot_file import MAGIC
from node.snapshots import SNAPSHOTS_FOLDER, SnapshotShelf
from tests.cluster.offline_node import OfflineNodes
from tests.node.running_cluster import RunningCluster
from tests.node.snapshot_store import keys
from tests.node.test_service import execute, heights_agree


@pytest.fixture
def nodes(tmp_path):
    return OfflineNodes(tmp_path / "home")


def export(nodes, number, path, *more):
    return main(["snapshot", "export", "--home", str(nodes.folders[number]), "--out", str(path), *more])


def take_in(nodes, number, path, *more):
    return main(["snapshot", "import", str(path), "--home", str(nodes.folders[number]), *more])


def refusal(capsys):
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1, shown.err
    assert shown.err.startswith("gridpact: ")
    return shown.err


def shelve(nodes, number):
    """Let a node keep a snapshot of its head."""
    store = nodes.open(number)
    shelf = SnapshotShelf(nodes.channel(number) / SNAPSHOTS_FOLDER)
    assert shelf.make(store.state.pinned(), store.head(), store.certificate(store.head().height))
    store.close()


def test_an_empty_node_begins_with_what_another_exported(nodes, tmp_path, capsys):
    head = nodes.grow(0, 6)
    path = tmp_path / "state.snapshot"
    assert export(nodes, 0, path, "--json", str(tmp_path / "export.json")) == 0
    assert capsys.readouterr().out.startswith(f"{path}: the state after block 6, ")
    assert main(["snapshot", "show", str(path), "--json", str(tmp_path / "show.json")]) == 0
    shown = capsys.readouterr().out
    assert "whole; the state after block 6 of chain test-chain, channel main" in shown
    assert head.hash.hex() in shown
    assert "validators 0, 1, 2 (not checked" in shown
    assert take_in(nodes, 3, path, "--json", str(tmp_path / "import.json")) == 0
    assert "node-3: has the state after block 6" in capsys.readouterr().out
    found, base, entries = nodes.state(3)
    assert (found, base) == (head, 6)
    assert entries == nodes.state(0)[2]
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("export", "show", "import")]
    for result in results:
        assert (result["height"], result["header_hash"], result["entries"]) == (6, head.hash.hex(), len(entries))
        assert result["size_bytes"] == path.stat().st_size
    assert results[2]["replaced_height"] == 0
    assert main(["verify", "--home", str(nodes.folders[3])]) == 0
    shown = capsys.readouterr().out
    assert "node-3: good; 2 blocks up to height 6" in shown
    assert "blocks below 7 are not stored, nor is a snapshot to begin with: no block was executed again" in shown
    assert "the state was compared with the state root of block 6, which is certified" in shown


def test_older_blocks_are_replaced_only_by_force_and_newer_ones_never(nodes, tmp_path, capsys):
    nodes.grow(0, 6)
    nodes.grow(1, 2)
    nodes.grow(2, 6)
    path = tmp_path / "state.snapshot"
    assert export(nodes, 0, path) == 0
    capsys.readouterr()
    before = nodes.state(1)
    assert take_in(nodes, 1, path) == 2
    assert "holds blocks up to height 2; --force puts the snapshot of height 6 in their place" in refusal(capsys)
    assert nodes.state(1) == before
    for force in ([], ["--force"]):
        assert take_in(nodes, 2, path, *force) == 2
        assert "is at height 6 already, the snapshot is of height 6" in refusal(capsys)
    assert take_in(nodes, 1, path, "--force") == 0
    assert "in place of what was there up to block 2" in capsys.readouterr().out
    store = nodes.open(1)
    assert (store.base, store.block(1), store.header(1)) == (6, None, None)
    assert dict(store.entries()) == nodes.state(0)[2]
    store.close()


def test_a_running_node_exports_the_newest_snapshot_that_it_keeps(nodes, tmp_path, capsys):
    nodes.grow(0, 3)
    path = tmp_path / "state.snapshot"
    store = nodes.open(0)
    assert export(nodes, 0, path) == 2
    assert "the node is running, and it keeps no snapshot" in refusal(capsys)
    store.close()
    shelve(nodes, 0)
    nodes.grow(0, 2)
    store = nodes.open(0)
    assert export(nodes, 0, path) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("the node is running: this is the newest snapshot that it made by itself\n")
    assert "after block 3" in shown
    store.close()
    store = nodes.open(3)
    assert take_in(nodes, 3, path) == 2
    assert "the node is running; stop it first" in refusal(capsys)
    store.close()


def test_a_head_without_certificate_is_not_exported(nodes, tmp_path, capsys):
    nodes.grow(0, 3)
    nodes.grow(0, 2, uncertified=1)
    path = tmp_path / "state.snapshot"
    assert export(nodes, 0, path) == 2
    assert "block 5, the last one, has no certificate yet, and it keeps no snapshot" in refusal(capsys)
    nodes.wipe(0)
    nodes.grow(0, 3)
    shelve(nodes, 0)
    nodes.grow(0, 2, uncertified=1)
    assert export(nodes, 0, path, "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["height"] == 3
    assert result["remark"].startswith("block 5, the last one, has no certificate yet: this is the newest snapshot")


def test_export_writes_over_nothing_and_needs_a_block(nodes, tmp_path, capsys, monkeypatch):
    path = tmp_path / "state.snapshot"
    assert export(nodes, 0, path) == 2
    assert "the node never ran" in refusal(capsys)
    nodes.open(0).close()
    assert export(nodes, 0, path) == 2
    assert "holds no block yet" in refusal(capsys)
    nodes.grow(0, 1)
    path.write_text("mine")
    assert export(nodes, 0, path) == 2
    assert "exists already" in refusal(capsys)
    assert path.read_text() == "mine"
    assert export(nodes, 0, tmp_path / "absent" / "file") == 2
    assert "absent" in refusal(capsys)
    monkeypatch.chdir(tmp_path)
    assert main(["snapshot", "export", "--home", str(nodes.folders[0])]) == 0
    assert (tmp_path / "test-chain-main-1.snapshot").exists()
    assert list((nodes.channel(0) / SNAPSHOTS_FOLDER).iterdir()) == []


# ------------------------------------------------------------------------------------------------------- damaged and forged


def test_every_flipped_or_missing_byte_is_one_clear_error(nodes, tmp_path, capsys):
    nodes.grow(0, 2)
    good, bad = tmp_path / "good.snapshot", tmp_path / "bad.snapshot"
    assert export(nodes, 0, good) == 0
    capsys.readouterr()
    data, source = good.read_bytes(), random.Random(1)
    cuts = [data[:at] for at in (0, 1, len(MAGIC), len(MAGIC) + 31, len(MAGIC) + 32, len(data) - 32, len(data) - 1)]
    flips = []
    for at in [0, len(MAGIC), len(MAGIC) + 3, len(data) - 1, *(source.randrange(len(data)) for _ in range(40))]:
        changed = bytearray(data)
        changed[at] ^= 1 << source.randrange(8)
        flips.append(bytes(changed))
    for content in [*cuts, *flips, data + b"\x00"]:
        bad.write_bytes(content)
        assert take_in(nodes, 3, bad) == 2
        assert str(bad) in refusal(capsys)
        assert main(["snapshot", "show", str(bad)]) == 2
        assert str(bad) in refusal(capsys)
    assert not nodes.blocks(3).exists()
    for path in (tmp_path / "absent", tmp_path):
        assert take_in(nodes, 3, path) == 2
        assert "cannot be read" in refusal(capsys)


def file_of(*frames):
    """A snapshot file with a right digest, whatever it holds."""
    data = MAGIC + b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
    return data + hashlib.sha256(data).digest()


def forgeries(nodes, other):
    manifest, chunks = nodes.snapshot(0)
    raw = [encode(chunk) for chunk in chunks]
    entries = nodes.state(0)[2]
    richer = {**entries, next(iter(entries)): b"more"}
    lie, rich_chunks = nodes.snapshot(0, entries=richer)
    full = next(index for index, chunk in enumerate(chunks) if len(chunk.entries) > 1)
    short = [*raw[:full], encode(Chunk(chunks[full].entries[1:])), *raw[full + 1 :]]
    strange, strange_chunks = other.snapshot(0)
    deep = SnapshotManifest(manifest.header, manifest.certificate, 3, manifest.chunks, ())
    return {
        "another chain": (file_of(encode(strange), *map(encode, strange_chunks)), "is not signed by a quorum"),
        "two signatures": (file_of(encode(nodes.snapshot(0, signers=(0, 1))[0]), *raw), "is not signed by a quorum"),
        "one signer twice": (file_of(encode(nodes.snapshot(0, signers=(0, 1, 1))[0]), *raw), "is not signed by a quorum"),
        "another table": (file_of(encode(lie), *map(encode, rich_chunks)), "does not fold to the state root"),
        "depth": (file_of(encode(deep), *raw), "there are 4, a depth of 3 makes 8"),
        "another value": (file_of(encode(manifest), *map(encode, rich_chunks)), "do not hash to what the manifest says"),
        "a missing entry": (file_of(encode(manifest), *short), f"chunk {full}: the entries do not hash"),
        "chunks in another order": (file_of(encode(manifest), *reversed(raw)), "belongs to another chunk"),
        "a missing chunk": (file_of(encode(manifest), *raw[:-1]), "longer than it can be"),
        "a chunk too many": (file_of(encode(manifest), *raw, raw[0]), "goes on after the last chunk"),
        "garbage as manifest": (file_of(b"garbage", *raw), "snapshot manifest"),
        "garbage as chunk": (file_of(encode(manifest), b"garbage", *raw[1:]), "chunk 0: snapshot chunk"),
        "a length that lies": (MAGIC + b"\xff" * 4 + hashlib.sha256(MAGIC + b"\xff" * 4).digest(), "longer than it can be"),
    }


def test_forged_files_change_nothing(nodes, tmp_path, capsys):
    nodes.grow(0, 5)
    nodes.grow(1, 2)
    other = OfflineNodes(tmp_path / "other")
    other.grow(0, 5)
    before, bad = nodes.state(1), tmp_path / "bad.snapshot"
    for name, (content, words) in forgeries(nodes, other).items():
        bad.write_bytes(content)
        for number, force in ((1, ["--force"]), (3, [])):
            assert take_in(nodes, number, bad, *force) == 2, name
            line = refusal(capsys)
            assert str(bad) in line, name
            assert words in line, name
        assert nodes.state(1) == before, name
        if nodes.blocks(3).exists():
            assert not any(key.startswith(b"s\x01") for key in keys(nodes.blocks(3))), f"{name}: what was staged is gone"
            head, base, _ = nodes.state(3)
            assert (base, head is None or head.height == 0) == (0, True), name
    manifest, chunks = nodes.snapshot(0)
    bad.write_bytes(file_of(encode(manifest), *map(encode, chunks)))
    assert take_in(nodes, 3, bad) == 0, "the file that was forged from is good"


def test_bad_usage(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, named in [
        (["export"], "--home"),
        (["import"], "FILE"),
        (["import", "x"], "--home"),
        (["show"], "FILE"),
        (["export", "--home", "absent"], "absent"),
        (["export", "--home", "absent", "--json", "no/such/folder/x"], "--json"),
    ]:
        assert main(["snapshot", *arguments]) == 2
        assert named in refusal(capsys)


# --------------------------------------------------------------------------------------------------------------- real nodes


async def test_a_wiped_node_goes_on_from_a_snapshot_with_the_others(tmp_path):
    async with RunningCluster(tmp_path / "home") as cluster:
        async with cluster.client(0) as client:
            for nonce in range(1, 6):
                await execute(client, cluster.transfer(nonce))
        before = await cluster.until(heights_agree)
        for index in range(4):
            await cluster.stop(index)
        nodes = [tmp_path / "home" / "nodes" / f"node-{index}" for index in range(4)]
        data = read_config(nodes[3]).data
        data.rename(tmp_path / "old")
        path = tmp_path / "state.snapshot"
        assert main(["snapshot", "export", "--home", str(nodes[0]), "--out", str(path)]) == 0
        assert main(["snapshot", "import", str(path), "--home", str(nodes[3])]) == 0
        for index in range(4):
            cluster.start(index)
        async with cluster.client(3) as client:
            await cluster.until(lambda statuses: heights_agree(statuses) and statuses[3]["height"] == before[0]["height"])
            receipt = await execute(client, cluster.transfer(6))
            assert receipt.receipt.code == "OK"
        after = await cluster.until(heights_agree)
        assert all(one["height"] > before[0]["height"] for one in after)
    assert main(["verify", "--home", str(nodes[3])]) == 0
