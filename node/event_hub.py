"""Hands what happens in one channel to subscribers, each behind its own bounded queue.

Publishing never waits, never fails and starts no task: an event is put into the queues of those who asked for its kind. A subscriber
that does not keep up gets what is queued, then ``{"event": "overflow"}``, and its subscription ends. All of it belongs to one event
loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping

Message = Mapping[str, object]
"""One event as subscribers see it: its kind under "event", its fields beside it. It is shared: nobody may change it."""

OVERFLOW = "overflow"
DEFAULT_QUEUE = 20_000
"""One block's events come at once, and who reads could not keep up with them: about 10,000 may fall due in a block (more only if a single
period has more), and each of its transactions, 1,000 unless genesis says otherwise, has one."""


class Subscription:
    """One subscriber's queue: an async iterator of messages that ends after an overflow or a close.

    Use it in a ``with`` block (or call :meth:`close`), so that the hub forgets it.
    """

    def __init__(self, hub: EventHub, kinds: frozenset[str] | None, max_queue: int) -> None:
        self.kinds = kinds
        self._hub = hub
        self._queue: deque[Message] = deque()
        self._max_queue = max_queue
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._queue.popleft()

    @property
    def queued(self) -> int:
        """Number of messages that wait to be taken."""
        return len(self._queue)

    def close(self) -> None:
        """End the subscription; what is queued can still be taken."""
        self._ended = True
        self._hub._forget(self)
        self._wake()

    def _put(self, message: Message) -> bool:
        """Queue a message; tell False when the subscription ended because the queue was full."""
        fits = len(self._queue) < self._max_queue
        self._queue.append(message if fits else {"event": OVERFLOW})
        self._ended = self._ended or not fits
        self._wake()
        return fits

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class EventHub:
    """Where a channel publishes and others subscribe.

    Attributes:
        dropped: subscribers that were dropped because they did not keep up.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._subscriptions: list[Subscription] = []
        self._next: dict[str, asyncio.Future[None]] = {}

    @property
    def subscribers(self) -> int:
        """Number of subscriptions now."""
        return len(self._subscriptions)

    def wants(self, kind: str) -> bool:
        """Tell whether anybody would see an event of this kind; who has costly data to gather may ask first."""
        return kind in self._next or any(one.kinds is None or kind in one.kinds for one in self._subscriptions)

    def publish(self, kind: str, data: Mapping[str, object]) -> None:
        """Give the event to all who asked for its kind.

        Args:
            kind: what it is; stands under "event" in the message.
            data: its fields, ready for JSON.
        """
        waiting = self._next.pop(kind, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        if not self._subscriptions:
            return
        message: Message = {**data, "event": kind}
        slow = [one for one in self._subscriptions if (one.kinds is None or kind in one.kinds) and not one._put(message)]
        for subscription in slow:
            self.dropped += 1
            self._forget(subscription)

    def subscribe(self, kinds: Iterable[str] | None = None, max_queue: int = DEFAULT_QUEUE) -> Subscription:
        """Start a subscription to these kinds of events (None: all), with at most ``max_queue`` messages waiting."""
        subscription = Subscription(self, None if kinds is None else frozenset(kinds), max_queue)
        self._subscriptions.append(subscription)
        return subscription

    async def wait_for(self, kind: str, timeout_s: float) -> bool:
        """Wait for the next event of a kind, without a queue; tell False if none came in time."""
        waiting = self._next.get(kind)
        if waiting is None:
            waiting = self._next[kind] = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait((waiting,), timeout=timeout_s)
        return bool(done)

    def close(self) -> None:
        """End all subscriptions: the node stops."""
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
