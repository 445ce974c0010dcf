"""Upkeep of one channel's history: snapshots at regular heights, and letting old blocks go.

Law. A snapshot is made of the state at a height that is a multiple of ``snapshot_every``, and shelved when that block has its
certificate: so all nodes shelve the same ones. Blocks go only below what a snapshot of this node and the water marks cover, and only if the
new base is certified here: certificates that were lost with the power may be had from nobody any more (:mod:`consensus.state_transfer`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Threads
from contextlib import suppress
from threading import Event

import structlog

from consensus.errors import InputError
from node.block_store import ChannelStore
from node.opening import ChannelDisk
from node.pace import Pace, StoppedError
from node.pruning import prune_target
from node.state_store import PinnedState

log = structlog.get_logger("gridpact.upkeep")
PRUNE_EVERY = 64
SWEEP_PERCENT = 50
"""How much of the time deleting may take."""


class Upkeep:
    """Makes snapshots and prunes.

    Args:
        disk: of the channel.
        window: sequences between the water marks.
        proofs: returns the proofs of all epochs so far.
        pruned: told of the lowest height that is left.
        threads: where the work is done.
        writing: held while blocks or base of the store change.
    """

    def __init__(
        self,
        disk: ChannelDisk,
        window: int,
        proofs: Callable[[], Sequence[bytes]],
        pruned: Callable[[int], None],
        threads: Threads,
        writing: asyncio.Lock,
    ) -> None:
        self._disk = disk
        self._window = window
        self._proofs = proofs
        self._pruned = pruned
        self._threads = threads
        self._writing = writing
        self._pinned: dict[int, PinnedState] = {}
        self._due: asyncio.Queue[int | None] = asyncio.Queue()
        self._stop = Event()

    @property
    def _store(self) -> ChannelStore:
        return self._disk.store

    def executed(self, height: int) -> None:
        """Hold on to the state after this block, if a snapshot is made of it."""
        if self._disk.snapshot_every and height % self._disk.snapshot_every == 0:
            self._pinned = {height: self._store.state.pinned()}

    def certified(self, height: int) -> None:
        """Look whether there is something to do, now that this block is final."""
        if height in self._pinned or (self._disk.retain_blocks and height % PRUNE_EVERY == 0):
            self._due.put_nowait(height)

    def replaced(self) -> None:
        """Delete the state whose place a snapshot took, and the blocks before it."""
        self._pinned = {}
        self._due.put_nowait(None)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self._work()
        finally:
            self._stop.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._sweep)
        while True:
            await self._do(await self._due.get())
            self._due.task_done()

    async def finished(self) -> None:
        """Wait until all that was due is done."""
        await self._due.join()

    async def _do(self, height: int | None) -> None:
        """Do what is due at this height (None: a snapshot was adopted)."""
        loop = asyncio.get_running_loop()
        if height is None:
            await loop.run_in_executor(self._threads, self._sweep)
            return
        pinned = self._pinned.pop(height, None)
        if pinned is not None:
            await loop.run_in_executor(self._threads, self._shelve, height, pinned)
        if self._disk.retain_blocks:
            await self._prune(height)

    def _sweep(self) -> None:
        """Delete what counts no more; what is left when the node stops goes at its next start."""
        pace = Pace(SWEEP_PERCENT, self._stop)
        with suppress(StoppedError):
            for _ in self._store.sweep():
                pace.step()

    def _shelve(self, height: int, pinned: PinnedState) -> None:
        header, certificate = self._store.header(height), self._store.certificate(height)
        if header is None or certificate is None:
            return
        try:
            if self._disk.shelf.make(pinned, header, certificate, tuple(self._proofs())):
                log.info("made a snapshot", height=height)
        except InputError as error:
            log.error("no snapshot can be made: the blocks from the last one on are kept", height=height, reason=str(error))

    async def _prune(self, certified: int) -> None:
        head = self._store.head()
        newest = self._disk.shelf.newest_height
        if head is None:
            return
        target = prune_target(head.height, certified, self._disk.retain_blocks, newest, self._window)
        if target > self._store.first_height and self._store.certificate(target - 1) is not None:
            self._pruned(target)
            loop = asyncio.get_running_loop()
            async with self._writing:
                await loop.run_in_executor(self._threads, self._store.prune, target)
            await loop.run_in_executor(self._threads, self._sweep)
            log.info("pruned", first_height=target)
