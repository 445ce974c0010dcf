"""Packed frames on their way to one node: a bounded queue, and how it is poured into a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import NoReturn

from node.framing import KEEPALIVE

WRITE_BYTES = 256 * 1024
"""Frames are joined into writes of about this size."""


class Flow(Enum):
    """What happens to frames that are put into a queue."""

    HELD = "held"
    """They wait: the other side has not shown yet that it takes them."""
    OPEN = "open"
    """They are written."""
    SHUT = "shut"
    """They are dropped at once: the other side is away, and they would only grow stale."""


class FrameQueue:
    """Frames that wait to be written to one node.

    Args:
        max_bytes: bound of what waits; a frame over it is dropped.
        flow: what happens to frames at first.

    Attributes:
        size_bytes: waiting now.
        dropped: frames dropped so far.
    """

    def __init__(self, max_bytes: int, flow: Flow = Flow.HELD) -> None:
        self.size_bytes = 0
        self.dropped = 0
        self._max_bytes = max_bytes
        self._flow = flow
        self._frames: deque[bytes] = deque()
        self._wake = asyncio.Event()

    def put(self, data: bytes) -> bool:
        """Queue one packed frame; False if it is dropped."""
        if self._flow is Flow.SHUT or self.size_bytes + len(data) > self._max_bytes:
            self.dropped += 1
            return False
        self._frames.append(data)
        self.size_bytes += len(data)
        self._wake.set()
        return True

    def open(self) -> None:
        """Let the frames flow."""
        self._flow = Flow.OPEN
        self._wake.set()

    def hold(self) -> None:
        """Keep what waits and what comes."""
        self._flow = Flow.HELD

    def shut(self) -> None:
        """Drop what waits, and what comes until :meth:`open`."""
        self._flow = Flow.SHUT
        self.dropped += len(self._frames)
        self._frames.clear()
        self.size_bytes = 0

    async def pour(self, writer: asyncio.StreamWriter, keepalive_ms: int) -> NoReturn:
        """Write what waits as it may flow, and a keepalive whenever nothing was written for so long.

        Raises:
            OSError: the connection broke.
        """
        while True:
            if self._flow is Flow.OPEN and self._frames:
                writer.write(self._next_write())
            else:
                self._wake.clear()
                try:
                    async with asyncio.timeout(keepalive_ms / 1000):
                        await self._wake.wait()
                except TimeoutError:
                    writer.write(KEEPALIVE)
            await writer.drain()

    def _next_write(self) -> bytes:
        """Take frames off the queue, joined up to :data:`WRITE_BYTES`."""
        parts = []
        size = 0
        while self._frames and size < WRITE_BYTES:
            parts.append(self._frames.popleft())
            size += len(parts[-1])
        self.size_bytes -= size
        return b"".join(parts)
