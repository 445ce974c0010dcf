"""One request on its way to its handler: the channel it is for, its checked parameters, its bounded body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from node.event_hub import DEFAULT_QUEUE
from node.http.errors import ApiError, bad_parameter
from node.http.service import ChannelService
from node.metrics import NodeMetrics

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one client can ask for.

    Attributes:
        max_batch_transactions: transactions in one batch request.
        max_batch_bytes: body of a batch request.
        max_websockets: open event streams at once.
        max_waiting: requests that wait for a transaction at once.
        max_wait_s: longest such wait.
        max_page, max_book_page: entries of a list, of a book in one answer.
        request_timeout_s: time to read and answer a request, waiting not counted.
        event_queue: events that may wait for one slow stream.
        send_timeout_s: time that a stream's client may take to read.
    """

    max_batch_transactions: int = 1_000
    max_batch_bytes: int = 4 * 1024 * 1024
    max_requests: int = 512
    max_websockets: int = 256
    max_waiting: int = 512
    max_wait_s: float = 30.0
    max_page: int = 100
    max_book_page: int = 1_000
    request_timeout_s: float = 10.0
    event_queue: int = DEFAULT_QUEUE
    send_timeout_s: float = 10.0


@dataclass(slots=True)
class ApiContext:
    """What all requests of one server share.

    Attributes:
        channels: by name; the first is the default.
        metrics: of the process.
        limits: bounds on requests.
        files: the dashboard's files by name, with their media types.
        document: the OpenAPI document, encoded.
        requests, websockets, waiting: requests, open event streams and waiting requests now.
    """

    channels: Mapping[str, ChannelService]
    metrics: NodeMetrics
    limits: Limits
    files: Mapping[str, tuple[str, bytes]]
    document: bytes
    requests: int = 0
    websockets: int = 0
    waiting: int = 0
    _running: set[asyncio.Task[Any]] = field(default_factory=set)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` to its end even if the client goes away meanwhile: nothing is left half done."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def settle(self, timeout_s: float) -> None:
        """Wait for work whose client went away."""
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=timeout_s)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, with what its handler needs."""

    request: web.Request
    channel: ChannelService
    api: ApiContext

    def name(self, part: str) -> str:
        """Return the path part ``part`` if it is a name.

        Raises:
            ApiError: it is not.
        """
        value = self.request.match_info[part]
        if not _NAME.fullmatch(value):
            raise bad_parameter(part, f"{value[:64]!r} is not a name of letters, digits, '.', '_' and '-' (at most 64)")
        return value

    def digest(self, part: str) -> bytes:
        """Return the path part ``part`` if it is 32 bytes in hex.

        Raises:
            ApiError: it is not.
        """
        value = self.request.match_info[part].lower()
        if not _ID.fullmatch(value):
            raise bad_parameter(part, "must be 64 hexadecimal digits")
        return bytes.fromhex(value)

    def number(self, part: str) -> int:
        """Return the path part ``part`` if it is a natural number.

        Raises:
            ApiError: it is not.
        """
        return _natural(part, self.request.match_info[part])

    def query(self, parameter: str, default: int, most: int | None = None) -> int:
        """Return a natural number from the query.

        Raises:
            ApiError: it is none, or more than ``most``.
        """
        text = self.request.query.get(parameter)
        value = default if text is None else _natural(parameter, text)
        if most is not None and value > most:
            raise bad_parameter(parameter, f"{value} is more than {most}")
        return value

    def page(self, most: int) -> int:
        """Return the length of the page that is asked for.

        Raises:
            ApiError: it is not between 1 and ``most``.
        """
        limit = self.query("limit", most, most)
        if limit < 1:
            raise bad_parameter("limit", "must be at least 1")
        return limit

    def optional_name(self, parameter: str) -> str:
        """Return a name from the query, "" if there is none.

        Raises:
            ApiError: it is not a name.
        """
        text = self.request.query.get(parameter, "")
        if text and not _NAME.fullmatch(text):
            raise bad_parameter(parameter, f"{text[:64]!r} is not a name")
        return text

    def flag(self, parameter: str, default: bool) -> bool:
        """Return a switch (0 or 1) from the query.

        Raises:
            ApiError: it is neither.
        """
        return self.query(parameter, int(default), 1) == 1

    def seconds(self, parameter: str, most: float) -> float:
        """Return a length of time from the query, 0 if none is given.

        Raises:
            ApiError: it is not between 0 and ``most``.
        """
        text = self.request.query.get(parameter, "0")
        if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) > most:
            raise bad_parameter(parameter, f"must be seconds, from 0 to {most:g}")
        return float(text)

    async def body(self, max_bytes: int) -> bytes:
        """Read the body.

        Raises:
            ApiError: it is longer than ``max_bytes`` (unpacked); the rest is not read.
        """
        error = ApiError(413, "TOO_LARGE", f"body: more than {max_bytes} bytes")
        if (self.request.content_length or 0) > max_bytes:
            raise error
        parts, size = [], 0
        async for part in self.request.content.iter_any():
            size += len(part)
            if size > max_bytes:
                raise error
            parts.append(part)
        return b"".join(parts)


def _natural(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise bad_parameter(name, f"{text[:64]!r} is not a natural number")
    return int(text)


Handler = Callable[[Call], Coroutine[Any, Any, object]]
"""Answers a request with a value to show as JSON, or with a whole response."""
