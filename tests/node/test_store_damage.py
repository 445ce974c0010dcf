"""A database never opens with less than what was synced: what LevelDB would drop without a word is refused, a crash's torn end is not."""

import resource
import shutil
from pathlib import Path

import pytest

from consensus.effects import LogRecord
from node.key_value import StoreDamagedError, StoreError, open_database
from node.leveldb_logs import BLOCK_BYTES, RECORD_HEADER
from node.vote_log import VoteLog


def record(sequence: int) -> LogRecord:
    return LogRecord(sequence, 0, 0, 1, b"vote %d" % sequence)


def log_of(folder: Path) -> Path:
    return max((path for path in folder.glob("*.log") if path.stat().st_size), key=lambda path: path.name)


def starts(data: bytes) -> list[int]:
    """Return where the records of a log begin that fits into one block."""
    assert len(data) < BLOCK_BYTES
    found = [0]
    while found[-1] < len(data):
        found.append(found[-1] + RECORD_HEADER.size + RECORD_HEADER.unpack_from(data, found[-1])[1])
    return found[:-1]


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """A vote log that was ended by a kill, with five votes, one synced write each."""
    log = VoteLog.open(tmp_path / "open")
    for sequence in range(1, 6):
        log.append([record(sequence)])
    shutil.copytree(tmp_path / "open", tmp_path / "votes")
    log.close()
    return tmp_path / "votes"


def test_one_wrong_byte_anywhere_in_a_vote_log_refuses_it(votes: Path) -> None:
    log = log_of(votes)
    good = log.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        log.write_bytes(bad)
        with pytest.raises(StoreDamagedError, match="is damaged"):
            VoteLog.open(votes)


def test_every_wrong_length_refuses_a_vote_log(votes: Path) -> None:
    log = log_of(votes)
    good = log.read_bytes()
    for start in starts(good):
        for bit in range(16):
            bad = bytearray(good)
            bad[start + 4 + bit // 8] ^= 1 << bit % 8
            log.write_bytes(bad)
            with pytest.raises(StoreDamagedError, match="is damaged"):
                VoteLog.open(votes)


def test_a_wrong_length_is_found_though_its_record_is_wrong_too_if_another_follows(votes: Path) -> None:
    log = log_of(votes)
    good = log.read_bytes()
    for start in starts(good)[:-1]:
        bad = bytearray(good)
        bad[start + 5] ^= 0x80
        bad[start + RECORD_HEADER.size + 14] ^= 0x01
        log.write_bytes(bad)
        with pytest.raises(StoreDamagedError, match=rf"wrong record length at byte {start}\b"):
            VoteLog.open(votes)


def test_a_log_that_a_crash_cut_off_opens_with_all_whole_records(votes: Path, tmp_path: Path) -> None:
    log = log_of(votes)
    good = log.read_bytes()
    ends = [*starts(good)[1:], len(good)]
    for cut in range(len(good) + 1):
        for tail in (b"", bytes(40)) if cut in ends else (b"",):
            shutil.copytree(votes, tmp_path / "cut")
            (tmp_path / "cut" / log.name).write_bytes(good[:cut] + tail)
            database = open_database(tmp_path / "cut")
            whole = sum(1 for end in ends if end <= cut)
            assert len(list(database.scan(b"r/"))) == max(0, whole - 1), "the first record is that of the new log's id"
            database.close()
            shutil.rmtree(tmp_path / "cut")


@pytest.mark.parametrize("gone", ["CURRENT", "log"])
def test_a_missing_file_refuses_a_vote_log(votes: Path, gone: str) -> None:
    (log_of(votes) if gone == "log" else votes / gone).unlink()
    with pytest.raises(StoreDamagedError, match="is missing"):
        VoteLog.open(votes)


def test_a_wrong_length_in_the_manifest_refuses_a_vote_log(votes: Path) -> None:
    (manifest,) = votes.glob("MANIFEST-*")
    good = manifest.read_bytes()
    for start in starts(good):
        bad = bytearray(good)
        bad[start + 5] ^= 0x80
        manifest.write_bytes(bad)
        with pytest.raises(StoreDamagedError, match="wrong record length"):
            VoteLog.open(votes)


def test_a_crash_while_a_database_was_made_leaves_one_that_opens(votes: Path) -> None:
    for path in votes.iterdir():
        if path.name != "MANIFEST-000001":
            path.unlink()
    VoteLog.open(votes).close()


def test_after_a_write_that_failed_nothing_is_written_behind_its_remains(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    database.write([(b"kept", b"1")], sync=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log_of(tmp_path).stat().st_size + 100, before[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            database.write([(b"large", bytes(1_000))], sync=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(StoreError, match=r"takes nothing more .*File too large"):
        database.write([(b"promised", b"2")], sync=True)
    database.close()
    database = open_database(tmp_path)
    assert list(database.scan(b"")) == [(b"kept", b"1")]
    database.close()
