"""What the audit notices in a vote log whose checksums all fit: entries that were changed, left out, or put where they do not belong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from consensus.block import Batch, batch_digest
from consensus.codec import encode
from consensus.effects import LogRecord
from consensus.messages import Kind, PrePrepareMessage, sign_vote
from consensus.transaction import decode_transaction
from contracts.genesis import Genesis
from node.audit import audit
from node.key_value import Database, open_database
from node.vote_log import RECORD_PREFIX, VoteLog, bodies_place, decode_raws, decode_record, record_key
from tests.node.audit_chain import NODES, build_chain, make_genesis, transactions_of

HEIGHTS, CERTIFIED = 17, 14
TIME_MS = 40 * 900_000 + 18 * 60_000


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


Change = Callable[[Database], list[tuple[bytes, bytes | None]]]


def faults_after(folder: Path, genesis: Genesis, change: Change) -> list[str]:
    """Change the vote log; return what the audit finds in it."""
    database = open_database(folder / "votes")
    database.write(change(database), sync=True)
    database.close()
    return [f"{fault.what}: {fault.detail}" for fault in audit(folder, genesis).faults]


def record_of(database: Database, kind: Kind, sequence: int = HEIGHTS) -> LogRecord:
    records = (decode_record(value) for _, value in database.scan(RECORD_PREFIX))
    return next(record for record in records if (record.kind, record.sequence) == (kind, sequence))


@pytest.mark.parametrize(
    ("kind", "named", "told"),
    [
        (Kind.PREPARE, b"\x01" * 8, "names a batch whose transactions are kept, and proposes none"),
        (Kind.COMMIT, b"\x01" * 32, "names a batch whose transactions are kept, and proposes none"),
        (Kind.CHECKPOINT, b"\x01", "names a batch whose transactions are kept, and proposes none"),
        (Kind.PRE_PREPARE, b"\x01" * 32, "names another batch whose transactions are kept than the one voted for"),
        (Kind.PRE_PREPARE, b"", "names another batch whose transactions are kept than the one voted for"),
    ],
)
def test_another_batch_digest_in_a_record_is_noticed(copy: Path, genesis: Genesis, kind: Kind, named: bytes, told: str) -> None:
    def change(database: Database) -> list[tuple[bytes, bytes | None]]:
        record = msgspec.structs.replace(record_of(database, kind), batch_digest=named)
        return [(record_key(record), encode(record))]

    found = faults_after(copy, genesis, change)
    assert any(told in one for one in found), found


@pytest.mark.parametrize("cut", [lambda raws: (), lambda raws: raws[1:], lambda raws: raws[::-1], lambda raws: (*raws, raws[0])])
def test_transactions_left_out_of_a_batch_are_noticed(copy: Path, genesis: Genesis, cut: Callable[..., tuple[bytes, ...]]) -> None:
    def change(database: Database) -> list[tuple[bytes, bytes | None]]:
        found = ((key, decode_raws(value)) for key, value in database.scan(b"b/"))
        key, raws = max(found, key=lambda one: len(one[1]))
        assert len(raws) > 1
        return [(key, encode(cut(raws)))]

    (found,) = faults_after(copy, genesis, change)
    assert "of the batch, in their order" in found


def test_a_batch_above_the_head_keeps_its_transactions_and_one_that_was_executed_need_not(copy: Path, genesis: Genesis) -> None:
    raws = transactions_of(genesis, HEIGHTS + 1, TIME_MS)
    batch = encode(Batch(0, 0, TIME_MS, tuple(decode_transaction(raw).id for raw in raws)))
    digest, above = batch_digest(batch), HEIGHTS + 1
    vote = sign_vote(NODES[0], genesis.validator_set.domain, Kind.PRE_PREPARE, 0, above, digest, 0)
    votes = VoteLog.open(copy / "votes")
    record = LogRecord(above, 0, 0, Kind.PRE_PREPARE, encode(PrePrepareMessage(vote, batch)), digest)
    votes.append([record], [(above, digest, tuple(raws))])
    votes.close()

    def forget(sequence: int) -> Change:
        return lambda database: [(key, None) for key, _ in database.scan(b"b/") if bodies_place(key)[0] == sequence]

    assert faults_after(copy, genesis, lambda _: []) == []
    assert faults_after(copy, genesis, forget(HEIGHTS)) == []
    (found,) = faults_after(copy, genesis, forget(above))
    assert found == f"vote log: the transactions of the batch {digest.hex()} are not kept, and no block holds them"


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (b"b/\x01", encode((b"raw",)), "stand at the malformed key 622f01"),
        (b"r/x", encode(LogRecord(1, 0, 0, 1, b"")), "stands at the wrong key"),
        (b"r/" + bytes(25), encode(LogRecord(1, 0, -1, 1, b"")), "view -1, kind 1: a number is out of range"),
        (b"x/1", b"", "belongs to nothing"),
        (b"m/cut", CERTIFIED.to_bytes(8, "big"), "mark up to where votes were dropped: is missing or malformed"),
        (b"m/cut", (CERTIFIED - 1).to_bytes(8, "big") + bytes(8), "mark up to where votes were dropped: says 13, which its checksum"),
        (b"m/cut", None, "mark up to where votes were dropped: is missing or malformed"),
        (b"m/id", None, "id of the vote log: is missing or malformed"),
    ],
)
def test_stray_entries_and_wrong_marks_are_noticed(copy: Path, genesis: Genesis, key: bytes, value: bytes | None, told: str) -> None:
    found = faults_after(copy, genesis, lambda _: [(key, value)])
    assert any(told in one for one in found), found


def test_a_lower_cut_is_noticed(copy: Path, genesis: Genesis) -> None:
    database = open_database(copy / "votes")
    mark = dict(database.scan(b"m/cut"))[b"m/cut"]
    database.close()
    assert int.from_bytes(mark[:8], "big") == CERTIFIED
    for height in (0, 1, CERTIFIED - 1):
        lower = (b"m/cut", height.to_bytes(8, "big") + mark[8:])
        found = faults_after(copy, genesis, lambda _, lower=lower: [lower])  # type: ignore[misc]
        assert any(f"says {height}, which its checksum contradicts" in one for one in found), found
    assert faults_after(copy, genesis, lambda _: [(b"m/cut", mark)]) == []
