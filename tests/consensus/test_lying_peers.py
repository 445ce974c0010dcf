"""Peers that lie while a replica catches up: every lie is blamed on its teller, none is believed, and the replica gets there.

The liar comes first by name, answers before anybody else, and never tires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from consensus.block import CertifiedBlock, decode_header
from consensus.codec import encode
from consensus.effects import Received
from consensus.errors import Suspicion
from consensus.messages import BlocksMessage, ChunkMessage, FetchBlocks, FetchChunk, FetchSnapshot, Message, SnapshotMessage
from consensus.snapshot import Chunk, SnapshotManifest, decode_chunk, decode_manifest
from consensus.validators import decode_epoch_change
from tests.consensus.plain_ledger import Seat, set_batch, signer
from tests.consensus.scenes import Chain, Lone, honest
from tests.consensus.virtual_cluster import name

GAP = 10
AT, HEAD = 40, 45
FOLLOWER = 5
LIAR, OTHERS = 1, (2, 4)
Answer = Callable[[int, Message], Sequence[Message]]


def chain_with_snapshot(at: int, *, other: bytes = b"") -> Chain:
    """A chain of three epochs, as in ``test_state_transfer.py``."""
    chain = Chain(snapshot_every=at)
    chain.extend(set_batch(Seat(name(4), signer(4).public_key)), b"second" + other, set_batch(removed=(name(0),)))
    chain.extend_to(HEAD)
    return chain


CHAIN, OLDER, FORK = chain_with_snapshot(AT), chain_with_snapshot(30), chain_with_snapshot(AT, other=b" of another chain")
HONEST = honest(CHAIN)


def manifest_of(chain: Chain) -> SnapshotManifest:
    assert chain.disk.snapshot is not None
    return chain.disk.snapshot.manifest


def altered(**changes: object) -> bytes:
    return encode(msgspec.structs.replace(manifest_of(CHAIN), **changes))


def manifests() -> dict[str, bytes]:
    """Manifests that are not what they claim to be."""
    good = manifest_of(CHAIN)
    header, epochs = decode_header(good.header), list(good.epochs)
    changed = decode_epoch_change(epochs[0])
    stolen = msgspec.structs.replace(changed.validators, public_keys=changed.validators.public_keys[::-1])
    votes = good.certificate.votes
    return {
        "rubbish": b"rubbish",
        "another table": altered(chunks=good.chunks[::-1]),
        "a deeper cut": altered(depth=good.depth + 1),
        "another header": altered(header=encode(msgspec.structs.replace(header, time_ms=1))),
        "another state": altered(header=encode(msgspec.structs.replace(header, state_root=bytes(32)))),
        "of another channel": altered(header=encode(msgspec.structs.replace(header, channel="other"))),
        "a certificate of another block": altered(certificate=CHAIN.disk.certificates[AT - 1]),
        "one vote too few": altered(certificate=msgspec.structs.replace(good.certificate, votes=votes[:-1])),
        "one vote twice": altered(certificate=msgspec.structs.replace(good.certificate, votes=(*votes[:-1], votes[0]))),
        "a certificate of the first epoch": altered(certificate=CHAIN.certificate(AT, header.hash, CHAIN.epochs[0])),
        "no proof of epochs": altered(epochs=()),
        "the first proof missing": altered(epochs=tuple(epochs[1:])),
        "the last proof missing": altered(epochs=tuple(epochs[:-1])),
        "proofs in another order": altered(epochs=tuple(epochs[::-1])),
        "a proof twice": altered(epochs=(*epochs, epochs[-1])),
        "other validators": altered(epochs=(encode(msgspec.structs.replace(changed, validators=stolen)), *epochs[1:])),
        "rubbish for a proof": altered(epochs=(*epochs, b"rubbish")),
    }


def chunk_lies() -> dict[str, Callable[[FetchChunk], Sequence[Message]]]:
    """What else than the chunk could come."""

    def chunk(message: FetchChunk, index: int | None = None, at: int = AT) -> ChunkMessage:
        (answer,) = HONEST(LIAR, FetchChunk(AT, message.index if index is None else index))
        assert isinstance(answer, ChunkMessage)
        return ChunkMessage(at, message.index, answer.chunk)

    def with_entries(change: Callable[[list[tuple[bytes, bytes]]], Sequence[tuple[bytes, bytes]]]) -> Callable[..., Sequence[Message]]:
        def answer(message: FetchChunk) -> Sequence[Message]:
            entries = list(decode_chunk(chunk(message).chunk).entries)
            return [ChunkMessage(AT, message.index, encode(Chunk(tuple(change(entries)))))]

        return answer

    return {
        "rubbish": lambda message: [ChunkMessage(AT, message.index, b"rubbish")],
        "another chunk": lambda message: [chunk(message, (message.index + 1) % 4)],
        "one entry missing": with_entries(lambda entries: entries[1:]),
        "one entry more": with_entries(lambda entries: [*entries, (b"zzz", b"1")]),
        "one value changed": with_entries(lambda entries: [(entries[0][0], b"more"), *entries[1:]]),
        "another order": with_entries(lambda entries: entries[::-1]),
        "nothing in it": with_entries(lambda entries: []),
    }


def chunk_silences() -> dict[str, Callable[[FetchChunk], Sequence[Message]]]:
    """What is no chunk that was asked for: it is not counted, and time runs out."""
    return {
        "silence": lambda message: (),
        "another index": lambda message: HONEST(LIAR, FetchChunk(AT, (message.index + 1) % 4)),
        "another height": lambda message: [ChunkMessage(AT + 1, message.index, b"")],
        "an answer to something else": lambda message: HONEST(LIAR, FetchSnapshot(1)),
    }


def lies_by(answer: Answer) -> Answer:
    """The liar's answers, and everybody else's."""
    return lambda to, message: answer(to, message) if to == LIAR else HONEST(to, message)


def catch_up(lone: Lone, ms: int = 60_000, first: int = 1) -> bool:
    """Let everybody tell where it stands, again and again, until the replica is level with them."""
    names = CHAIN.epochs[-1].names
    for _ in range(ms // 250):
        for peer in (LIAR, *OTHERS):
            lone.host.step(Received(name(peer), CHAIN.status(names.index(name(peer)), first=1 if peer == LIAR else first)))
        if lone.wait(250, lambda: lone.host.disk.height == lone.status.certified == HEAD):
            return True
    return False


def without_blocks(answer: Answer) -> Answer:
    return lambda to, message: () if isinstance(message, FetchBlocks) and message.first <= AT else answer(to, message)


@pytest.mark.parametrize("lie", manifests())
def test_a_manifest_that_is_not_what_it_claims_to_be(lie: str) -> None:
    lone, forged = Lone(FOLLOWER, gap=GAP), [SnapshotMessage(manifests()[lie])]
    lone.answer = without_blocks(lies_by(lambda to, message: forged if isinstance(message, FetchSnapshot) else HONEST(to, message)))
    assert catch_up(lone)
    assert set(lone.faults) == {(name(LIAR), Suspicion.BAD_SNAPSHOT)}
    assert lone.host.disk.base == AT
    assert lone.host.disk.changes == CHAIN.disk.changes


def test_what_is_known_must_be_proven_too() -> None:
    """It has executed both announcements and knows all sets; the proofs are for those whom it will have to convince."""
    lone, early = Lone(FOLLOWER, gap=GAP), chain_with_snapshot(AT)
    lone.take(early, 5, peer=LIAR)
    assert len(lone.replica.epochs) == 3 and not lone.host.disk.changes
    forged = [SnapshotMessage(altered(epochs=()))]
    lone.answer = without_blocks(lies_by(lambda to, message: forged if isinstance(message, FetchSnapshot) else HONEST(to, message)))
    assert catch_up(lone)
    assert lone.faults == [(name(LIAR), Suspicion.BAD_SNAPSHOT)]
    assert lone.host.disk.changes == CHAIN.disk.changes


@pytest.mark.parametrize("lie", chunk_lies())
def test_a_chunk_that_is_not_the_certified_one(lie: str) -> None:
    lone = Lone(FOLLOWER, gap=GAP)
    lone.answer = without_blocks(
        lies_by(lambda to, message: chunk_lies()[lie](message) if isinstance(message, FetchChunk) else HONEST(to, message))
    )
    assert catch_up(lone)
    assert lone.faults == [(name(LIAR), Suspicion.BAD_SNAPSHOT)], "once: it is not asked again"
    assert lone.host.disk.base == AT
    assert lone.host.disk.ledger.state == CHAIN.disk.ledger.state


@pytest.mark.parametrize("lie", chunk_silences())
def test_a_holder_that_does_not_send_what_it_offered(lie: str) -> None:
    lone = Lone(FOLLOWER, gap=GAP)
    lone.answer = without_blocks(
        lies_by(lambda to, message: chunk_silences()[lie](message) if isinstance(message, FetchChunk) else HONEST(to, message))
    )
    assert catch_up(lone)
    assert not lone.faults
    assert lone.host.disk.base == AT


@pytest.mark.parametrize("offer", ["an older snapshot", "other counts"])
@pytest.mark.parametrize("then", ["silence", "rubbish"])
def test_an_offer_of_its_own_that_it_never_keeps(offer: str, then: str) -> None:
    """It is certified, and first, and nobody else has this one. One such offer after the other must not keep the honest ones out."""
    counted = tuple(msgspec.structs.replace(mark, count=mark.count + 1) for mark in manifest_of(CHAIN).chunks)
    manifest = manifest_of(OLDER) if offer == "an older snapshot" else decode_manifest(altered(chunks=counted))

    def answer(to: int, message: Message) -> Sequence[Message]:
        if isinstance(message, FetchSnapshot):
            return [SnapshotMessage(encode(manifest))]
        if isinstance(message, FetchChunk):
            return [ChunkMessage(message.height, message.index, b"rubbish")] if then == "rubbish" else ()
        return HONEST(to, message)

    lone = Lone(FOLLOWER, gap=GAP)
    lone.answer = without_blocks(lies_by(answer))
    assert catch_up(lone, 120_000)
    assert lone.host.disk.base == AT
    assert set(lone.faults) <= {(name(LIAR), Suspicion.BAD_SNAPSHOT)}


def block_lies() -> dict[str, Callable[[FetchBlocks], Sequence[Message]]]:
    """What a peer can send instead of the blocks that were asked for."""

    def each(change: Callable[[CertifiedBlock], CertifiedBlock]) -> Callable[[FetchBlocks], Sequence[Message]]:
        return lambda message: [BlocksMessage(tuple(change(block) for block in CHAIN.blocks(message.first, message.last)))]

    def recertified(block: CertifiedBlock) -> CertifiedBlock:
        votes = block.certificate.votes
        return CertifiedBlock(block.block, msgspec.structs.replace(block.certificate, votes=(*votes[:-1], votes[0])))

    return {
        "nothing": lambda message: [BlocksMessage(())],
        "silence": lambda message: (),
        "rubbish under a real certificate": each(lambda block: CertifiedBlock(b"rubbish", block.certificate)),
        "a forged certificate": each(recertified),
        "blocks of another chain": lambda message: [BlocksMessage(FORK.blocks(message.first, message.last))],
        "later blocks": lambda message: [BlocksMessage(CHAIN.blocks(message.first + 1, message.last))],
        "earlier blocks": lambda message: [BlocksMessage(CHAIN.blocks(1, message.first - 1))],
    }


@pytest.mark.parametrize("lie", block_lies())
def test_blocks_that_are_not_those_that_were_asked_for(lie: str) -> None:
    lone = Lone(FOLLOWER)
    lone.answer = lies_by(lambda to, message: block_lies()[lie](message) if isinstance(message, FetchBlocks) else ())
    if lie == "blocks of another chain":
        lone.cluster.check_certificate = lambda certificate: None  # type: ignore[method-assign]  # for once f is not kept: both are certified
    assert catch_up(lone)
    assert {peer for peer, _ in lone.faults} <= {name(LIAR)}
    assert bool(lone.faults) == (lie.startswith(("rubbish", "a forged")))
    assert len(lone.faults) < 60, "it was left in peace for a while after each"


@pytest.mark.parametrize("lie", ["nothing", "rubbish under a real certificate", "a forged certificate"])
def test_a_lie_is_not_asked_for_as_fast_as_it_can_be_told(lie: str) -> None:
    """Nobody else is there to ask. Each lie costs work and a line in the log, so who told one is left alone for a while."""
    lone = Lone(FOLLOWER)
    lone.answer = lies_by(lambda to, message: block_lies()[lie](message) if isinstance(message, FetchBlocks) else ())
    for _ in range(80):
        lone.host.step(Received(name(LIAR), CHAIN.status(CHAIN.epochs[-1].names.index(name(LIAR)))))
        lone.wait(250)
    assert 4 <= len(lone.say(FetchBlocks)) <= (170 if lie == "nothing" else 25), "in twenty seconds"


@pytest.mark.parametrize("lie", ["nothing", "silence", "rubbish under a real certificate", "a forged certificate"])
def test_who_claims_to_have_blocks_that_all_others_pruned(lie: str) -> None:
    """Its word alone must not keep the replica from asking for a snapshot."""
    lone = Lone(FOLLOWER)

    def answer(to: int, message: Message) -> Sequence[Message]:
        if isinstance(message, FetchBlocks) and message.first < AT:
            return block_lies()[lie](message) if to == LIAR else ()
        return () if to == LIAR else HONEST(to, message)

    lone.answer = answer
    assert catch_up(lone, first=AT - 2)
    assert lone.host.disk.base == AT
    assert {peer for peer, _ in lone.faults} <= {name(LIAR)}


def test_two_that_have_only_a_part_each_are_not_asked_for_the_same_again_and_again() -> None:
    """The certificates that came are held for want of the one before them; that is no reason to fetch them at full speed."""
    own = chain_with_snapshot(AT)
    for height in range(4, HEAD + 1):
        del own.disk.certificates[height]
    lone = Lone(FOLLOWER, disk=own.disk)
    lone.answer = lambda to, message: HONEST(to, message) if isinstance(message, FetchBlocks) and message.first > 10 else ()
    names = CHAIN.epochs[-1].names
    for _ in range(8):
        lone.host.step(Received(name(LIAR), CHAIN.status(names.index(name(LIAR)), first=1, certified=10)))
        lone.host.step(Received(name(2), CHAIN.status(names.index(name(2)), first=11)))
        lone.wait(250)
    assert lone.status.certified == 3
    assert len(lone.say(FetchBlocks)) < 30
