"""The audit where validators change: every block is certified by the set of its epoch, and the store can prove each of them."""

import shutil
from pathlib import Path

import pytest

from consensus.block import decode_header
from consensus.codec import encode
from consensus.errors import InputError
from consensus.messages import Kind, make_certificate, sign_vote
from consensus.snapshot import verify_snapshot
from consensus.validators import decode_epoch_change
from contracts.genesis import Genesis
from node.audit import AuditReport, audit
from node.block_store import ChannelStore
from node.genesis_block import start_store
from node.key_value import Database, open_database
from node.snapshot_file import SnapshotFile, adopt_snapshot_file, write_snapshot_file
from node.snapshots import SNAPSHOTS_FOLDER, SnapshotShelf, stored_snapshots
from node.store_layout import EPOCH_PREFIX
from node.vote_log import VoteLog, cut_mark
from tests.node.audit_chain import NODES
from tests.node.epoch_store import DECIDED, LAST_OF_EPOCH_0, build_epochs, epoch_genesis
from tests.node.in_place import leave_in_place
from tests.node.test_audit import check_flips, edit, what

HEIGHTS = 12
PROOF = EPOCH_PREFIX + (1).to_bytes(8, "big")


@pytest.fixture(scope="module")
def genesis() -> Genesis:
    return epoch_genesis()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, genesis: Genesis) -> Path:
    folder = tmp_path_factory.mktemp("epochs") / "main"
    folder.mkdir()
    build_epochs(folder, genesis, HEIGHTS)
    return folder


@pytest.fixture
def chain(tmp_path: Path, built: Path) -> Path:
    shutil.copytree(built, tmp_path / "main")
    return tmp_path / "main"


def prune(folder: Path, keep_from: int, kept: tuple[int, ...] = ()) -> None:
    store = ChannelStore.open(folder / "blocks")
    store.prune(keep_from, kept)
    for _ in store.sweep():
        pass
    store.close()


def shown(report: AuditReport) -> set[tuple[int | None, str]]:
    return {(fault.height, fault.what) for fault in report.faults}


def test_a_chain_over_two_epochs_is_good(chain: Path, genesis: Genesis) -> None:
    store = ChannelStore.open(chain / "blocks")
    headers = [store.header(height) for height in range(HEIGHTS + 1)]
    store.close()
    assert [header.epoch for header in headers if header is not None] == [0] * (LAST_OF_EPOCH_0 + 1) + [1] * (HEIGHTS - LAST_OF_EPOCH_0)
    report = audit(chain, genesis)
    assert report.faults == ()
    assert report.replayed_from == 0


@pytest.mark.parametrize("keep_from", [LAST_OF_EPOCH_0, LAST_OF_EPOCH_0 + 1, LAST_OF_EPOCH_0 + 2, HEIGHTS])
def test_a_pruned_chain_proves_its_epoch_by_what_it_keeps(chain: Path, genesis: Genesis, keep_from: int) -> None:
    prune(chain, keep_from, (DECIDED,))
    assert audit(chain, genesis).faults == ()
    edit(chain / "blocks", lambda database: database.write([(PROOF, None)], sync=True))
    faults = shown(audit(chain, genesis))
    assert (None, "epoch") in faults
    assert ((keep_from - 1, "certificate") in faults) == (keep_from > LAST_OF_EPOCH_0 + 1)


@pytest.mark.parametrize("part", ["value", "key"])
def test_flip_in_the_proofs_of_epochs(chain: Path, genesis: Genesis, part: str) -> None:
    check_flips(chain, genesis, EPOCH_PREFIX, part)
    prune(chain, HEIGHTS)
    check_flips(chain, genesis, EPOCH_PREFIX, part)


def test_a_removed_key_certifies_nothing(chain: Path, genesis: Genesis) -> None:
    """Two validators and the old key of the third sign a block of epoch 1."""
    height = LAST_OF_EPOCH_0 + 2
    key = b"c/" + height.to_bytes(8, "big")

    def forge(database: Database) -> None:
        header = decode_header(database.get(b"h/" + height.to_bytes(8, "big")) or b"")
        following = decode_epoch_change(database.get(PROOF) or b"").validators
        votes = tuple(sign_vote(NODES[n], following.domain, Kind.CHECKPOINT, 0, height, header.hash, n) for n in (1, 2, 3))
        database.write([(key, encode(make_certificate(votes)))], sync=True)

    edit(chain / "blocks", forge)
    assert shown(audit(chain, genesis)) == {(height, "certificate")}


def test_a_header_that_names_other_validators_is_found(chain: Path, genesis: Genesis) -> None:
    """The last header, without its certificate: nothing but the chain itself says who follows."""
    height = HEIGHTS.to_bytes(8, "big")

    def forge(database: Database) -> None:
        header = decode_header(database.get(b"h/" + height) or b"")
        fields = {name: getattr(header, name) for name in type(header).__struct_fields__}
        for name, value in (("next_validators", bytes(32)), ("epoch", 0)):
            fields[name] = value
            database.write([(b"h/" + height, encode(type(header)(**fields))), (b"c/" + height, None)], sync=True)

    edit(chain / "blocks", forge)
    details = {fault.detail.split()[0] for fault in audit(chain, genesis).faults if fault.height == HEIGHTS}
    assert {"next_validators", "epoch"} <= details


def test_votes_and_evidence_of_several_epochs(chain: Path, genesis: Genesis) -> None:
    votes = VoteLog(open_database(chain / "votes"))
    assert {record.epoch for record in votes.records()} == {0, 1}
    ((first, second),) = votes.evidence()
    assert first.epoch == second.epoch == 1
    votes.close()
    for prefix, flip in ((b"e/", -1), (b"r/", 40)):
        database_before: list[tuple[bytes, bytes]] = []

        def damage(
            database: Database, prefix: bytes = prefix, flip: int = flip, found: list[tuple[bytes, bytes]] = database_before
        ) -> None:
            found += database.scan(prefix)
            key, value = found[-1]
            changed = bytearray(value)
            changed[flip] ^= 1
            database.write([(key, bytes(changed))], sync=True)

        edit(chain / "votes", damage)
        assert what(audit(chain, genesis)) == {"vote log"}
        edit(chain / "votes", lambda database, found=database_before: database.write(found, sync=True))
    assert audit(chain, genesis).faults == ()


def test_a_snapshot_carries_the_proofs_with_it(chain: Path, tmp_path: Path, genesis: Genesis) -> None:
    """From the shelf to a file to another store, which can show the proofs to others in turn."""
    store = ChannelStore.open(chain / "blocks")
    head, certificate = store.head(), store.certificate(HEIGHTS)
    assert head is not None
    assert certificate is not None
    proofs = store.epoch_changes()
    for name, epochs in (("good", proofs), ("bare", ())):
        shelf = SnapshotShelf(tmp_path / name)
        assert shelf.make(store.state.pinned(), head, certificate, epochs)
        write_snapshot_file(tmp_path / f"{name}.snapshot", stored_snapshots(tmp_path / name)[0], lambda done, total: None)
    store.close()
    good, bare = SnapshotFile(tmp_path / "good.snapshot"), SnapshotFile(tmp_path / "bare.snapshot")
    with pytest.raises(InputError, match="snapshot: certificate"):
        verify_snapshot((genesis.validator_set,), bare.manifest)
    (tmp_path / "other").mkdir()
    shutil.copytree(chain / "votes", tmp_path / "other" / "votes")
    store = ChannelStore.open(tmp_path / "other" / "blocks")
    start_store(genesis, store)
    adopt_snapshot_file(store, good, verify_snapshot((genesis.validator_set,), good.manifest)[0], lambda done, total: None)
    assert store.epoch_changes() == proofs
    store.close()
    assert audit(tmp_path / "other", genesis).faults == ()
    shutil.copytree(tmp_path / "good", tmp_path / "other" / SNAPSHOTS_FOLDER)
    report = audit(tmp_path / "other", genesis)
    assert (report.faults, report.replayed_from) == ((), HEIGHTS)


OTHER_LOG = b"another log now."


def test_votes_of_an_epoch_that_names_another_log_are_found(chain: Path, genesis: Genesis) -> None:
    """Whoever votes with a log that is not the one of its seat may have signed something else before, and forgot it."""
    edit(chain / "votes", lambda database: database.write([(b"m/id", OTHER_LOG), (b"m/cut", cut_mark(OTHER_LOG, 0))], sync=True))
    report = audit(chain, genesis)
    assert what(report) == {"vote log"}
    assert all("belongs to another vote log" in fault.detail for fault in report.faults), report.faults
    assert len(report.faults) == HEIGHTS


def test_votes_dropped_above_the_last_certificate_are_found(chain: Path, genesis: Genesis) -> None:
    leave_in_place(chain / "votes")
    votes = VoteLog.open(chain / "votes")
    votes.truncate(HEIGHTS, 1, 0)
    votes.close()
    assert audit(chain, genesis).faults == ()
    key = b"c/" + HEIGHTS.to_bytes(8, "big")
    edit(chain / "blocks", lambda database: database.write([(key, None)], sync=True))
    assert shown(audit(chain, genesis)) == {(HEIGHTS, "head")}
    edit(chain / "votes", lambda database: database.write([(b"m/cut", b"short")], sync=True))
    assert what(audit(chain, genesis)) == {"vote log"}
