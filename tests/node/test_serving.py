"""Serving blocks: in turn, within a budget, and never more than a few requests of one node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consensus.block import decode_block
from consensus.effects import ServeBlocks, ServeChunk, ServeSnapshot
from consensus.messages import BlocksMessage, decode_message
from node.refusals import Told
from node.serving import LEAST_BYTES, MAX_WAITING, Serving
from node.snapshots import SnapshotShelf
from tests.node.chain_support import LocalChannel


class Counter:
    """A serving desk with a clock that stands still, and what it sent."""

    def __init__(self, folder: Path) -> None:
        self.channel = LocalChannel(folder / "chain")
        for _ in range(6):
            self.channel.execute([])
        self.shelf, self.threads = SnapshotShelf(folder / "shelf"), ThreadPoolExecutor(1)
        self.now_ms = 1_000_000
        clock: Any = SimpleNamespace(monotonic_ms=lambda: self.now_ms)
        self.sent: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.serving = Serving(self.channel.store, self.shelf, clock, self.threads, lambda *answer: self.sent.put_nowait(answer))

    def ask(self, peer: str, *heights: int) -> None:
        for height in heights:
            self.serving.ask(ServeBlocks(peer, height, height))

    async def next(self) -> tuple[str, list[int]]:
        peer, body = await asyncio.wait_for(self.sent.get(), 5)
        message = decode_message(body)
        assert isinstance(message, BlocksMessage)
        return peer, [decode_block(one.block).header.height for one in message.blocks]


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    made = Counter(tmp_path)
    running = asyncio.create_task(made.serving.run())
    yield made
    running.cancel()
    await asyncio.wait([running])
    made.threads.shutdown()
    made.shelf.close()
    made.channel.close()


async def test_nodes_get_answers_in_turn_and_of_many_requests_of_one_some_are_dropped(counter: Counter) -> None:
    counter.ask("greedy", 1, 1, 2, 3, 4, 5, 6)
    counter.ask("modest", 6)
    found = [await counter.next() for _ in range(MAX_WAITING + 1)]
    assert found == [("greedy", [1]), ("modest", [6]), ("greedy", [2]), ("greedy", [3]), ("greedy", [4])]
    counter.ask("greedy", 5)
    assert await counter.next() == ("greedy", [5])
    assert counter.sent.empty()


async def test_what_is_not_here_is_not_answered(counter: Counter) -> None:
    for request in (ServeBlocks("a", 7, 9), ServeSnapshot("a", 1), ServeChunk("a", 5, 0), ServeBlocks("a", 5, 9)):
        counter.serving.ask(request)
    assert await counter.next() == ("a", [5, 6])
    assert counter.sent.empty()


async def test_who_had_his_share_waits_and_others_do_not(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so little per second every answer costs a second."""
    monkeypatch.setattr("node.serving.RATE_BYTES_PER_S", LEAST_BYTES)
    monkeypatch.setattr("node.serving.BURST_BYTES", 2 * LEAST_BYTES)
    counter.ask("greedy", 1, 2, 3, 4)
    assert [await counter.next() for _ in range(3)] == [("greedy", [1]), ("greedy", [2]), ("greedy", [3])]
    counter.ask("modest", 6)
    assert await counter.next() == ("modest", [6])
    counter.now_ms += 999
    counter.ask("modest", 5)
    assert await counter.next() == ("modest", [5])
    counter.now_ms += 1
    counter.ask("modest", 4)
    assert {(await counter.next())[0] for _ in range(2)} == {"greedy", "modest"}


def test_the_same_fault_of_the_same_peer_is_told_once_a_minute() -> None:
    now_ms = 0
    told = Told(60_000, lambda: now_ms)
    assert [told.is_due("MALFORMED", "a") for _ in range(3)] == [True, False, False]
    assert told.is_due("MALFORMED", "b")
    assert told.is_due("BAD_SNAPSHOT", "a")
    now_ms = 60_000
    assert told.is_due("MALFORMED", "a")
    assert not told.is_due("MALFORMED", "a")
