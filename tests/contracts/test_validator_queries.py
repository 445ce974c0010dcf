from __future__ import annotations

import msgspec
import pytest

from consensus.messages import Domain, Kind, sign_vote
from contracts.application import LedgerApplication
from contracts.calls import ReportDoubleSigning
from contracts.events import Member
from contracts.genesis import ConsensusRules
from contracts.queries import LedgerView
from tests.contracts.world import MemoryStore, World, key, make_genesis, signer


@pytest.fixture
def world() -> World:
    return World(make_genesis(validators=5, consensus=ConsensusRules(window=8)))


def test_epochs_tell_members_addresses_thresholds_and_what_is_in_force(world: World) -> None:
    view = world.view.validators
    world.decide("add", "x", host="10.0.0.9", port=7_100)
    world.decide("remove", "node0")
    states = [(epoch.number, epoch.state, epoch.votes_needed, len(epoch.members)) for epoch in view.epochs()]
    assert states == [(0, "present", 4, 5), (1, "announced", 5, 6), (2, "announced", 4, 5)]
    assert view.epoch(1).members[5] == Member("x", key("x"), "DC0", "10.0.0.9", 7_100)
    assert view.epoch(0).members[0] == Member("node0", key("node0"), "DC0") and view.epoch(0).first_height == 1
    assert view.epoch() == view.epoch(0)
    world.advance_to(view.epoch(2).first_height)
    assert [epoch.state for epoch in view.epochs()] == ["past", "past", "present"] and view.epoch() == view.epoch(2)
    assert view.epochs(1, 1) == (view.epoch(1),) and view.epochs(-7, 1) == (view.epoch(0),) and view.epochs(3) == ()
    assert view.epoch(3) is None and view.epoch(-1) is None and view.epoch(2**70) is None


def test_a_validator_shows_its_seat_nonce_votes_and_offences(world: World) -> None:
    view = world.view.validators
    world.vote("node0", "add", "y")
    shown = view.validator("node0")
    assert (shown.is_voting, shown.is_member, shown.next_nonce, shown.open_votes, shown.offences) == (True, True, 2, 1, 0)
    assert (shown.public_key, shown.account, shown.host, shown.port) == (key("node0"), "DC0", "", 0)
    world.decide("add", "x")
    assert (view.validator("x").is_voting, view.validator("x").is_member, view.validator("x").host) == (False, True, "x.example")
    world.decide("remove", "node4")
    assert (view.validator("node4").is_voting, view.validator("node4").is_member) == (True, False)
    world.advance_to(view.epoch(2).first_height)
    gone = view.validator("node4")
    assert (gone.is_voting, gone.is_member, gone.public_key, gone.account) == (False, False, "", "")
    assert gone.next_nonce > 1
    assert view.validator("A") is None and view.validator("nobody") is None


def test_lists_are_paged(world: World) -> None:
    view = world.view.validators
    assert [one.validator for one in view.all()] == [f"node{number}" for number in range(5)]
    assert [one.validator for one in view.all(after="node1", limit=2)] == ["node2", "node3"]
    for number in range(3):
        world.vote("node0", "add", f"x{number}")
    changes = view.open_changes()
    assert [one.change for one in changes] == sorted(one.change for one in changes) and len(changes) == 3
    assert view.open_changes(changes[0].change, 1) == changes[1:2]


def test_an_open_change_shows_whom_it_concerns_who_approves_and_how_many_are_needed(world: World) -> None:
    world.vote("node3", "replace", "node1", host="10.0.0.1", port=1)
    world.vote("node0", "replace", "node1", host="10.0.0.1", port=1)
    (change,) = world.view.validators.open_changes()
    assert (change.epoch, change.action, change.approvals, change.needed) == (0, "replace", ("node3", "node0"), 4)
    assert change.member == Member("node1", key("node1"), "DC1", "10.0.0.1", 1)
    world.vote("node3", "remove", "node2")
    removal = next(one for one in world.view.validators.open_changes() if one.action == "remove")
    assert removal.member == Member("node2", key("node2"), "DC2")
    assert change.change in {entry[7:].hex() for entry in world.store.entries if entry.startswith(b"change/")}


def test_answers_become_json(world: World) -> None:
    world.vote("node3", "add", "x")
    votes = [sign_vote(signer("node1"), Domain("test", "main", 0), Kind.COMMIT, 1, 2, bytes([number]) * 32, 1) for number in (1, 2)]
    world.call("node0", ReportDoubleSigning(*votes))
    view = world.view.validators
    answers = [view.epochs(), view.all(), view.open_changes(), view.offences("node1"), world.view.credit("DC1")]
    shown = [msgspec.json.decode(msgspec.json.encode(answer)) for answer in answers]
    assert shown[0][0]["members"][1] == {"name": "node1", "public_key": key("node1"), "account": "DC1", "host": "", "port": 0, "log": ""}
    assert shown[2][0]["approvals"] == ["node3"] and shown[3][0]["kind"] == "commit" and shown[4]["double_signings"] == 1


def test_an_empty_store_answers_nothing(world: World) -> None:
    view = LedgerView(world.genesis, MemoryStore()).validators
    assert view.epoch() is None and view.epoch(0) is None and view.epochs() == () and view.all() == ()
    assert view.validator("node0") is None and view.open_changes() == () and view.offences("node0") == ()
    assert LedgerApplication(world.genesis, MemoryStore()).epochs() == ()
