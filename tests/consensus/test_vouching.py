"""Certificates that only a faulty replica has: the others get along without them."""

from __future__ import annotations

import msgspec
import pytest

from consensus.block import CertifiedBlock
from consensus.effects import Received
from consensus.errors import Suspicion
from consensus.messages import BlocksMessage, FetchBlocks, Kind, Message, StatusMessage, VoteMessage, make_certificate
from tests.consensus.scenes import Chain, Lone
from tests.consensus.virtual_cluster import VirtualCluster, name

WITHHOLDER, ASLEEP = 1, 3


def withholds(sender: int, message: Message) -> bool:
    """Whether the faulty one keeps a message to itself: whatever would show a certificate, but for its view-changes."""
    if sender != WITHHOLDER:
        return False
    is_vote = isinstance(message, VoteMessage) and message.vote.kind == Kind.CHECKPOINT
    return is_vote or isinstance(message, StatusMessage | BlocksMessage)


def test_one_that_alone_has_certificates_and_shows_the_last_of_them_in_a_view_change() -> None:
    """Then the new view starts above five blocks that one slept through, and that nobody honest has a certificate of."""
    cluster = VirtualCluster(4, seed=5)
    cluster.start()
    cluster.intercept = lambda sender, to, message: None if withholds(sender, message) or ASLEEP in (sender, to) else message
    wanted = [b"request %d" % index for index in range(5)]
    for batch in wanted:
        cluster.submit(batch, (0, 1, 2))
        assert cluster.run(5_000, lambda batch=batch: all(cluster.hosts[one].disk.ledger.has(batch) for one in (0, 1, 2)))
    cluster.run(1_000)
    assert [max(host.disk.certificates, default=0) for host in cluster.hosts] == [0, 5, 0, 0]

    cluster.intercept = lambda sender, to, message: None if withholds(sender, message) or sender == 0 else message
    cluster.submit(b"waits", (1, 2, 3))
    assert cluster.run(30_000, lambda: all(cluster.hosts[one].replica.view > 0 for one in (1, 2, 3)))
    cluster.run(3_000)
    cluster.intercept = lambda sender, to, message: None if withholds(sender, message) else message
    cluster.submit(b"after")
    honest = [cluster.hosts[one] for one in (0, 2, 3)]
    assert cluster.run(60_000, lambda: all({b"waits", b"after"} <= {batch for _, batch in host.disk.blocks} for host in honest)), (
        f"at {[host.disk.height for host in cluster.hosts]}"
    )
    assert cluster.run(30_000, lambda: all(max(host.disk.certificates, default=0) == host.disk.height for host in honest))
    for height in range(1, 6):
        assert all(height in host.disk.certificates for host in honest), "each block has its own"


def standing_still(chain: Chain, *vouchers: int) -> Lone:
    """One that is at height 0, with the checkpoint votes of some for block 1; all say that nothing is certified."""
    lone = Lone(6, 7)
    header = chain.disk.headers[1]
    for peer in range(6):
        lone.hear(peer, chain.status(peer, certified=0))
    for peer in vouchers:
        lone.hear(peer, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, 1, header.hash, peer)))
    lone.wait(1_000)
    return lone


def vouched_by(chain: Chain, peer: int) -> CertifiedBlock:
    """Block 1 with one vote."""
    block = chain.blocks(1, 1)[0]
    vote = chain.vote(Kind.CHECKPOINT, 0, 1, chain.disk.headers[1].hash, peer)
    return msgspec.structs.replace(block, certificate=make_certificate((vote,)))


@pytest.fixture
def chain() -> Chain:
    made = Chain(7)
    made.extend_to(2)
    return made


def test_the_word_of_f_plus_one_lets_it_execute_and_sign_but_certifies_nothing(chain: Chain) -> None:
    lone = standing_still(chain, 1, 2, 4)
    asked = {to for to, message in lone.say(FetchBlocks) if (message.first, message.last) == (1, 1)}
    assert asked and asked <= {1, 2, 4}, "only those who vouch for it"
    peer = min(asked)
    lone.hear(peer, BlocksMessage((vouched_by(chain, peer),)))
    assert (lone.status.executed, lone.status.certified) == (1, 0)
    assert [vote.sequence for vote in lone.votes() if vote.kind == Kind.CHECKPOINT] == [1]
    assert not lone.host.disk.certificates
    lone.hear(5, VoteMessage(chain.vote(Kind.CHECKPOINT, 0, 1, chain.disk.headers[1].hash, 0)))
    assert lone.status.certified == 1


def test_f_of_them_are_not_enough(chain: Chain) -> None:
    lone = standing_still(chain, 1, 2)
    assert not lone.say(FetchBlocks)
    lone.host.step(Received(name(1), BlocksMessage((vouched_by(chain, 1),))))
    lone.wait(1_000)
    assert lone.status.executed == 0


def test_another_block_than_the_one_they_vouch_for(chain: Chain) -> None:
    lone, other = standing_still(chain, 1, 2, 4), Chain(7)
    other.extend(b"another")
    peer = lone.say(FetchBlocks)[0][0]
    block = other.blocks(1, 1)[0]
    vote = chain.vote(Kind.CHECKPOINT, 0, 1, other.disk.headers[1].hash, peer)
    lone.hear(peer, BlocksMessage((msgspec.structs.replace(block, certificate=make_certificate((vote,))),)))
    assert lone.status.executed == 0
    right = msgspec.structs.replace(block, certificate=vouched_by(chain, peer).certificate)
    lone.wait(3_000)
    again = lone.say(FetchBlocks)[-1][0]
    lone.hear(again, BlocksMessage((right,)))
    assert lone.status.executed == 0
    assert (name(again), Suspicion.BAD_BLOCK) in lone.faults
