"""Random votes, rotations, renewals and departures against a naive account of the rules: lists, exact fractions, everything recounted."""

from __future__ import annotations

from fractions import Fraction
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.state_tree import StateTree
from contracts import governance
from contracts.application import LedgerApplication
from contracts.calls import RenewSeat, VoteOnValidators
from contracts.events import ValidatorsChanged
from contracts.genesis import ConsensusRules, Genesis
from tests.contracts.world import MemoryStore, World, make_genesis, signer

WINDOW = 4
MAX_OPEN = 3
MAX_RENEWALS = 2
NODES = [*(f"node{number}" for number in range(6)), "x", "y"]
Seat = tuple[str, str, str, str, int]
"""Name, whose key, account, host and port."""


class NaiveChain:
    """The rules of membership, told once more.

    Attributes:
        sets: (first height, seats) by epoch.
        logs: by epoch, the logs of those who have another than the first one.
        stands: from which epoch on the members are those of the latest one.
        votes: (voter, call without ``approve``) that stand on the latest set.
        renewed: who renewed a seat, as often as he did.
    """

    def __init__(self, genesis: Genesis) -> None:
        self.share = Fraction(genesis.consensus.approval_ppm, 1_000_000)
        self.taken = [part.account for part in genesis.participants] + [meter.meter for meter in genesis.meters]
        self.accounts = [part.account for part in genesis.participants]
        self.sets: list[tuple[int, list[Seat]]] = [(1, [(one.name, one.name, one.account, "", 0) for one in genesis.validators])]
        self.votes: list[tuple[str, tuple[object, ...]]] = []
        self.logs: list[dict[str, bytes]] = [{}]
        self.stands, self.renewed = 0, list[str]()

    def seats_at(self, height: int) -> list[Seat]:
        return [seats for first, seats in self.sets if first <= height][-1]

    def signs_in(self, height: int, name: str, key: str) -> bool:
        return any(seat[:2] == (name, key) for seat in self.seats_at(height))

    def after(self, action: str, name: str, key: str, account: str, host: str, port: int) -> list[Seat] | None:
        """Return the latest set after a change; None if the rules forbid it."""
        latest = self.sets[-1][1]
        old = [seat for seat in latest if seat[0] == name]
        if action == "remove":
            left = [seat for seat in latest if seat[0] != name]
            return left if old and not (key or account or host or port) and len(left) >= 4 else None
        if action == "add" and not old and name not in self.taken and host:
            new = (name, key, account, host, port)
            result = [*latest, new]
        elif action == "replace" and old:
            new = (name, key or old[0][1], account or old[0][2], host or old[0][3], port or old[0][4])
            result = [new if seat[0] == name else seat for seat in latest]
        else:
            return None
        keys = [seat[1] for seat in result]
        sound = new[1] and new[2] in self.accounts and bool(new[3]) == bool(new[4]) and len(keys) == len(set(keys)) and len(keys) <= 64
        return result if sound and result != latest else None

    def play(self, height: int, voter: str, epoch: int, what: tuple, approve: bool) -> str:
        """Return what must become of a vote: good, announced or refused."""
        latest = self.sets[-1][1]
        if not self.stands <= epoch < len(self.sets) or voter not in [seat[0] for seat in latest]:
            return "refused"
        if not approve:
            if (voter, what) not in self.votes:
                return "refused"
            self.votes.remove((voter, what))
            return "good"
        result = self.after(*what)
        if (voter, what) in self.votes or result is None or sum(one == voter for one, _ in self.votes) >= MAX_OPEN:
            return "refused"
        self.votes.append((voter, what))
        if Fraction(sum(one == what for _, one in self.votes), len(latest)) < self.share:
            return "good"
        logs = {name: log for name, log in self.logs[-1].items() if name in [seat[0] for seat in result]}
        self.announce(height, result, logs)
        self.votes, self.stands = [], len(self.sets) - 1
        return "announced"

    def renew(self, height: int, voter: str, epoch: int, log: bytes) -> str:
        """Return what must become of a renewal."""
        seats, logs = self.sets[-1][1], self.logs[-1]
        if epoch != len(self.sets) - 1 or voter not in [seat[0] for seat in seats] or logs.get(voter) == log:
            return "refused"
        if self.renewed.count(voter) >= MAX_RENEWALS:
            return "refused"
        self.renewed.append(voter)
        self.announce(height, seats, {**logs, voter: log})
        return "announced"

    def announce(self, height: int, seats: list[Seat], logs: dict[str, bytes]) -> None:
        self.sets.append((max(height + WINDOW, self.sets[-1][0]) + 1, seats))
        self.logs.append(logs)


WHAT = st.one_of(
    st.tuples(
        st.just("add"), st.sampled_from([*NODES, "A"]), st.sampled_from(["x", "y", "k", ""]), st.just("DC0"), st.just("h"), st.just(1)
    ),
    st.tuples(st.just("remove"), st.sampled_from(NODES), st.just(""), st.just(""), st.just(""), st.just(0)),
    st.tuples(
        st.just("replace"),
        st.sampled_from(NODES[:4]),
        st.sampled_from(["", "k", "l", "node0"]),
        st.sampled_from(["", "DC1", "nobody"]),
        st.sampled_from(["", "h"]),
        st.sampled_from([0, 1]),
    ),
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("one"), st.sampled_from(NODES), st.sampled_from([0, 0, 0, -1, 1]), WHAT, st.booleans(), st.sampled_from(["", "k"])
        ),
        st.tuples(st.just("all"), WHAT),
        st.tuples(st.just("renew"), st.sampled_from(NODES), st.sampled_from([0, 0, 0, -1, 1]), st.sampled_from([b"one", b"two"])),
        st.tuples(st.just("wait"), st.integers(1, 7)),
    ),
    min_size=3,
    max_size=14,
)


def vote_of(epoch: int, what: tuple, approve: bool) -> VoteOnValidators:
    action, name, key, *rest = what
    return VoteOnValidators(epoch, action, name, signer(key).public_key if key else b"", *rest, approve)


class Play:
    """Plays actions in a world, in the naive account and in a replica that forgets everything after each block."""

    def __init__(self, genesis: Genesis) -> None:
        self.world, self.naive = World(genesis), NaiveChain(genesis)

    def block(self, votes: list[tuple[str, str, int, tuple | bytes, bool]]) -> None:
        """Execute votes (voter, key, epoch, what, approve), or renewals (what is the log), as one block, and compare."""
        world, naive, height = self.world, self.naive, self.world.height + 1
        transactions, expected = [], []
        keys = {seat[0]: seat[1] for seat in naive.seats_at(height)}
        for voter, label, epoch, what, approve in votes:
            call = RenewSeat(epoch, what) if isinstance(what, bytes) else vote_of(epoch, what, approve)
            used = label or keys.get(voter, voter)
            nonce = world.nonces.get(voter, 0) + 1
            transactions.append(world.transaction(voter, call, by=used, nonce=nonce))
            if naive.signs_in(height, voter, used):
                world.nonces[voter] = nonce
                is_vote = isinstance(what, tuple)
                expected.append(naive.play(height, voter, epoch, what, approve) if is_vote else naive.renew(height, voter, epoch, what))
        before = StateTree.of(world.store.entries.items())
        other = MemoryStore()
        other.entries = dict(world.store.entries)
        receipts = world.block(*transactions)
        again = LedgerApplication(world.genesis, other, before).finalize_block(height, world.time_ms, 0, transactions)
        assert again.tree.root == world.last.tree.root and again.announced == world.last.announced
        found = []
        for receipt in receipts:
            announced = any(isinstance(event, ValidatorsChanged) for event in receipt.events)
            found.append("announced" if announced else "good" if receipt.code == "OK" else "refused")
        assert found == expected

    def compare(self) -> None:
        """Compare all that is known of sets and votes."""
        world, naive, view = self.world, self.naive, self.world.view.validators
        sets = [(one.first_height, [(m.name, m.public_key, m.account, m.host, m.port) for m in one.members]) for one in view.epochs()]
        assert sets == [(first, [(name, signer(key).public_key.hex(), *rest) for name, key, *rest in seats]) for first, seats in naive.sets]
        assert [(one.first_height, one.names) for one in world.application.epochs()] == [
            (first, tuple(seat[0] for seat in seats)) for first, seats in naive.sets
        ]
        logs = [tuple(logs.get(seat[0], b"") for seat in seats) for (_, seats), logs in zip(naive.sets, naive.logs, strict=True)]
        assert [one.logs for one in world.application.epochs()] == logs
        voters = sorted((change.action, change.member.name, name) for change in view.open_changes() for name in change.approvals)
        assert voters == sorted((what[0], what[1], voter) for voter, what in naive.votes)
        for name in NODES:
            shown = view.validator(name)
            assert (shown.open_votes if shown else 0) == sum(voter == name for voter, _ in naive.votes)
            seat = [seat for seat in naive.seats_at(world.height + 1) if seat[0] == name]
            assert world.application.sender_key(name) == (signer(seat[0][1]).public_key if seat else None)


@settings(max_examples=150, deadline=None)
@given(st.integers(4, 6), st.sampled_from([500_000, 666_667, 1_000_000]), ACTIONS)
def test_random_votes_give_the_sets_that_the_rules_say(validators: int, approval_ppm: int, actions: list[tuple]) -> None:
    rules = ConsensusRules(window=WINDOW, approval_ppm=approval_ppm, max_seat_renewals_per_day=MAX_RENEWALS)
    play = Play(make_genesis(validators=validators, consensus=rules))
    with mock.patch.multiple(governance, MAX_OPEN_VOTES=MAX_OPEN):
        for action in actions:
            latest = len(play.naive.sets) - 1
            match action:
                case ("one", voter, ahead, what, approve, label):
                    play.block([(voter, label, max(0, latest + ahead), what, approve)])
                case ("all", what):
                    play.block([(voter, "", latest, what, True) for voter in NODES])
                case ("renew", voter, ahead, log):
                    play.block([(voter, "", max(0, latest + ahead), log, True)])
                case ("wait", blocks):
                    for _ in range(blocks):
                        play.block([])
            play.compare()
