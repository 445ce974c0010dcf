"""A node whose disk was wiped does not know what it signed. It signs nothing until an epoch names its new vote log.

``checkers.Witness`` watches: no node signs two different votes for one place, and none with a log that its seat does not name.
"""

from __future__ import annotations

import pytest

from consensus.effects import Propose, Received
from consensus.errors import InvariantViolation
from consensus.messages import Kind, Message, Vote
from consensus.recovery import Recovered
from consensus.replica import Replica
from tests.consensus.plain_ledger import SET, validator_set
from tests.consensus.scenes import Lone, in_epoch
from tests.consensus.virtual_cluster import Host, VirtualCluster, name

SIZES = (4, 5, 6, 7)


def votes_by(cluster: VirtualCluster, index: int) -> list[Vote]:
    """Return where all votes of a node will be, from now on (its statuses as well)."""
    votes: list[Vote] = []

    def listen(sender: int, _: int, message: Message) -> Message:
        if sender == index and hasattr(message, "vote"):
            votes.append(message.vote)
        return message

    cluster.intercept = listen
    return votes


def traffic(cluster: VirtualCluster, count: int, prefix: str) -> list[bytes]:
    batches = [f"{prefix} {index}".encode() for index in range(count)]
    for batch in batches:
        cluster.submit(batch)
    return batches


def has_seat(host: Host, epoch: int) -> bool:
    committee = host.replica.committee
    return host.up and committee.epoch >= epoch and committee.index is not None


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("index", [0, 2])
def test_a_wiped_node_follows_and_votes_again_in_the_epoch_that_names_its_new_log(n: int, index: int) -> None:
    """It does not matter whether it led the view that it no longer remembers."""
    cluster = VirtualCluster(n, seed=n)
    cluster.start()
    wanted = traffic(cluster, 20, "before")
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))
    host = cluster.hosts[index]
    host.wipe()
    votes = votes_by(cluster, index)
    host.start()
    wanted += traffic(cluster, 10, "meanwhile")
    assert cluster.run(30_000, in_epoch(cluster, 1))
    assert host.replica.committee.index == index
    assert cluster.witness.sets[1].logs[index] == host.disk.log != b""
    wanted += traffic(cluster, 10, "after")
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))
    cluster.run(1_000)
    first = cluster.witness.sets[1].first_height
    assert votes and {vote.epoch for vote in votes} == {1}
    assert all(vote.sequence >= first for vote in votes if vote.sequence)
    assert {Kind.COMMIT, Kind.CHECKPOINT} <= {Kind(vote.kind) for vote in votes}


def test_until_then_the_others_need_no_help_of_it() -> None:
    """Its votes of before the wipe are void if it cannot repeat them: one more that fails, and the chain waits for one of the two."""
    cluster = VirtualCluster(4, seed=1)
    cluster.start()
    assert cluster.run(5_000, lambda: True)
    host, other = cluster.hosts[2], cluster.hosts[3]
    other.crash()
    host.wipe()
    votes = votes_by(cluster, 2)
    host.start()
    wanted = traffic(cluster, 3, "waits")
    cluster.run(20_000)
    assert not votes
    assert all(not up.disk.blocks for up in cluster.hosts[:3])
    other.start()
    assert cluster.run(30_000, lambda: cluster.everybody_has(wanted) and has_seat(host, 1))


@pytest.mark.parametrize("moment", ["before it asks", "when it has asked", "when its seat is announced", "when it votes again"])
def test_a_second_wipe(moment: str) -> None:
    """The log that was asked for is gone, too. Whatever epoch still names it is not this node's."""
    cluster = VirtualCluster(4, seed=2)
    cluster.start()
    wanted = traffic(cluster, 30, "before")
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))
    host = cluster.hosts[1]
    host.wipe()
    first_log = host.disk.log
    host.start()
    reached = {
        "before it asks": lambda: host.disk.height > 5,
        "when it has asked": lambda: any(batch.startswith(SET) for batch in cluster.hosts[0].pending),
        "when its seat is announced": lambda: len(cluster.witness.sets) == 2,
        "when it votes again": lambda: has_seat(host, 1),
    }[moment]
    assert cluster.run(30_000, reached)
    host.wipe()
    assert host.disk.log != first_log
    votes = votes_by(cluster, 1)
    host.start()
    wanted += traffic(cluster, 10, "meanwhile")
    assert cluster.run(60_000, lambda: cluster.everybody_has(wanted) and has_seat(host, 1))
    assert cluster.witness.sets[host.replica.committee.epoch].logs[1] == host.disk.log
    wanted += traffic(cluster, 5, "after")
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))
    assert all(cluster.witness.sets[vote.epoch].logs[1] == host.disk.log for vote in votes)
    assert votes


def test_every_node_is_wiped_one_after_the_other() -> None:
    cluster = VirtualCluster(4, seed=3)
    cluster.start()
    wanted = traffic(cluster, 5, "before")
    assert cluster.run(5_000, lambda: cluster.everybody_has(wanted))
    for epoch, host in enumerate(cluster.hosts, 1):
        host.wipe()
        host.start()
        wanted += traffic(cluster, 3, f"round {epoch}")
        assert cluster.run(30_000, in_epoch(cluster, epoch))
        assert has_seat(host, epoch)
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))
    assert b"" not in cluster.witness.sets[4].logs


def test_two_of_seven_are_wiped_at_once() -> None:
    cluster = VirtualCluster(7, seed=4, loss=0.05, delay_ms=20)
    cluster.start()
    wanted = traffic(cluster, 10, "before")
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))
    for index in (0, 1):
        cluster.hosts[index].wipe()
    for index in (0, 1):
        cluster.hosts[index].start()
    wanted += traffic(cluster, 10, "meanwhile")
    assert cluster.run(60_000, lambda: all(has_seat(cluster.hosts[index], 1) for index in (0, 1)) and cluster.everybody_has(wanted))


def test_replayed_votes_of_before_the_wipe_accuse_nobody() -> None:
    """They are real and still count in their epoch; the node says nothing there that could contradict them."""
    cluster = VirtualCluster(4, seed=5)
    old = []

    def record(sender: int, to: int, message: Message) -> Message:
        if sender == 2 and hasattr(message, "vote"):
            old.append((to, message))
        return message

    cluster.intercept = record
    cluster.start()
    wanted = traffic(cluster, 5, "before")
    assert cluster.run(5_000, lambda: cluster.everybody_has(wanted))
    host = cluster.hosts[2]
    host.wipe()
    cluster.intercept = lambda sender, to, message: message
    host.start()
    wanted += traffic(cluster, 20, "meanwhile")
    for delay_ms in range(0, 3_000, 300):
        for to, message in old:
            cluster.at(delay_ms, lambda to=to, message=message: cluster.hosts[to].step(Received(name(2), message)))
    assert cluster.run(30_000, lambda: cluster.everybody_has(wanted) and has_seat(host, 1))
    assert not [pair for other in cluster.hosts for pair in other.evidence]


@pytest.mark.parametrize("seed", range(8))
def test_wipes_at_any_moment_under_load_never_make_two_votes_for_one_place(seed: int) -> None:
    """One after the other is wiped in the middle of everything, with messages lost and late, and the first one still replaced."""
    cluster = VirtualCluster(4, seed, loss=0.1, duplicate=0.1, delay_ms=60)
    cluster.start()
    wanted = traffic(cluster, 10, "before")
    for round_ in range(4):
        cluster.run(cluster.random.randrange(20, 1_500))
        host = cluster.random.choice(cluster.hosts)
        host.wipe()
        cluster.run(cluster.random.randrange(10, 500))
        host.start()
        wanted += traffic(cluster, 5, f"round {round_}")
        assert cluster.run(120_000, lambda host=host: host.replica.epochs[-1].logs[host.index] == host.disk.log and has_seat(host, 1))
    cluster.loss = 0.0
    assert cluster.run(120_000, lambda: cluster.everybody_has(wanted))
    assert not [pair for host in cluster.hosts for pair in host.evidence]


def test_a_replica_with_another_log_than_its_seat_names_has_no_seat() -> None:
    config = VirtualCluster(4).hosts[0].config()
    named = Replica(config, Recovered((validator_set(4),), log=b""))
    named.start(0)
    wiped = Replica(config, Recovered((validator_set(4),), log=b"another"))
    wiped.start(0)
    assert (named.committee.index, wiped.committee.index) == (0, None)
    assert named.can_propose and not wiped.can_propose
    with pytest.raises(InvariantViolation):
        wiped.step(Propose(b"mine"), 1)


def test_an_amnesiac_that_waits_for_ever_asks_for_no_view_change() -> None:
    lone = Lone(3)
    lone.host.wipe()
    lone.host.start()
    lone.said.clear()
    lone.host.submit(b"in vain")
    lone.wait(60_000)
    assert not lone.votes() and not lone.say(object)
