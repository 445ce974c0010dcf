"""The channel store and the vote log on a real LevelDB."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.application import FinalizedBlock
from consensus.block import (
    NULL_BATCH,
    Batch,
    Block,
    Certificate,
    CertificateVote,
    Header,
    decode_block,
    genesis_header,
    make_header,
)
from consensus.codec import encode
from consensus.crypto import Ed25519Signer, digest
from consensus.effects import LogRecord
from consensus.errors import InvariantViolation
from consensus.state_tree import StateTree
from consensus.transaction import decode_transaction, sign_transaction
from contracts.calls import Transfer
from node.block_store import ChannelStore
from node.key_value import StoreBusyError, StoreDamagedError, StoreError, open_database
from node.store_layout import FORMAT_KEY
from node.vote_log import VoteLog
from tests.node.in_place import leave_in_place

SIGNER = Ed25519Signer(bytes(range(32)))
VALIDATORS = digest(b"validators")
Writes = tuple[tuple[bytes, bytes | None], ...]


def raw_transaction(nonce: int) -> bytes:
    call = Transfer("BOB", 5 + nonce)
    return sign_transaction(SIGNER, chain_id="test", channel="main", sender="ALICE", nonce=nonce, valid_until_ms=10_000, call=call)


def finalized(tree: StateTree, writes: Writes, receipts: tuple[bytes, ...] = (), included: tuple[int, ...] = ()) -> FinalizedBlock:
    return FinalizedBlock(included, receipts, writes, tree.apply(writes), ())


def genesis(writes: Writes = ((b"a", b"1"),)) -> tuple[Header, FinalizedBlock]:
    result = finalized(StateTree(), writes)
    return genesis_header("test", "main", 1_000, digest(b"genesis"), result.tree.root, VALIDATORS), result


def next_block(
    previous: Header, tree: StateTree, raws: tuple[bytes, ...], writes: Writes, void: tuple[bytes, ...] = ()
) -> tuple[Block, FinalizedBlock]:
    ids = tuple(decode_transaction(raw).id for raw in raws)
    batch = encode(Batch(0, 1, previous.time_ms + 10, ids + void)) if ids else NULL_BATCH
    receipts = tuple(b"receipt of " + id_ for id_ in ids)
    result = finalized(tree, writes, receipts, tuple(range(len(ids))))
    header = make_header(previous, batch, ids, receipts, result.tree.root, 0, VALIDATORS)
    return Block(header, batch, raws, receipts), result


def certificate(header: Header) -> Certificate:
    return Certificate(0, header.height, header.hash, (CertificateVote(0, b"s" * 64), CertificateVote(2, b"t" * 64)))


def test_blocks_come_back_byte_for_byte_after_reopening(tmp_path: Path) -> None:
    store = ChannelStore.open(tmp_path / "blocks")
    assert store.head() is None
    header, result = genesis()
    store.start(header, result)
    blocks = []
    for number in range(5):
        raws = tuple(raw_transaction(10 * number + position) for position in range(number))
        block, result = next_block(header, result.tree, raws, ((b"k%d" % number, b"v"), (b"a", b"%d" % number)), void=(b"\x07" * 32,))
        store.append(block, result, [])
        store.put_certificate(certificate(block.header))
        blocks.append(block)
        header = block.header
    for _ in range(2):
        assert store.head() == header
        assert store.header(0) == genesis()[0]
        assert store.block(0) is None
        for height, block in enumerate(blocks, start=1):
            assert store.encoded_block(height) == encode(block)
            assert store.block(height) == block == decode_block(encode(block))
            assert store.header(height) == block.header
            assert store.receipts(height) == block.receipts
            assert store.certificate(height) == certificate(block.header)
            ids = tuple(decode_transaction(raw).id for raw in block.transactions)
            assert store.transaction_ids(height) == ids
            for position, id_ in enumerate(ids):
                assert store.locate(id_) == (height, position)
        assert store.locate(b"\x07" * 32) is None
        assert store.last_certificate() == certificate(header)
        for height in (-1, 6, 2**64):
            assert store.header(height) is None
            assert store.block(height) is None
            assert store.certificate(height) is None
            assert store.transaction_ids(height) is None
        assert dict(store.entries()) == {b"a": b"4", b"k0": b"v", b"k1": b"v", b"k2": b"v", b"k3": b"v", b"k4": b"v"}
        store.close()
        store = ChannelStore.open(tmp_path / "blocks")
    store.close()


def test_only_the_next_block_is_taken(tmp_path: Path) -> None:
    store = ChannelStore.open(tmp_path)
    header, result = genesis()
    block, after = next_block(header, result.tree, (), ())
    with pytest.raises(InvariantViolation):
        store.append(block, after, [])
    store.start(header, result)
    with pytest.raises(InvariantViolation):
        store.start(header, result)
    other, _ = genesis(((b"a", b"2"),))
    with pytest.raises(InvariantViolation):
        store.append(next_block(other, result.tree, (), ())[0], after, [])
    store.append(block, after, [])
    with pytest.raises(InvariantViolation):
        store.append(block, after, [])
    assert store.head() == block.header
    store.close()


def test_pending_transactions_outlive_the_process_until_spent(tmp_path: Path) -> None:
    store = ChannelStore.open(tmp_path)
    header, result = genesis()
    store.start(header, result)
    raws = [raw_transaction(nonce) for nonce in range(4)]
    ids = [decode_transaction(raw).id for raw in raws]
    store.add_pending(list(zip(ids, raws, strict=True)))
    store.close()
    store = ChannelStore.open(tmp_path)
    assert dict(store.pending()) == dict(zip(ids, raws, strict=True))
    block, result = next_block(header, result.tree, (raws[0],), (), void=(ids[1],))
    store.append(block, result, [ids[0], ids[1], b"\x01" * 32])
    store.drop_pending([ids[2]])
    assert dict(store.pending()) == {ids[3]: raws[3]}
    store.close()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.lists(
            st.tuples(st.binary(min_size=1, max_size=3), st.none() | st.binary(max_size=4)), unique_by=lambda pair: pair[0], max_size=6
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 3000),
)
def test_state_follows_every_append_whatever_was_read_before(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[tuple[bytes, bytes | None]]], cache: int
) -> None:
    store = ChannelStore.open(tmp_path_factory.mktemp("state"))
    store.state._max_cache_bytes = cache
    model: dict[bytes, bytes] = {}
    header, result = genesis(())
    store.start(header, result)
    keys = sorted({key for writes in blocks for key, _ in writes})
    for writes in blocks:
        ordered = tuple(sorted(writes))
        block, result = next_block(header, result.tree, (), ordered)
        store.append(block, result, [])
        header = block.header
        for key, value in ordered:
            model.pop(key, None)
            if value is not None:
                model[key] = value
        for key in keys:
            assert store.state.get(key) == model.get(key)
            assert list(store.state.scan(key[:1])) == sorted((k, v) for k, v in model.items() if k.startswith(key[:1]))
        assert store.state._cache_bytes <= cache
    assert list(store.entries()) == sorted(model.items())
    store.close()


def test_unpublished_append_shows_only_when_published(tmp_path: Path) -> None:
    store = ChannelStore.open(tmp_path)
    header, result = genesis(((b"a", b"old"), (b"b", b"old")))
    store.start(header, result)
    assert store.state.get(b"a") == b"old"
    block, result = next_block(header, result.tree, (), ((b"a", b"new"), (b"b", None), (b"c", b"new")))
    scan = store.state.scan(b"")
    store.append(block, result, [], publish=False)
    assert (store.state.get(b"a"), store.state.get(b"b"), store.state.get(b"c")) == (b"old", b"old", None)
    store.state.publish(result.writes)
    assert (store.state.get(b"a"), store.state.get(b"b"), store.state.get(b"c")) == (b"new", None, b"new")
    assert list(scan) == [(b"a", b"old"), (b"b", b"old")]
    store.close()


def test_readers_in_threads_never_see_values_go_back(tmp_path: Path) -> None:
    store = ChannelStore.open(tmp_path)
    keys = [b"key%d" % number for number in range(20)]
    header, result = genesis(tuple((key, (0).to_bytes(4, "big")) for key in keys))
    store.start(header, result)
    stop = threading.Event()
    wrong: list[tuple[bytes, bytes | None, bytes]] = []

    def read() -> None:
        latest = dict.fromkeys(keys, b"")
        while not stop.is_set():
            for key in keys:
                value = store.state.get(key)
                if value is None or value < latest[key]:
                    wrong.append((key, value, latest[key]))
                latest[key] = value or b""

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 60):
        writes = tuple((key, number.to_bytes(4, "big")) for key in sorted(keys))
        block, result = next_block(header, result.tree, (), writes)
        store.append(block, result, [])
        header = block.header
        assert all(store.state.get(key) == number.to_bytes(4, "big") for key in keys)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.close()


OPEN_AND_HOLD = """
import sys, time
from pathlib import Path
from node.block_store import ChannelStore
store = ChannelStore.open(Path(sys.argv[1]))
print("open", flush=True)
time.sleep(60)
"""

APPEND_UNTIL_KILLED = """
import sys
from pathlib import Path
from tests.node.test_store_blocks import *
from tests.node.in_place import leave_in_place
store = ChannelStore.open(Path(sys.argv[1]) / "blocks")
votes = VoteLog.open(Path(sys.argv[1]) / "votes")
header, result = genesis()
store.start(header, result)
while True:
    raws = tuple(raw_transaction(100 * header.height + n) for n in range(5))
    votes.append([LogRecord(header.height + 1, 0, 0, 3, b"commit")], [(header.height + 1, b"d" * 32, raws)])
    block, result = next_block(header, result.tree, raws, ((b"height", str(header.height + 1).encode()),))
    store.append(block, result, [])
    store.put_certificate(certificate(block.header))
    header = block.header
    print(header.height, flush=True)
"""


def child(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_store_in_use_by_another_process_says_so(tmp_path: Path) -> None:
    process = child(OPEN_AND_HOLD, tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreBusyError, match="another process has it open") as caught:
            ChannelStore.open(tmp_path)
        assert str(tmp_path) in str(caught.value)
    finally:
        process.kill()
        process.wait()
    ChannelStore.open(tmp_path).close()


def test_nothing_acknowledged_is_lost_by_kill(tmp_path: Path) -> None:
    process = child(APPEND_UNTIL_KILLED, tmp_path)
    assert process.stdout is not None
    printed = 0
    deadline = time.monotonic() + 60
    while printed < 30:
        assert time.monotonic() < deadline
        printed = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    printed = max([printed, *(int(line) for line in process.stdout.read().split("\n")[:-1] if line)])
    process.wait()
    store = ChannelStore.open(tmp_path / "blocks")
    votes = VoteLog.open(tmp_path / "votes")
    head = store.head()
    assert head is not None
    assert head.height >= printed
    assert store.state.get(b"height") == str(head.height).encode()
    for height in range(1, head.height + 1):
        block, ids = store.block(height), store.transaction_ids(height)
        assert block is not None
        assert ids is not None
        assert [store.locate(id_) for id_ in ids] == [(height, position) for position in range(5)]
    assert len(votes.records()) in (head.height, head.height + 1)
    block, result = next_block(head, StateTree(), (), ())
    store.append(block, result, [])
    store.close()
    votes.close()


def test_closed_store_is_an_error_and_closing_twice_is_none(tmp_path: Path) -> None:
    store = ChannelStore.open(tmp_path)
    store.close()
    store.close()
    for use in (
        lambda: store.header(1),
        lambda: list(store.pending()),
        lambda: store.add_pending([(b"i", b"r")]),
        lambda: list(store.entries()),
    ):
        with pytest.raises(StoreError, match="is closed"):
            use()


def test_folders_that_are_no_store_are_refused(tmp_path: Path) -> None:
    database = open_database(tmp_path / "other")
    database.write([(b"somebody's", b"data")], sync=True)
    database.close()
    with pytest.raises(StoreDamagedError, match="no format mark"):
        ChannelStore.open(tmp_path / "other")
    database = open_database(tmp_path / "newer")
    database.write([(FORMAT_KEY, b"GridPact store 99")], sync=True)
    database.close()
    with pytest.raises(StoreError, match="GridPact store 99"):
        ChannelStore.open(tmp_path / "newer")
    with pytest.raises(StoreError, match="GridPact store 99"):
        VoteLog.open(tmp_path / "newer")
    database = open_database(tmp_path / "older")
    database.write([(FORMAT_KEY, b"GridPact store 1"), (b"s/key", b"value")], sync=True)
    database.close()
    with pytest.raises(StoreError, match="older: is a GridPact store 1, this program writes GridPact store 2; move it away"):
        ChannelStore.open(tmp_path / "older")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError):
        ChannelStore.open(tmp_path / "file")
    with pytest.raises(StoreError):
        open_database(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists() or not list((tmp_path / "absent").glob("*.ldb"))


def test_flipped_byte_inside_the_log_is_refused_not_skipped(tmp_path: Path) -> None:
    """Without paranoid checks LevelDB would drop the damaged record and go on with the ones after it."""
    votes = VoteLog.open(tmp_path)
    for sequence in range(1, 20):
        votes.append([LogRecord(sequence, 0, 0, 2, b"x" * 500)])
    votes.close()
    log = next(tmp_path.glob("*.log"))
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with pytest.raises(StoreDamagedError):
        VoteLog.open(tmp_path)


def test_log_cut_off_anywhere_opens_with_all_whole_records(tmp_path: Path) -> None:
    """What a power cut in the middle of a write leaves."""
    votes = VoteLog.open(tmp_path / "votes")
    sizes = []
    log = next((tmp_path / "votes").glob("*.log"))
    for sequence in range(1, 6):
        votes.append([LogRecord(sequence, 0, 0, 2, b"x" * 40)])
        sizes.append(log.stat().st_size)
    votes.close()
    data = log.read_bytes()
    others = {path.name: path.read_bytes() for path in (tmp_path / "votes").iterdir() if path != log}
    for cut in range(sizes[1], sizes[-1], 7):
        torn = tmp_path / f"torn{cut}"
        torn.mkdir()
        for name, content in others.items():
            (torn / name).write_bytes(content)
        (torn / log.name).write_bytes(data[:cut])
        leave_in_place(torn)
        votes = VoteLog.open(torn)
        assert [record.sequence for record in votes.records()] == [number for number, size in enumerate(sizes, start=1) if size <= cut]
        votes.close()
