"""Talks HTTP to any of several nodes of one channel: rotates to the next one when a node fails, with time limits and backoff.

``aiohttp`` is imported when the first request is made, so that loading the client costs an agent on a small machine nothing else.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from consensus.errors import GridPactError, InputError

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
MAX_ANSWER_BYTES = 64 * 1024 * 1024
REFUSES = "refuses the connection"
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0
_ROUNDS = 3


class NodeUnreachable(GridPactError):
    """No node gave a usable answer.

    Args:
        causes: what went wrong, by URL.
    """

    def __init__(self, causes: Mapping[str, str]) -> None:
        super().__init__("no node answers: " + "; ".join(f"{url} {cause}" for url, cause in causes.items()))
        self.causes = dict(causes)

    @property
    def nobody_listens(self) -> bool:
        """Whether every node refused the connection: none runs."""
        return all(cause == REFUSES for cause in self.causes.values())


class Refused(GridPactError):
    """A node, or the ledger, refused what was asked for.

    Args:
        code: short code in capitals.
        detail: why, naming the part.
        transaction_id: which transaction, in hex; "" if it was none.
    """

    def __init__(self, code: str, detail: str, transaction_id: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.transaction_id = transaction_id


class Answer(NamedTuple):
    """One HTTP answer below 500, or a 503 that says why."""

    url: str
    status: int
    body: bytes


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of an answer that is not a success."""

    error: str
    detail: str
    id: str = ""


class BadAnswer(Exception):
    """A node answered something that cannot be right; another one may do better."""


class NodePool:
    """Requests to several nodes.

    Args:
        urls: of the nodes, such as ``http://127.0.0.1:8080``; the first is tried first.
        channel: which channel to ask for; None for the nodes' default.
        timeout_s: for one attempt at one node.

    Raises:
        InputError: there is no URL, or one is not of HTTP.
    """

    def __init__(self, urls: Sequence[str], channel: str | None = None, timeout_s: float = 10.0) -> None:
        self.urls = tuple(url.rstrip("/") for url in urls)
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise InputError("node", f"{url[:200]!r} does not start with http:// or https://")
        if not self.urls:
            raise InputError("node", "no URL of a node is given")
        self._query = {} if channel is None else {"channel": channel}
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._preferred = 0

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def session(self) -> aiohttp.ClientSession:
        """Return the session, made at the first call."""
        if self._session is None:
            from aiohttp import ClientSession, TCPConnector  # noqa: PLC0415 (lazy: see the module's docstring)

            self._session = ClientSession(connector=TCPConnector(limit=64))
        return self._session

    @property
    def preferred(self) -> str:
        """URL of the node that is tried first now."""
        return self.urls[self._preferred]

    def parameters(self, query: Mapping[str, object] | None) -> dict[str, str]:
        """Return the query of a request, with the channel in it."""
        return {**self._query, **{name: str(value) for name, value in (query or {}).items()}}

    def rotate(self, url: str) -> None:
        """Prefer the node after ``url`` from now on, if ``url`` is the preferred one."""
        if self.urls[self._preferred] == url:
            self._preferred = (self._preferred + 1) % len(self.urls)

    async def get(self, path: str, kind: type[T], query: Mapping[str, object] | None = None) -> T | None:
        """Return the answer of any node, or None for "no such thing".

        Raises:
            NodeUnreachable: no node gave a usable answer.
            Refused: the request does not fit.
        """
        causes: dict[str, str] = {}
        async for url in self.attempts():
            try:
                return read(await self.ask(url, "GET", path, query=query), kind)
            except BadAnswer as error:
                causes[url] = str(error)
                self.rotate(url)
        raise NodeUnreachable(causes)

    async def attempts(self) -> AsyncIterator[str]:
        """Yield URLs to try, from the preferred one on, some rounds, with growing pauses between the rounds."""
        pause_s = _FIRST_BACKOFF_S
        for turn in range(_ROUNDS):
            if turn:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries, no secret)
                pause_s = min(2 * pause_s, _MAX_BACKOFF_S)
            first = self._preferred
            for step in range(len(self.urls)):
                yield self.urls[(first + step) % len(self.urls)]

    async def ask(
        self,
        url: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        extra_s: float = 0.0,
    ) -> Answer:
        """Ask one node once.

        Args:
            extra_s: time that the node may take on purpose, on top of the time limit.

        Raises:
            BadAnswer: it is not reachable, too slow, faulty or sends too much.
        """
        from aiohttp import ClientError, ClientTimeout  # noqa: PLC0415

        headers = {} if body is None else {"Content-Type": "application/msgpack"}
        timeout = ClientTimeout(total=self._timeout_s + extra_s, sock_connect=min(self._timeout_s, 5.0))
        try:
            async with self.session().request(
                method, url + path, params=self.parameters(query), data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                parts, size = [], 0
                async for part in response.content.iter_any():
                    size += len(part)
                    if size > MAX_ANSWER_BYTES:
                        raise BadAnswer(f"answers more than {MAX_ANSWER_BYTES} bytes")
                    parts.append(part)
                status = response.status
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise BadAnswer(_why(error)) from error
        if status >= 500 and status != 503:
            raise BadAnswer(f"answers status {status}")
        return Answer(url, status, b"".join(parts))


def _why(error: Exception) -> str:
    """Return in a few words, on one line, why a node could not be asked."""
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ConnectionRefusedError):
        return REFUSES
    if isinstance(cause, ConnectionResetError):
        return "closes the connection"
    if isinstance(cause, socket.gaierror):
        return "has a host name that is not known"
    if isinstance(cause, OSError) and cause.strerror and cause.errno:
        return f"cannot be reached: {os.strerror(cause.errno).lower()}"
    return f"cannot be reached: {' '.join(str(error).split()) or type(error).__name__}"


def read(answer: Answer, kind: type[T]) -> T | None:
    """Return the value of an answer; None if there is no such thing.

    Raises:
        BadAnswer: the node cannot answer now, or answers nonsense.
        Refused: the request does not fit.
    """
    if answer.status in (200, 202):
        return parse(answer.body, kind)
    error = parse(answer.body, ErrorAnswer)
    if answer.status == 503:
        raise BadAnswer(f"{error.error}: {error.detail}")
    if answer.status == 404 and error.error == "NOT_FOUND":
        return None
    raise Refused(error.error, error.detail, error.id)


def parse(body: bytes, kind: type[T]) -> T:
    """Return JSON as a value of a type.

    Raises:
        BadAnswer: it is not.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"answers nonsense ({error})") from error


def as_message(data: str | bytes) -> dict[str, Any]:
    """Return one message of the event stream.

    Raises:
        BadAnswer: it is none.
    """
    return parse(data.encode() if isinstance(data, str) else data, dict[str, Any])
