"""Renewal of seats: a new epoch with the same members, at a validator's own wish, for its new vote log."""

from __future__ import annotations

import pytest

from contracts.calls import RenewSeat
from contracts.events import SeatRenewed, ValidatorsChanged, ValidatorVoted
from contracts.genesis import ConsensusRules
from tests.contracts.world import World, make_genesis, signer

WINDOW = 5
DAY_MS = 86_400_000


@pytest.fixture
def world() -> World:
    return World(make_genesis(validators=5, consensus=ConsensusRules(window=WINDOW)))


def renew(world: World, validator: str, log: bytes, ahead: int = 0):
    return world.call(validator, RenewSeat(world.application.epochs()[-1].epoch + ahead, log))


def test_a_seat_goes_to_the_new_log_and_nothing_else_changes(world: World) -> None:
    before = world.genesis.validator_set
    assert before.logs == (b"",) * 5
    receipt = renew(world, "node2", b"new log")
    renewed, changed = receipt.events
    assert renewed == SeatRenewed("node2", b"new log".hex())
    assert isinstance(changed, ValidatorsChanged) and (changed.epoch, changed.first_height) == (1, world.height + WINDOW + 1)
    (announced,) = world.last.announced
    assert announced.logs == (b"", b"", b"new log", b"", b"") and world.application.epochs() == (before, announced)
    assert (announced.names, announced.public_keys) == (before.names, before.public_keys)
    assert announced.first_height == world.height + WINDOW + 1
    world.advance_to(announced.first_height)
    assert world.view.validators.validator("node2").log == b"new log".hex() and world.view.validators.epoch().number == 1


def test_a_log_stays_with_its_seat_when_the_key_changes_and_goes_with_the_member(world: World) -> None:
    renew(world, "node2", b"log")
    world.decide("replace", "node2", public_key=signer("fresh").public_key)
    assert world.application.epochs()[-1].logs[2] == b"log"
    world.advance_to(world.application.epochs()[-1].first_height)
    world.signs_as["node2"] = "fresh"
    assert renew(world, "node2", b"log two").code == "OK"
    world.decide("remove", "node2")
    world.decide("add", "node2")
    assert world.application.epochs()[-1].logs == (b"",) * 5


def test_an_added_validator_has_its_seat_with_the_log_that_the_votes_name(world: World) -> None:
    world.vote("node0", "add", "node5", log=b"log")
    (voted,) = world.vote("node1", "add", "node5").events
    assert isinstance(voted, ValidatorVoted) and voted.approvals == 1, "another log is another change"
    for voter in ("node2", "node3", "node4"):
        world.vote(voter, "add", "node5", log=b"log")
    (announced,) = world.last.announced
    assert announced.logs == (*(b"",) * 5, b"log")


@pytest.mark.parametrize(("action", "fields"), [("remove", {}), ("replace", {"public_key": bytes(32)})])
def test_only_the_log_of_an_added_validator_is_voted_on(world: World, action: str, fields: dict[str, bytes]) -> None:
    receipt = world.vote("node0", action, "node1", log=b"log", **fields)
    assert receipt.code == "BAD_CHANGE"
    assert "log:" in receipt.detail


def test_a_fresh_folder_gets_the_seat_of_a_validator_that_was_renewed_before(world: World) -> None:
    """Its log has the empty id, like those that genesis names."""
    assert renew(world, "node2", b"").code == "NOTHING_CHANGES"
    assert renew(world, "node2", b"log").code == "OK"
    assert renew(world, "node2", b"").code == "OK"
    assert world.application.epochs()[-1].logs == (b"",) * 5


def test_votes_outlive_a_renewal_whichever_set_they_name(world: World) -> None:
    first = world.vote("node0", "add", "x")
    assert renew(world, "node4", b"log").code == "OK"
    second = world.vote("node1", "add", "x", epoch=0)
    assert renew(world, "node3", b"log").code == "OK"
    third, fourth = world.vote("node2", "add", "x", epoch=1), world.vote("node3", "add", "x")
    assert [receipt.events[0].approvals for receipt in (first, second, third, fourth)] == [1, 2, 3, 4]
    assert len({receipt.events[0].change for receipt in (first, second, third, fourth)}) == 1
    assert world.application.epochs()[-1].names[-1] == "x" and world.application.epochs()[-1].logs == (b"", b"", b"", b"log", b"log", b"")
    assert [world.vote("node4", "add", "y", epoch=epoch).code for epoch in (0, 2, 3)] == ["STALE_EPOCH", "STALE_EPOCH", "OK"]
    assert world.vote("node4", "add", "y", epoch=3).code == "ALREADY_VOTED"


def test_a_vote_cannot_be_doubled_or_kept_by_naming_another_set(world: World) -> None:
    world.vote("node0", "add", "x")
    renew(world, "node4", b"log")
    assert [world.vote("node0", "add", "x", epoch=epoch).code for epoch in (0, 1)] == ["ALREADY_VOTED"] * 2
    assert world.vote("node0", "add", "x", epoch=1, approve=False).code == "OK"
    assert world.view.validators.open_changes() == () and world.view.validators.validator("node0").open_votes == 0


@pytest.mark.parametrize(
    ("validator", "log", "ahead", "code"),
    [
        ("node2", b"first", 0, "NOTHING_CHANGES"),
        ("node1", b"log", 1, "NO_SUCH_EPOCH"),
        ("node1", b"log", -1, "STALE_EPOCH"),
        ("A", b"log", 0, "NOT_A_VALIDATOR"),
        ("m-A", b"log", 0, "NOT_A_VALIDATOR"),
        ("node4", b"log", 0, "NOT_A_MEMBER"),
    ],
)
def test_what_renews_nothing_is_refused(world: World, validator: str, log: bytes, ahead: int, code: str) -> None:
    renew(world, "node2", b"first")
    world.decide("remove", "node4") if validator == "node4" else None
    known = world.application.epochs()
    transaction = world.transaction(validator, RenewSeat(known[-1].epoch + ahead, log))
    door = world.application.check_transaction(transaction, world.time_ms)
    assert door.code == code or (door.ok and code == "NO_SUCH_EPOCH")
    (receipt,) = world.block(transaction)
    assert (receipt.code, receipt.events) == (code, ()) and receipt.detail
    assert world.application.epochs() == known


def test_a_seat_is_renewed_at_most_eight_times_a_day(world: World) -> None:
    assert world.genesis.consensus.max_seat_renewals_per_day == 8
    for number in range(8):
        world.block(time_ms=world.time_ms + 60_000)
        assert renew(world, "node2", b"%d" % number).code == "OK"
    first_ms = world.time_ms - 7 * 60_000
    assert renew(world, "node2", b"more").code == "TOO_MANY_RENEWALS"
    assert renew(world, "node1", b"more").code == "OK"
    world.block(time_ms=first_ms + DAY_MS - 1)
    assert renew(world, "node2", b"more").code == "TOO_MANY_RENEWALS"
    world.block(time_ms=first_ms + DAY_MS)
    assert renew(world, "node2", b"more").code == "OK"
    assert renew(world, "node2", b"even more").code == "TOO_MANY_RENEWALS"
    firsts = [one.first_height for one in world.application.epochs()]
    assert len(firsts) == 11 and firsts == sorted(set(firsts))


def test_next_nonces_of_all_kinds_of_senders(world: World) -> None:
    renew(world, "node2", b"log")
    world.pay("A", "B", 1)
    assert [world.view.next_nonce(name) for name in ("node2", "A", "node1", "m-A", "nobody")] == [2, 2, 1, 1, 1]


def test_all_sets_can_be_read_at_once(world: World) -> None:
    for day in range(3):
        world.block(time_ms=world.time_ms + DAY_MS)
        for validator in range(5):
            for number in range(8):
                renew(world, f"node{validator}", b"%d %d" % (day, number))
    assert [one.number for one in world.view.epochs()] == list(range(121)) == [one.epoch for one in world.application.epochs()]
    assert [one.number for one in world.view.epochs(119)] == [119, 120] and len(world.view.validators.epochs()) == 100
