"""The shelf: whole snapshots of one block each, made beside the work, and nothing damaged is ever served."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.block import Header
from consensus.codec import encode
from consensus.errors import InvariantViolation
from consensus.snapshot import MAX_DEPTH, chunk_objection, decode_chunk, decode_manifest, make_snapshot, manifest_objection
from node.block_store import ChannelStore
from node.key_value import StoreError
from node.pace import Pace, StoppedError
from node.snapshot_buckets import Buckets
from node.snapshots import SnapshotShelf, stored_snapshots
from tests.node.snapshot_store import ROOT, adopt, begun, grow
from tests.node.test_store_blocks import certificate, genesis

Entries = dict[bytes, bytes]


def large_state(entries: int, value_bytes: int) -> Entries:
    source = random.Random(entries)
    return {b"entry/%06d" % number: source.randbytes(value_bytes) for number in range(entries)}


def store_with(folder: Path, state: Entries, height: int = 5) -> ChannelStore:
    """A store whose head has ``state``."""
    store = begun(folder, height - 1)
    adopt(store, height, state)
    return store


def head_of(store: ChannelStore) -> Header:
    head = store.head()
    assert head is not None
    return head


def make(shelf: SnapshotShelf, store: ChannelStore, epochs: tuple[bytes, ...] = ()) -> bool:
    head = head_of(store)
    return shelf.make(store.state.pinned(), head, certificate(head), epochs, share_percent=100)


def heights(folder: Path) -> list[int]:
    return [one.height for one in stored_snapshots(folder)]


@pytest.mark.parametrize(("entries", "value_bytes", "chunks"), [(0, 0, 1), (1, 10, 1), (3_000, 900, 8)])
def test_what_is_served_checks_and_is_cut_as_others_cut_it(tmp_path: Path, entries: int, value_bytes: int, chunks: int) -> None:
    state = large_state(entries, value_bytes)
    store = store_with(tmp_path / "blocks", state)
    shelf, head = SnapshotShelf(tmp_path / "shelf"), head_of(store)
    assert (shelf.newest_height, shelf.manifest(), shelf.chunk(5, 0)) == (0, None, None)
    assert make(shelf, store, (b"one", b"two"))
    wanted, parts = make_snapshot(head, certificate(head), state.items(), (b"one", b"two"))
    for reader in (shelf, SnapshotShelf(tmp_path / "shelf")):
        assert reader.newest_height == 5
        raw = reader.manifest()
        assert raw == encode(wanted)
        manifest = decode_manifest(raw)
        assert manifest_objection(manifest, head.state_root) is None
        assert len(manifest.chunks) == chunks
        for index in range(chunks):
            chunk = reader.chunk(5, index)
            assert chunk == encode(parts[index])
            assert chunk_objection(manifest, index, decode_chunk(chunk).entries) is None
        for height, index in ((5, chunks), (5, -1), (5, 2**40), (4, 0), (-5, 0)):
            assert reader.chunk(height, index) is None
        assert reader.newest_height == 5
    store.close()


def test_a_snapshot_is_of_the_block_whose_state_was_pinned(tmp_path: Path) -> None:
    store = begun(tmp_path / "blocks")
    head, state, pinned = head_of(store), dict(store.entries()), store.state.pinned()
    grow(store, 3)
    shelf = SnapshotShelf(tmp_path / "shelf")
    assert shelf.make(pinned, head, certificate(head))
    chunk = shelf.chunk(5, 0)
    assert chunk is not None
    assert dict(decode_chunk(chunk).entries) == state
    store.close()


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.binary(max_size=5), st.binary(max_size=30), max_size=60),
    st.integers(1, 400),
    st.integers(0, 12),
)
def test_buckets_give_the_same_chunks_in_memory_and_from_files(
    tmp_path_factory: pytest.TempPathFactory, state: Entries, spool_bytes: int, depth: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    buckets = Buckets(folder, spool_bytes)
    for key, value in sorted(state.items()):
        buckets.add(key, value)
    total = sum(8 + len(key) + len(value) for key, value in state.items())
    assert bool(list(folder.iterdir())) == (total > spool_bytes)
    header = genesis()[0]
    wanted = make_snapshot(header, certificate(header), state.items(), depth=depth)[1]
    assert [tuple(entries) for entries in buckets.chunks(depth)] == [chunk.entries for chunk in wanted]
    assert buckets.depth() == 0 <= MAX_DEPTH


def test_the_newest_stay(tmp_path: Path) -> None:
    store, shelf = begun(tmp_path / "blocks", 4), SnapshotShelf(tmp_path / "shelf", keep=2)
    for _ in range(4):
        grow(store, 1)
        assert make(shelf, store)
        assert not make(shelf, store), "it is there already"
    assert heights(tmp_path / "shelf") == [7, 8]
    assert sorted(path.name for path in (tmp_path / "shelf").iterdir()) == ["7", "8"]
    newest = shelf.manifest(8)
    assert newest is not None
    assert newest == shelf.manifest() == shelf.manifest(1)
    assert shelf.manifest(9) is None
    assert shelf.chunk(7, 0) is not None
    assert shelf.chunk(6, 0) is None
    store.close()


# ------------------------------------------------------------------------------------------------------------------ damage


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shelf with two snapshots of several chunks."""
    folder = tmp_path_factory.mktemp("filled")
    store = store_with(folder / "blocks", large_state(2_000, 900))
    shelf = SnapshotShelf(folder / "shelf")
    assert make(shelf, store)
    grow(store, 1)
    assert make(shelf, store)
    store.close()
    return folder / "shelf"


@pytest.mark.parametrize("name", ["manifest", "00000", "00003"])
@pytest.mark.parametrize("how", ["flip", "cut", "longer", "empty", "gone"])
def test_what_is_damaged_is_dropped_and_never_served(filled: Path, tmp_path: Path, name: str, how: str) -> None:
    shutil.copytree(filled, tmp_path / "shelf")
    shelf, path = SnapshotShelf(tmp_path / "shelf"), tmp_path / "shelf" / "6" / name
    data = bytearray(path.read_bytes())
    data[random.Random(name + how).randrange(len(data))] ^= 4
    changed = {"flip": bytes(data), "cut": bytes(data[:-1]), "longer": bytes(data) + b"\x00", "empty": b""}
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(changed[how])
    if name == "manifest":
        assert shelf.manifest(6) is None
        older = shelf.manifest()
        assert older is not None
        assert decode_manifest(older).certificate.height == 5
    else:
        assert shelf.manifest(6) is not None
        assert shelf.chunk(6, int(name)) is None
        assert shelf.manifest(6) is None
    assert heights(tmp_path / "shelf") == [5]
    assert shelf.chunk(5, 0) is not None


def test_no_file_passes_for_another(filled: Path, tmp_path: Path) -> None:
    for first, second in (("6/00000", "6/00001"), ("6/00000", "5/00000"), ("6/manifest", "5/manifest")):
        shutil.copytree(filled, tmp_path / "shelf")
        shutil.copy(tmp_path / "shelf" / second, tmp_path / "shelf" / first)
        shelf = SnapshotShelf(tmp_path / "shelf")
        if first.endswith("manifest"):
            assert shelf.manifest(6) is None
        else:
            assert shelf.chunk(6, 0) is None
        assert heights(tmp_path / "shelf") == [5]
        shutil.rmtree(tmp_path / "shelf")


def test_what_was_half_made_goes_at_the_next_start(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "shelf")
    (tmp_path / "shelf" / "6").rename(tmp_path / "shelf" / ".new-6")
    (tmp_path / "shelf" / "5").rename(tmp_path / "shelf" / ".old-5")
    (tmp_path / "shelf" / "notes").mkdir()
    assert heights(tmp_path / "shelf") == []
    SnapshotShelf(tmp_path / "shelf")
    assert [path.name for path in (tmp_path / "shelf").iterdir()] == ["notes"]


MAKE_UNTIL_KILLED = """
import sys
from pathlib import Path
from tests.node.test_snapshots import *
folder = Path(sys.argv[1])
shutil.rmtree(folder / "blocks", ignore_errors=True)
shelf = SnapshotShelf(folder / "shelf")
store = store_with(folder / "blocks", large_state(1_500, 900), height=shelf.newest_height + 10)
print("begun", flush=True)
while True:
    grow(store, 1)
    make(shelf, store)
    print("made", flush=True)
"""


def test_killed_while_making_only_whole_snapshots_are_there(tmp_path: Path) -> None:
    source, made = random.Random(11), 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", MAKE_UNTIL_KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        for _ in range(source.randrange(1, 4)):
            assert process.stdout.readline()
        time.sleep(source.random() / 20)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        shelf = SnapshotShelf(tmp_path / "shelf")
        assert all(not path.name.startswith(".") for path in (tmp_path / "shelf").iterdir())
        for one in stored_snapshots(tmp_path / "shelf"):
            manifest = one.manifest()
            assert all(chunk_objection(manifest, index, one.chunk(index).entries) is None for index in range(len(manifest.chunks)))
        assert shelf.newest_height >= made
        made = shelf.newest_height
    assert made > 0


# ---------------------------------------------------------------------------------------------------------------- refusing


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    store, shelf = begun(tmp_path / "blocks"), SnapshotShelf(tmp_path / "shelf")
    head, pinned = head_of(store), store.state.pinned()
    grow(store, 1)
    later = head_of(store)
    for state, header, proof in [
        (store.state.pinned(), head, certificate(head)),
        (pinned, later, certificate(later)),
        (pinned, head, certificate(later)),
    ]:
        with pytest.raises(InvariantViolation, match="belong to different blocks"):
            shelf.make(state, header, proof)
    store._database.write([(store.state.key(b"a"), b"changed")], sync=True)
    store.state.publish(())
    with pytest.raises(InvariantViolation, match="does not hash to the state root of block 6"):
        shelf.make(store.state.pinned(), later, certificate(later))
    assert list((tmp_path / "shelf").iterdir()) == []
    store.close()
    with pytest.raises(StoreError, match="closed"):
        shelf.make(pinned, head, certificate(head))
    assert list((tmp_path / "shelf").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        SnapshotShelf(tmp_path / "file")
    store, shelf = begun(tmp_path / "blocks"), SnapshotShelf(tmp_path / "shelf")
    (tmp_path / "shelf").rmdir()
    (tmp_path / "shelf").write_text("")
    with pytest.raises(StoreError, match="shelf"):
        make(shelf, store)
    store.close()


def test_closing_ends_what_is_being_made(tmp_path: Path) -> None:
    store, shelf = store_with(tmp_path / "blocks", large_state(20_000, 50)), SnapshotShelf(tmp_path / "shelf")
    head, results = head_of(store), list[bool]()
    thread = threading.Thread(target=lambda: results.append(shelf.make(store.state.pinned(), head, certificate(head), share_percent=1)))
    thread.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "shelf" / ".new-5").exists():
        assert time.monotonic() < deadline
    assert not make(shelf, store), "one at a time"
    shelf.close()
    thread.join(timeout=30)
    assert results == [False]
    assert list((tmp_path / "shelf").iterdir()) == []
    store.close()


class Rests(threading.Event):
    """Notes how long it was to be waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits_s.append(timeout or 0.0)
        return self.is_set()


def work(duration_s: float) -> None:
    until_s = time.perf_counter() + duration_s
    while time.perf_counter() < until_s:
        pass


def test_pace_rests_as_long_as_was_worked_and_ends_when_told() -> None:
    stop = Rests()
    pace = Pace(25, stop)
    pace.step()
    assert stop.waits_s == [], "nothing was done yet"
    for _ in range(3):
        work(0.003)
        pace.step()
        pace.step()
    assert len(stop.waits_s) == 3
    assert all(wait_s >= 3 * 0.003 for wait_s in stop.waits_s)
    stop.set()
    work(0.003)
    with pytest.raises(StoppedError):
        pace.step()
