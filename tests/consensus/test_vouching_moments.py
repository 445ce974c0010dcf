"""Blocks that are vouched for, where things come at the wrong moment: votes, certificates, the own execution, the end of an epoch."""

from __future__ import annotations

import msgspec

from consensus.block import CertifiedBlock, batch_digest
from consensus.effects import Received
from consensus.messages import (
    BlocksMessage,
    FetchBlocks,
    FetchSnapshot,
    Kind,
    Message,
    PrePrepareMessage,
    StatusMessage,
    VoteMessage,
    make_certificate,
)
from tests.consensus.plain_ledger import set_batch
from tests.consensus.scenes import Chain, Lone, seat
from tests.consensus.virtual_cluster import VirtualCluster, name

WITHHOLDER, ASLEEP = 1, 3


def withholds(sender: int, message: Message) -> bool:
    if sender != WITHHOLDER:
        return False
    is_vote = isinstance(message, VoteMessage) and message.vote.kind == Kind.CHECKPOINT
    return is_vote or isinstance(message, StatusMessage | BlocksMessage)


def deadlock(show_votes: bool) -> tuple[VirtualCluster, bool]:
    cluster = VirtualCluster(4, seed=5)
    cluster.start()
    kept: list[VoteMessage] = []

    def first(sender: int, to: int, message: Message) -> Message | None:
        if sender == WITHHOLDER and isinstance(message, VoteMessage) and message.vote.kind == Kind.CHECKPOINT and message not in kept:
            kept.append(message)
        return None if withholds(sender, message) or ASLEEP in (sender, to) else message

    cluster.intercept = first
    for batch in [b"request %d" % index for index in range(5)]:
        cluster.submit(batch, (0, 1, 2))
        assert cluster.run(5_000, lambda batch=batch: all(cluster.hosts[one].disk.ledger.has(batch) for one in (0, 1, 2)))
    cluster.run(1_000)
    assert [max(host.disk.certificates, default=0) for host in cluster.hosts] == [0, 5, 0, 0]
    cluster.intercept = lambda sender, to, message: None if withholds(sender, message) or sender == 0 else message
    cluster.submit(b"waits", (1, 2, 3))
    assert cluster.run(30_000, lambda: all(cluster.hosts[one].replica.view > 0 for one in (1, 2, 3)))
    # now the faulty one gives its votes, but to the one that slept alone, together with those of node 0
    cluster.run(3_000)

    def last(sender: int, to: int, message: Message) -> Message | None:
        if show_votes and (sender, to) == (0, ASLEEP) and isinstance(message, VoteMessage) and message.vote.kind == Kind.CHECKPOINT:
            for vote in kept:
                if vote.vote.sequence == message.vote.sequence:
                    cluster.later(cluster.hosts[ASLEEP], 1, Received(name(WITHHOLDER), vote))
        return None if withholds(sender, message) else message

    cluster.intercept = last
    cluster.submit(b"after")
    honest = [cluster.hosts[one] for one in (0, 2, 3)]
    done = cluster.run(120_000, lambda: all({b"waits", b"after"} <= {batch for _, batch in host.disk.blocks} for host in honest))
    return cluster, done


def test_control_without_the_votes() -> None:
    assert deadlock(False)[1]


def test_votes_that_the_faulty_one_shows_to_the_sleeper_alone() -> None:
    """It has the certificate then, but nobody who has the block has it."""
    cluster, done = deadlock(True)
    state = cluster.hosts[ASLEEP].replica._state
    assert done, f"at {[host.disk.height for host in cluster.hosts]}, held {sorted(state.held)}, adopting {state.adopting}"


def test_a_certificate_at_hand_and_nobody_who_has_it_with_the_block() -> None:
    chain = Chain(7)
    chain.extend_to(2)
    lone = Lone(6, 7)
    for peer in range(6):
        lone.hear(peer, chain.status(peer, certified=0))
    for peer in range(5):
        lone.hear(peer, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, 1, chain.disk.headers[1].hash, peer)))
    for _ in range(20):
        for peer in range(6):
            lone.hear(peer, chain.status(peer, certified=0))
        lone.wait(500)
    assert lone.say(FetchBlocks), "five sign the block, it asks nobody for it"


def vouched_by(chain: Chain, peer: int, height: int = 1) -> CertifiedBlock:
    block = chain.blocks(height, height)[0]
    vote = chain.vote(Kind.CHECKPOINT, 0, height, chain.disk.headers[height].hash, peer)
    return msgspec.structs.replace(block, certificate=make_certificate((vote,)))


def order(lone: Lone, chain: Chain, height: int, n: int = 7) -> None:
    """The normal walk of the batch of the chain at a height, in view 0; all but the last node speak."""
    batch = chain.blocks(height, height)[0].block
    digest = batch_digest(batch)
    lone.hear(0, PrePrepareMessage(chain.vote(Kind.PRE_PREPARE, 0, height, digest, 0), batch))
    for peer in range(1, n - 1):
        lone.hear(peer, VoteMessage(chain.vote(Kind.PREPARE, 0, height, digest, peer)))
    for peer in range(n - 1):
        lone.hear(peer, VoteMessage(chain.vote(Kind.COMMIT, 0, height, digest, peer)))


def one_round(lone: Lone, chain: Chain, height: int) -> None:
    """An idle chain gets a block; a status is due between the votes of the others and the own execution; the answer comes after that."""
    for peer in range(3):
        lone.hear(peer, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, height, chain.disk.headers[height].hash, peer)))
    before = len(lone.said)
    lone.wait(600)  # a status
    asked = {to for to, message in lone.say(FetchBlocks, before) if message.first == height}
    order(lone, chain, height)
    assert lone.status.executed == height
    for peer in sorted(asked):
        lone.hear(peer, BlocksMessage((vouched_by(chain, peer, height),)))  # what serve_vouched of an honest peer gives
    for peer in range(3, 5):
        lone.hear(peer, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, height, chain.disk.headers[height].hash, peer)))
    assert lone.status.certified == height


def test_an_honest_answer_that_comes_after_the_own_execution_is_no_failure() -> None:
    chain, lone = Chain(7), Lone(6, 7)
    chain.extend_to(2)
    for peer in range(6):
        lone.hear(peer, chain.status(peer, certified=0))
    one_round(lone, chain, 1)
    failures = {who: peer.fetch_failures for who, peer in lone.replica._state.peers.items() if peer.fetch_failures}
    rests = {who for who, peer in lone.replica._state.peers.items() if peer.rest_until_ms}
    assert not failures and not rests, (failures, rests)


def test_such_answers_do_not_add_up_until_it_asks_for_a_snapshot_one_block_behind() -> None:
    chain, lone = Chain(7), Lone(6, 7, gap=1_024)
    chain.extend_to(20)
    for height in range(1, 16):
        for peer in range(6):
            lone.hear(peer, chain.status(peer, certified=height - 1))
        one_round(lone, chain, height)
        lone.wait(2_500)
    asked = lone.say(FetchSnapshot)
    for peer in range(3):
        lone.hear(peer, chain.status(peer, certified=16))
    lone.wait(250)
    failures = {who: peer.fetch_failures for who, peer in lone.replica._state.peers.items()}
    assert not lone.say(FetchSnapshot), (failures, asked)


def test_a_follower_does_not_execute_on_the_word_of_f_plus_one() -> None:
    """The specification: it fetches certified blocks. Two keys of former validators of epoch 0 would be enough, not a quorum."""
    chain, lone = Chain(4), Lone(5, 4)
    chain.extend(b"forged")
    for peer in range(2):
        lone.hear(peer, chain.status(peer, certified=0))
        lone.hear(peer, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, 1, chain.disk.headers[1].hash, peer)))
    lone.wait(1_000)
    for peer, _ in lone.say(FetchBlocks):
        lone.hear(peer, BlocksMessage((vouched_by(chain, peer),)))
    assert lone.status.executed == 0


def test_votes_of_an_epoch_do_not_vouch_for_a_block_above_its_end() -> None:
    """f + 1 that have left (or lost their old keys) make it execute a block of the next epoch, and sign it there when that begins."""
    chain = Chain(7)
    lone = Lone(6, 7)
    chain.extend(set_batch(seat(lone.cluster.hosts[8])))
    end = chain.epochs[1].first_height - 1
    chain.extend_to(end)
    forged = Chain(7)
    forged.extend(set_batch(seat(lone.cluster.hosts[8])))
    forged.extend_to(end)
    forged.extend(b"forged")
    lone.take(chain, end - 1)
    old = chain.epochs[0]
    for peer in range(6):
        lone.hear(peer, chain.status(peer, certified=end - 1))
    lone.answer = lambda to, message: ()
    for height in (end, end + 1):
        for peer in (0, 1, 2):
            lone.hear(peer, VoteMessage(forged.vote(Kind.CHECKPOINT, 0, height, forged.disk.headers[height].hash, peer, old)))
        since = len(lone.said)
        lone.wait(3_000, lambda since=since, height=height: any(m.first == height for _, m in lone.say(FetchBlocks, since)))
        for peer, _ in lone.say(FetchBlocks, since):
            block = forged.blocks(height, height)[0]
            vote = forged.vote(Kind.CHECKPOINT, 0, height, forged.disk.headers[height].hash, peer, old)
            lone.hear(peer, BlocksMessage((msgspec.structs.replace(block, certificate=make_certificate((vote,))),)))
    executed = lone.status.executed
    for peer in (3, 4):
        lone.hear(peer, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, end, chain.disk.headers[end].hash, peer)))
    lone.wait(500)
    signed = [vote for vote in lone.votes() if vote.kind == Kind.CHECKPOINT and vote.sequence == end + 1]
    assert executed == end and not signed, (executed, end, lone.status.epoch, signed)


def test_restart_after_a_vouched_block() -> None:
    chain, lone = Chain(7), Lone(6, 7)
    chain.extend_to(2)
    for peer in range(6):
        lone.hear(peer, chain.status(peer, certified=0))
    for peer in (1, 2, 4):
        lone.hear(peer, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, 1, chain.disk.headers[1].hash, peer)))
    lone.wait(1_000)
    peer = lone.say(FetchBlocks)[0][0]
    lone.hear(peer, BlocksMessage((vouched_by(chain, peer),)))
    first = [vote for vote in lone.votes() if vote.kind == Kind.CHECKPOINT]
    lone.host.crash()
    lone.host.start()
    lone.wait(1_000)
    assert (lone.status.executed, lone.status.certified) == (1, 0)
    for peer in (1, 2, 4, 5):
        lone.hear(peer, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, 1, chain.disk.headers[1].hash, peer)))
    assert lone.status.certified == 1
    assert [vote for vote in lone.votes() if vote.kind == Kind.CHECKPOINT] == first
