"""Restarts: votes honoured, catching up, whole clusters going down; and many random schedules."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from consensus.block import CertifiedBlock, batch_digest
from consensus.effects import BatchChecked, Broadcast, Persist, Propose, Received
from consensus.errors import Suspicion
from consensus.messages import BlocksMessage, Kind, Message, PrePrepareMessage, VoteMessage, sign_vote
from consensus.recovery import Recovered
from consensus.replica import Replica
from tests.consensus.virtual_cluster import DOMAIN, VirtualCluster, name, signer, validator_set

SIZES = (4, 5, 6, 7)


def test_a_vote_is_persisted_before_it_is_sent() -> None:
    replica = Replica(VirtualCluster(4).hosts[0].config(), Recovered((validator_set(4),)))
    replica.start(0)
    effects = replica.step(Propose(b"batch"), 5)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Broadcast)


def test_after_a_restart_the_same_prepare_is_sent_and_no_other() -> None:
    config = VirtualCluster(4).hosts[2].config()
    replica = Replica(config, Recovered((validator_set(4),)))
    replica.start(0)
    first = PrePrepareMessage(sign_vote(signer(0), DOMAIN, Kind.PRE_PREPARE, 0, 1, batch_digest(b"one"), 0), b"one")
    second = PrePrepareMessage(sign_vote(signer(0), DOMAIN, Kind.PRE_PREPARE, 0, 1, batch_digest(b"two"), 0), b"two")
    replica.step(Received(name(0), first), 1)
    effects = replica.step(BatchChecked(0, 1, batch_digest(b"one"), True), 2)
    records = tuple(record for effect in effects if isinstance(effect, Persist) for record in effect.records)
    sent = [effect.message for effect in effects if isinstance(effect, Broadcast)]
    again = Replica(config, Recovered((validator_set(4),), records=records))
    again.start(10)
    again.step(Received(name(0), second), 11)
    effects = again.step(BatchChecked(0, 1, batch_digest(b"two"), True), 12)
    votes = [e.message for e in effects if isinstance(e, Broadcast) and isinstance(e.message, VoteMessage)]
    assert not votes
    assert again.status(0).in_flight[0].prepared_by == (2,)
    assert isinstance(sent[0], VoteMessage) and sent[0].vote.digest == batch_digest(b"one")


@pytest.mark.parametrize("n", SIZES)
def test_the_whole_cluster_goes_down_and_comes_back_in_any_order(n: int) -> None:
    cluster = VirtualCluster(n, seed=n, delay_ms=20)
    cluster.start()
    wanted = [f"before {i}".encode() for i in range(8)]
    for batch in wanted:
        cluster.submit(batch)
    cluster.run(60)
    for host in cluster.hosts:
        host.crash()
    for host in reversed(cluster.hosts):
        host.start()
        cluster.run(700)
    assert cluster.run(60_000, lambda: cluster.everybody_has(wanted))


@pytest.mark.parametrize("n", SIZES)
def test_a_late_replica_catches_up_by_certified_blocks_while_the_others_run(n: int) -> None:
    cluster = VirtualCluster(n, seed=n)
    late = cluster.hosts[-1]
    for host in cluster.hosts[:-1]:
        host.start()
    wanted = [f"early {i}".encode() for i in range(80)]
    for batch in wanted:
        cluster.submit(batch, range(n - 1))
    others = cluster.hosts[:-1]
    assert cluster.run(30_000, lambda: all(len(host.disk.blocks) >= 80 for host in others))
    late.start()
    more = [f"meanwhile {i}".encode() for i in range(10)]
    for batch in more:
        cluster.submit(batch, range(n - 1))
    assert cluster.run(20_000, lambda: cluster.everybody_has(wanted + more))
    assert cluster.run(5_000, lambda: sorted(late.disk.certificates) == list(range(1, len(late.disk.blocks) + 1)))


def test_a_replica_one_block_behind_on_an_idle_chain_catches_up() -> None:
    cluster = VirtualCluster(4, seed=1)
    cluster.start()
    cluster.intercept = lambda sender, to, message: None if to == 3 else message
    cluster.submit(b"only", range(3))
    assert cluster.run(5_000, lambda: all(host.disk.blocks for host in cluster.hosts[:3]))
    cluster.run(2_000)
    cluster.intercept = lambda sender, to, message: message
    assert cluster.run(3_000, lambda: cluster.everybody_has([b"only"]))
    assert cluster.hosts[3].replica.status(0).view == 0


def test_a_peer_that_serves_rubbish_blocks_is_blamed_and_another_is_asked() -> None:
    cluster = VirtualCluster(4, seed=2)
    for host in cluster.hosts[:3]:
        host.start()
    wanted = [f"b{i}".encode() for i in range(40)]
    for batch in wanted:
        cluster.submit(batch, range(3))
    cluster.run(30_000, lambda: all(len(host.disk.certificates) == 40 for host in cluster.hosts[:3]))

    def rubbish(sender: int, _: int, message: Message) -> Message:
        if sender < 2 and isinstance(message, BlocksMessage):
            return BlocksMessage(tuple(CertifiedBlock(b"rubbish", block.certificate) for block in message.blocks))
        return message

    cluster.intercept = rubbish
    cluster.hosts[3].start()
    assert cluster.run(60_000, lambda: cluster.everybody_has(wanted))
    assert {fault.fault.code for fault in cluster.hosts[3].faults} == {Suspicion.BAD_BLOCK}


def chaos(n: int, seed: int) -> VirtualCluster:
    """Loss, duplicates, reordering, one-way cuts, crashes at any write; then calm. Checkers run at every step."""
    cluster = VirtualCluster(n, seed, loss=0.1, duplicate=0.1, delay_ms=60)
    cluster.start()
    cluster.crash_chance = 0.01
    wanted = []
    for index in range(10):
        wanted.append(f"request {index}".encode())
        cluster.submit(wanted[-1])
        cluster.run(cluster.random.randrange(10, 800))
        if cluster.random.random() < 0.3:
            cluster.cut = {(cluster.random.randrange(n), cluster.random.randrange(n)) for _ in range(4)}
    cluster.crash_chance, cluster.loss, cluster.cut = 0.0, 0.0, set()
    cluster.run(3_100)
    if not cluster.run(180_000, lambda: cluster.everybody_has(wanted)):
        heights = [len(host.disk.blocks) for host in cluster.hosts]
        raise AssertionError(f"n={n} seed={seed}: not everybody has everything, heights {heights}")
    return cluster


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", range(15))
def test_random_schedules_neither_fork_nor_stall(n: int, seed: int) -> None:
    chaos(n, seed)


def test_one_seed_is_one_run_under_different_hash_seeds() -> None:
    program = "from tests.consensus.test_recovery import chaos; c = chaos(4, 77); print(c.now_ms, c.counter, c.chain[-1].hex())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": value}, capture_output=True, text=True, check=True
        ).stdout
        for value in ("1", "2")
    }
    assert len(outputs) == 1
