"""The audit finds nothing in a good store, and every flipped byte in a damaged one."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from consensus.block import Certificate, decode_certificate, decode_header
from consensus.codec import encode
from consensus.errors import InputError
from consensus.messages import Kind, make_certificate, sign_vote
from contracts.genesis import Genesis, read_genesis, write_genesis
from node.audit import AuditReport, audit
from node.block_store import ChannelStore
from node.key_value import Database, open_database
from node.vote_log import VoteLog
from tests.node.audit_chain import NODES, build_chain, make_genesis

HEIGHTS, CERTIFIED = 36, 34


@pytest.fixture(scope="module")
def genesis() -> Genesis:
    return make_genesis()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, genesis: Genesis) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "main"
    build_chain(folder, genesis, HEIGHTS, CERTIFIED)
    return folder


@pytest.fixture
def copy(tmp_path: Path, chain: Path) -> Path:
    shutil.copytree(chain, tmp_path / "main")
    return tmp_path / "main"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def what(report: AuditReport) -> set[str]:
    return {fault.what for fault in report.faults}


def edit(folder: Path, change: Callable[[Database], None]) -> None:
    database = open_database(folder)
    change(database)
    database.close()


def test_good_store_has_no_faults_and_stays_as_it_is(copy: Path, genesis: Genesis) -> None:
    before = contents(copy)
    steps: list[tuple[int, int]] = []
    report = audit(copy, genesis, lambda height, total: steps.append((height, total)))
    assert report.faults == ()
    assert report.ok
    assert (report.height, report.blocks, report.certified_height) == (HEIGHTS, HEIGHTS + 1, CERTIFIED)
    assert report.transactions == HEIGHTS - 1 + 2 + 2 * 2
    assert steps == [(height, HEIGHTS) for height in range(1, HEIGHTS + 1)]
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["main"]


def test_chain_of_the_test_really_trades_and_settles(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain / "blocks", tmp_path / "blocks")
    store = ChannelStore.open(tmp_path / "blocks")
    receipts = b"".join(receipt for height in range(1, HEIGHTS + 1) for receipt in store.receipts(height) or ())
    store.close()
    for event in (b"traded", b"reading-accepted", b"period-settled", b"transferred"):
        assert event in receipts


def test_store_in_use_can_be_audited(copy: Path, genesis: Genesis) -> None:
    store, votes = ChannelStore.open(copy / "blocks"), VoteLog.open(copy / "votes")
    assert audit(copy, genesis).faults == ()
    store.add_pending([(b"\x01" * 32, b"rubbish")])
    assert what(audit(copy, genesis)) == {"pending"}
    store.drop_pending([b"\x01" * 32])
    assert store.block(1) is not None
    store.close()
    votes.close()
    assert audit(copy, genesis).faults == ()


def test_sorted_files_and_no_log(copy: Path, genesis: Genesis) -> None:
    for name in ("blocks", "votes"):
        edit(copy / name, lambda database: database.compact())
        assert list((copy / name).glob("*.ldb"))
    before = contents(copy)
    assert audit(copy, genesis).faults == ()
    assert contents(copy) == before


def test_wrong_genesis_is_named(copy: Path, genesis: Genesis) -> None:
    text = write_genesis(genesis).replace(b'"currency": "EUR"', b'"currency": "CHF"')
    report = audit(copy, read_genesis(text))
    assert (0, "header") in {(fault.height, fault.what) for fault in report.faults}


def test_no_store_is_wrong_input(tmp_path: Path, genesis: Genesis) -> None:
    with pytest.raises(InputError, match="no channel's store"):
        audit(tmp_path, genesis)
    (tmp_path / "blocks").mkdir()
    report = audit(tmp_path, genesis)
    assert what(report) == {"block store", "vote log"}
    assert report.height == -1


PREFIXES = [b"m/format", b"m/head", b"m/base", b"m/state", b"h/", b"b/", b"r/", b"c/", b"i/", b"s\x00/", b"p/"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("part", ["value", "key"])
def test_flip_in_every_kind_of_record(copy: Path, genesis: Genesis, prefix: bytes, part: str) -> None:
    check_flips(copy, genesis, prefix, part)


def check_flips(copy: Path, genesis: Genesis, prefix: bytes, part: str) -> None:
    """One bit at a time, at places drawn from a fixed seed, rewritten through LevelDB so that its checksums are right."""
    source = random.Random(prefix + part.encode())
    database = open_database(copy / "blocks")
    entries = list(database.scan(prefix))
    database.close()
    assert entries
    for _ in range(6):
        key, value = source.choice(entries)
        data = bytearray(value if part == "value" else key)
        position = source.randrange(len(data))
        data[position] ^= 1 << source.randrange(8)
        if part == "value":
            change: list[tuple[bytes, bytes | None]] = [(key, bytes(data))]
            back: list[tuple[bytes, bytes | None]] = [(key, value)]
        else:
            if any(bytes(data) == other for other, _ in entries):
                continue
            change = [(key, None), (bytes(data), value)]
            back = [(key, value), (bytes(data), None)]
        edit(copy / "blocks", lambda database, change=change: database.write(change, sync=True))
        report = audit(copy, genesis)
        assert report.faults, (key, position)
        edit(copy / "blocks", lambda database, back=back: database.write(back, sync=True))
    assert audit(copy, genesis).faults == ()


@pytest.mark.parametrize("prefix", [b"m/format", b"r/", b"b/"])
@pytest.mark.parametrize("part", ["value", "key"])
def test_flip_in_the_vote_log(copy: Path, genesis: Genesis, prefix: bytes, part: str) -> None:
    source = random.Random(prefix + part.encode())
    database = open_database(copy / "votes")
    entries = list(database.scan(prefix))
    database.close()
    for _ in range(15):
        key, value = source.choice(entries)
        data = bytearray(value if part == "value" else key)
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        if part == "value":
            changed = [*((k, v) for k, v in entries if k != key), (key, bytes(data))]
        else:
            changed = [*((k, v) for k, v in entries if k != key), (bytes(data), value)]
        edit(copy / "votes", lambda database, changed=changed: database.write([*((k, None) for k, _ in entries), *changed], sync=True))
        report = audit(copy, genesis)
        assert report.faults, (key, data)
        undo = [*((k, None) for k, _ in changed), *entries]
        edit(copy / "votes", lambda database, undo=undo: database.write(undo, sync=True))
    assert audit(copy, genesis).faults == ()


@pytest.mark.parametrize("name", ["blocks", "votes"])
@pytest.mark.parametrize("kind", ["*.log", "*.ldb", "MANIFEST-*", "CURRENT"])
def test_flip_in_the_files(copy: Path, genesis: Genesis, name: str, kind: str) -> None:
    """Every byte counts: also in padding, filters and footers, and in the length of a log's last record."""
    if kind == "*.ldb":
        edit(copy / name, lambda database: database.compact())
    path = max((copy / name).glob(kind), key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    assert data
    source = random.Random(f"{name} {kind}")
    whole = [*range(max(0, len(data) - 48), len(data)), *range(min(8, len(data)))]
    for position in [*source.sample(whole, min(10, len(whole))), *(source.randrange(len(data)) for _ in range(15))]:
        changed = bytearray(data)
        changed[position] ^= 1 << source.randrange(8)
        path.write_bytes(changed)
        assert audit(copy, genesis).faults, position
    path.write_bytes(data)
    assert audit(copy, genesis).faults == ()


def last_record(data: bytes) -> int:
    """Where the last record of a short log begins."""
    position = 0
    while True:
        following = position + 7 + int.from_bytes(data[position + 4 : position + 6], "little")
        if following >= len(data):
            return position
        position = following


def test_wrong_length_of_the_last_log_record_is_not_taken_for_a_crash(copy: Path, genesis: Genesis) -> None:
    edit(copy / "votes", lambda database: database.compact())
    edit(copy / "votes", lambda database: database.write([(b"r/x", b"stray")], sync=True))
    edit(copy / "votes", lambda database: database.write([(b"r/x", None)], sync=True))
    log = max((copy / "votes").glob("*.log"), key=lambda path: path.stat().st_size)
    data = log.read_bytes()
    start = last_record(data)
    changed = bytearray(data)
    changed[start + 4] ^= 0x40
    log.write_bytes(changed)
    assert any("wrong record length" in fault.detail for fault in audit(copy, genesis).faults)
    log.write_bytes(data[: start + 9])
    assert all("length" not in fault.detail for fault in audit(copy, genesis).faults)


def test_torn_last_write_is_no_fault(copy: Path, genesis: Genesis) -> None:
    store = ChannelStore.open(copy / "blocks")
    store.add_pending([(b"\x02" * 32, b"never acknowledged")])
    store.close()
    log = max((copy / "blocks").glob("*.log"))
    data = log.read_bytes()
    for cut in (1, 5, 20):
        log.write_bytes(data[:-cut])
        assert audit(copy, genesis).faults == ()


@pytest.mark.parametrize("kind", ["*.log", "*.ldb", "MANIFEST-*", "CURRENT"])
def test_missing_file_is_found(copy: Path, genesis: Genesis, kind: str) -> None:
    if kind == "*.ldb":
        edit(copy / "blocks", lambda database: database.compact())
    max((copy / "blocks").glob(kind)).unlink()
    assert audit(copy, genesis).faults


def test_lost_blocks_are_found_by_the_vote_log(copy: Path, genesis: Genesis) -> None:
    """A log cut off at the end of a record is a whole log to LevelDB: the node's own signatures tell that more was there."""

    def forget(database: Database) -> None:
        height = HEIGHTS.to_bytes(8, "big")
        gone = [(prefix + height, None) for prefix in (b"h/", b"b/", b"r/")]
        index = [(key, None) for key, value in database.scan(b"i/") if value[:8] == height]
        database.write([*gone, *index, (b"m/head", (HEIGHTS - 1).to_bytes(8, "big"))], sync=True)

    edit(copy / "blocks", forget)
    report = audit(copy, genesis)
    assert "head" in what(report)
    assert any(f"signed block {HEIGHTS}" in fault.detail for fault in report.faults)


def test_forged_history_with_right_hashes_is_found_by_replay(copy: Path, genesis: Genesis) -> None:
    """Somebody with a quorum of keys signs a header with another state root: links, certificate and trees are right, state is not."""

    def forge(database: Database) -> None:
        key = b"h/" + HEIGHTS.to_bytes(8, "big")
        header = decode_header(dict(database.scan(b"h/"))[key])
        fields = {name: getattr(header, name) for name in type(header).__struct_fields__}
        forged = type(header)(**{**fields, "state_root": bytes(32)})
        votes = tuple(sign_vote(NODES[n], genesis.validator_set.domain, Kind.CHECKPOINT, 0, HEIGHTS, forged.hash, n) for n in range(3))
        certificate = encode(make_certificate(votes))
        database.write([(key, encode(forged)), (b"c/" + HEIGHTS.to_bytes(8, "big"), certificate)], sync=True)

    edit(copy / "blocks", forge)
    report = audit(copy, genesis)
    assert (HEIGHTS, "state root") in {(fault.height, fault.what) for fault in report.faults}


def test_certificates_too_few_votes_gaps_and_the_lag(copy: Path, genesis: Genesis) -> None:
    key = b"c/" + CERTIFIED.to_bytes(8, "big")

    def thin(database: Database) -> None:
        certificate = decode_certificate(dict(database.scan(b"c/"))[key])
        database.write([(key, encode(Certificate(0, CERTIFIED, certificate.header_hash, certificate.votes[:2])))], sync=True)

    edit(copy / "blocks", lambda database: database.write([(b"c/" + (5).to_bytes(8, "big"), None)], sync=True))
    edit(copy / "blocks", thin)
    report = audit(copy, genesis)
    assert {(fault.height, fault.what, fault.detail) for fault in report.faults} == {
        (5, "certificate", "is missing"),
        (CERTIFIED, "certificate", "is not signed by a quorum of the validators"),
    }
    edit(copy / "blocks", lambda database: database.write([(key, None), (b"c/" + (5).to_bytes(8, "big"), None)], sync=True))
    assert audit(copy, genesis).certified_height == CERTIFIED - 1


def test_entries_that_belong_to_nothing(copy: Path, genesis: Genesis) -> None:
    extra = [
        (b"x", b""),
        (b"h/short", b""),
        (b"i/" + bytes(32), bytes(12)),
        (b"i/" + b"\x01" * 32, b"odd"),
        (b"s\x00/extra", b"1"),
        (b"s/extra", b"1"),
    ]
    for key, value in extra:
        edit(copy / "blocks", lambda database, key=key, value=value: database.write([(key, value)], sync=True))
        assert len(audit(copy, genesis).faults) == 1, key
        edit(copy / "blocks", lambda database, key=key: database.write([(key, None)], sync=True))
    assert audit(copy, genesis).faults == ()
