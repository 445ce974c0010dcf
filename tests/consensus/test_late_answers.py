"""Answers that come late, or when they are not needed any more."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from consensus.codec import encode
from consensus.effects import Received
from consensus.messages import (
    BlocksMessage,
    ChunkMessage,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Message,
    SnapshotMessage,
)
from tests.consensus.scenes import Chain, Lone
from tests.consensus.virtual_cluster import name

FAULTY = 1


def test_an_offer_that_comes_long_after_it_is_needed_does_not_replace_the_state() -> None:
    """It was 40 behind and asked; it caught up with blocks. Days later the faulty one answers, when the replica is one block behind."""
    chain = Chain(4, snapshot_every=1)
    chain.extend_to(40)
    lone = Lone(3, 4, gap=32)
    lone.hear(FAULTY, chain.status(FAULTY))
    assert [to for to, _ in lone.say(FetchSnapshot)] == [FAULTY]
    lone.answer = lambda to, message: [BlocksMessage(chain.blocks(message.first, message.last))] if isinstance(message, FetchBlocks) else ()
    while lone.status.certified < 40:
        lone.hear(0, chain.status(0))
        lone.wait(250)
    lone.answer = lambda to, message: ()
    assert lone.status.certified == 40 and lone.host.disk.base == 0
    lone.wait(100_000)
    chain.extend_to(41)
    since = len(lone.said)
    snapshot = chain.disk.snapshot
    lone.hear(FAULTY, SnapshotMessage(encode(snapshot.manifest)))
    for _ in range(40):
        asked = [message for to, message in lone.say(FetchChunk, since) if to == FAULTY]
        for message in asked:
            lone.hear(FAULTY, ChunkMessage(41, message.index, encode(snapshot.chunks[message.index])))
        lone.wait(50)
    assert lone.host.disk.base == 0, f"all blocks up to {lone.host.disk.base} are gone"


def test_one_alone_that_says_it_has_pruned_is_not_asked_for_a_snapshot() -> None:
    """It is the first with the next certificate. Its snapshot would take the place of blocks that the others still serve."""
    chain = Chain(4, snapshot_every=1)
    chain.extend_to(5)
    lone = Lone(3, 4, gap=1_024)
    lone.take(chain, 5, peer=0)
    lone.hear(2, chain.status(2))
    chain.extend_to(6)
    lone.hear(FAULTY, chain.status(FAULTY, first=7, certified=6))
    lone.wait(3_000)
    assert not lone.say(FetchSnapshot)
    lone.hear(2, chain.status(2, first=7, certified=6))
    lone.wait(3_000)
    assert lone.say(FetchSnapshot), "f + 1 who are ahead have pruned it"


def test_a_peer_asked_for_other_blocks_does_not_put_bad_ones_in_place_of_those_of_another() -> None:
    chain = Chain(4)
    chain.extend_to(100)
    lone = Lone(3, 4)
    lone.hear(0, chain.status(0))
    lone.hear(FAULTY, chain.status(FAULTY))
    asked = dict(lone.say(FetchBlocks))
    assert (asked[0].first, asked[FAULTY].first) == (1, 33)
    bad = tuple(msgspec.structs.replace(block, block=b"rubbish") for block in chain.blocks(2, 32))
    lone.hear(FAULTY, BlocksMessage(bad))
    lone.hear(0, BlocksMessage(chain.blocks(1, 32)))
    lone.wait(200)
    assert lone.status.executed == 32, lone.status.executed


@pytest.mark.parametrize("delay_ms", [100, 2_100, 9_000, 40_000])
def test_however_slow_answers_are_it_gets_on(delay_ms: int) -> None:
    """Each answer takes so long."""
    chain = Chain(4)
    chain.extend_to(320)
    lone = Lone(3, 4)
    cluster, serving = lone.cluster, (0, 1)

    def answer(to: int, message: Message) -> Sequence[Message]:
        if isinstance(message, FetchBlocks) and to in serving:
            got = BlocksMessage(chain.blocks(message.first, message.last))
            cluster.later(lone.host, delay_ms, Received(name(to), got))
        return ()

    lone.answer = answer
    end = cluster.now_ms + 40 * max(delay_ms, 250)
    while cluster.now_ms < end and lone.status.certified < 320:
        for peer in serving:
            lone.hear(peer, chain.status(peer))
        lone.wait(250)
    assert lone.status.certified == 320
