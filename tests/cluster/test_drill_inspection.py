"""What a drill reads of nodes after a round, where one of them began with a snapshot and lacks blocks of that very round."""

from types import SimpleNamespace

import aiohttp
import pytest
import pytest_asyncio

from cluster.chain_book import ChainBook
from cluster.inspection import enter_blocks
from cluster.options import RunError
from node.http_api import HttpApi
from node.metrics import NodeMetrics
from tests.node.chain_support import LocalChannel

HEIGHT, BASE = 9, 4


@pytest_asyncio.fixture
async def stage(tmp_path):
    """Two nodes with one chain; the second has no block up to BASE."""
    channels = [LocalChannel(tmp_path / name) for name in ("whole", "later")]
    for channel in channels:
        for _ in range(HEIGHT):
            channel.execute([])
            channel.clock.time_ms += 1_000
    channels[1].store.prune(BASE + 1)
    apis = [HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0) for channel in channels]
    for api in apis:
        await api.start()
    async with aiohttp.ClientSession() as session:
        lab = SimpleNamespace(names=("n1", "n2"), urls=tuple(api.url for api in apis))
        yield SimpleNamespace(lab=lab, session=session, refilled={1}, hashes=[channels[0].store.header(0).hash.hex()])
    for api, channel in zip(apis, channels, strict=True):
        await api.stop()
        channel.close()


def book_of(stage):
    return ChainBook(stage.hashes[0], {}, lambda _: None, lambda _: True)


async def test_blocks_below_its_snapshot_are_read_from_another_node(stage):
    book = book_of(stage)
    assert await enter_blocks(stage, book, 1, range(1, HEIGHT), [1, BASE + 1]) == []
    assert book.height == HEIGHT - 1
    assert await enter_blocks(stage, book, 1, range(HEIGHT, HEIGHT + 1), [1, BASE + 1]) == []
    assert book.height == HEIGHT


async def test_a_node_that_lost_nothing_must_have_every_block(stage):
    stage.refilled.clear()
    with pytest.raises(RunError, match="n2 lacks block 1"):
        await enter_blocks(stage, book_of(stage), 1, range(1, HEIGHT), [1, BASE + 1])
    found = await enter_blocks(stage, book_of(stage), 0, range(1, HEIGHT), [1, BASE + 1])
    assert [one.text for one in found] == [f"n2 lacks block {height}" for height in range(1, BASE + 1)]
