"""Stores that adopt snapshots and are pruned, and what must be true of them at any moment."""

from pathlib import Path

from consensus.block import Header
from consensus.state_tree import StateTree
from consensus.transaction import decode_transaction
from node.block_store import ChannelStore
from node.key_value import open_database
from node.store_layout import BASE_KEY, FORMAT_KEY, GENERATION_KEY, HEAD_KEY
from tests.node.test_store_blocks import certificate, genesis, next_block, raw_transaction

ROOT = Path(__file__).parents[2]
NEW_STATE = {b"k%03d" % number: b"new %d" % number for number in range(300)}


def grow(store: ChannelStore, blocks: int, transactions: int = 2) -> Header:
    """Append certified blocks; each notes its height in the state."""
    head = store.head()
    assert head is not None
    tree = StateTree.of(store.entries())
    for height in range(head.height + 1, head.height + 1 + blocks):
        raws = tuple(raw_transaction(100 * height + number) for number in range(transactions))
        block, result = next_block(head, tree, raws, ((b"height", b"%d" % height),))
        store.append(block, result, [])
        store.put_certificate(certificate(block.header))
        head, tree = block.header, result.tree
    return head


def begun(path: Path, blocks: int = 5) -> ChannelStore:
    store = ChannelStore.open(path)
    store.start(*genesis())
    grow(store, blocks)
    return store


def header_at(height: int, state: dict[bytes, bytes]) -> Header:
    """A header as a snapshot of ``state`` at ``height`` brings it."""
    first, result = genesis(tuple(sorted(state.items())))
    block, _ = next_block(first, result.tree, (), ())
    fields = {name: getattr(block.header, name) for name in Header.__struct_fields__}
    return Header(**{**fields, "height": height})


def stage(store: ChannelStore, state: dict[bytes, bytes], slice_entries: int = 64) -> None:
    store.stage_begin()
    entries = list(state.items())
    for start in range(0, len(entries), slice_entries):
        store.stage_put(entries[start : start + slice_entries])


def adopt(store: ChannelStore, height: int, state: dict[bytes, bytes]) -> Header:
    header = header_at(height, state)
    stage(store, state)
    store.adopt_snapshot(header, certificate(header))
    return header


def swept(store: ChannelStore) -> int:
    return sum(store.sweep())


def keys(path: Path) -> set[bytes]:
    database = open_database(path, create=False)
    found = set(database.keys(b"", None))
    database.close()
    return found


def expected_keys(store: ChannelStore, kept: tuple[int, ...] = ()) -> set[bytes]:
    """Every key that a store without leftovers has."""
    head = store.head()
    assert head is not None
    found = {FORMAT_KEY, HEAD_KEY, BASE_KEY, GENERATION_KEY, b"h/" + bytes(8)}
    found |= {b"s" + bytes([store.state.generation]) + b"/" + key for key, _ in store.entries()}
    found |= {b"k/" + height.to_bytes(8, "big") for height in kept}
    for height in range(store.base, head.height + 1):
        found |= {prefix + height.to_bytes(8, "big") for prefix in ((b"h/", b"c/") if height else ())}
    for height in range(store.first_height, head.height + 1):
        found |= {prefix + height.to_bytes(8, "big") for prefix in (b"b/", b"r/")}
        found |= {b"i/" + id_ for id_ in store.transaction_ids(height) or ()}
    return found


def assert_whole(store: ChannelStore, certified: bool = True) -> None:
    """No hole between base and head, nothing below, and the state is that of the head.

    Args:
        certified: whether the head has its certificate for sure; without it a crash may have come before that was written.
    """
    head = store.head()
    assert head is not None
    assert StateTree.of(store.entries()).root == head.state_root
    for height in range(store.base, head.height + 1):
        header = store.header(height)
        assert header is not None
        if certified or height < head.height or height == store.base:
            assert height == 0 or store.certificate(height) == certificate(header)
        block = store.block(height)
        assert (block is not None) == (height >= store.first_height)
        for position, raw in enumerate(block.transactions if block is not None else ()):
            assert store.locate(decode_transaction(raw).id) == (height, position)
    assert store.header(0) is not None
    for height in range(1, store.base):
        assert store.block(height) is None
        assert store.receipts(height) is None
        assert store.transactions(height) is None
