"""Nodes without a seat: they fetch certified blocks from anybody, sign nothing, and believe no status."""

from __future__ import annotations

import pytest

from consensus.block import Certificate, CertifiedBlock, batch_digest
from consensus.effects import Propose, Received
from consensus.errors import InvariantViolation, Suspicion
from consensus.messages import (
    BlocksMessage,
    Domain,
    FetchBlocks,
    FetchSnapshot,
    Kind,
    Message,
    PrePrepareMessage,
    StatusBody,
    StatusMessage,
    VoteMessage,
    body_digest,
    sign_vote,
)
from tests.consensus.plain_ledger import WINDOW, Seat, set_batch, signer
from tests.consensus.scenes import Chain, Lone, honest, in_epoch, seat
from tests.consensus.virtual_cluster import DOMAIN, VirtualCluster, name

FOLLOWER = 4


def silent(cluster: VirtualCluster, *indexes: int) -> list[Message]:
    """Return where everything signed that these nodes say will be."""
    said: list[Message] = []

    def listen(sender: int, _: int, message: Message) -> Message:
        if sender in indexes and hasattr(message, "vote"):
            said.append(message)
        return message

    cluster.intercept = listen
    return said


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_followers_have_every_block_and_sign_nothing(n: int) -> None:
    cluster = VirtualCluster(n, seed=n, extra=2, loss=0.1, delay_ms=30)
    said = silent(cluster, n, n + 1)
    cluster.start()
    wanted = [b"request %d" % index for index in range(40)]
    for batch in wanted:
        cluster.submit(batch, range(n))
    assert cluster.run(60_000, lambda: cluster.everybody_has(wanted))
    followers = cluster.hosts[n:]
    assert cluster.run(5_000, lambda: all(len(host.disk.certificates) == host.disk.height for host in followers))
    assert not said
    assert not [host for host in followers if host.disk.records or host.faults]


def test_a_follower_is_never_more_than_a_moment_behind() -> None:
    """Also for a single block on a chain that then is idle."""
    cluster = VirtualCluster(4, seed=1, extra=1)
    cluster.start()
    for index in range(5):
        cluster.submit(b"request %d" % index, range(4))
        assert cluster.run(1_500, lambda count=index + 1: len(cluster.hosts[4].disk.certificates) == count)


def test_a_follower_that_restarts_and_sleeps_goes_on_where_it_was() -> None:
    cluster = VirtualCluster(4, seed=2, extra=1)
    cluster.start()
    follower = cluster.hosts[4]
    wanted = [b"request %d" % index for index in range(60)]
    for at, batch in enumerate(wanted):
        cluster.submit(batch, range(4))
        cluster.run(100)
        if at % 15 == 7:
            follower.crash(1)
        if at % 15 == 12:
            follower.start()
    assert cluster.run(10_000, lambda: cluster.everybody_has(wanted))


def test_a_follower_takes_blocks_from_whoever_is_honest() -> None:
    """f validators serve rubbish, and one more says nothing to it."""
    cluster = VirtualCluster(7, seed=3, extra=1)

    def serve(sender: int, to: int, message: Message) -> Message | None:
        if to != 7 or sender > 2:
            return message
        if isinstance(message, BlocksMessage):
            return BlocksMessage(tuple(CertifiedBlock(b"rubbish", block.certificate) for block in message.blocks))
        return message if sender else None

    cluster.intercept = serve
    cluster.start()
    wanted = [b"request %d" % index for index in range(50)]
    for batch in wanted:
        cluster.submit(batch, range(7))
    assert cluster.run(60_000, lambda: cluster.everybody_has(wanted))
    assert {fault.fault.peer for fault in cluster.hosts[7].faults} <= {name(1), name(2)}


def test_a_follower_gets_a_seat_and_gives_it_back() -> None:
    cluster = VirtualCluster(4, seed=4, extra=1)
    cluster.start()
    follower = cluster.hosts[4]
    cluster.submit(set_batch(seat(follower)))
    assert cluster.run(5_000, in_epoch(cluster, 1))
    assert follower.replica.committee.index == 4
    for host in cluster.hosts[:1]:
        host.crash()
    cluster.submit(b"needs the newcomer")
    assert cluster.run(10_000, lambda: all(host.disk.ledger.has(b"needs the newcomer") for host in cluster.hosts[1:]))
    cluster.hosts[0].start()
    cluster.submit(set_batch(removed=(follower.name,)))
    assert cluster.run(10_000, in_epoch(cluster, 2))
    cluster.submit(b"first without it")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"first without it"]))
    assert cluster.run(5_000, lambda: follower.replica.status(0).certified == follower.disk.height)
    said = silent(cluster, 4)
    cluster.submit(b"without it")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"without it"]))
    assert not said


def test_without_a_key_a_node_follows_whatever_the_set_says() -> None:
    """The set names it with a vote log that it has, but its key is elsewhere."""
    cluster = VirtualCluster(4, seed=5)
    cluster.hosts[3].signers = ()
    said = silent(cluster, 3)
    cluster.start()
    cluster.submit(b"first")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"first"]))
    assert not said


def test_without_a_seat_nothing_is_proposed() -> None:
    lone = Lone(FOLLOWER)
    assert not lone.replica.can_propose
    with pytest.raises(InvariantViolation):
        lone.host.step(Propose(b"mine"))


def test_what_validators_say_to_each_other_makes_a_follower_do_nothing() -> None:
    """They name it as one of them in an epoch in which its key or log is another one, so it hears everything."""
    lone, chain = Lone(3, signers=(signer(77),)), Chain()
    digest = batch_digest(b"batch")
    messages = [PrePrepareMessage(chain.vote(Kind.PRE_PREPARE, 0, 1, digest, 0), b"batch")]
    messages += [VoteMessage(chain.vote(Kind.PREPARE, 0, 1, digest, sender)) for sender in (1, 2)]
    messages += [VoteMessage(chain.vote(Kind.COMMIT, 0, 1, digest, sender)) for sender in (0, 1, 2)]
    lone.hear(0, *messages)
    lone.wait(20_000)
    assert not lone.votes() and not lone.say(StatusMessage)
    assert not lone.host.disk.records
    assert not lone.status.in_flight


# ---------------------------------------------------------------------------------------------------------------- statuses


def status_of(sender: int, key: int, domain: Domain, body: StatusBody) -> StatusMessage:
    return StatusMessage(sign_vote(signer(key), domain, Kind.STATUS, body.view, 0, body_digest(body), sender), body)


@pytest.mark.parametrize("index", [2, FOLLOWER])
def test_the_status_of_an_unknown_epoch_is_only_a_hint(index: int) -> None:
    """It cannot be checked. So blocks are asked for, and nothing of it is believed: not even what looks like a certificate."""
    lone, chain = Lone(index), Chain()
    chain.extend(set_batch(Seat(name(8), signer(8).public_key)))
    chain.extend_to(WINDOW + 3)
    forged = chain.certificate(WINDOW + 3, bytes(32))
    body = StatusBody(3, True, WINDOW + 3, WINDOW + 3, 1, forged)
    stranger = status_of(40, 99, Domain(DOMAIN.chain_id, DOMAIN.channel, 7), body)
    lone.hear(8, stranger)
    assert not lone.faults
    assert (lone.status.executed, lone.status.certified, lone.status.view, lone.status.changing) == (0, 0, 0, False)
    asked = lone.say(FetchBlocks)
    assert asked and {to for to, _ in asked} == {8}
    lone.answer = honest(chain)
    lone.hear(8, stranger)
    assert lone.wait(20_000, lambda: lone.status.certified == WINDOW + 3)
    assert lone.status.epoch == 1


@pytest.mark.parametrize("index", [2, FOLLOWER])
def test_somebody_elses_status_over_my_link_is_my_fault(index: int) -> None:
    lone, chain = Lone(index), Chain()
    chain.extend_to(5)
    lone.hear(1, chain.status(0))
    assert lone.faults == [(name(1), Suspicion.NOT_A_VALIDATOR)]
    assert not lone.status.peer_heights
    assert not lone.say(FetchBlocks)


@pytest.mark.parametrize(
    ("sender", "key", "epoch", "code"),
    [
        (1, 2, 0, Suspicion.BAD_SIGNATURE),
        (4, 1, 0, Suspicion.NOT_A_VALIDATOR),
        (-1, 1, 0, Suspicion.NOT_A_VALIDATOR),
        (1, 1, 1, None),
        (1, 1, 0, None),
    ],
)
def test_a_status_is_checked_as_far_as_its_epoch_is_known(sender: int, key: int, epoch: int, code: Suspicion | None) -> None:
    lone, chain = Lone(FOLLOWER), Chain()
    chain.extend_to(5)
    domain = Domain(DOMAIN.chain_id, DOMAIN.channel, epoch)
    lone.hear(1, status_of(sender, key, domain, StatusBody(0, False, 5, 5, 1, chain.disk.certificates[5])))
    assert lone.faults == ([] if code is None else [(name(1), code)])
    assert bool(lone.status.peer_heights) == (code is None)


def test_a_status_with_another_body_or_of_another_kind_is_refused() -> None:
    lone, chain = Lone(FOLLOWER), Chain()
    chain.extend_to(5)
    good = chain.status(1)
    vote = chain.vote(Kind.COMMIT, 0, 0, body_digest(good.body), 1, chain.epochs[0])
    lone.hear(1, StatusMessage(good.vote, StatusBody(0, False, 6, 6, 1, None)), StatusMessage(vote, good.body))
    assert [code for _, code in lone.faults] == [Suspicion.DIGEST_MISMATCH, Suspicion.WRONG_KIND]
    assert not lone.status.peer_heights


@pytest.mark.parametrize("lie", ["no certificate", "of another height", "one vote too few", "of another block"])
def test_a_height_that_is_not_shown_is_not_believed(lie: str) -> None:
    lone, chain = Lone(FOLLOWER), Chain()
    chain.extend_to(5)
    good = chain.disk.certificates[5]
    shown = {
        "no certificate": None,
        "of another height": chain.disk.certificates[4],
        "one vote too few": chain.certificate(5, good.header_hash, votes=2),
        "of another block": Certificate(0, 5, bytes(32), good.votes),
    }[lie]
    lone.hear(1, status_of(1, 1, DOMAIN, StatusBody(0, False, 5, 5, 1, shown)))
    assert lone.faults == [(name(1), Suspicion.BAD_CERTIFICATE)]
    assert not lone.say(FetchBlocks)
    lone.hear(1, status_of(1, 1, DOMAIN, StatusBody(0, False, 5, 5, 1, good)))
    assert lone.say(FetchBlocks)


def test_a_thousand_strangers_do_not_fill_the_memory() -> None:
    lone = Lone(FOLLOWER)
    unknown, body = Domain(DOMAIN.chain_id, DOMAIN.channel, 9), StatusBody(0, False, 9, 9, 1, Certificate(9, 9, bytes(32), ()))
    for index in range(1_000):
        lone.replica.step(Received(f"stranger {index}", status_of(index, 1, unknown, body)), 0)
    assert len(lone.status.peer_heights) <= 256
    lone.hear(1, status_of(1, 1, DOMAIN, StatusBody(0, False, 0, 0, 1, None)))
    assert lone.status.peer_heights[name(1)] == 0, "and a validator is still heard"


def test_a_follower_does_not_ask_the_same_peer_again_and_again_at_once() -> None:
    lone, chain = Lone(FOLLOWER), Chain()
    chain.extend_to(10)
    for _ in range(20):
        lone.hear(0, chain.status(0))
    assert len(lone.say(FetchBlocks)) == 1
    assert not lone.say(FetchSnapshot)
