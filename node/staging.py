"""Staging: parts of a snapshot on their way to the disk, beside the blocks.

Law. The parts are staged in the order in which they came, and wait for no block: a batch whose transactions cannot be found may be the very
reason for the snapshot. What waits is bounded: links read no further part while there is no room.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor as Threads

from consensus.effects import StageChunk, StageSnapshot
from node.block_store import ChannelStore

MAX_WAITING = 16


class Staging:
    """Stages snapshots of one channel.

    Args:
        store: of the channel.
        threads: where the disk is waited for.
        writing: held while blocks or base of the store change.
    """

    def __init__(self, store: ChannelStore, threads: Threads, writing: asyncio.Lock) -> None:
        self._store = store
        self._threads = threads
        self._writing = writing
        self._queue: asyncio.Queue[StageSnapshot | StageChunk] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, part: StageSnapshot | StageChunk) -> None:
        """Queue a part; a new snapshot takes the place of what waits of another one."""
        if isinstance(part, StageSnapshot):
            while not self._queue.empty():
                self._queue.get_nowait()
                self._queue.task_done()
        self._queue.put_nowait(part)
        if self._queue.qsize() >= MAX_WAITING:
            self._room.clear()

    async def room(self) -> None:
        """Wait until another part may come."""
        await self._room.wait()

    async def finished(self) -> None:
        """Wait until everything that was queued is staged."""
        await self._queue.join()

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            StoreError: the disk refused a part.
        """
        loop = asyncio.get_running_loop()
        while True:
            part = await self._queue.get()
            if self._queue.qsize() < MAX_WAITING:
                self._room.set()
            async with self._writing:
                if isinstance(part, StageSnapshot):
                    await loop.run_in_executor(self._threads, self._store.stage_begin)
                else:
                    await loop.run_in_executor(self._threads, self._store.stage_put, part.chunk.entries)
            self._queue.task_done()
