"""Epochs: validators come, go and change their keys while the chain runs, restarts, and changes views."""

from __future__ import annotations

import random

import pytest

from consensus.messages import Kind, Message, StatusMessage, Vote, VoteMessage
from consensus.validators import set_at
from tests.consensus.plain_ledger import WINDOW, set_batch, signer
from tests.consensus.scenes import in_epoch, seat
from tests.consensus.virtual_cluster import Host, VirtualCluster, name

SIZES = (4, 5, 6, 7)


class Traffic:
    """Requests that keep coming."""

    def __init__(self, cluster: VirtualCluster) -> None:
        self.cluster = cluster
        self.batches: list[bytes] = []

    def send(self, count: int) -> None:
        for _ in range(count):
            self.batches.append(b"request %d" % len(self.batches))
            self.cluster.submit(self.batches[-1])

    def change(self, batch: bytes) -> None:
        self.batches.append(batch)
        self.cluster.submit(batch)


def vote_in(message: Message) -> Vote | None:
    return getattr(message, "vote", None)


def assert_certified(cluster: VirtualCluster) -> None:
    """Every stored certificate is of a quorum of the set of its height."""
    for host in cluster.hosts:
        for height, certificate in host.disk.certificates.items():
            assert set_at(cluster.witness.sets, height).certifies(certificate), (host.name, height)


@pytest.mark.parametrize("seed", range(4))
def test_from_four_to_seven_and_back_under_traffic(seed: int) -> None:
    """The three that were there first are removed at the end, so that everybody else moves to another seat."""
    cluster = VirtualCluster(4, seed, extra=3, loss=0.05 * seed, duplicate=0.05, delay_ms=5 + 10 * seed)
    cluster.start()
    traffic = Traffic(cluster)
    changes = [set_batch(seat(cluster.hosts[index])) for index in (4, 5, 6)] + [set_batch(removed=(name(0), name(1), name(2)))]
    for epoch, change in enumerate(changes, 1):
        traffic.send(5)
        traffic.change(change)
        traffic.send(5)
        assert cluster.run(60_000, in_epoch(cluster, epoch))
    traffic.send(10)
    assert cluster.run(60_000, lambda: cluster.everybody_has(traffic.batches))
    assert [len(one.names) for one in cluster.witness.sets] == [4, 5, 6, 7, 4]
    assert [host.replica.committee.index for host in cluster.hosts] == [None, None, None, 0, 1, 2, 3]
    assert not [fault for host in cluster.hosts for fault in host.faults]
    assert cluster.run(5_000, lambda: all(len(host.disk.certificates) == host.disk.height for host in cluster.hosts))
    assert_certified(cluster)


def test_many_changes_one_after_the_other_make_epochs_of_one_block() -> None:
    cluster = VirtualCluster(4, seed=2, extra=3)
    cluster.start()
    traffic = Traffic(cluster)
    for index in (4, 5, 6):
        traffic.change(set_batch(seat(cluster.hosts[index])))
    traffic.change(set_batch(removed=(name(0),)))
    traffic.send(3)
    assert cluster.run(60_000, in_epoch(cluster, 4))
    starts = [one.first_height for one in cluster.witness.sets[1:]]
    assert starts == list(range(starts[0], starts[0] + 4))
    assert cluster.run(5_000, lambda: cluster.everybody_has(traffic.batches))
    assert cluster.run(5_000, lambda: all(len(host.disk.certificates) == host.disk.height for host in cluster.hosts))
    assert_certified(cluster)


@pytest.mark.parametrize("n", SIZES)
def test_nobody_votes_above_the_end_before_it_is_certified(n: int) -> None:
    """Everything up to the end is ordered and executed, but its header signatures get lost: there the chain stands."""
    cluster = VirtualCluster(n, seed=n, extra=1)
    cluster.start()
    cluster.submit(set_batch(seat(cluster.hosts[n])))
    assert cluster.run(5_000, lambda: len(cluster.witness.sets) == 2)
    end = cluster.witness.sets[1].first_height - 1
    voted: set[int] = set()

    def no_certificate_of_the_end(_: int, __: int, message: Message) -> Message | None:
        vote = vote_in(message)
        if vote is not None:
            voted.add(vote.sequence)
        return None if vote is not None and vote.kind == Kind.CHECKPOINT and vote.sequence == end else message

    cluster.intercept = no_certificate_of_the_end
    wanted = [b"request %d" % index for index in range(2 * WINDOW)]
    for batch in wanted:
        cluster.submit(batch)
    cluster.run(8_000)
    assert {host.disk.height for host in cluster.hosts[:n]} == {end}
    assert {host.replica.committee.epoch for host in cluster.hosts} == {0}
    assert max(voted) == end
    cluster.intercept = lambda sender, to, message: message
    assert cluster.run(60_000, lambda: in_epoch(cluster, 1)() and cluster.everybody_has(wanted))


@pytest.mark.parametrize("n", SIZES)
def test_an_idle_chain_is_driven_to_the_boundary(n: int) -> None:
    cluster = VirtualCluster(n, seed=n, extra=1)
    cluster.start()
    cluster.submit(set_batch(seat(cluster.hosts[n])))
    assert cluster.run(5_000, in_epoch(cluster, 1))
    assert {host.replica.status(0).view for host in cluster.hosts} == {0}
    cluster.run(5_000)
    assert {host.disk.height for host in cluster.hosts} == {cluster.witness.sets[1].first_height - 1}, "and not a block further"


def test_an_idle_chain_gets_to_the_boundary_even_if_everybody_restarts() -> None:
    cluster = VirtualCluster(4, seed=3, extra=1)
    cluster.start()
    cluster.submit(set_batch(seat(cluster.hosts[4])))
    assert cluster.run(5_000, lambda: all(host.disk.height >= 3 for host in cluster.hosts[:4]))
    assert max(host.disk.height for host in cluster.hosts) < WINDOW
    for host in cluster.hosts:
        host.crash()
        host.pending.clear()
    for host in cluster.hosts:
        host.start()
    assert cluster.run(20_000, in_epoch(cluster, 1))


@pytest.mark.parametrize("n", SIZES)
def test_a_primary_that_makes_no_empty_blocks_towards_the_boundary_is_replaced(n: int) -> None:
    cluster = VirtualCluster(n, seed=n, extra=1)
    cluster.hosts[0].drives = False
    cluster.start()
    cluster.submit(set_batch(seat(cluster.hosts[n])))
    assert cluster.run(20_000, in_epoch(cluster, 1))
    views = {vote_view for (_, kind, epoch, vote_view, _) in cluster.witness.sent if (kind, epoch) == (Kind.NEW_VIEW, 0)}
    assert views == {1}


@pytest.mark.parametrize("seed", range(3))
def test_views_change_while_the_epoch_does(seed: int) -> None:
    """One primary after the other dies on the way to the boundary, never more than one at a time."""
    cluster = VirtualCluster(4, seed, extra=1)
    cluster.start()
    cluster.submit(set_batch(seat(cluster.hosts[4])))
    assert cluster.run(5_000, lambda: len(cluster.witness.sets) == 2)
    for _ in range(4):
        up = [host for host in cluster.hosts[:4] if host.up and host.replica.committee.epoch == 0]
        if not up:
            break
        primary = cluster.hosts[up[0].replica.status(0).primary]
        primary.crash()
        cluster.run(2_500)
        primary.start()
        cluster.run(300)
    assert cluster.run(60_000, in_epoch(cluster, 1))
    cluster.submit(b"after")
    assert cluster.run(10_000, lambda: cluster.everybody_has([b"after"]))


@pytest.mark.parametrize("n", SIZES)
def test_who_slept_through_several_epochs_catches_up_by_blocks(n: int) -> None:
    """The sleeper keeps its seat throughout; what its old colleagues are now it learns from the blocks."""
    cluster = VirtualCluster(n, seed=n, extra=2)
    late = cluster.hosts[n - 1]
    for host in cluster.hosts:
        if host is not late:
            host.start()
    others = [host for host in cluster.hosts if host is not late]
    changes = [set_batch(seat(cluster.hosts[n])), set_batch(seat(cluster.hosts[n + 1])), set_batch(removed=(name(0),))]
    for epoch, change in enumerate(changes, 1):
        cluster.submit(change)
        assert cluster.run(60_000, in_epoch(cluster, epoch, others))
    late.start()
    assert cluster.run(20_000, in_epoch(cluster, 3))
    assert late.replica.committee.index == n - 2
    cluster.hosts[n].crash()
    cluster.submit(b"now it is needed")
    alive = [host for host in cluster.hosts if host.up]
    assert cluster.run(20_000, lambda: all(host.disk.ledger.has(b"now it is needed") for host in alive))


def test_a_key_is_changed_at_the_boundary_with_both_keys_at_hand() -> None:
    cluster = VirtualCluster(4, seed=6)
    cluster.start()
    host = cluster.hosts[2]
    host.crash()
    host.signers = (*host.signers, signer(99))
    host.start()
    cluster.submit(set_batch(seat(host)))
    assert cluster.run(5_000, in_epoch(cluster, 1))
    assert cluster.witness.sets[1].public_keys[2] == signer(99).public_key
    cluster.hosts[1].crash()
    cluster.submit(b"signed with the new key")
    assert cluster.run(10_000, lambda: all(host.disk.ledger.has(b"signed with the new key") for host in cluster.hosts if host.up))
    last = cluster.hosts[0].disk
    assert cluster.run(1_000, lambda: last.height in last.certificates)
    assert 2 in [vote.validator for vote in last.certificates[last.height].votes]


def test_who_has_only_the_new_key_follows_until_the_boundary_and_votes_from_there() -> None:
    cluster = VirtualCluster(4, seed=7)
    cluster.start()
    cluster.submit(b"first")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"first"]))
    host = cluster.hosts[2]
    host.crash()
    host.signers = (signer(99),)
    host.start()
    assert host.replica.committee.index is None
    cluster.submit(set_batch(seat(host)))
    assert cluster.run(10_000, in_epoch(cluster, 1))
    assert host.replica.committee.index == 2


def has_begun(host: Host) -> bool:
    """Whether a block of the epoch that this node is in has its certificate."""
    return host.replica.status(0).certified >= host.replica.committee.validators.first_height


def test_a_removed_validator_follows() -> None:
    cluster = VirtualCluster(5, seed=8)
    cluster.start()
    cluster.submit(set_batch(removed=(name(0),)))
    assert cluster.run(5_000, in_epoch(cluster, 1))
    cluster.submit(b"first of the new epoch")
    assert cluster.run(5_000, lambda: all(has_begun(host) for host in cluster.hosts))
    said: list[Message] = []

    def listen(sender: int, _: int, message: Message) -> Message:
        if sender == 0:
            said.append(message)
        return message

    cluster.intercept = listen
    wanted = [b"request %d" % index for index in range(20)]
    for batch in wanted:
        cluster.submit(batch)
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))
    assert not [message for message in said if vote_in(message) is not None]
    assert cluster.hosts[0].replica.status(0).seat is None


@pytest.mark.parametrize("who", ["the primary", "a backup", "everybody"])
@pytest.mark.parametrize("when", ["before the certificate is written", "after it is written", "with the certificate before it lost"])
def test_restart_exactly_at_the_boundary(who: str, when: str) -> None:
    cluster = VirtualCluster(4, seed=9, extra=1)
    cluster.start()
    chosen = {"the primary": cluster.hosts[:1], "a backup": cluster.hosts[2:3], "everybody": cluster.hosts}[who]
    left = {host.name for host in chosen}
    for host in chosen:
        real = host.certified

        def certified(effect: object, host: object = host, real: object = real) -> None:
            if effect.last_of_epoch and host.name in left:
                left.discard(host.name)
                if when.startswith("after"):
                    real(effect)
                host.crash(1 if when.startswith("with") else 0)
                cluster.at(200, host.start)
            else:
                real(effect)

        host.certified = certified  # type: ignore[method-assign]  # power fails here
    cluster.submit(set_batch(seat(cluster.hosts[4])))
    assert cluster.run(20_000, lambda: not left and in_epoch(cluster, 1)())
    wanted = [b"after %d" % index for index in range(WINDOW)]
    for batch in wanted:
        cluster.submit(batch)
    assert cluster.run(20_000, lambda: cluster.everybody_has(wanted))
    assert cluster.run(5_000, lambda: all(len(host.disk.certificates) == host.disk.height for host in cluster.hosts))


@pytest.mark.parametrize("seed", range(5))
def test_the_whole_site_loses_power_again_and_again_around_the_boundary(seed: int) -> None:
    """Certificates that were not synced are gone; f replicas are slow to come back."""
    cluster, dice = VirtualCluster(4, seed, extra=1, delay_ms=20), random.Random(seed)
    cluster.start()
    cluster.submit(set_batch(seat(cluster.hosts[4])))
    wanted = [b"request %d" % index for index in range(2 * WINDOW)]
    for batch in wanted:
        cluster.submit(batch)
    for _ in range(12):
        cluster.run(dice.randrange(20, 150))
        for host in cluster.hosts:
            host.crash(dice.randrange(4))
        slow = dice.randrange(4)
        for host in cluster.hosts:
            cluster.at(dice.randrange(3_000, 5_000) if host.index == slow else 10, lambda host=host: None if host.up else host.start())
        cluster.run(dice.randrange(100, 1_500))
    cluster.run(6_000)
    assert cluster.run(60_000, lambda: in_epoch(cluster, 1)() and cluster.everybody_has(wanted))
    assert cluster.run(5_000, lambda: all(len(host.disk.certificates) == host.disk.height for host in cluster.hosts))
    assert_certified(cluster)


def test_who_leaves_with_the_last_certificates_of_its_epoch_still_tells_the_others() -> None:
    """Its own votes on these blocks were lost under way, and went from its log; another is silent. The others could not go on alone."""
    cluster, leaver, silent, rest = VirtualCluster(5, seed=7), 0, 1, (2, 3, 4)
    cluster.start()

    def lose(sender: int, to: int, message: Message) -> Message | None:
        height = cluster.hosts[leaver].disk.height
        is_checkpoint = isinstance(message, VoteMessage) and message.vote.kind == Kind.CHECKPOINT
        if to in rest and sender in (leaver, silent) and height > 2 and (is_checkpoint or isinstance(message, StatusMessage)):
            return None
        return message

    cluster.intercept = lose
    cluster.submit(set_batch(removed=(name(leaver),)), rest)
    assert cluster.run(60_000, lambda: cluster.hosts[leaver].replica.committee.epoch == 1)
    assert all(cluster.hosts[one].replica.committee.epoch == 0 for one in rest)
    cluster.intercept = lambda sender, to, message: None if sender == silent else message
    cluster.submit(b"after", rest)
    assert cluster.run(60_000, lambda: all(cluster.hosts[one].disk.ledger.has(b"after") for one in rest))
