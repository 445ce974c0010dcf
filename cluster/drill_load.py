"""The load of a drill: transfers and readings in turn, signed a portion at a time, sent at a steady rate until answered."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Iterator, Sequence

from cluster.history import History
from cluster.lab import Lab
from cluster.load import Batch, LoadClient, make_batches
from cluster.workload import Actors, Kind, sign_range
from node.clock import wall_ms

BATCHES_PER_S = 20
PORTION = 200
LATEST_S = 1.0
"""How far the stream may fall behind before it leaves out what it did not send in time."""
LOAD_KINDS: tuple[Kind, ...] = ("transfer", "reading")


class DrillLoad:
    """A stream of transactions to all nodes in turn, which can be held.

    Args:
        lab: the cluster, by its URLs and its genesis.
        actors: who sends.
        history: where everything is noted.
        client: sends.
        rate: transactions per second.
    """

    def __init__(self, lab: Lab, actors: Actors, history: History, client: LoadClient, rate: int) -> None:
        self._lab = lab
        self._actors = actors
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
            self._send(batch, number % len(self._lab.urls))
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
        others = [index for index in range(len(self._lab.urls)) if index not in avoid]
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
            numbers = range(first, first + PORTION)
            parts = [sign_range(self._lab.genesis, self._actors, kind, numbers, wall_ms()) for kind in LOAD_KINDS]
            raws = [raw for pair in zip(*parts, strict=True) for raw in pair]
            yield from make_batches(self._history, self._history.add(raws), self._batch)
