"""State transfer: a replica that is far behind takes a certified snapshot, in chunks, from several peers, on the word of none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from consensus.block import batch_digest
from consensus.effects import Received
from consensus.messages import (
    BlocksMessage,
    ChunkMessage,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    Message,
    PrePrepareMessage,
    ValidatorSet,
    VoteMessage,
)
from consensus.validators import set_at
from tests.consensus.plain_ledger import WINDOW, Seat, set_batch, signer
from tests.consensus.scenes import Chain, Lone, honest
from tests.consensus.test_view_change import new_view, view_change
from tests.consensus.virtual_cluster import VirtualCluster, name

GAP = 10
AT, HEAD = 40, 45
"""Height of the newest snapshot, and of the newest block."""
CHUNKS = 4
VOTER, FOLLOWER = 3, 5


def long_chain(head: int = HEAD, every: int = AT) -> Chain:
    """A chain of three epochs; dc3 has a seat in all of them."""
    chain = Chain(snapshot_every=every)
    chain.extend(set_batch(Seat(name(4), signer(4).public_key)), b"second", set_batch(removed=(name(0),)))
    chain.extend_to(head)
    return chain


CHAIN = long_chain()


def tell(lone: Lone, chain: Chain = CHAIN, peers: tuple[int, ...] = (1, 2, 4), first: int = 1) -> None:
    """Let these peers say where they stand."""
    for peer in peers:
        validators = chain.epochs[-1]
        lone.host.step(Received(name(peer), chain.status(validators.names.index(name(peer)), first=first)))


def is_level(lone: Lone, head: int = HEAD) -> bool:
    return lone.host.disk.height == lone.status.certified == head


@pytest.mark.parametrize("index", [VOTER, FOLLOWER])
def test_who_is_far_behind_takes_a_snapshot_and_then_the_blocks_above_it(index: int) -> None:
    lone = Lone(index, gap=GAP)
    lone.answer = honest(CHAIN)
    tell(lone)
    assert lone.wait(5_000, lambda: is_level(lone))
    assert lone.host.disk.base == AT, "no block below it was executed"
    assert lone.host.disk.ledger.state == CHAIN.disk.ledger.state
    assert lone.replica.epochs == CHAIN.epochs
    assert (lone.status.epoch, lone.status.seat) == (2, 2 if index == VOTER else None)
    assert lone.host.disk.changes == CHAIN.disk.changes, "it can prove the epochs to others"
    assert not lone.faults and not lone.votes()


def test_who_is_not_far_behind_fetches_blocks() -> None:
    lone, chain = Lone(VOTER, gap=HEAD), long_chain()
    lone.answer = honest(chain)
    tell(lone)
    assert lone.wait(5_000, lambda: is_level(lone))
    assert lone.host.disk.base == 0
    assert not lone.say(FetchSnapshot)


def test_chunks_come_from_several_peers_at_once() -> None:
    lone = Lone(FOLLOWER, gap=GAP)
    serve = honest(CHAIN)
    lone.answer = lambda to, message: () if isinstance(message, FetchChunk) else serve(to, message)
    tell(lone)
    lone.wait(300)
    asked = lone.say(FetchChunk)
    assert len(asked) == 3
    assert {to for to, _ in asked} == {1, 2, 4}
    assert len({message.index for _, message in asked}) == 3
    assert lone.status.snapshot == (AT, 0, CHUNKS)


def test_one_peer_is_enough() -> None:
    lone = Lone(FOLLOWER, gap=GAP)
    lone.answer = honest(CHAIN)
    tell(lone, peers=(2,))
    assert lone.wait(5_000, lambda: is_level(lone))
    assert [message.index for _, message in lone.say(FetchChunk)] == list(range(CHUNKS))


def test_blocks_go_on_meanwhile_and_nothing_of_the_snapshot_shows_before_the_last_chunk() -> None:
    lone = Lone(VOTER, gap=GAP)
    serve = honest(CHAIN)
    lone.answer = lambda to, message: () if isinstance(message, FetchChunk | FetchBlocks) else serve(to, message)
    tell(lone)
    lone.wait(300)
    first = CHAIN.disk.blocks[0][1]
    lone.hear(1, BlocksMessage(CHAIN.blocks(1, 20)))
    lone.hear(0, PrePrepareMessage(CHAIN.vote(Kind.PRE_PREPARE, 0, 1, batch_digest(first), 0), first))
    lone.hear(0, *(VoteMessage(CHAIN.vote(Kind.PREPARE, 0, 1, batch_digest(first), sender)) for sender in (1, 2)))
    lone.hear(0, *(VoteMessage(CHAIN.vote(Kind.COMMIT, 0, 1, batch_digest(first), sender)) for sender in (0, 1, 2)))
    lone.wait(1_000)
    assert 0 < lone.host.disk.height == lone.status.executed <= 20
    assert lone.status.snapshot == (AT, 0, CHUNKS)
    chunks = {message.index: to for to, message in lone.say(FetchChunk)}
    lone.answer = honest(CHAIN)
    for index, to in chunks.items():
        assert lone.host.disk.base == 0
        lone.hear(to, *serve(to, FetchChunk(AT, index)))
    assert lone.wait(5_000, lambda: is_level(lone))
    assert lone.host.disk.base == AT


def test_a_batch_that_is_decided_while_a_snapshot_is_fetched_is_executed() -> None:
    """Every holder falls silent and nobody serves blocks: what is ordered meanwhile must not wait for them."""
    lone, chain = Lone(VOTER, gap=GAP), Chain()
    serve = honest(CHAIN)
    lone.answer = lambda to, message: serve(to, message) if isinstance(message, FetchSnapshot) and len(lone.say(FetchChunk)) == 0 else ()
    tell(lone)
    assert lone.wait(1_000, lambda: lone.status.snapshot is not None)
    first = b"ordered meanwhile"
    lone.hear(0, PrePrepareMessage(chain.vote(Kind.PRE_PREPARE, 0, 1, batch_digest(first), 0), first))
    lone.hear(0, *(VoteMessage(chain.vote(Kind.PREPARE, 0, 1, batch_digest(first), sender)) for sender in (1, 2)))
    lone.hear(0, *(VoteMessage(chain.vote(Kind.COMMIT, 0, 1, batch_digest(first), sender)) for sender in (0, 1, 2)))
    assert lone.wait(1_000, lambda: lone.host.disk.ledger.has(first))
    assert lone.wait(60_000, lambda: lone.status.snapshot is None)


def test_a_snapshot_below_the_own_height_is_ignored() -> None:
    """It was asked for, but blocks were quicker."""
    lone = Lone(FOLLOWER, gap=GAP)
    serve = honest(CHAIN)
    lone.answer = lambda to, message: () if isinstance(message, FetchSnapshot) else serve(to, message)
    tell(lone)
    assert lone.wait(5_000, lambda: lone.host.disk.height >= AT)
    lone.hear(1, *serve(1, FetchSnapshot(1)))
    assert lone.status.snapshot is None
    assert not lone.say(FetchChunk) and not lone.faults
    assert lone.host.disk.base == 0


def test_nothing_unsolicited_is_taken() -> None:
    lone, serve = Lone(FOLLOWER, gap=GAP), honest(CHAIN)
    for peer in (1, 2, 4, 8):
        lone.hear(peer, *serve(peer, FetchSnapshot(1)), *serve(peer, FetchChunk(AT, 0)))
    assert lone.status.snapshot is None
    lone.answer = lambda to, message: serve(to, message) if isinstance(message, FetchSnapshot) else ()
    tell(lone)
    lone.wait(200)
    asked = {to: message.index for to, message in lone.say(FetchChunk)}
    for peer in (1, 2, 4, 8):
        for index in range(CHUNKS):
            if asked.get(peer) != index:
                lone.hear(peer, *serve(peer, FetchChunk(AT, index)))
        lone.hear(peer, ChunkMessage(AT - 1, asked.get(peer, 0), b""), ChunkMessage(AT, -1, b""))
    assert lone.status.snapshot == (AT, 0, CHUNKS)
    assert not lone.faults


def test_peers_that_pruned_what_is_missing_make_it_take_a_snapshot_however_near_it_is() -> None:
    lone = Lone(FOLLOWER)
    lone.answer = honest(CHAIN)
    tell(lone, first=AT - 2)
    assert lone.wait(5_000, lambda: is_level(lone))
    assert lone.host.disk.base == AT


@pytest.mark.parametrize("how", ["is silent", "sends nothing", "sends rubbish"])
def test_a_peer_that_only_claims_to_have_the_blocks_does_not_keep_it_from_that(how: str) -> None:
    lone, serve = Lone(FOLLOWER), honest(CHAIN)

    def answer(to: int, message: object) -> object:
        if isinstance(message, FetchBlocks) and message.first <= AT:
            block = CHAIN.blocks(message.first, message.first)
            rubbish = type(block[0])(b"rubbish", block[0].certificate)
            return {"is silent": (), "sends nothing": [BlocksMessage(())], "sends rubbish": [BlocksMessage((rubbish,))]}[how]
        return serve(to, message)  # type: ignore[arg-type]

    lone.answer = answer  # type: ignore[assignment]
    for _ in range(60):
        tell(lone, peers=(4,))
        tell(lone, first=AT - 2, peers=(1, 2))
        if lone.wait(500, lambda: is_level(lone)):
            return
    raise AssertionError(f"still at {lone.host.disk.height}")


def test_it_goes_on_after_its_own_restart() -> None:
    lone, serve = Lone(FOLLOWER, gap=GAP), honest(CHAIN)
    lone.answer = lambda to, message: (
        () if isinstance(message, FetchBlocks) or (isinstance(message, FetchChunk) and message.index == 3) else serve(to, message)
    )
    tell(lone)
    assert lone.wait(2_000, lambda: lone.status.snapshot == (AT, CHUNKS - 1, CHUNKS))
    lone.host.crash()
    lone.host.start()
    assert (lone.status.snapshot, lone.host.disk.height, lone.host.disk.staged) == (None, 0, [])
    lone.answer = serve
    tell(lone)
    assert lone.wait(5_000, lambda: is_level(lone))


def test_a_holder_that_has_a_newer_snapshot_by_now_is_asked_for_that() -> None:
    """After its restart it serves no chunk of the old one any more, and nobody else does."""
    lone, newer = Lone(FOLLOWER, gap=GAP), long_chain(2 * AT + 5)
    old, new = honest(CHAIN), honest(newer)

    def answer(to: int, message: Message) -> Sequence[Message]:
        if isinstance(message, FetchBlocks) and message.first <= 2 * AT:
            return ()
        return old(to, message) if not lone.say(FetchChunk) else new(to, message)

    lone.answer = answer
    tell(lone)
    for _ in range(60):
        tell(lone, newer)
        if lone.wait(500, lambda: is_level(lone, newer.height)):
            break
    assert lone.host.disk.base == 2 * AT
    assert not lone.faults


def test_a_snapshot_that_the_host_cannot_take_is_not_asked_for_again() -> None:
    """It goes on by blocks, and takes the next one."""
    lone, newer = Lone(FOLLOWER, gap=GAP), long_chain(2 * AT + 5)
    lone.host.takes = lambda height: height != AT
    serve = honest(CHAIN)
    lone.answer = lambda to, message: () if isinstance(message, FetchBlocks) else serve(to, message)
    tell(lone)
    assert lone.wait(2_000, lambda: bool(lone.faults))
    assert {peer for peer, _ in lone.faults} <= {name(1), name(2), name(4)}
    before = len(lone.say(FetchChunk))
    for _ in range(20):
        tell(lone)
        lone.wait(500)
    assert len(lone.say(FetchChunk)) == before
    assert (lone.host.disk.height, lone.status.snapshot) == (0, None)
    lone.answer = serve
    tell(lone)
    assert lone.wait(10_000, lambda: is_level(lone))
    assert lone.host.disk.base == 0
    lone.answer = honest(newer)
    tell(lone, newer)
    assert lone.wait(10_000, lambda: is_level(lone, newer.height))
    assert lone.host.disk.base == 2 * AT


@pytest.mark.parametrize("head", [WINDOW + 1, WINDOW + 2, WINDOW + 3])
def test_a_snapshot_at_a_boundary_opens_the_epoch_that_begins_there(head: int) -> None:
    """Block 1 announces epoch 1 for block 18, block 3 announces epoch 2 for block 20."""
    lone, chain = Lone(VOTER, gap=2), long_chain(head, every=head)
    lone.answer = honest(chain)
    for sender in (1, 2):
        lone.hear(sender, chain.status(chain_set(chain).names.index(name(sender))))
    assert lone.wait(5_000, lambda: is_level(lone, head))
    assert lone.status.epoch == chain_set(chain).epoch
    assert lone.replica.epochs == chain.epochs
    assert lone.host.disk.changes == chain.disk.changes
    assert lone.status.next_epoch_height == next((one.first_height for one in chain.epochs if one.first_height > head + 1), None)


def chain_set(chain: Chain) -> ValidatorSet:
    return set_at(chain.epochs, chain.height + 1)


def test_a_snapshot_of_the_same_epoch_leaves_the_view_as_it_is() -> None:
    """What it promised in view 1 still binds: back in view 0 it would vote below it."""
    lone, chain = Lone(VOTER, gap=GAP), Chain(snapshot_every=AT)
    chain.extend_to(HEAD)
    lone.hear(1, new_view(1, [view_change(sender, 1) for sender in (0, 1, 2)], []))
    assert (lone.status.view, lone.status.changing) == (1, False)
    lone.answer = honest(chain)
    lone.hear(0, chain.status(0))
    assert lone.wait(5_000, lambda: is_level(lone))
    assert lone.host.disk.base == AT
    assert (lone.status.view, lone.status.changing, lone.status.seat) == (1, False, VOTER)
    assert not lone.votes()


@pytest.mark.parametrize("first", [1, AT + 1])
def test_an_archive_takes_every_block_or_waits_for_who_has_them(first: int) -> None:
    lone, chain = Lone(VOTER, gap=None), Chain(snapshot_every=AT)
    chain.extend_to(HEAD)
    lone.answer = honest(chain)
    for _ in range(20):
        lone.hear(0, chain.status(0, first=first))
        lone.wait(1_000)
    assert not lone.say(FetchSnapshot)
    assert lone.status.certified == (HEAD if first == 1 else 0)


# ------------------------------------------------------------------------------------------------------------ whole clusters


def cluster_with_snapshots(n: int, seed: int, **more: object) -> VirtualCluster:
    cluster = VirtualCluster(n, seed, snapshot_every=10, snapshot_gap=2 * WINDOW, **more)  # type: ignore[arg-type]
    for host in cluster.hosts:
        host.keeps = 3 * WINDOW
    return cluster


@pytest.mark.parametrize("n", [4, 7])
def test_a_voter_that_slept_for_long_votes_again(n: int) -> None:
    """Beside it only a quorum less one is left, so the chain waits until it has the state."""
    cluster = cluster_with_snapshots(n, seed=n)
    sleeper = cluster.hosts[n - 1]
    cluster.start()
    wanted = [b"early %d" % index for index in range(5)]
    for batch in wanted:
        cluster.submit(batch)
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))
    sleeper.crash()
    wanted += [b"meanwhile %d" % index for index in range(150)]
    for batch in wanted[5:]:
        cluster.submit(batch)
    others = cluster.hosts[: n - 1]
    assert cluster.run(60_000, lambda: all(all(map(host.disk.ledger.has, wanted)) for host in others))
    assert all(host.disk.base > 50 for host in others), "they have pruned"
    for host in others[: cluster.genesis.quorums.faulty]:
        host.crash()
    sleeper.start()
    last = b"needs the sleeper"
    cluster.submit(last)
    assert cluster.run(60_000, lambda: all(host.disk.ledger.has(last) for host in cluster.hosts if host.up))
    assert sleeper.disk.base > 50
    assert not sleeper.faults


def test_holders_crash_while_they_serve() -> None:
    cluster = cluster_with_snapshots(4, seed=2, extra=1, delay_ms=300)
    for host in cluster.hosts[:4]:
        host.start()
    wanted = [b"request %d" % index for index in range(100)]
    for batch in wanted:
        cluster.submit(batch, range(4))
    assert cluster.run(300_000, lambda: all(all(map(host.disk.ledger.has, wanted)) for host in cluster.hosts[:4]))
    late = cluster.hosts[4]
    late.start()
    for round_ in range(8):
        holder = cluster.hosts[round_ % 4]
        cluster.run(500)
        holder.crash()
        cluster.run(1_000)
        holder.start()
    assert cluster.run(60_000, lambda: cluster.everybody_has(wanted))
    assert late.disk.base > 0


@pytest.mark.parametrize("seed", range(4))
def test_snapshots_are_taken_while_the_chain_runs_with_loss_and_crashes(seed: int) -> None:
    cluster = cluster_with_snapshots(4, seed, extra=2, loss=0.1, duplicate=0.1, delay_ms=40)
    late = cluster.hosts[4:]
    for host in cluster.hosts[:4]:
        host.start()
    wanted = [b"request %d" % index for index in range(200)]
    for batch in wanted[:100]:
        cluster.submit(batch, range(4))
    assert cluster.run(300_000, lambda: all(all(map(host.disk.ledger.has, wanted[:100])) for host in cluster.hosts[:4]))
    cluster.crash_chance = 0.003
    for host in late:
        host.start()
    for batch in wanted[100:]:
        cluster.submit(batch, range(4))
        cluster.run(50)
    cluster.crash_chance, cluster.loss = 0.0, 0.0
    assert cluster.run(120_000, lambda: cluster.everybody_has(wanted))
    assert all(host.disk.base > 0 for host in late)
