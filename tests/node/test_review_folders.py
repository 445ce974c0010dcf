"""Review: folders that come back from a copy, and snapshots that nobody can take."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

from consensus.effects import LogRecord
from node.service import _peers
from node.snapshots import SnapshotShelf
from node.vote_log import FIRST_START, VOTES_FOLDER, VoteLog
from tests.node.chain_support import LocalChannel


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


def test_a_folder_that_is_laid_out_a_second_time_does_not_vote(tmp_path: Path) -> None:
    """After a lost disk the operator copies the folder of `gridpact init` to the host again: where else would the key come from?
    The mark of the first start is in it again, so the empty log has the id that genesis names."""
    made, host = tmp_path / "made", tmp_path / "host"
    made.mkdir()
    (made / FIRST_START).touch()
    shutil.copytree(made, host)
    votes = VoteLog.open(host / VOTES_FOLDER)
    votes.append([LogRecord(1, 0, 0, 2, b"a prepare that was sent")])
    seat = votes.id
    votes.close()
    shutil.rmtree(host)
    shutil.copytree(made, host)
    votes = VoteLog.open(host / VOTES_FOLDER)
    again = votes.id
    votes.close()
    assert again != seat


def test_addresses_that_the_operator_wrote_down_are_dialled_whoever_the_validators_were(tmp_path: Path) -> None:
    """A validator that slept while everybody else was replaced knows only members that are gone. It dials nobody who is there."""
    place = SimpleNamespace(host="127.0.0.1", port=9000)
    config = SimpleNamespace(peers={"old-1": place, "new-1": place})
    members = {one: SimpleNamespace(name=one, host="", port=0) for one in ("me", "old-1")}
    channel = SimpleNamespace(node="me", members=lambda: members)
    assert set(_peers(config, channel)) == {"old-1", "new-1"}  # type: ignore[arg-type]


def test_a_snapshot_on_the_shelf_can_be_served_however_many_epochs_there_were(tmp_path: Path) -> None:
    """All proofs since genesis are in the manifest, which has 8 MiB. Past that it is written, called damaged when it is read, and dropped,
    while its height still lets the blocks below be pruned: nobody can join the chain any more."""
    channel = LocalChannel(tmp_path / "chain")
    channel.execute([])
    header, certificate = channel.head, channel.store.certificate(1)
    assert certificate is not None
    channel.decide("add", "node4")
    channel.enter_latest_epoch()
    (change,) = channel.epoch_changes()
    channel.execute([])
    header, certificate = channel.head, channel.store.certificate(channel.head.height)
    assert certificate is not None
    epochs = (change,) * (8 * 1024 * 1024 // len(change) + 1)
    shelf = SnapshotShelf(tmp_path / "shelf")
    assert shelf.make(channel.store.state.pinned(), header, certificate, epochs, share_percent=100)
    served = shelf.manifest()
    shelf.close()
    channel.close()
    assert served is not None, f"{len(epochs)} epochs of four or five validators are too many"
