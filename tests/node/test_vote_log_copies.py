"""Vote logs that come back: only the folder in which a log was made has the seat, whatever happens to it in its place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from consensus.effects import LogRecord
from node import birth_mark
from node.vote_log import BIRTH_MARK, FIRST_START, VOTES_FOLDER, VoteLog


def test_a_vote_log_that_comes_back_from_a_backup_is_not_the_log_that_has_the_seat(tmp_path: Path) -> None:
    """It has forgotten what was signed after the copy was made, like a wiped one, and votes with the same seat."""
    live, copy = tmp_path / "live" / VOTES_FOLDER, tmp_path / "copy"
    live.parent.mkdir()
    (live.parent / FIRST_START).touch()
    VoteLog.open(live).close()
    shutil.copytree(live, copy)
    votes = VoteLog.open(live)
    votes.append([LogRecord(1, 0, 0, 2, b"a prepare that was sent")])
    seat = votes.id
    votes.close()
    shutil.rmtree(live)
    shutil.copytree(copy, live)
    votes = VoteLog.open(live)
    assert not votes.records()
    restored = votes.id
    votes.close()
    assert restored != seat


def seat_of(folder: Path) -> bytes:
    votes = VoteLog.open(folder)
    found = votes.id
    votes.close()
    return found


def test_a_log_that_stays_in_its_place_keeps_its_seat(tmp_path: Path) -> None:
    """Starting again, moving the folder within its file system, changing its owner or mode: none of that is a copy."""
    folder = tmp_path / "data" / VOTES_FOLDER
    folder.parent.mkdir()
    seat = seat_of(folder)
    assert seat_of(folder) == seat
    (tmp_path / "data").rename(tmp_path / "moved")
    folder = tmp_path / "moved" / VOTES_FOLDER
    os.utime(folder / BIRTH_MARK, (1, 1))
    (folder / BIRTH_MARK).chmod(0o640)
    os.chown(folder / BIRTH_MARK, os.getuid(), os.getgid())
    assert seat_of(folder) == seat


@pytest.mark.parametrize("lost", [[BIRTH_MARK], []])
def test_a_copy_has_another_seat_from_its_first_start_on(tmp_path: Path, lost: list[str]) -> None:
    made, copy = tmp_path / "made", tmp_path / "copy"
    seat = seat_of(made)
    shutil.copytree(made, copy)
    for name in lost:
        (copy / name).unlink()
    other = seat_of(copy)
    assert other not in (seat, b"")
    assert seat_of(copy) == other
    assert seat_of(made) == seat


def test_a_stop_between_taking_another_seat_and_marking_the_copy_costs_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, copy = tmp_path / "made", tmp_path / "copy"
    seat = seat_of(made)
    shutil.copytree(made, copy)

    def full(mark: Path) -> bytes:
        raise OSError(28, "no space left on device", str(mark))

    with monkeypatch.context() as patch:
        patch.setattr(birth_mark, "lay", full)
        with pytest.raises(OSError, match="no space"):
            VoteLog.open(copy)
    assert seat_of(copy) not in (seat, b"")


def test_where_no_time_of_birth_is_known_the_inode_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(birth_mark, "_read_time", lambda path: (0, 0))
    mark, copy = tmp_path / "mark", tmp_path / "copy"
    birth = birth_mark.lay(mark)
    shutil.copy2(mark, copy)
    assert birth_mark.is_born(mark, birth)
    assert not birth_mark.is_born(copy, birth)
    assert not birth_mark.is_born(tmp_path / "absent", birth)
