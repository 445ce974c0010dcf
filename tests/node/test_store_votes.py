"""The vote log on a real LevelDB: what was kept comes back, what does not belong is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.effects import LogRecord
from consensus.errors import InvariantViolation
from node.key_value import StoreDamagedError, after_prefix, open_database
from node.vote_log import VoteLog

RECORDS = st.builds(
    LogRecord,
    sequence=st.integers(0, 12),
    view=st.integers(0, 5),
    kind=st.integers(1, 7),
    data=st.binary(max_size=20),
    batch_digest=st.just(b"") | st.binary(min_size=32, max_size=32),
)
STEPS = st.lists(
    st.tuples(st.just("append"), st.lists(RECORDS, max_size=5))
    | st.tuples(st.just("truncate"), st.tuples(st.integers(0, 12), st.integers(0, 5))),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(STEPS)
def test_vote_log_restores_exactly_what_was_kept(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]) -> None:
    path = tmp_path_factory.mktemp("votes")
    votes = VoteLog.open(path)
    records: dict[tuple[int, int, int], LogRecord] = {}
    bodies: dict[tuple[int, bytes], tuple[bytes, ...]] = {}
    for name, argument in steps:
        if name == "append":
            assert isinstance(argument, list)
            named = [record for record in argument if record.batch_digest and record.sequence]
            with_body = [(record.sequence, record.batch_digest, (record.data, b"x")) for record in named]
            votes.append(argument, with_body)
            records.update({(record.sequence, record.view, record.kind): record for record in argument})
            bodies.update({(sequence, digest_): raws for sequence, digest_, raws in with_body})
        else:
            assert isinstance(argument, tuple)
            sequence, view = argument
            votes.truncate(sequence, view)
            records = {key: record for key, record in records.items() if (key[0] > sequence if key[0] else key[1] >= view)}
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
        votes.append([LogRecord(2**64, 0, 1, b"")])
    with pytest.raises(InvariantViolation):
        votes.append([LogRecord(1, -1, 1, b"")])
    votes.append([LogRecord(2**63, 2**63, 255, b"far")])
    assert votes.records() == [LogRecord(2**63, 2**63, 255, b"far")]
    votes.close()
    database = open_database(tmp_path)
    ((key, value),) = database.scan(b"r/")
    database.write([(key[:-1] + b"\x01", value)], sync=True)
    database.close()
    votes = VoteLog.open(tmp_path)
    with pytest.raises(StoreDamagedError, match="wrong key"):
        votes.records()
    votes.close()


def test_after_prefix() -> None:
    assert after_prefix(b"ab") == b"ac"
    assert after_prefix(b"a\xff\xff") == b"b"
    assert after_prefix(b"\xff") is None
    assert after_prefix(b"") is None
