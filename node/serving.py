"""Serving: certified blocks and snapshots for those who ask, as fast as is good for everybody.

Law. One answer is read at a time, in a thread, in turn for all who ask; a node that had its share waits for its next one. Of one node a few
requests wait; what comes beyond them is dropped (it asks again). So nobody, validator or guest, keeps a node from its work by asking.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor as Threads

from consensus.block import CertifiedBlock
from consensus.codec import encode
from consensus.effects import ServeBlocks, ServeChunk, ServeSnapshot
from consensus.messages import BlocksMessage, ChunkMessage, SnapshotMessage
from node.block_store import ChannelStore
from node.clock import Clock
from node.snapshots import SnapshotShelf

MAX_SERVED_BYTES = 8 * 1024 * 1024
"""So many bytes of blocks go into one message, if there are several."""
RATE_BYTES_PER_S = 32 * 1024 * 1024
BURST_BYTES = 16 * 1024 * 1024
LEAST_BYTES = 16 * 1024
"""What a request costs, even if there is no answer."""
MAX_WAITING = 4
MAX_ASKERS = 1_000
Request = ServeBlocks | ServeSnapshot | ServeChunk


class Serving:
    """Answers requests for blocks and snapshots of one channel.

    Args:
        store, shelf, clock: of the channel.
        threads: where the disk is read.
        send: sends an encoded message to one node.
    """

    def __init__(
        self, store: ChannelStore, shelf: SnapshotShelf, clock: Clock, threads: Threads, send: Callable[[str, bytes], None]
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._clock = clock
        self._threads = threads
        self._send = send
        self._asked: dict[str, deque[Request]] = {}
        self._free_ms: dict[str, int] = {}
        self._wake = asyncio.Event()

    def ask(self, request: Request) -> None:
        """Take a request; it is dropped if too many of the same node wait."""
        waiting = self._asked.setdefault(request.peer, deque())
        if len(waiting) < MAX_WAITING and request not in waiting:
            waiting.append(request)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            StoreError: the disk cannot be read.
        """
        loop = asyncio.get_running_loop()
        while True:
            request = await self._next()
            answer = await loop.run_in_executor(self._threads, self._read, request)
            self._charge(request.peer, max(LEAST_BYTES, len(answer) if answer is not None else 0))
            if answer is not None:
                self._send(request.peer, answer)

    async def _next(self) -> Request:
        """Return the next request of a node whose turn it is, and let it go to the end of the line."""
        while True:
            now_ms = self._clock.monotonic_ms()
            due = next((peer for peer in self._asked if self._wait_ms(peer, now_ms) <= 0), None)
            if due is not None:
                waiting = self._asked.pop(due)
                request = waiting.popleft()
                if waiting:
                    self._asked[due] = waiting
                return request
            self._wake.clear()
            timeout_s = min((self._wait_ms(peer, now_ms) / 1_000 for peer in self._asked), default=None)
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _wait_ms(self, peer: str, now_ms: int) -> int:
        """Return how long a node has to wait for its next answer."""
        return self._free_ms.get(peer, now_ms) - now_ms - BURST_BYTES * 1_000 // RATE_BYTES_PER_S

    def _charge(self, peer: str, size: int) -> None:
        """Note what a node got: ``_free_ms`` is when its whole burst is there again."""
        now_ms = self._clock.monotonic_ms()
        if len(self._free_ms) >= MAX_ASKERS:
            self._free_ms = {name: free_ms for name, free_ms in self._free_ms.items() if free_ms > now_ms}
        self._free_ms[peer] = max(self._free_ms.get(peer, now_ms), now_ms) + -(-size * 1_000 // RATE_BYTES_PER_S)

    def _read(self, request: Request) -> bytes | None:
        """Return the encoded answer, None if what is asked for is not here."""
        if isinstance(request, ServeBlocks):
            return self._read_blocks(request)
        if isinstance(request, ServeSnapshot):
            manifest = self._shelf.manifest(request.height)
            return encode(SnapshotMessage(manifest)) if manifest is not None else None
        chunk = self._shelf.chunk(request.height, request.index)
        return encode(ChunkMessage(request.height, request.index, chunk)) if chunk is not None else None

    def _read_blocks(self, request: ServeBlocks) -> bytes | None:
        """Return certified blocks, as many as fit into one message."""
        blocks: list[CertifiedBlock] = []
        size = 0
        for height in range(request.first, request.last + 1):
            raw, certificate = self._store.encoded_block(height), self._store.certificate(height) or request.instead
            if raw is None or certificate is None or (blocks and size + len(raw) > MAX_SERVED_BYTES):
                break
            blocks.append(CertifiedBlock(raw, certificate))
            size += len(raw)
        return encode(BlocksMessage(tuple(blocks))) if blocks else None
