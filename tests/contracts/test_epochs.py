"""Validator sets in the state: what a restart, a snapshot and a broken state do to them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from consensus.errors import InvariantViolation
from consensus.messages import Domain, Kind, sign_vote
from consensus.state_tree import StateTree
from contracts.application import LedgerApplication
from contracts.calls import RenewSeat, ReportDoubleSigning, Transfer
from contracts.events import Member
from contracts.genesis import ConsensusRules
from contracts.records import MARKET_KEY, Epoch, epoch_key
from tests.contracts.world import MemoryStore, World, key, make_genesis, signer

WINDOW = 5


def governed_world() -> World:
    """Five validators; one was replaced, one removed and one added, one is about to leave, one change is open, one offence recorded."""
    world = World(make_genesis(validators=5, consensus=ConsensusRules(window=WINDOW)))
    world.decide("replace", "node2", public_key=signer("fresh").public_key)
    world.advance_to(world.application.epochs()[-1].first_height)
    world.signs_as["node2"] = "fresh"
    world.decide("remove", "node0")
    world.decide("add", "x")
    world.advance_to(world.application.epochs()[-1].first_height)
    votes = [sign_vote(signer("node0"), Domain("test", "main", 0), Kind.COMMIT, 1, 2, bytes([number]) * 32, 0) for number in (1, 2)]
    assert world.call("node1", ReportDoubleSigning(*votes)).code == "OK"
    world.decide("remove", "node4")
    assert world.vote("node1", "add", "y").code == "OK"
    assert world.call("node3", RenewSeat(world.application.epochs()[-1].epoch, b"another log")).code == "OK"
    return world


def the_same(one: LedgerApplication, other: LedgerApplication) -> bool:
    names = ("node0", "node1", "node2", "node4", "x", "A", "m-A")
    return (
        one.epochs() == other.epochs()
        and one.tree.root == other.tree.root
        and one.next_deadline_ms() == other.next_deadline_ms()
        and [one.sender_key(name) for name in names] == [other.sender_key(name) for name in names]
    )


def test_a_restart_at_any_height_knows_who_may_send() -> None:
    world = governed_world()
    for _ in range(WINDOW + 2):
        again = LedgerApplication(world.genesis, world.store, StateTree.of(world.store.entries.items()))
        assert the_same(again, world.application)
        world.block()
    assert world.view.validators.epoch().number == 5


def test_a_snapshot_in_place_of_the_state_is_all_that_counts() -> None:
    world = governed_world()
    behind = World(world.genesis)
    behind.block(behind.transaction("A", Transfer("B", 5)), behind.transaction("node1", behind.change("add", "z")))
    behind.application.finalize_block(2, behind.time_ms, 0, [behind.transaction("A", Transfer("B", 7))])
    behind.store.entries.clear()
    behind.store.entries.update(world.store.entries)
    behind.application.restore(StateTree.of(world.store.entries.items()))
    assert the_same(behind.application, world.application)
    with pytest.raises(InvariantViolation, match="finalized block"):
        behind.application.commit()
    behind.height, behind.nonces, behind.time_ms = world.height, world.nonces, world.time_ms
    for _ in range(WINDOW + 2):
        transactions = [world.transaction("A", Transfer("B", 1)), world.transaction("node1", world.change("add", "y2"))]
        for one in (world, behind):
            one.block(*transactions)
        assert world.last.receipts == behind.last.receipts and the_same(behind.application, world.application)


def test_a_set_shows_after_commit_only() -> None:
    world = World(make_genesis(consensus=ConsensusRules(window=WINDOW)))
    votes = [world.transaction(f"node{number}", world.change("add", "x")) for number in range(3)]
    finalized = world.application.finalize_block(1, world.time_ms, 0, votes)
    assert [one.epoch for one in finalized.announced] == [1] and len(world.application.epochs()) == 1
    assert world.view.validators.epochs(1) == ()
    assert world.application.check_transaction(votes[0], world.time_ms).ok
    assert world.application.finalize_block(1, world.time_ms, 0, []).announced == ()
    world.block(*votes)
    assert [one.epoch for one in world.application.epochs()] == [0, 1]


def replaced(epoch: Epoch, **changes: object) -> Epoch:
    return msgspec.structs.replace(epoch, **changes)


def with_member(epoch: Epoch, **changes: object) -> Epoch:
    return replaced(epoch, members=(*epoch.members[:-1], msgspec.structs.replace(epoch.members[-1], **changes)))


@pytest.mark.parametrize(
    ("number", "spoil", "rule"),
    [
        (1, lambda epoch: replaced(epoch, first_height=WINDOW + 1), "begins at"),
        (1, lambda epoch: replaced(epoch, members=epoch.members[:3]), "3 members"),
        (1, lambda epoch: replaced(epoch, members=(*epoch.members, epoch.members[0])), "4 names"),
        (1, lambda epoch: with_member(epoch, public_key=key("node0")), "3 keys"),
        (1, lambda epoch: with_member(epoch, name="A"), "A cannot be"),
        (1, lambda epoch: with_member(epoch, account="nobody"), "for account nobody"),
        (2, lambda epoch: replaced(epoch, number=2), "holds no epoch 1"),
        (1, lambda epoch: replaced(epoch, number=0), "epoch 0 is announced"),
        (1, lambda epoch: replaced(epoch, decided=2), "members of epoch 2"),
        (0, lambda epoch: epoch, "known and does not change"),
    ],
)
def test_a_block_that_breaks_the_sets_stops_the_replica(number: int, spoil: Callable[[Epoch], Epoch], rule: str) -> None:
    world = World(make_genesis(consensus=ConsensusRules(window=WINDOW)))
    state = world.application._ledger.state
    original = state.discard

    def break_it() -> None:
        original()
        genesis = tuple(Member(one.name, one.public_key, one.account) for one in world.genesis.validators)
        state.epochs.put(epoch_key(number), spoil(Epoch(number, WINDOW + 2, genesis, number)))
        progress = state.market.get(MARKET_KEY)
        state.market.put(MARKET_KEY, msgspec.structs.replace(progress, epochs=number + 1))

    state.discard = break_it
    with pytest.raises(InvariantViolation, match=rule):
        world.application.finalize_block(1, world.time_ms, 0, [])


def test_a_set_that_is_counted_must_be_there() -> None:
    world = World()
    entries = dict(world.store.entries)
    del entries[b"epoch/" + epoch_key(0)]
    store = MemoryStore()
    store.entries = entries
    with pytest.raises(InvariantViolation, match="epoch 0"):
        LedgerApplication(world.genesis, store, StateTree.of(entries.items()))
