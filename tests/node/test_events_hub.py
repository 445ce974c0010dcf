import asyncio

import pytest

from contracts.closing import EVENTS_PER_BLOCK
from node.event_hub import EventHub

pytestmark = pytest.mark.asyncio


async def test_messages_come_in_order_with_their_kind() -> None:
    hub = EventHub()
    with hub.subscribe() as subscription:
        hub.publish("block", {"height": 1})
        hub.publish("traded", {"trade": 7})
        assert [await anext(subscription), await anext(subscription)] == [
            {"event": "block", "height": 1},
            {"event": "traded", "trade": 7},
        ]
    assert hub.subscribers == 0


async def test_only_the_kinds_asked_for() -> None:
    hub = EventHub()
    with hub.subscribe({"traded"}) as subscription:
        assert hub.wants("traded")
        assert not hub.wants("block")
        hub.publish("block", {"height": 1})
        hub.publish("traded", {"trade": 1})
        assert (await anext(subscription))["event"] == "traded"
        assert subscription.queued == 0


async def test_slow_subscriber_is_dropped_with_a_last_message_and_others_go_on() -> None:
    hub = EventHub()
    slow = hub.subscribe(max_queue=2)
    fast = hub.subscribe(max_queue=10)
    for height in range(5):
        hub.publish("block", {"height": height})
    assert hub.subscribers == 1
    assert hub.dropped == 1
    assert [message async for message in slow] == [{"event": "block", "height": 0}, {"event": "block", "height": 1}, {"event": "overflow"}]
    fast.close()
    assert len([message async for message in fast]) == 5


async def test_a_subscriber_that_reads_between_blocks_loses_nothing_of_a_full_block() -> None:
    """All that may fall due in one block and one event of each of 1,000 transactions come at once, before anybody can read."""
    hub = EventHub()
    with hub.subscribe() as subscription:
        for number in range(EVENTS_PER_BLOCK + 1_001):
            hub.publish("traded", {"trade": number})
        assert subscription.queued == EVENTS_PER_BLOCK + 1_001
        assert hub.dropped == 0


async def test_waiting_subscriber_wakes_and_close_ends_it() -> None:
    hub = EventHub()
    subscription = hub.subscribe()
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    hub.publish("block", {"height": 3})
    assert (await asyncio.wait_for(waiting, 5))["height"] == 3
    ending = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    hub.close()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(ending, 5)
    assert hub.subscribers == 0


async def test_cancelled_reader_loses_nothing() -> None:
    hub = EventHub()
    subscription = hub.subscribe()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(subscription), 0.01)
    hub.publish("block", {"height": 9})
    assert (await asyncio.wait_for(anext(subscription), 5))["height"] == 9


async def test_wait_for_wakes_every_waiter_once() -> None:
    hub = EventHub()
    waiters = [asyncio.ensure_future(hub.wait_for("block", 5)) for _ in range(3)]
    await asyncio.sleep(0)
    assert hub.wants("block")
    hub.publish("block", {})
    assert await asyncio.gather(*waiters) == [True, True, True]
    assert not await hub.wait_for("block", 0.01)


async def test_publishing_starts_no_tasks() -> None:
    hub = EventHub()
    hub.subscribe(max_queue=10_000)
    before = len(asyncio.all_tasks())
    for number in range(1_000):
        hub.publish("block", {"height": number})
    assert len(asyncio.all_tasks()) == before
