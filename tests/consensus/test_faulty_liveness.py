"""Schedules after which a cluster with at most f faulty replicas must still commit."""

from __future__ import annotations

import pytest

from consensus.block import CertifiedBlock, batch_digest
from consensus.codec import encode
from consensus.effects import Broadcast, CheckBatch, Effect, Execute, LogRecord, Propose, ViewEntered, Waiting
from consensus.errors import Suspicion
from consensus.messages import (
    BlocksMessage,
    Kind,
    Message,
    PrePrepareMessage,
    StatusMessage,
    VoteMessage,
    sign_vote,
)
from consensus.quorum import quorums
from consensus.recovery import Recovered
from consensus.replica import Replica
from tests.consensus.test_view_change import new_view, view_change
from tests.consensus.virtual_cluster import DOMAIN, Host, VirtualCluster, signer, validator_set

SIZES = (4, 5, 6, 7)


class PoolHost(Host):
    """Waits only for requests that no proposal names, as a node's mempool does."""

    def __init__(self, cluster: VirtualCluster, index: int) -> None:
        super().__init__(cluster, index)
        self.named: set[bytes] = set()

    def after_step(self) -> None:
        if not self.up:
            return
        free = [batch for batch in self.pending if batch not in self.named]
        since = min((self.pending[batch] for batch in free), default=None)
        self.perform(self.replica.step(Waiting(since), self.cluster.now_ms))
        if self.up and free and self.replica.can_propose and self.replica.in_flight < 3:
            self.named.add(free[0])
            self.perform(self.replica.step(Propose(free[0]), self.cluster.now_ms))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, CheckBatch):
                self.named.add(effect.batch)
            elif isinstance(effect, ViewEntered):
                self.named = set()
        super().perform(effects)


class BodilessHost(Host):
    """Cannot execute what was decided: a transaction that the batch names was void, so it is in no block, and who had it let it go."""

    lacks_bodies = False

    def perform(self, effects: list[Effect]) -> None:
        super().perform([effect for effect in effects if not (self.lacks_bodies and isinstance(effect, Execute))])


def pool_cluster(seed: int) -> VirtualCluster:
    cluster = VirtualCluster(4, seed)
    cluster.hosts = [PoolHost(cluster, index) for index in range(4)]
    return cluster


def proposal(sequence: int, batch: bytes, view: int = 0, sender: int = 0) -> PrePrepareMessage:
    return PrePrepareMessage(sign_vote(signer(sender), DOMAIN, Kind.PRE_PREPARE, view, sequence, batch_digest(batch), sender), batch)


@pytest.mark.parametrize("n", SIZES)
def test_views_meet_again_after_one_replica_went_a_view_ahead_unheard(n: int) -> None:
    """f replicas are down for good; one that hears everybody but is heard by nobody times out once more than the others."""
    cluster, faulty = VirtualCluster(n, seed=1), quorums(n).faulty
    cluster.start()
    cluster.submit(b"first")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"first"]))
    for host in cluster.hosts[:faulty]:
        host.crash()
    alive = cluster.hosts[faulty:]
    cluster.submit(b"next", range(faulty, n))
    cluster.cut = {(n - 1, to) for to in range(n)}
    cluster.run(15_000)
    cluster.cut = set()
    assert cluster.run(300_000, lambda: all(any(batch == b"next" for _, batch in host.disk.blocks) for host in alive))


@pytest.mark.parametrize("n", SIZES)
def test_the_view_change_of_a_replica_that_votes_while_it_still_catches_up_counts(n: int) -> None:
    """It joined a view that starts more than two windows above its own certificate, prepared there, and then the view changes again."""
    cluster, late = VirtualCluster(n, seed=1), n - 1
    for host in cluster.hosts[:late]:
        host.start()
    wanted = [f"early {index}".encode() for index in range(60)]
    for batch in wanted:
        cluster.submit(batch, range(late))
    assert cluster.run(60_000, lambda: all(len(host.disk.certificates) >= 60 for host in cluster.hosts[:late]))
    cluster.hosts[0].crash()
    cluster.intercept = lambda sender, to, message: None if to == late and isinstance(message, BlocksMessage) else message
    cluster.hosts[late].start()
    cluster.submit(b"in view 1", range(1, n))
    cluster.run(20_000)
    cluster.hosts[1].crash()
    cluster.submit(b"in view 2", range(2, n))
    cluster.run(6_000)
    cluster.hosts[1].start()
    cluster.intercept = lambda sender, to, message: message
    refused = {fault.fault.code for host in cluster.hosts for fault in host.faults}
    assert Suspicion.BAD_VIEW_CHANGE not in refused
    wanted += [b"in view 1", b"in view 2"]
    alive = cluster.hosts[1:]
    assert cluster.run(300_000, lambda: all(set(wanted) <= {batch for _, batch in host.disk.blocks} for host in alive))


def test_an_executed_block_that_nobody_can_certify_makes_replicas_lose_patience() -> None:
    """The primary sends one backup another batch, and signs no headers: two honest signatures are no certificate."""
    cluster = pool_cluster(1)

    def faulty_primary(sender: int, to: int, message: Message) -> Message | None:
        if sender != 0:
            return message
        if isinstance(message, PrePrepareMessage) and to == 1:
            return proposal(message.vote.sequence, b"other", message.vote.view)
        ordering = isinstance(message, PrePrepareMessage) or (isinstance(message, VoteMessage) and message.vote.kind == Kind.COMMIT)
        return message if ordering and to != 1 else None

    cluster.intercept = faulty_primary
    cluster.start()
    cluster.submit(b"pay")
    assert cluster.run(60_000, lambda: all(host.disk.certificates for host in cluster.hosts[1:]))


def test_a_primary_that_skips_a_number_is_replaced() -> None:
    """What is decided above the hole can never execute, and no request waits outside a proposal."""
    cluster = pool_cluster(2)
    for host in cluster.hosts[1:]:
        host.start()
    cluster.submit(b"pay", range(1, 4))
    for to in range(1, 4):
        cluster.send(0, to, proposal(2, b"pay"))
        cluster.send(0, to, VoteMessage(sign_vote(signer(0), DOMAIN, Kind.COMMIT, 0, 2, batch_digest(b"pay"), 0)))
    assert cluster.run(60_000, lambda: all(any(batch == b"pay" for _, batch in host.disk.blocks) for host in cluster.hosts[1:]))


@pytest.mark.parametrize("n", SIZES)
def test_a_peer_that_answers_requests_for_blocks_with_nothing_is_not_asked_for_ever(n: int) -> None:
    cluster, late = VirtualCluster(n, seed=2), n - 1
    cluster.start()
    cluster.submit(b"first")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"first"]))
    cluster.run(1_000)
    cluster.intercept = lambda sender, to, message: message if to != late or isinstance(message, StatusMessage) else None
    for index in range(3):
        cluster.submit(f"more {index}".encode(), range(late))
    assert cluster.run(10_000, lambda: all(len(host.disk.certificates) == 4 for host in cluster.hosts[:late]))

    def nothing(sender: int, to: int, message: Message) -> Message:
        return BlocksMessage(()) if sender == 0 and to == late and isinstance(message, BlocksMessage) else message

    cluster.intercept = nothing
    assert cluster.run(60_000, lambda: len(cluster.hosts[late].disk.certificates) == 4)


def test_a_restarted_primary_leaves_no_hole_for_a_proposal_of_an_earlier_view() -> None:
    """It had accepted sequence 1 in view 0; view 1, which it leads, starts with nothing re-proposed."""
    message = new_view(1, [view_change(index, 1) for index in (1, 2, 3)], [])
    old = proposal(1, b"lost")
    records = (
        LogRecord(0, 0, 1, int(Kind.NEW_VIEW), encode(message)),
        LogRecord(1, 0, 0, int(Kind.PRE_PREPARE), encode(old), old.vote.digest),
    )
    replica = Replica(VirtualCluster(4).hosts[1].config(), Recovered((validator_set(4),), records=records))
    replica.start(0)
    effects = replica.step(Propose(b"new"), 1)
    sent = [effect.message for effect in effects if isinstance(effect, Broadcast)]
    assert [one.vote.sequence for one in sent if isinstance(one, PrePrepareMessage)] == [1]


@pytest.mark.parametrize("n", SIZES)
def test_a_decided_batch_without_its_bodies_is_replaced_by_the_certified_block(n: int) -> None:
    cluster = VirtualCluster(n, seed=1)
    cluster.hosts = [BodilessHost(cluster, index) for index in range(n)]
    cluster.start()
    cluster.submit(b"first")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"first"]))
    last = cluster.hosts[-1]
    assert isinstance(last, BodilessHost)
    last.lacks_bodies = True
    wanted = [f"more {index}".encode() for index in range(5)]
    for batch in wanted:
        cluster.submit(batch, range(n - 1))
    assert cluster.run(60_000, lambda: cluster.everybody_has(wanted))


@pytest.mark.parametrize("n", SIZES)
def test_a_bad_block_in_its_place_does_not_cost_the_batch_its_execution(n: int) -> None:
    """Every peer serves rubbish, so the batch must be handed out again once its bodies can be had."""
    cluster = VirtualCluster(n, seed=1)
    cluster.hosts = [BodilessHost(cluster, index) for index in range(n)]
    cluster.start()
    last = cluster.hosts[-1]
    assert isinstance(last, BodilessHost)
    last.lacks_bodies = True

    def rubbish(_: int, to: int, message: Message) -> Message:
        if to == n - 1 and isinstance(message, BlocksMessage):
            last.lacks_bodies = False
            return BlocksMessage(tuple(CertifiedBlock(b"rubbish", block.certificate) for block in message.blocks))
        return message

    cluster.intercept = rubbish
    cluster.submit(b"only", range(n - 1))
    assert cluster.run(30_000, lambda: cluster.everybody_has([b"only"]))
    assert last.faults
