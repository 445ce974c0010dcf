"""The event stream as clients see it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from node.http.call import Limits
from node.http_api import HttpApi
from node.metrics import NodeMetrics
from tests.node.chain_support import LocalChannel

pytestmark = pytest.mark.asyncio


class Site:
    def __init__(self, channel: LocalChannel, api: HttpApi, session: aiohttp.ClientSession) -> None:
        self.channel, self.api, self.session = channel, api, session

    async def connect(self, query: str = "") -> aiohttp.ClientWebSocketResponse:
        socket = await self.session.ws_connect(self.api.url + "/v1/events" + query)
        hello = await socket.receive_json(timeout=5)
        assert hello["event"] == "hello"
        return socket


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    channel = LocalChannel(tmp_path / "store")
    limits = replace(Limits(), max_websockets=2, event_queue=8, send_timeout_s=1.0)
    api = HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0, limits=limits)
    await api.start()
    async with aiohttp.ClientSession() as session:
        yield Site(channel, api, session)
    await api.stop()
    channel.close()


async def until(condition: object) -> None:
    for _ in range(1000):
        if condition():  # type: ignore[operator]
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not come to be in 10 s")


async def test_blocks_and_kinds(site: Site) -> None:
    everything = await site.connect()
    only_trades = await site.connect("?kinds=traded,billed")
    await site.channel.submit([site.channel.transfer()], "http")
    site.channel.events.publish("traded", {"trade": 1, "height": 1})
    assert [(await everything.receive_json(timeout=5))["event"] for _ in range(3)] == ["transferred", "block", "traded"]
    assert (await only_trades.receive_json(timeout=5)) == {"event": "traded", "trade": 1, "height": 1}
    await everything.close()
    await only_trades.close()
    await until(lambda: site.channel.events.subscribers == 0 and site.api._context.websockets == 0)


async def test_too_many_streams_are_refused(site: Site) -> None:
    first, second = await site.connect(), await site.connect()
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await site.connect()
    assert refused.value.status == 503
    await first.close()
    await until(lambda: site.api._context.websockets == 1)
    await (await site.connect()).close()
    await second.close()


async def test_a_burst_that_does_not_fit_ends_with_overflow(site: Site) -> None:
    socket = await site.connect()
    for height in range(20):
        site.channel.events.publish("block", {"height": height})
    seen = [await socket.receive_json(timeout=5) for _ in range(9)]
    assert [message.get("height") for message in seen[:8]] == list(range(8))
    assert seen[8] == {"event": "overflow"}
    assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
    assert socket.close_code == 1013
    assert site.channel.events.dropped == 1


async def test_a_client_that_never_reads_is_let_go(site: Site) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", site.api.port, limit=1024)
    writer.write(
        b"GET /v1/events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await until(lambda: site.channel.events.subscribers == 1)
    text = "x" * 100_000
    for _ in range(400):
        if not site.channel.events.subscribers:
            break
        site.channel.events.publish("block", {"text": text})
        await asyncio.sleep(0.001)
    await until(lambda: site.api._context.websockets == 0)
    assert site.channel.events.subscribers == 0
    writer.close()


async def test_what_a_client_sends_does_no_harm(site: Site) -> None:
    rude = await site.connect()
    await rude.send_str("hello")
    await rude.send_bytes(bytes(5000))
    await until(lambda: site.api._context.websockets == 0)
    polite = await site.connect()
    site.channel.events.publish("block", {"height": 1})
    assert (await polite.receive_json(timeout=5))["height"] == 1
    await polite.close()
