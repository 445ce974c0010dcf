"""A crash while a snapshot is adopted or blocks are pruned leaves the store as before or as after, never between."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from node.block_store import ChannelStore
from node.leveldb_logs import BLOCK_BYTES, RECORD_HEADER
from tests.node.snapshot_store import NEW_STATE, ROOT, assert_whole, begun, expected_keys, header_at, keys, stage, swept
from tests.node.test_store_blocks import certificate


def boundaries(data: bytes) -> Iterator[int]:
    """Yield where the records of a LevelDB log end."""
    for start in range(0, len(data), BLOCK_BYTES):
        position = start
        while position + RECORD_HEADER.size <= min(start + BLOCK_BYTES, len(data)):
            _, length, kind = RECORD_HEADER.unpack_from(data, position)
            if kind == 0:
                break
            position += RECORD_HEADER.size + length
            yield position


def outcomes(folder: Path, work: Path, also: random.Random) -> set[int]:
    """Cut the log of a store off at every record boundary, and at some places between; return the heads that come up."""
    log = max(folder.glob("*.log"))
    data = log.read_bytes()
    places = [0, *boundaries(data)]
    heads = set()
    for cut in sorted({*places, *(also.randrange(len(data) + 1) for _ in range(10))}):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder, work)
        (work / log.name).write_bytes(data[:cut])
        store = ChannelStore.open(work)
        head = store.head()
        assert head is not None
        assert_whole(store)
        wanted = expected_keys(store)
        store.close()
        assert keys(work) == wanted, "nothing of the other generation, and nothing below the base, outlives the start"
        heads.add(head.height)
    return heads


def test_log_cut_off_at_every_record_leaves_before_or_after(tmp_path: Path) -> None:
    also = random.Random(3)
    begun(tmp_path / "store", 12).close()
    store = ChannelStore.open(tmp_path / "store")
    stage(store, NEW_STATE, 16)
    shutil.copytree(tmp_path / "store", tmp_path / "staged")
    header = header_at(1_000, NEW_STATE)
    store.adopt_snapshot(header, certificate(header))
    logs = [path.stat().st_size for path in (tmp_path / "store").glob("*.log")]
    assert sum(logs) < 2_000, "what was staged stands in sorted files: it cannot be lost with an older log that nobody synced"
    swept(store)
    shutil.copytree(tmp_path / "store", tmp_path / "adopted")
    store.close()
    assert outcomes(tmp_path / "staged", tmp_path / "work", also) == {12}
    assert outcomes(tmp_path / "adopted", tmp_path / "work", also) == {12, 1_000}


def test_log_cut_off_while_pruning_leaves_no_hole(tmp_path: Path) -> None:
    begun(tmp_path / "store", 400).close()
    store = ChannelStore.open(tmp_path / "store")
    store.prune(300)
    assert len(list(store.sweep())) > 2
    shutil.copytree(tmp_path / "store", tmp_path / "pruned")
    store.close()
    log = max((tmp_path / "pruned").glob("*.log"))
    data, bases = log.read_bytes(), set()
    for cut in [0, *boundaries(data)]:
        shutil.copytree(tmp_path / "pruned", tmp_path / "work")
        (tmp_path / "work" / log.name).write_bytes(data[:cut])
        store = ChannelStore.open(tmp_path / "work")
        bases.add(store.base)
        assert_whole(store)
        wanted = expected_keys(store)
        store.close()
        assert keys(tmp_path / "work") == wanted
        shutil.rmtree(tmp_path / "work")
    assert bases == {0, 299}


ADOPT_UNTIL_KILLED = """
import sys
from pathlib import Path
from tests.node.snapshot_store import *
store = ChannelStore.open(Path(sys.argv[1]))
if store.head() is None:
    store.start(*genesis())
while True:
    height = store.head().height + 10
    adopt(store, height, {b"%03d" % number: b"%d" % height for number in range(height % 7 * 30 + 20)})
    print(height, flush=True)
    grow(store, 4)
    store.prune(height + 3)
    for _ in store.sweep():
        print("swept", flush=True)
"""


def test_killed_at_any_moment_it_opens_as_before_or_after(tmp_path: Path) -> None:
    source, adopted = random.Random(5), 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", ADOPT_UNTIL_KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        for _ in range(source.randrange(1, 40)):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        heights = [int(line) for line in process.stdout.read().split("\n")[:-1] if line.isdigit()]
        process.wait()
        store = ChannelStore.open(tmp_path)
        head = store.head()
        assert head is not None
        assert head.height >= max([adopted, *heights])
        adopted = head.height
        assert_whole(store, certified=False)
        wanted = expected_keys(store)
        if store.certificate(head.height) is None:
            wanted.remove(b"c/" + head.height.to_bytes(8, "big"))
        store.close()
        assert keys(tmp_path) == wanted
