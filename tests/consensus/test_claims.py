"""What a peer claims about its height decides whom to ask, and nothing more: no claim stops, slows or misleads a replica.

One faulty validator, named first, in all of them; or a guest (an extension node with a TLS certificate) that speaks in an epoch that nobody
knows yet, so that its signature cannot be checked.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from consensus.block import Certificate, CertifiedBlock
from consensus.codec import encode
from consensus.effects import Received
from consensus.messages import (
    BlocksMessage,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    Message,
    SnapshotMessage,
    StatusBody,
    StatusMessage,
    Vote,
    body_digest,
    sign_vote,
)
from tests.consensus.scenes import Chain, Lone, honest
from tests.consensus.virtual_cluster import VirtualCluster, name

LIAR, OTHERS, GUEST = 0, (1, 2), 9
FAR = 1_000_000


def chain_to(height: int, snapshot_every: int = 0) -> Chain:
    chain = Chain(snapshot_every=snapshot_every)
    chain.extend_to(height)
    return chain


def status_by(chain: Chain, sender: int, certified: int, first: int) -> StatusMessage:
    """A claim. A guest speaks in an epoch that does not exist, with a signature that is none."""
    body = StatusBody(0, False, certified, certified, first, chain.disk.certificates.get(chain.height))
    if sender == GUEST:
        return StatusMessage(Vote(Kind.STATUS, 99, 0, 0, body_digest(body), 0, bytes(64)), body)
    validators = chain.epochs[-1]
    return StatusMessage(sign_vote(chain.signer(validators, sender), validators.domain, Kind.STATUS, 0, 0, body_digest(body), sender), body)


def tell(lone: Lone, chain: Chain, liar: int, ms: int, *, claim: int = FAR, first: int = 1, honest_first: int = 1) -> bool:
    """Let everybody tell where it stands, for so long or until the replica is level with the honest ones."""
    for _ in range(ms // 250):
        lone.host.step(Received(name(liar), status_by(chain, liar, claim, first)))
        for peer in OTHERS:
            lone.host.step(Received(name(peer), status_by(chain, peer, chain.height, honest_first)))
        if lone.wait(250, lambda: lone.status.certified == chain.height):
            return True
    return False


def test_one_faulty_validator_of_four_does_not_stop_the_chain() -> None:
    """One slept through 40 blocks. Then the first validator votes no more, and serves blocks with certificates of epoch 99 only."""
    cluster = VirtualCluster(4, seed=1)
    cluster.start()
    asleep = cluster.hosts[3]
    asleep.crash()
    wanted = [b"request %d" % index for index in range(40)]
    for batch in wanted:
        cluster.submit(batch)
    assert cluster.run(30_000, lambda: all(host.disk.height == 40 for host in cluster.hosts[:3]))

    def faulty(sender: int, _: int, message: Message) -> Message | None:
        if sender != 0 or isinstance(message, StatusMessage):
            return message
        if isinstance(message, BlocksMessage):
            return BlocksMessage(tuple(msgspec.structs.replace(one, certificate=of_epoch_99(one.certificate)) for one in message.blocks))
        return None

    cluster.intercept = faulty
    asleep.start()
    cluster.submit(b"waits", range(1, 4))
    assert cluster.run(300_000, lambda: all(host.disk.ledger.has(b"waits") for host in cluster.hosts[1:])), (
        f"three honest validators of four, after five minutes at {[host.disk.height for host in cluster.hosts]}"
    )


def of_epoch_99(certificate: Certificate) -> Certificate:
    return msgspec.structs.replace(certificate, epoch=99)


@pytest.mark.parametrize("liar", [LIAR])
def test_who_sends_blocks_of_an_epoch_that_does_not_exist_is_not_asked_for_ever(liar: int) -> None:
    """Blocks of an unknown epoch cannot be checked: that must count as a failure, else the first by name is asked for ever."""
    chain = chain_to(20)

    def answer(to: int, message: Message) -> Sequence[Message]:
        if to == liar and isinstance(message, FetchBlocks):
            first = Certificate(99, message.first, bytes(32), ())
            return [BlocksMessage((CertifiedBlock(b"", first),))]
        return honest(chain)(to, message)

    lone = Lone(3)
    lone.answer = answer
    assert tell(lone, chain, liar, 60_000, claim=20), "one liar keeps a replica from catching up for ever"


@pytest.mark.parametrize("liar", [LIAR, GUEST])
def test_an_offer_that_nobody_needs_does_not_freeze_a_replica_that_lacks_one_block(liar: int) -> None:
    """It asked for a snapshot far above, since the liar claims to be there. It takes one of the next height, and executes nothing.

    The liar sends a chunk every 3.5 s, none of which counts as late: with 2000 chunks that is two hours. Then it begins again.
    """
    chain, shown = chain_to(20), chain_to(20, snapshot_every=20)
    lone = Lone(3, gap=64)
    lone.take(chain, 19, peer=1)
    held: list[tuple[int, FetchChunk]] = []

    def answer(to: int, message: Message) -> Sequence[Message]:
        if to != liar:
            return honest(chain)(to, message)
        if isinstance(message, FetchChunk):
            held.append((lone.cluster.now_ms + 3_500, message))
        return [SnapshotMessage(encode(shown.disk.snapshot.manifest))] if isinstance(message, FetchSnapshot) and shown.disk.snapshot else ()

    lone.answer = answer
    frozen_ms = 0
    for _ in range(4 * 30):
        lone.host.step(Received(name(liar), status_by(chain, liar, FAR, 1)))
        lone.wait(20)
        for peer in OTHERS:
            lone.host.step(Received(name(peer), status_by(chain, peer, 20, 1)))
        lone.wait(230)
        for due_ms, message in [one for one in held if one[0] <= lone.cluster.now_ms]:
            held.remove((due_ms, message))
            if message.index < 3:
                for chunk in honest(shown)(liar, message):
                    lone.host.step(Received(name(liar), chunk))
        frozen_ms += 250 * (lone.status.executed < 20)
    assert frozen_ms < 5_000, f"the block was there for the asking, but nothing was executed for {frozen_ms} ms of 30 s"


@pytest.mark.parametrize("liar", [LIAR, GUEST])
def test_a_replica_that_lacks_nothing_does_not_ask_a_liar_for_one_manifest_after_the_other(liar: int) -> None:
    """Each of up to 8 MiB, decoded, folded and checked in the middle of the replica's step; a failure is counted, but changes nothing."""
    chain = chain_to(20, snapshot_every=20)
    lone = Lone(3, gap=64)
    lone.take(chain, peer=1)
    assert chain.disk.snapshot is not None
    bad = msgspec.structs.replace(chain.disk.snapshot.manifest, chunks=chain.disk.snapshot.manifest.chunks[::-1])
    lone.answer = lambda to, message: [SnapshotMessage(encode(bad))] if to == liar and isinstance(message, FetchSnapshot) else ()
    before = len(lone.said)
    for _ in range(40):
        lone.host.step(Received(name(liar), status_by(chain, liar, FAR, 1)))
        for peer in OTHERS:
            lone.host.step(Received(name(peer), status_by(chain, peer, 20, 1)))
        lone.wait(250)
    asked = len(lone.say(FetchSnapshot, before))
    assert asked <= 10, f"asked {asked} times within 10 s, at height 20 of 20"


def test_who_claims_blocks_that_all_others_pruned_does_not_keep_it_from_a_snapshot() -> None:
    """It answers with blocks of an unknown epoch, which cannot be checked: a failure like any other."""
    chain = chain_to(20, snapshot_every=20)

    def answer(to: int, message: Message) -> Sequence[Message]:
        if isinstance(message, FetchBlocks):
            first = Certificate(99, message.first, bytes(32), ())
            return [BlocksMessage((CertifiedBlock(b"", first),))] if to == LIAR else ()
        return honest(chain)(to, message) if to != LIAR else ()

    lone = Lone(3)
    lone.answer = answer
    assert tell(lone, chain, LIAR, 60_000, claim=20, honest_first=21)


def test_a_trickle_of_one_good_block_at_a_time_does_not_hold_the_whole_range() -> None:
    """It answers just before its time is up, with one block of 32, every time: half a block per second, though others have them all."""
    chain = chain_to(200)
    lone, held = Lone(3), list[tuple[int, FetchBlocks]]()

    def answer(to: int, message: Message) -> Sequence[Message]:
        if to == LIAR and isinstance(message, FetchBlocks):
            held.append((lone.cluster.now_ms + 1_600, message))
            return ()
        return honest(chain)(to, message)

    lone.answer = answer
    for _ in range(4 * 60):
        for peer in (LIAR, *OTHERS):
            lone.host.step(Received(name(peer), status_by(chain, peer, 200, 1)))
        lone.wait(250)
        for due_ms, message in [one for one in held if one[0] <= lone.cluster.now_ms]:
            held.remove((due_ms, message))
            lone.host.step(Received(name(LIAR), BlocksMessage(chain.blocks(message.first, message.first))))
    assert lone.status.certified == 200, f"after a minute at {lone.status.certified} of 200"


@pytest.mark.parametrize("delay_ms", [2_500, 15_000])
def test_answers_that_take_longer_than_its_patience_are_taken_all_the_same(delay_ms: int) -> None:
    """On a slow link, or a machine that does too much, all answers are late. It asks others meanwhile, and takes what comes."""
    chain, lone = chain_to(100), Lone(3)
    under_way: list[tuple[int, int, Message]] = []

    def answer(to: int, message: Message) -> Sequence[Message]:
        under_way.extend((lone.cluster.now_ms + delay_ms, to, one) for one in honest(chain)(to, message))
        return ()

    lone.answer = answer
    for _ in range(4 * 60):
        for peer in (LIAR, *OTHERS):
            lone.host.step(Received(name(peer), status_by(chain, peer, 100, 1)))
        lone.wait(250)
        for due in [one for one in under_way if one[0] <= lone.cluster.now_ms]:
            under_way.remove(due)
            lone.host.step(Received(name(due[1]), due[2]))
    assert lone.status.certified == 100
    assert not lone.faults


def test_a_result_that_differs_from_the_certified_one_is_never_overwritten_in_silence() -> None:
    """Its own block 20 is another one than everybody's: a broken disk."""
    chain, own = chain_to(45), chain_to(19)
    own.extend(b"what nobody else executed")
    del own.disk.certificates[20]
    lone = Lone(3, disk=own.disk)
    lone.answer = honest(chain)
    with pytest.raises(AssertionError, match="diverged"):  # the virtual host says so loudly
        tell(lone, chain, 1, 20_000, claim=45)
