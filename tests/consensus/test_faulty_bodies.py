"""A transaction's id names its body, not its envelope: what a faulty validator can do with a second envelope, or by keeping a body back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from consensus.block import Batch, Block, Certificate, CertifiedBlock, batch_digest, decode_batch
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.effects import AdoptionFailed, Executed
from consensus.mempool import ADDED
from consensus.transaction import Envelope, Transaction, decode_transaction
from contracts.calls import Transfer
from node.framing import Frame, FrameKind
from tests.node.running_cluster import member
from tests.node.test_channel_input import OneChannel, signed


def resigned(raw: bytes, signer: Ed25519Signer | None = None) -> bytes:
    """Return the same body in an envelope of somebody else: the same id, and a signature that checks under that one's key."""
    body, other = decode_transaction(raw).envelope.body, signer or member(9)
    return encode(Envelope(other.scheme, other.public_key, body, other.sign(body)))


def batch_of(*transactions: Transaction) -> bytes:
    return encode(Batch(0, 0, int(time.time() * 1000), tuple(one.id for one in transactions)))


def answers_of(one: OneChannel) -> list[Executed | AdoptionFailed]:
    found: list[Executed | AdoptionFailed] = []
    one.channel._executor._done = found.append
    return found


async def from_peer(one: OneChannel, raw: bytes) -> None:
    await one.channel.door.on_frame("node-0", Frame("main", int(FrameKind.TRANSACTIONS), encode((raw,))))
    async with asyncio.timeout(10):
        while one.channel._intake._underway:  # noqa: ASYNC110 - nobody tells when a peer's share is in
            await asyncio.sleep(0.01)


async def test_a_served_block_with_foreign_envelopes_is_the_peers_fault_and_stops_nobody(tmp_path: Path) -> None:
    async with OneChannel(tmp_path / "home") as one:
        executor, answers = one.channel._executor, answers_of(one)
        real = decode_transaction(signed())
        head = one.store.head()
        assert head is not None
        block, _ = executor._finalize(head, batch_of(real), [real])
        forged = Block(block.header, block.batch, (resigned(real.raw),), block.receipts)
        await executor._adopt(1, CertifiedBlock(encode(forged), Certificate(0, 1, block.header.hash, ())))
        assert [type(answer) for answer in answers] == [AdoptionFailed]


async def test_a_foreign_envelope_does_not_take_the_place_of_a_wanted_transaction(tmp_path: Path) -> None:
    async with OneChannel(tmp_path / "home") as one:
        real = decode_transaction(signed())
        batch = Batch(0, 0, int(time.time() * 1000), (real.id,))
        one.channel._bodies.want(batch, 0)
        await from_peer(one, resigned(real.raw))
        await from_peer(one, real.raw)
        found = one.channel._bodies.find_all(batch_digest(encode(batch)), batch)
        assert found is not None
        assert [one_.raw for one_ in found] == [real.raw]


async def test_an_accepted_transaction_outlives_a_foreign_envelope_of_it(tmp_path: Path) -> None:
    async with OneChannel(tmp_path / "home") as one:
        real = decode_transaction(signed())
        one.channel._bodies.want(Batch(0, 0, 0, (real.id,)), 0)
        await from_peer(one, resigned(real.raw))
        (answer,) = await one.channel.submit([real.raw], "http")
        assert answer.code == "OK"
        waiting = one.channel._mempool.waiting_since(one.channel.clock.monotonic_ms(), 10)
        one.channel._desk.drop_inadmissible(waiting)
        assert one.channel.find(real.id) == "pending"
        assert dict(one.store.pending()) == {real.id: real.raw}


async def test_a_clock_that_is_ahead_loses_nothing_that_was_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own time it is over. The node does not propose it, but keeps it, also over a restart, until a block of that time is made."""
    async with OneChannel(tmp_path / "home") as one:
        real, day_ms = decode_transaction(signed()), 24 * 3_600_000
        (answer,) = await one.channel.submit([real.raw], "http")
        assert answer.code == "OK"
        right = one.channel.clock.now_ms
        desk = one.channel._desk
        monkeypatch.setattr(one.channel.clock, "now_ms", lambda: right() + day_ms)
        waiting = one.channel._mempool.waiting_since(one.channel.clock.monotonic_ms(), 10)
        assert waiting == [real]
        assert desk.drop_inadmissible(waiting) == []
        ahead = desk.make_batch(1, 0, 0, wants_block=False)
        assert ahead is None or not decode_batch(ahead).transaction_ids
        one.channel._restore_pending()
        assert dict(one.store.pending()) == {real.id: real.raw}
        assert one.channel._mempool.room_for(real) == ADDED, "it holds up nothing meanwhile"
        monkeypatch.setattr(one.channel.clock, "now_ms", right)
        assert desk.drop_inadmissible([]) == []
        batch = desk.make_batch(1, 0, 0, wants_block=False)
        assert batch is not None and decode_batch(batch).transaction_ids == (real.id,)


async def test_the_body_of_a_void_transaction_can_be_had_until_its_block_is_certified(tmp_path: Path) -> None:
    """Two in one batch spend one nonce: the second is left out of the block, but who has yet to execute the batch needs its body."""
    async with OneChannel(tmp_path / "home") as one:
        executor = one.channel._executor
        answers = answers_of(one)
        first, second = decode_transaction(signed(1)), decode_transaction(signed(1, call=Transfer("bob", 6)))
        for transaction in (first, second):
            one.channel._mempool.add(transaction, 0, forced=True)
        await executor._execute(1, batch_of(first, second))
        assert [type(answer) for answer in answers] == [Executed]
        assert one.channel.find_transaction(first.id) is not None
        assert one.channel.find_transaction(second.id) is not None


async def test_ok_means_on_disk_even_if_the_client_asks_while_a_peers_copy_is_being_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with OneChannel(tmp_path / "home") as one:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        shared, own = signed(1), signed(2)
        real = one.store.add_pending

        def slow(transactions: Sequence[tuple[bytes, bytes]]) -> None:
            loop.call_soon_threadsafe(begun.set)
            time.sleep(0.2)
            real(transactions)

        monkeypatch.setattr(one.store, "add_pending", slow)
        frame = Frame("main", int(FrameKind.TRANSACTIONS), encode((shared,)))
        first = asyncio.gather(one.channel.submit([own], "http"), one.channel.door.on_frame("node-0", frame))
        await begun.wait()
        (answer,) = await one.channel.submit([shared], "http")
        stored = {transaction_id for transaction_id, _ in one.store.pending()}
        await first
        assert answer.code == "OK"
        assert decode_transaction(shared).id in stored
