"""The audit of stores that do not reach back to genesis: pruned ones, and ones that began with a snapshot."""

import shutil
from pathlib import Path

import pytest

from consensus.block import NO_PROPOSER, NULL_BATCH, decode_batch, decode_certificate, decode_header
from consensus.codec import encode
from consensus.messages import Kind, make_certificate, sign_vote
from consensus.state_tree import StateTree
from consensus.transaction import decode_transaction
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.audit import audit
from node.block_store import ChannelStore
from node.genesis_block import start_store
from node.key_value import Database
from node.snapshots import SNAPSHOTS_FOLDER, SnapshotShelf, stored_snapshots
from node.store_layout import state_prefix
from tests.node.audit_chain import NODES, build_chain, make_genesis
from tests.node.test_audit import CERTIFIED, HEIGHTS, check_flips, contents, edit, what

KEEP_FROM, SNAPSHOT = 13, 20


@pytest.fixture(scope="module")
def genesis() -> Genesis:
    return make_genesis()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, genesis: Genesis) -> Path:
    """A chain from genesis on."""
    folder = tmp_path_factory.mktemp("whole") / "main"
    build_chain(folder, genesis, HEIGHTS, CERTIFIED)
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, genesis: Genesis) -> Path:
    """A shelf with the state of the same chain at two heights."""
    folder = tmp_path_factory.mktemp("shelf")
    for height in (SNAPSHOT, SNAPSHOT + 5):
        build_chain(folder / str(height), genesis, height, height)
        store = ChannelStore.open(folder / str(height) / "blocks")
        head, certificate = store.head(), store.certificate(height)
        assert head is not None
        assert certificate is not None
        assert SnapshotShelf(folder / SNAPSHOTS_FOLDER).make(store.state.pinned(), head, certificate)
        store.close()
    return folder / SNAPSHOTS_FOLDER


@pytest.fixture(scope="module")
def pruned_once(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    folder = tmp_path_factory.mktemp("pruned") / "main"
    shutil.copytree(whole, folder)
    store = ChannelStore.open(folder / "blocks")
    store.prune(KEEP_FROM, (5, 9))
    for _ in store.sweep():
        pass
    store.close()
    return folder


@pytest.fixture
def pruned(tmp_path: Path, pruned_once: Path) -> Path:
    shutil.copytree(pruned_once, tmp_path / "main")
    return tmp_path / "main"


@pytest.fixture(scope="module")
def begun_once(tmp_path_factory: pytest.TempPathFactory, genesis: Genesis, whole: Path, shelf: Path) -> Path:
    """A store that adopted the snapshot and executed the blocks after it."""
    folder = tmp_path_factory.mktemp("begun") / "main"
    shutil.copytree(whole / "votes", folder / "votes")
    shutil.copytree(whole / "blocks", folder / "source")
    source, store = ChannelStore.open(folder / "source"), ChannelStore.open(folder / "blocks")
    start_store(genesis, store)
    header, certificate = source.header(SNAPSHOT), source.certificate(SNAPSHOT)
    assert header is not None
    assert certificate is not None
    snapshot = stored_snapshots(shelf)[0]
    store.stage_begin()
    for index in range(len(snapshot.manifest().chunks)):
        store.stage_put(snapshot.chunk(index).entries)
    tree = store.adopt_snapshot(header, certificate)
    for _ in store.sweep():
        pass
    application = LedgerApplication(genesis, store.state, tree)
    for height in range(SNAPSHOT + 1, HEIGHTS + 1):
        block = source.block(height)
        assert block is not None
        transactions = [decode_transaction(raw) for raw in block.transactions]
        proposer = NO_PROPOSER if block.batch == NULL_BATCH else decode_batch(block.batch).proposer
        finalized = application.finalize_block(height, block.header.time_ms, proposer, transactions)
        assert finalized.tree.root == block.header.state_root
        store.append(block, finalized, [])
        application.commit()
        proof = source.certificate(height)
        if proof is not None:
            store.put_certificate(proof)
    store.close()
    source.close()
    shutil.rmtree(folder / "source")
    return folder


@pytest.fixture
def begun(tmp_path: Path, begun_once: Path) -> Path:
    shutil.copytree(begun_once, tmp_path / "begun")
    return tmp_path / "begun"


def test_a_pruned_store_is_good_and_the_report_says_what_was_not_executed(pruned: Path, genesis: Genesis) -> None:
    before, steps = contents(pruned), list[tuple[int, int]]()
    report = audit(pruned, genesis, lambda height, total: steps.append((height, total)))
    assert report.faults == ()
    assert (report.height, report.base, report.replayed_from, report.certified_height) == (HEIGHTS, KEEP_FROM - 1, None, CERTIFIED)
    assert report.blocks == 2 + HEIGHTS - (KEEP_FROM - 1)
    assert steps == [(height, HEIGHTS) for height in range(KEEP_FROM, HEIGHTS + 1)]
    assert report.notes == (
        f"blocks below {KEEP_FROM} are not stored, nor is a snapshot to begin with: no block was executed again; "
        f"the state was compared with the state root of block {HEIGHTS}, which has no certificate yet",
    )
    assert contents(pruned) == before


def test_executing_begins_with_the_first_snapshot_on_the_shelf(pruned: Path, begun: Path, shelf: Path, genesis: Genesis) -> None:
    for folder, middle in ((pruned, f"; blocks {KEEP_FROM} to {SNAPSHOT} were checked, but not executed again"), (begun, "")):
        shutil.copytree(shelf, folder / SNAPSHOTS_FOLDER)
        report = audit(folder, genesis)
        assert report.faults == ()
        assert report.replayed_from == SNAPSHOT
        first = report.base + 1
        assert report.notes == (
            f"blocks below {first} are not stored: the state before block {SNAPSHOT + 1} comes from a certified snapshot{middle}",
        )


def test_a_damaged_snapshot_is_passed_over(pruned: Path, shelf: Path, genesis: Genesis) -> None:
    shutil.copytree(shelf, pruned / SNAPSHOTS_FOLDER)
    path = pruned / SNAPSHOTS_FOLDER / str(SNAPSHOT) / "00000"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    report = audit(pruned, genesis)
    assert report.faults == ()
    assert report.replayed_from == SNAPSHOT + 5
    assert report.notes[0].startswith(f"the snapshot of height {SNAPSHOT} is of no use: ")
    shutil.rmtree(pruned / SNAPSHOTS_FOLDER / str(SNAPSHOT + 5))
    report = audit(pruned, genesis)
    assert report.faults == ()
    assert report.replayed_from is None


def test_a_whole_store_is_executed_from_genesis_and_not_from_the_shelf(whole: Path, shelf: Path, tmp_path: Path, genesis: Genesis) -> None:
    shutil.copytree(whole, tmp_path / "main")
    shutil.copytree(shelf, tmp_path / "main" / SNAPSHOTS_FOLDER)
    report = audit(tmp_path / "main", genesis)
    assert (report.faults, report.replayed_from, report.notes, report.base) == ((), 0, (), 0)


def test_a_store_that_began_with_a_snapshot_is_good(begun: Path, genesis: Genesis) -> None:
    report = audit(begun, genesis)
    assert report.faults == ()
    assert (report.height, report.base, report.replayed_from) == (HEIGHTS, SNAPSHOT, None)


def test_what_waits_to_be_deleted_is_no_fault(whole: Path, tmp_path: Path, genesis: Genesis) -> None:
    """A crash, or a node that is at work: the base has moved, blocks are still there, and a snapshot is being fetched."""
    shutil.copytree(whole, tmp_path / "main")
    store = ChannelStore.open(tmp_path / "main" / "blocks")
    store.prune(KEEP_FROM)
    store.stage_begin()
    store.stage_put([(b"%d" % number, b"") for number in range(7)])
    report = audit(tmp_path / "main", genesis)
    store.close()
    assert report.faults == ()
    assert report.notes[0].startswith(f"{7 + 2 * (KEEP_FROM - 1) + 2 * (KEEP_FROM - 2)} entries wait to be deleted")


PREFIXES = [b"m/head", b"m/base", b"m/state", b"h/", b"b/", b"r/", b"c/", b"i/", b"k/"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("part", ["value", "key"])
def test_flip_in_every_kind_of_record_of_a_pruned_store(pruned: Path, genesis: Genesis, prefix: bytes, part: str) -> None:
    check_flips(pruned, genesis, prefix, part)


@pytest.mark.parametrize("prefix", [b"m/base", b"m/state", b"h/", b"c/", state_prefix(1)])
@pytest.mark.parametrize("part", ["value", "key"])
def test_flip_in_every_kind_of_record_of_a_store_that_began_with_a_snapshot(
    begun: Path, genesis: Genesis, prefix: bytes, part: str
) -> None:
    check_flips(begun, genesis, prefix, part)


def test_the_base_needs_a_certificate_of_a_quorum(begun: Path, genesis: Genesis) -> None:
    key = b"c/" + SNAPSHOT.to_bytes(8, "big")

    def forge(database: Database) -> None:
        found = decode_certificate(dict(database.scan(b"c/"))[key])
        domain = genesis.validator_set.domain
        votes = tuple(sign_vote(NODES[n], domain, Kind.CHECKPOINT, 0, SNAPSHOT, found.header_hash, n) for n in (0, 3))
        database.write([(key, encode(make_certificate(votes)))], sync=True)

    edit(begun / "blocks", forge)
    faults = {(fault.height, fault.what, fault.detail) for fault in audit(begun, genesis).faults}
    assert faults == {(SNAPSHOT, "certificate", "is not signed by a quorum of the validators")}
    edit(begun / "blocks", lambda database: database.write([(key, None)], sync=True))
    assert (SNAPSHOT, "certificate", "is missing") in {(one.height, one.what, one.detail) for one in audit(begun, genesis).faults}


def test_a_base_of_another_chain_is_found(begun: Path, genesis: Genesis) -> None:
    """A header with a certificate of the right validators for another channel cannot be the base."""
    height = SNAPSHOT.to_bytes(8, "big")

    def move(database: Database) -> None:
        header = decode_header(dict(database.scan(b"h/"))[b"h/" + height])
        fields = {name: getattr(header, name) for name in type(header).__struct_fields__}
        other = type(header)(**{**fields, "channel": "other"})
        database.write([(b"h/" + height, encode(other)), (b"m/base", height + other.hash)], sync=True)

    edit(begun / "blocks", move)
    assert {"header", "certificate"} <= what(audit(begun, genesis))


def test_state_that_does_not_fit_the_head_is_found_without_executing(begun: Path, genesis: Genesis) -> None:
    prefix = state_prefix(1)

    def enrich(database: Database) -> None:
        key, value = next(iter(database.scan(prefix)))
        database.write([(key, value[:-1] + bytes([value[-1] ^ 1]))], sync=True)

    edit(begun / "blocks", enrich)
    report = audit(begun, genesis)
    assert [(fault.what, fault.detail) for fault in report.faults] == [
        ("state", f"the entries do not hash to the state root of block {HEIGHTS}")
    ]


def test_a_hole_above_the_base_is_found(pruned: Path, genesis: Genesis) -> None:
    height = (KEEP_FROM + 3).to_bytes(8, "big")
    edit(pruned / "blocks", lambda database: database.write([(b"b/" + height, None), (b"r/" + height, None)], sync=True))
    faults = {(fault.height, fault.what) for fault in audit(pruned, genesis).faults}
    assert (KEEP_FROM + 3, "block") in faults
    assert (None, "index") in faults
    edit(pruned / "blocks", lambda database: database.write([(b"h/" + height, None)], sync=True))
    assert (KEEP_FROM + 3, "header") in {(fault.height, fault.what) for fault in audit(pruned, genesis).faults}


def test_the_adopted_state_is_the_one_of_the_chain(begun: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "main")
    one, other = ChannelStore.open(begun / "blocks"), ChannelStore.open(tmp_path / "main" / "blocks")
    assert dict(one.entries()) == dict(other.entries())
    assert StateTree.of(one.entries()).root == StateTree.of(other.entries()).root
    one.close()
    other.close()
