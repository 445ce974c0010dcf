"""The vote log on a real LevelDB: what was kept comes back, what does not belong is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.effects import LogRecord
from consensus.errors import InvariantViolation
from consensus.messages import Vote
from node.key_value import StoreDamagedError, StoreError, after_prefix, open_database
from node.vote_log import FIRST_START, ID_BYTES, VOTES_FOLDER, VoteLog

RECORDS = st.builds(
    LogRecord,
    sequence=st.integers(0, 12),
    epoch=st.integers(0, 2),
    view=st.integers(0, 5),
    kind=st.integers(1, 7),
    data=st.binary(max_size=20),
    batch_digest=st.just(b"") | st.binary(min_size=32, max_size=32),
)
STEPS = st.lists(
    st.tuples(st.just("append"), st.lists(RECORDS, max_size=5))
    | st.tuples(st.just("truncate"), st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 5))),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(STEPS)
def test_vote_log_restores_exactly_what_was_kept(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]) -> None:
    path = tmp_path_factory.mktemp("votes")
    votes = VoteLog.open(path)
    records: dict[tuple[int, int, int, int], LogRecord] = {}
    bodies: dict[tuple[int, bytes], tuple[bytes, ...]] = {}
    for name, argument in steps:
        if name == "append":
            assert isinstance(argument, list)
            named = [record for record in argument if record.batch_digest and record.sequence]
            with_body = [(record.sequence, record.batch_digest, (record.data, b"x")) for record in named]
            votes.append(argument, with_body)
            records.update({(record.sequence, record.epoch, record.view, record.kind): record for record in argument})
            bodies.update({(sequence, digest_): raws for sequence, digest_, raws in with_body})
        else:
            assert isinstance(argument, tuple)
            sequence, epoch, view = argument
            votes.truncate(sequence, epoch, view)
            records = {key: record for key, record in records.items() if (key[0] > sequence if key[0] else key[1:3] >= (epoch, view))}
            bodies = {key: raws for key, raws in bodies.items() if key[0] > sequence or key[0] == 0}
    for _ in range(2):
        assert votes.records() == [records[key] for key in sorted(records)]
        assert list(votes.bodies()) == [(*key, bodies[key]) for key in sorted(bodies)]
        votes.close()
        votes = VoteLog.open(path)
    votes.close()


def test_vote_log_refuses_what_does_not_fit_or_belong(tmp_path: Path) -> None:
    votes = VoteLog.open(tmp_path)
    with pytest.raises(InvariantViolation):
        votes.append([LogRecord(2**64, 0, 0, 1, b"")])
    with pytest.raises(InvariantViolation):
        votes.append([LogRecord(1, 0, -1, 1, b"")])
    with pytest.raises(InvariantViolation):
        votes.append([LogRecord(1, -1, 0, 1, b"")])
    votes.append([LogRecord(2**63, 2**63, 2**63, 255, b"far")])
    assert votes.records() == [LogRecord(2**63, 2**63, 2**63, 255, b"far")]
    votes.close()
    database = open_database(tmp_path)
    ((key, value),) = database.scan(b"r/")
    database.write([(key[:-1] + b"\x01", value)], sync=True)
    database.close()
    votes = VoteLog.open(tmp_path)
    with pytest.raises(StoreDamagedError, match="wrong key"):
        votes.records()
    votes.close()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"r/" + bytes(25), encode(LogRecord(22, -1, 3, 1, b"")), "sequence 22, epoch -1, view 3, kind 1: a number is out of range"),
        (b"r/" + bytes(25), encode(LogRecord(22, 0, 2**64 - 1, 256, b"")), "kind 256: a number is out of range"),
        (b"r/x", encode(LogRecord(22, 0, 0, 1, b"")), "stands at the wrong key, 722f78"),
        (b"b/\x01", encode((b"raw",)), "stand at the malformed key 622f01"),
        (b"b/" + bytes(39), encode((b"raw",)), "stand at the malformed key"),
        (b"m/cut", bytes(8), "mark up to where votes were dropped: is missing or malformed"),
        (b"m/cut", None, "mark up to where votes were dropped: is missing or malformed"),
        (b"m/cut", bytes(16), "mark up to where votes were dropped: says 0, which its checksum contradicts"),
        (b"m/id", b"short", "id of the vote log: is missing or malformed"),
        (b"m/id", b"another id of 16", "mark up to where votes were dropped: says 0"),
    ],
)
def test_a_damaged_entry_is_one_clear_error(tmp_path: Path, key: bytes, value: bytes | None, reason: str) -> None:
    VoteLog.open(tmp_path).close()
    database = open_database(tmp_path)
    database.write([(key, value)], sync=True)
    database.close()
    with pytest.raises(StoreDamagedError, match=reason):
        read_all(tmp_path)
    with pytest.raises(StoreDamagedError, match=reason):
        read_all(tmp_path)


def read_all(path: Path) -> None:
    votes = VoteLog.open(path)
    try:
        votes.records()
        list(votes.bodies())
    finally:
        votes.close()


def test_how_far_a_log_was_cut_survives_a_restart_and_cannot_be_lowered(tmp_path: Path) -> None:
    votes = VoteLog.open(tmp_path)
    for sequence in (4, 9):
        votes.append([LogRecord(sequence, 0, 0, 1, b"")])
    votes.truncate(4, 0, 0)
    lower = dict(votes._database.scan(b"m/cut"))[b"m/cut"]
    votes.truncate(9, 0, 0)
    votes.close()
    votes = VoteLog.open(tmp_path)
    assert [votes.is_whole_above(height) for height in (4, 8, 9)] == [False, False, True]
    votes.close()
    database = open_database(tmp_path)
    database.write([(b"m/cut", lower[:8] + dict(database.scan(b"m/cut"))[b"m/cut"][8:])], sync=True)
    database.close()
    with pytest.raises(StoreDamagedError, match="says 4, which its checksum contradicts"):
        VoteLog.open(tmp_path)


def vote(digest: bytes = bytes(32), **place: int) -> Vote:
    fields = {"kind": 2, "epoch": 1, "view": 3, "sequence": 9, "sender": 2} | place
    return Vote(**fields, digest=digest, signature=b"signed")


def test_only_the_first_start_of_a_folder_that_says_so_has_the_log_that_genesis_names(tmp_path: Path) -> None:
    """Without the mark the log is another one, for good: whoever lost a log cannot make the same again."""
    (tmp_path / FIRST_START).write_text("this folder has signed nothing")
    ids = []
    for folder in (tmp_path / VOTES_FOLDER, tmp_path / VOTES_FOLDER, tmp_path / "second", tmp_path / "third", tmp_path / "third"):
        votes = VoteLog.open(folder)
        ids.append(votes.id)
        votes.close()
        assert not (tmp_path / FIRST_START).exists()
    assert ids[:2] == [b"", b""]
    assert len(ids[2]) == len(ids[3]) == ID_BYTES
    assert ids[2] != ids[3] == ids[4]


def test_a_log_of_an_older_format_or_with_its_id_cut_off_from_it_is_refused(tmp_path: Path) -> None:
    VoteLog.open(tmp_path).close()
    database = open_database(tmp_path)
    database.write([(b"m/format", b"GridPact votes 1")], sync=True)
    database.close()
    with pytest.raises(StoreError, match="votes 1"):
        VoteLog.open(tmp_path)
    database = open_database(tmp_path)
    database.write([(b"m/format", None)], sync=True)
    database.close()
    with pytest.raises(StoreDamagedError, match="no format mark"):
        VoteLog.open(tmp_path)


def test_evidence_is_kept_once_per_place_across_restarts_and_truncation(tmp_path: Path) -> None:
    votes = VoteLog.open(tmp_path)
    first, second, third = vote(), vote(b"\x01" * 32), vote(b"\x02" * 32)
    assert votes.add_evidence(first, second)
    assert not votes.add_evidence(first, third)
    others = [(vote(**{name: 7}), vote(b"\x01" * 32, **{name: 7})) for name in ("epoch", "view", "sequence", "sender", "kind")]
    assert all(votes.add_evidence(*pair) for pair in others)
    votes.truncate(1_000, 8, 8)
    votes.close()
    votes = VoteLog.open(tmp_path)
    assert not votes.add_evidence(first, second)
    assert set(votes.evidence()) == {(first, second), *others}
    assert votes.records() == []
    votes.close()


def test_evidence_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.vote_log.MAX_EVIDENCE", 3)
    votes = VoteLog.open(tmp_path)
    kept = [votes.add_evidence(vote(sequence=number), vote(b"\x01" * 32, sequence=number)) for number in range(1, 6)]
    assert kept == [True, True, True, False, False]
    votes.close()


def test_after_prefix() -> None:
    assert after_prefix(b"ab") == b"ac"
    assert after_prefix(b"a\xff\xff") == b"b"
    assert after_prefix(b"\xff") is None
    assert after_prefix(b"") is None
