"""A snapshot takes the place of everything before it in one write; pruning moves the base in one write."""

import random
from pathlib import Path

import pytest

from consensus.block import Header
from consensus.errors import InvariantViolation
from consensus.state_tree import StateTree
from node.block_store import ChannelStore
from node.key_value import StoreDamagedError, StoreError, open_database
from node.store_layout import BASE_KEY, GENERATION_KEY, HEAD_KEY
from tests.node.snapshot_store import NEW_STATE, adopt, assert_whole, begun, expected_keys, grow, header_at, keys, stage, swept
from tests.node.test_store_blocks import certificate, finalized, genesis, next_block

# ---------------------------------------------------------------------------------------------------------------- adopting


def test_a_snapshot_takes_the_place_of_everything_before(tmp_path: Path) -> None:
    store = begun(tmp_path)
    old_ids = store.transaction_ids(3) or ()
    kept = store.header(4)
    assert kept is not None
    store.add_pending([(b"\x01" * 32, b"waits")])
    assert store.state.get(b"height") == b"5"
    header = header_at(1_000, NEW_STATE)
    stage(store, NEW_STATE)
    assert_whole(store)
    assert store.state.get(b"height") == b"5", "staging changes nothing"
    tree = store.adopt_snapshot(header, certificate(header), kept=[(kept, certificate(kept))])
    assert tree.root == header.state_root
    for _ in range(3):
        assert store.head() == header
        assert (store.base, store.first_height, store.durable_certificate) == (1_000, 1_001, 1_000)
        assert store.last_certificate() == certificate(header)
        assert store.state.get(b"height") is None, "the cache forgets what it knew"
        assert store.state.get(b"k007") == b"new 7"
        assert dict(store.entries()) == NEW_STATE
        assert dict(store.pending()) == {b"\x01" * 32: b"waits"}
        assert (store.header(4), store.certificate(4)) == (kept, certificate(kept))
        assert store.header(3) is None
        assert store.certificate(3) is None
        assert store.locate(old_ids[0]) is None
        assert_whole(store)
        store.close()
        store = ChannelStore.open(tmp_path)
    grow(store, 3)
    assert_whole(store)
    assert store.state.get(b"height") == b"1003"
    store.drop_pending([b"\x01" * 32])
    wanted = expected_keys(store, kept=(4,))
    store.close()
    assert keys(tmp_path) == wanted


def test_snapshot_after_snapshot_reuses_what_is_free(tmp_path: Path) -> None:
    store = begun(tmp_path)
    for number in range(1, 300):
        adopt(store, 10 * number, {b"number": b"%d" % number, b"%d" % number: b""})
        if number % 50 == 0:
            swept(store)
    assert dict(store.entries()) == {b"number": b"299", b"299": b""}
    assert_whole(store)
    swept(store)
    wanted = expected_keys(store)
    store.close()
    assert keys(tmp_path) == wanted


def test_an_adopted_state_shows_when_it_is_published(tmp_path: Path) -> None:
    store = begun(tmp_path)
    assert store.state.get(b"height") == b"5"
    header = header_at(50, NEW_STATE)
    stage(store, NEW_STATE)
    store.adopt_snapshot(header, certificate(header), publish=False)
    swept(store)
    assert (store.state.get(b"height"), store.state.get(b"a"), store.state.get(b"k001")) == (b"5", b"1", None)
    store.state.publish(())
    assert (store.state.get(b"height"), store.state.get(b"a"), store.state.get(b"k001")) == (None, None, b"new 1")
    store.close()


def test_a_pinned_state_stays_as_it_is(tmp_path: Path) -> None:
    store = begun(tmp_path)
    pinned, before = store.state.pinned(), dict(store.entries())
    grow(store, 2)
    later = store.state.pinned()
    adopt(store, 90, NEW_STATE)
    swept(store)
    assert (pinned.height(), dict(pinned.scan(b"")), pinned.get(b"height")) == (5, before, b"5")
    assert (later.height(), later.get(b"height")) == (7, b"7")
    assert (store.state.pinned().height(), dict(store.state.pinned().scan(b"k00"))) == (
        90,
        {key: value for key, value in NEW_STATE.items() if key.startswith(b"k00")},
    )
    store.close()


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    store = ChannelStore.open(tmp_path)
    header = header_at(50, NEW_STATE)
    stage(store, NEW_STATE)
    with pytest.raises(InvariantViolation, match="cannot follow height None"):
        store.adopt_snapshot(header, certificate(header))
    store.start(*genesis())
    grow(store, 5)
    other = header_at(60, NEW_STATE)
    low = header_at(5, NEW_STATE)
    for one, proof, kept, words in [
        (low, certificate(low), [], "cannot follow height 5"),
        (header, certificate(other), [], "of another header"),
        (header, certificate(header), [(other, certificate(other))], "cannot be kept"),
        (header, certificate(header), [(low, certificate(other))], "cannot be kept"),
        (header_at(50, {}), certificate(header_at(50, {})), [], "does not hash"),
    ]:
        with pytest.raises(InvariantViolation, match=words):
            store.adopt_snapshot(one, proof, kept=kept)
        assert (store.base, store.state.get(b"height")) == (0, b"5")
        assert_whole(store)
    store.stage_put([(b"k000", b"changed")])
    with pytest.raises(InvariantViolation, match="does not hash"):
        store.adopt_snapshot(header, certificate(header))
    store.stage_put([(b"k000", NEW_STATE[b"k000"])])
    store.adopt_snapshot(header, certificate(header))
    for use in (lambda: store.stage_put([]), lambda: store.adopt_snapshot(other, certificate(other))):
        with pytest.raises(InvariantViolation, match="no state is being staged"):
            use()
    store.close()


def test_what_was_staged_and_given_up_goes(tmp_path: Path) -> None:
    store = begun(tmp_path)
    stage(store, {b"given up": b"1"})
    assert swept(store) == 0, "what is being staged is left alone"
    stage(store, NEW_STATE)
    assert {key for key, _ in store.state.staged()} == set(NEW_STATE)
    wanted = expected_keys(store)
    store.close()
    assert len(keys(tmp_path)) == len(wanted) + len(NEW_STATE)
    ChannelStore.open(tmp_path).close()
    assert keys(tmp_path) == wanted


def test_staging_while_an_earlier_attempt_is_being_swept(tmp_path: Path) -> None:
    store = begun(tmp_path)
    stage(store, {b"%05d" % number: b"" for number in range(3_500)})
    store.stage_drop()
    with pytest.raises(InvariantViolation, match="no state is being staged"):
        store.stage_put([])
    sweep = store.sweep()
    assert next(sweep) == 1_000
    again = {b"%05d" % number: b"again" for number in range(3_500)}
    stage(store, again)
    assert list(sweep) == [], "what was staged anew is not taken for what was given up"
    header = header_at(60, again)
    store.adopt_snapshot(header, certificate(header))
    assert dict(store.entries()) == again
    assert_whole(store)
    store.close()


# ----------------------------------------------------------------------------------------------------------------- pruning


def test_pruned_blocks_are_gone_for_readers_at_once_and_from_the_disk_after_the_sweep(tmp_path: Path) -> None:
    store = begun(tmp_path, 40)
    headers = {height: store.header(height) for height in range(41)}
    ids = {height: store.transaction_ids(height) or () for height in range(41)}
    for keep_from, kept in ((1, ()), (11, (4, 10)), (8, ()), (11, ()), (31, (4, 10, 20, 30))):
        store.prune(keep_from, kept)
    assert (store.base, store.first_height) == (30, 31)
    for deleted in (30 * (2 + 2) + 29 * 2, 0):
        for height in range(1, 41):
            whole = height > 30
            assert (store.header(height) is not None) == (whole or height in (4, 10, 20, 30))
            assert store.header(height) in (None, headers[height])
            assert (store.certificate(height) is not None) == (store.header(height) is not None)
            assert (store.encoded_block(height) is not None) == whole
            assert all((store.locate(id_) is not None) == whole for id_ in ids[height])
        assert_whole(store)
        assert swept(store) == deleted
    wanted = expected_keys(store, kept=(4, 10, 20))
    store.close()
    assert keys(tmp_path) == wanted


def test_prune_keeps_all_or_refuses_as_a_whole(tmp_path: Path) -> None:
    store = begun(tmp_path, 20)
    head = store.head()
    assert head is not None
    block, result = next_block(head, StateTree.of(store.entries()), (), ())
    store.append(block, result, [])
    with pytest.raises(InvariantViolation, match="certificate of height 21 is not stored"):
        store.prune(22)
    with pytest.raises(InvariantViolation, match="header of height 30 is not stored"):
        store.prune(31)
    store.put_certificate(certificate(block.header))
    store.prune(10)
    with pytest.raises(InvariantViolation, match="header of height 5 is not stored"):
        store.prune(15, (5,))
    assert store.base == 9
    store.prune(22)
    assert (store.base, store.first_height) == (21, 22)
    assert store.block(21) is None
    grow(store, 2)
    assert_whole(store)
    store.close()


def test_pruning_makes_the_disk_smaller(tmp_path: Path) -> None:
    store = ChannelStore.open(tmp_path)
    head, result = genesis()
    store.start(head, result)
    source = random.Random(7)
    for _ in range(100):
        fresh = finalized(result.tree, ((b"a", source.randbytes(4)),), (source.randbytes(700_000),))
        block, _ = next_block(head, result.tree, (), ())
        fields = {name: getattr(block.header, name) for name in Header.__struct_fields__}
        header = Header(**{**fields, "state_root": fresh.tree.root})
        store.append(type(block)(header, source.randbytes(400_000), (), fresh.receipts), fresh, [])
        store.put_certificate(certificate(header))
        head, result = header, fresh

    def size() -> int:
        return sum(path.stat().st_size for path in tmp_path.iterdir())

    full = size()
    store.prune(91)
    for _ in store.sweep():
        pass
    assert full > 100_000_000
    assert size() < full // 4
    assert_headers(store, 90, 100)
    store.close()


def assert_headers(store: ChannelStore, first: int, last: int) -> None:
    assert [height for height in range(1, last + 1) if store.header(height) is not None] == list(range(first, last + 1))


def test_damaged_marks_are_named(tmp_path: Path) -> None:
    begun(tmp_path).close()
    for key, value, words in [
        (BASE_KEY, b"short", "mark of the base"),
        (GENERATION_KEY, b"", "generation"),
        (GENERATION_KEY, None, "generation"),
        (HEAD_KEY, b"short", "head mark"),
    ]:
        database = open_database(tmp_path)
        before = database.get(key)
        database.write([(key, value)], sync=True)
        database.close()
        with pytest.raises(StoreDamagedError, match=words):
            ChannelStore.open(tmp_path)
        database = open_database(tmp_path)
        database.write([(key, before)], sync=True)
        database.close()
    store = ChannelStore.open(tmp_path)
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        next(store.sweep())
