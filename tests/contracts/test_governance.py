"""Votes on the validator set: what decides, what is refused, and from when a new set is in force."""

from __future__ import annotations

import pytest

from consensus.application import Verdict
from contracts import governance
from contracts.calls import Transfer
from contracts.events import Member, PeriodSettled, ValidatorsChanged, ValidatorVoted
from contracts.genesis import ConsensusRules
from contracts.records import Validator
from tests.contracts.world import FIRST, PERIOD_MS, World, key, make_genesis, signer

WINDOW = 5
RULES = ConsensusRules(window=WINDOW)


def make_world(validators: int = 4, **rules: int) -> World:
    return World(make_genesis(validators=validators, consensus=ConsensusRules(**{"window": WINDOW, **rules})))


def names_of(world: World, epoch: int | None = None) -> list[str]:
    return [member.name for member in world.view.validators.epoch(epoch).members]


def open_changes(world: World) -> list[tuple[str, str, tuple[str, ...]]]:
    return sorted((change.action, change.member.name, change.approvals) for change in world.view.validators.open_changes())


@pytest.mark.parametrize(
    ("validators", "approval_ppm", "needed"),
    [(4, 666_667, 3), (5, 666_667, 4), (6, 666_667, 5), (7, 666_667, 5), (10, 666_667, 7), (6, 666_666, 4), (4, 500_000, 2), (5, 10**6, 5)],
)
def test_a_change_is_decided_by_its_share_of_the_set_and_not_one_vote_earlier(validators: int, approval_ppm: int, needed: int) -> None:
    world = make_world(validators, approval_ppm=approval_ppm)
    for number in range(needed):
        assert len(world.application.epochs()) == 1
        receipt = world.vote(f"node{number}", "add", "newcomer")
        assert receipt.code == "OK" and receipt.events[0].approvals == number + 1 and receipt.events[0].needed == needed
    assert len(world.application.epochs()) == 2 and world.last.announced == world.application.epochs()[1:]


def test_the_deciding_block_announces_the_set_more_than_a_window_ahead() -> None:
    world = make_world()
    for voter in ("node3", "node1"):
        receipt = world.vote(voter, "add", "newcomer")
        assert world.last.announced == () and len(receipt.events) == 1
    receipt = world.vote("node0", "add", "newcomer")
    voted, changed = receipt.events
    assert isinstance(voted, ValidatorVoted) and (voted.validator, voted.action, voted.name, voted.approve) == (
        "node0",
        "add",
        "newcomer",
        True,
    )
    newcomer = Member("newcomer", key("newcomer"), "DC0", "newcomer.example", 7_000)
    genesis = tuple(Member(f"node{number}", key(f"node{number}"), f"DC{number}") for number in range(4))
    assert changed == ValidatorsChanged(1, world.height + WINDOW + 1, (*genesis, newcomer))
    (announced,) = world.last.announced
    assert announced.first_height == world.height + WINDOW + 1 and announced.epoch == 1
    assert (announced.domain.chain_id, announced.domain.channel) == ("test", "main")
    assert announced.names == (*world.genesis.validator_set.names, "newcomer")
    assert announced.public_keys == (*world.genesis.validator_set.public_keys, signer("newcomer").public_key)
    assert world.application.epochs() == (world.genesis.validator_set, announced)
    world.block()
    assert world.last.announced == ()


def test_genesis_is_epoch_0() -> None:
    world = make_world()
    assert world.application.epochs() == (world.genesis.validator_set,)
    assert world.genesis.validator_set.first_height == 1
    assert world.genesis.validator_set.names == ("node0", "node1", "node2", "node3")


def test_a_new_validator_may_send_from_the_first_block_of_its_epoch_on() -> None:
    world = make_world()
    world.decide("add", "newcomer")
    first = world.application.epochs()[1].first_height
    world.advance_to(first - 1)
    early = world.transaction("newcomer", world.change("remove", "node0"))
    assert world.application.check_transaction(early, world.time_ms).code == "UNKNOWN_SENDER"
    assert world.application.process_proposal([early], world.time_ms).code == "UNKNOWN_SENDER"
    assert world.application.sender_key("newcomer") is None
    assert world.block(early) == []
    assert world.height == first - 1 and world.application.sender_key("newcomer") == signer("newcomer").public_key
    assert world.application.check_transaction(early, world.time_ms).ok and world.application.process_proposal([early], world.time_ms).ok
    assert world.block(early)[0].code == "OK"
    assert world.view.validators.validator("newcomer").next_nonce == 2


def test_a_removed_validator_is_nobody_from_the_boundary_on() -> None:
    world = make_world(5)
    world.decide("remove", "node4")
    world.advance_to(world.application.epochs()[1].first_height - 1)
    last = world.transaction("node4", world.change("add", "x"))
    late = world.transaction("node4", world.change("add", "y"))
    assert world.block(last)[0].code == "NOT_A_MEMBER"
    assert world.block(late) == []
    assert world.application.check_transaction(late, world.time_ms).code == "UNKNOWN_SENDER"
    assert names_of(world) == ["node0", "node1", "node2", "node3"]


def test_a_new_key_counts_from_the_boundary_on_and_the_old_one_until_it() -> None:
    world = make_world()
    world.decide("replace", "node2", public_key=signer("fresh").public_key)
    boundary = world.application.epochs()[1].first_height
    assert world.application.epochs()[1].public_keys[2] == signer("fresh").public_key
    world.advance_to(boundary - 1)
    old, new = (world.transaction("node2", world.change("add", "x"), by=by, nonce=nonce) for by, nonce in (("node2", 50), ("fresh", 51)))
    assert world.application.check_transaction(new, world.time_ms).code == "WRONG_KEY"
    assert [receipt.code for receipt in world.block(new, old)] == ["OK"] and world.last.included == (1,)
    old = world.transaction("node2", world.change("add", "y"), by="node2", nonce=52)
    assert world.application.process_proposal([old], world.time_ms).code == "WRONG_KEY"
    assert [receipt.transaction_id for receipt in world.block(old, new)] == [new.id]
    assert world.application.sender_key("node2") == signer("fresh").public_key


def test_a_validator_may_come_back_and_its_old_transactions_stay_spent() -> None:
    world = make_world(5)
    played = world.transaction("node4", world.change("add", "x"))
    assert world.block(played)[0].code == "OK"
    world.decide("remove", "node4")
    world.advance_to(world.application.epochs()[-1].first_height)
    assert world.vote("node0", "add", "node4").code == "OK"
    world.decide("add", "node4", host="elsewhere.example")
    world.advance_to(world.application.epochs()[-1].first_height)
    assert names_of(world) == ["node0", "node1", "node2", "node3", "node4"]
    assert world.view.validators.epoch().members[4] == Member("node4", key("node4"), "DC0", "elsewhere.example", 7_000)
    assert world.block(played) == [] and world.application.check_transaction(played, world.time_ms).code == "NONCE_SPENT"
    assert world.vote("node4", "remove", "node0").code == "OK"


@pytest.mark.parametrize(
    ("action", "name", "fields", "code"),
    [
        ("add", "node0", {}, "ALREADY_A_VALIDATOR"),
        ("add", "A", {}, "NAME_TAKEN"),
        ("add", "m-A", {}, "NAME_TAKEN"),
        ("add", "x", {"public_key": signer("node1").public_key}, "KEY_TAKEN"),
        ("add", "x", {"public_key": bytes(31)}, "BAD_CHANGE"),
        ("add", "x", {"public_key": b""}, "BAD_CHANGE"),
        ("add", "x", {"account": "nobody"}, "NO_SUCH_ACCOUNT"),
        ("add", "x", {"account": "m-A"}, "NO_SUCH_ACCOUNT"),
        ("add", "x", {"account": ""}, "NO_SUCH_ACCOUNT"),
        ("add", "x", {"host": "", "port": 0}, "BAD_CHANGE"),
        ("add", "x", {"port": 0}, "BAD_CHANGE"),
        ("add", "x", {"host": ""}, "BAD_CHANGE"),
        ("remove", "x", {}, "NO_SUCH_VALIDATOR"),
        ("remove", "node3", {}, "TOO_FEW_VALIDATORS"),
        ("remove", "node3", {"port": 1}, "BAD_CHANGE"),
        ("remove", "node3", {"account": "DC3"}, "BAD_CHANGE"),
        ("replace", "x", {"host": "x", "port": 1}, "NO_SUCH_VALIDATOR"),
        ("replace", "A", {"host": "x", "port": 1}, "NO_SUCH_VALIDATOR"),
        ("replace", "node3", {}, "NOTHING_CHANGES"),
        ("replace", "node3", {"public_key": signer("node3").public_key, "account": "DC3"}, "NOTHING_CHANGES"),
        ("replace", "node3", {"public_key": signer("node2").public_key}, "KEY_TAKEN"),
        ("replace", "node3", {"public_key": b"short"}, "BAD_CHANGE"),
        ("replace", "node3", {"account": "nobody"}, "NO_SUCH_ACCOUNT"),
        ("replace", "node3", {"host": "x"}, "BAD_CHANGE"),
        ("replace", "node3", {"port": 1}, "BAD_CHANGE"),
        ("add", "x", {"epoch": 1}, "NO_SUCH_EPOCH"),
        ("add", "x", {"approve": False}, "NOT_VOTED"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_leaves_nothing(action: str, name: str, fields: dict[str, object], code: str) -> None:
    world = make_world()
    transaction = world.transaction("node0", world.change(action, name, **fields))
    door = world.application.check_transaction(transaction, world.time_ms)
    assert door.code == code or (door.ok and code == "NO_SUCH_EPOCH")
    (receipt,) = world.block(transaction)
    assert (receipt.code, receipt.events) == (code, ()) and receipt.detail
    assert world.view.validators.open_changes() == () and world.view.validators.validator("node0").open_votes == 0
    assert world.view.validators.validator("node0").next_nonce == 2


def test_a_set_has_at_most_64_members() -> None:
    world = make_world(64)
    assert world.vote("node0", "add", "x").code == "TOO_MANY_VALIDATORS"


@pytest.mark.parametrize(("sender", "code"), [("A", "NOT_A_VALIDATOR"), ("OPERATOR", "NOT_A_VALIDATOR"), ("m-A", "NOT_A_VALIDATOR")])
def test_only_validators_vote(sender: str, code: str) -> None:
    world = make_world()
    transaction = world.transaction(sender, world.change("add", "x"))
    assert world.application.check_transaction(transaction, world.time_ms).code == code
    assert world.block(transaction)[0].code == code


def test_a_validator_is_no_account() -> None:
    world = make_world()
    assert world.pay("node0", "A", 1).code == "NOT_AN_ACCOUNT"
    assert world.order("node0", "buy", 1, 1).code == "NOT_AN_ACCOUNT"
    assert world.block(world.read("A", world.time_ms, 0, 0), world.transaction("node0", Transfer("A", 1), by="A"))[0].code == "OK"
    assert world.last.included == (0,)
    assert world.pay("A", "node0", 1).code == "NO_SUCH_ACCOUNT"
    assert world.application.sender_key("node0") == signer("node0").public_key


def test_a_vote_counts_once_and_can_be_withdrawn() -> None:
    world = make_world()
    for voter in ("node0", "node1"):
        assert world.vote(voter, "add", "x").code == "OK"
    again = world.transaction("node0", world.change("add", "x"))
    assert world.application.check_transaction(again, world.time_ms).code == "ALREADY_VOTED"
    assert world.block(again)[0].code == "ALREADY_VOTED"
    receipt = world.vote("node0", "add", "x", approve=False)
    (event,) = receipt.events
    assert (event.approve, event.approvals, event.needed) == (False, 1, 3)
    assert open_changes(world) == [("add", "x", ("node1",))]
    assert world.vote("node0", "add", "x", approve=False).code == "NOT_VOTED"
    assert world.vote("node2", "add", "x").events[0].approvals == 2 and world.last.announced == ()
    assert world.vote("node0", "add", "x").events[0].approvals == 3 and len(world.last.announced) == 1


def test_the_last_withdrawal_forgets_the_change() -> None:
    world = make_world()
    before = dict(world.store.entries)
    world.vote("node0", "replace", "node1", host="h", port=1)
    assert [entry for entry in world.store.entries if entry not in before]
    world.vote("node0", "replace", "node1", host="h", port=1, approve=False)
    assert [entry for entry in world.store.entries if entry not in before] == []


def test_votes_for_changes_that_differ_in_anything_do_not_add_up() -> None:
    world = make_world()
    assert world.vote("node0", "add", "x").code == "OK"
    assert world.vote("node1", "add", "x", port=7_001).code == "OK"
    assert world.vote("node2", "add", "x", host="other").code == "OK"
    assert world.vote("node3", "add", "x", account="DC1").code == "OK"
    assert world.vote("node1", "add", "x", public_key=signer("z").public_key).code == "OK"
    assert len(open_changes(world)) == 5 and len(world.application.epochs()) == 1


def test_a_new_set_voids_open_votes_and_votes_on_older_sets() -> None:
    world = make_world(5)
    world.vote("node4", "add", "x")
    world.vote("node4", "remove", "node0")
    stale = world.transaction("node0", world.change("add", "x"))
    world.decide("remove", "node3")
    assert open_changes(world) == [] and not [entry for entry in world.store.entries if entry.startswith(b"change/")]
    assert {world.view.validators.validator(f"node{number}").open_votes for number in range(5)} == {0}
    assert world.application.check_transaction(stale, world.time_ms).code == "STALE_EPOCH"
    assert world.block(stale)[0].code == "STALE_EPOCH"


def test_changes_decided_before_the_first_is_in_force_build_on_each_other() -> None:
    world = make_world(5)
    world.decide("add", "x")
    first = world.application.epochs()[1].first_height
    votes = [world.transaction(f"node{number}", world.change("remove", "node0")) for number in range(5)]
    votes += [world.transaction(f"node{number}", world.change("add", "y", epoch=2)) for number in range(1, 5)]
    world.block(*votes)
    second, third = world.last.announced
    assert (second.epoch, third.epoch) == (2, 3)
    assert second.first_height == world.height + WINDOW + 1 and third.first_height == second.first_height + 1
    assert first < second.first_height
    world.advance_to(first)
    assert names_of(world) == ["node0", "node1", "node2", "node3", "node4", "x"]
    world.advance_to(second.first_height)
    assert names_of(world) == ["node1", "node2", "node3", "node4", "x"]
    world.block()
    assert names_of(world) == ["node1", "node2", "node3", "node4", "x", "y"]
    assert world.application.epochs()[2:] == (second, third)


def test_only_members_of_both_the_present_and_the_latest_set_vote() -> None:
    world = make_world(5)
    world.decide("remove", "node4")
    assert world.vote("node4", "add", "x").code == "NOT_A_MEMBER"
    world.decide("add", "y")
    assert world.block(world.transaction("y", world.change("add", "x"))) == []
    needed = {view.votes_needed for view in world.view.validators.epochs()}
    assert needed == {4, 3} and world.vote("node0", "add", "x").events[0].needed == 4


def test_a_validator_has_at_most_16_open_votes() -> None:
    world = make_world()
    for number in range(governance.MAX_OPEN_VOTES):
        assert world.vote("node0", "add", f"x{number}").code == "OK"
    assert world.vote("node0", "add", "more").code == "TOO_MANY_VOTES"
    assert world.vote("node1", "add", "more").code == "OK"
    assert world.vote("node0", "add", "x3", approve=False).code == "OK"
    assert world.vote("node0", "add", "more").code == "OK"
    assert world.view.validators.validator("node0").open_votes == governance.MAX_OPEN_VOTES


def test_a_replacement_changes_only_what_it_names() -> None:
    world = make_world()
    world.decide("replace", "node1", host="10.0.0.7", port=9_000)
    world.decide("replace", "node1", public_key=signer("fresh").public_key)
    world.decide("replace", "node1", account="DC3")
    assert [member.name for member in world.events_of(ValidatorsChanged)[-1].members] == [f"node{number}" for number in range(4)]
    assert world.events_of(ValidatorsChanged)[-1].members[1] == Member("node1", signer("fresh").public_key.hex(), "DC3", "10.0.0.7", 9_000)


def test_two_validators_may_swap_their_keys_with_a_third_between() -> None:
    world = make_world()
    keys = [signer(f"node{number}").public_key for number in range(2)]
    world.decide("replace", "node0", public_key=signer("between").public_key)
    world.decide("replace", "node1", public_key=keys[0])
    world.decide("replace", "node0", public_key=keys[1])
    assert world.application.epochs()[-1].public_keys[:2] == (keys[1], keys[0])


def test_fees_go_to_the_account_of_the_proposer_in_the_set_of_its_block() -> None:
    world = World(make_genesis(validators=5, consensus=RULES, metering_grace_ms=1))
    world.decide("remove", "node0")
    world.decide("replace", "node2", account="DC4")
    world.advance_to(world.application.epochs()[-1].first_height - 1)
    world.block(time_ms=(FIRST + 1) * PERIOD_MS + 1, proposer=1)
    world.block(time_ms=(FIRST + 2) * PERIOD_MS + 1, proposer=1)
    world.block(time_ms=(FIRST + 3) * PERIOD_MS + 1, proposer=4)
    world.block(time_ms=(FIRST + 4) * PERIOD_MS + 1, proposer=3)
    accounts = [event.proposer_account for event in world.events_of(PeriodSettled)]
    assert accounts == ["DC2", "DC4", "OPERATOR", "DC4"]


def test_the_door_lets_a_vote_on_a_set_pass_that_it_does_not_know_yet() -> None:
    world = make_world()
    ahead = world.transaction("node0", world.change("add", "x", epoch=1))
    assert world.application.check_transaction(ahead, world.time_ms) == Verdict()


def test_every_validator_has_a_record_for_good() -> None:
    world = make_world()
    world.decide("add", "x")
    world.decide("remove", "x")
    world.advance_to(world.application.epochs()[-1].first_height)
    table = world.application._ledger.state.validators
    assert table.committed(b"x") == Validator() and [key.decode() for key, _ in table.scan()] == ["node0", "node1", "node2", "node3", "x"]
