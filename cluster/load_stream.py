"""A steady load: transactions signed a portion at a time, and sent at a fixed rate until answered; it can be held."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from cluster.history import History
from cluster.load import Batch, LoadClient, make_batches
from node.clock import wall_ms

Sign = Callable[[range, int], list[bytes]]
"""Gives the signed transactions of a stream with these numbers, at a chain time, ms."""
BATCHES_PER_S = 20
PORTION = 400
OPEN_PAUSE_S = 0.05
LATEST_S = 1.0
"""How far the stream may fall behind before it leaves out what it did not send in time."""


class LoadStream:
    """A stream of transactions to all nodes in turn, which can be held.

    Args:
        nodes: how many there are to send to.
        sign: gives the stream.
        history: where everything is noted.
        client: sends.
        rate: transactions per second.
        most_open: while so many are acknowledged and not final, nothing new is sent: the cluster cannot keep up. None: no bound.
    """

    def __init__(self, nodes: int, sign: Sign, history: History, client: LoadClient, rate: int, most_open: int | None = None) -> None:
        self._nodes = nodes
        self._sign = sign
        self._most_open = most_open
        self._history = history
        self._client = client
        self._batch = max(1, round(rate / BATCHES_PER_S))
        self._pause_s = self._batch / rate
        self._sends: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    async def run(self) -> None:
        """Send until cancelled. Requests without an answer go on by themselves."""
        due_s = time.monotonic()
        for number, batch in enumerate(self._batches()):
            await self._flows.wait()
            while self._most_open is not None and self._history.open_count >= self._most_open:  # noqa: ASYNC110 - a history tells nobody
                await asyncio.sleep(OPEN_PAUSE_S)
            self._send(batch, number % self._nodes)
            due_s = max(due_s + self._pause_s, time.monotonic() - LATEST_S)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    def hold(self) -> None:
        """Send nothing new for now."""
        self._flows.clear()

    def release(self) -> None:
        """Go on."""
        self._flows.set()

    def send_again(self, positions: Sequence[int], avoid: Collection[int]) -> None:
        """Send transactions once more, to nodes that are not to be avoided: who took them has lost its disk."""
        others = [index for index in range(self._nodes) if index not in avoid]
        for turn, batch in enumerate(make_batches(self._history, positions, self._batch)):
            self._send(batch, others[turn % len(others)])

    @property
    def answered(self) -> bool:
        """Whether every request has its answer."""
        return not self._sends

    async def cancel(self) -> None:
        """Give up on requests without an answer."""
        for task in self._sends:
            task.cancel()
        await asyncio.gather(*self._sends, return_exceptions=True)

    def _send(self, batch: Batch, node: int) -> None:
        task = asyncio.create_task(self._client.send(batch, node))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    def _batches(self) -> Iterator[Batch]:
        for first in itertools.count(step=PORTION):
            raws = self._sign(range(first, first + PORTION), wall_ms())
            yield from make_batches(self._history, self._history.add(raws), self._batch)
