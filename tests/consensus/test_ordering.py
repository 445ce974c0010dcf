"""Normal operation of whole clusters of replicas (Castro and Liskov 1999, section 4.2 and 4.3)."""

from __future__ import annotations

import pytest

from consensus.block import batch_digest
from consensus.errors import Suspicion
from consensus.messages import Kind, Message, PrePrepareMessage, VoteMessage, sign_vote
from tests.consensus.virtual_cluster import DOMAIN, VirtualCluster, signer, validator_set

SIZES = (4, 5, 6, 7)


def batches(count: int, prefix: str = "batch") -> list[bytes]:
    return [f"{prefix} {index}".encode() for index in range(count)]


@pytest.mark.parametrize("n", SIZES)
def test_everybody_executes_the_same_batches_with_several_in_flight(n: int) -> None:
    cluster = VirtualCluster(n, seed=1)
    cluster.start()
    wanted = batches(30)
    most_in_flight = 0
    for batch in wanted:
        cluster.submit(batch)

    def done() -> bool:
        nonlocal most_in_flight
        most_in_flight = max(most_in_flight, cluster.hosts[0].replica.in_flight)
        return cluster.everybody_has(wanted)

    assert cluster.run(10_000, done)
    assert most_in_flight > 1
    assert all(not host.faults and host.replica.status(0).view == 0 for host in cluster.hosts)


@pytest.mark.parametrize("n", SIZES)
def test_every_block_gets_its_own_certificate_of_a_quorum(n: int) -> None:
    cluster = VirtualCluster(n, seed=2)
    cluster.start()
    for batch in batches(10):
        cluster.submit(batch)
    cluster.run(10_000, lambda: all(len(host.disk.certificates) == 10 for host in cluster.hosts))
    validators = validator_set(n)
    for host in cluster.hosts:
        assert sorted(host.disk.certificates) == list(range(1, 11))
        for height, certificate in host.disk.certificates.items():
            assert validators.certifies(certificate)
            assert certificate.header_hash == host.disk.blocks[height - 1][0]


@pytest.mark.parametrize("n", SIZES)
def test_without_a_quorum_nothing_is_ordered_and_with_it_again_all_is(n: int) -> None:
    cluster = VirtualCluster(n, seed=3)
    cluster.start()
    down = n - validator_set(n).quorums.quorum + 1
    for host in cluster.hosts[-down:]:
        host.crash()
    wanted = batches(3)
    for batch in wanted:
        cluster.submit(batch)
    cluster.run(20_000)
    assert all(not host.disk.blocks for host in cluster.hosts)
    cluster.hosts[-1].start()
    up = [host for host in cluster.hosts if host.up]
    assert cluster.run(60_000, lambda: all(len(host.disk.blocks) >= 3 for host in up))


def test_the_log_is_truncated_by_certificates() -> None:
    cluster = VirtualCluster(4, seed=4)
    cluster.start()
    for batch in batches(60):
        cluster.submit(batch)
    assert cluster.run(20_000, lambda: all(len(host.disk.certificates) == 60 for host in cluster.hosts))
    for host in cluster.hosts:
        assert not [key for key in host.disk.records if key[0] > 0]
        assert not host.replica.status(0).in_flight


def test_lost_and_repeated_messages_delay_but_do_not_stop() -> None:
    cluster = VirtualCluster(4, seed=5, loss=0.25, duplicate=0.2, delay_ms=40)
    cluster.start()
    wanted = batches(20)
    for batch in wanted:
        cluster.submit(batch)
    assert cluster.run(120_000, lambda: cluster.everybody_has(wanted))


def test_a_batch_that_backups_refuse_is_never_ordered_and_costs_the_primary_its_view() -> None:
    cluster = VirtualCluster(4, seed=6)
    for host in cluster.hosts[1:]:
        host.refuse = lambda batch: batch == b"forbidden"
    cluster.start()
    cluster.hosts[0].submit(b"forbidden")
    cluster.submit(b"good", range(1, 4))
    assert cluster.run(30_000, lambda: all(any(b == b"good" for _, b in host.disk.blocks) for host in cluster.hosts[1:]))
    assert all(all(b != b"forbidden" for _, b in host.disk.blocks) for host in cluster.hosts)
    assert any(fault.fault.code is Suspicion.BAD_PROPOSAL for fault in cluster.hosts[1].faults)
    assert cluster.hosts[1].replica.status(0).view > 0


def test_a_primary_that_sends_two_pre_prepares_is_caught_and_cannot_fork() -> None:
    cluster = VirtualCluster(4, seed=7)

    def equivocate(sender: int, to: int, message: Message) -> Message:
        if sender == 0 and isinstance(message, PrePrepareMessage) and message.vote.view == 0 and to == 3:
            other = message.batch + b" but not for you"
            vote = sign_vote(signer(0), DOMAIN, Kind.PRE_PREPARE, 0, message.vote.sequence, batch_digest(other), 0)
            return PrePrepareMessage(vote, other)
        return message

    cluster.intercept = equivocate
    cluster.start()
    wanted = batches(5)
    for batch in wanted:
        cluster.submit(batch)
    assert cluster.run(60_000, lambda: all(len(host.disk.blocks) >= 5 for host in cluster.hosts))


def test_two_different_votes_of_one_replica_become_evidence() -> None:
    cluster = VirtualCluster(4, seed=8)
    cluster.start()
    for digest in (b"\x01" * 32, b"\x02" * 32):
        vote = sign_vote(signer(2), DOMAIN, Kind.COMMIT, 0, 1, digest, 2)
        cluster.send(2, 1, VoteMessage(vote))
    cluster.run(100)
    evidence = cluster.hosts[1].evidence
    assert len(evidence) == 1 and {evidence[0].first.digest, evidence[0].second.digest} == {b"\x01" * 32, b"\x02" * 32}


@pytest.mark.parametrize(
    ("kind", "sender", "signed_by", "expected"),
    [
        (Kind.PREPARE, 2, 3, Suspicion.BAD_SIGNATURE),
        (Kind.COMMIT, 2, 1, Suspicion.BAD_SIGNATURE),
        (Kind.PREPARE, 0, 0, Suspicion.PRIMARY_PREPARED),
        (Kind.COMMIT, 9, 3, Suspicion.NOT_A_VALIDATOR),
        (Kind.CHECKPOINT, 2, 3, Suspicion.BAD_SIGNATURE),
        (Kind.STATUS, 2, 2, Suspicion.WRONG_KIND),
    ],
)
def test_bad_votes_are_counted_and_change_nothing(kind: Kind, sender: int, signed_by: int, expected: Suspicion) -> None:
    cluster = VirtualCluster(4, seed=9)
    cluster.start()
    vote = sign_vote(signer(signed_by), DOMAIN, kind, 0, 1, b"\x05" * 32, sender)
    cluster.send(3, 1, VoteMessage(vote))
    cluster.run(50)
    assert [fault.fault.code for fault in cluster.hosts[1].faults] == [expected]
    assert not cluster.hosts[1].replica.status(0).in_flight


def test_prepare_and_commit_of_three_strangers_do_not_decide() -> None:
    """Votes are counted per distinct sender: repeating one's own vote does not make a quorum."""
    cluster = VirtualCluster(4, seed=10)
    cluster.start()
    for host in (2, 3):
        cluster.hosts[host].crash()
    cluster.submit(b"alone")
    cluster.run(500)
    pre_prepare = batch_digest(b"alone")
    for _ in range(5):
        cluster.send(0, 1, VoteMessage(sign_vote(signer(0), DOMAIN, Kind.COMMIT, 0, 1, pre_prepare, 0)))
    cluster.run(300)
    assert not cluster.hosts[1].disk.blocks
