"""The target `http`: raw bytes over a real socket into the real API, in front of a real channel."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import msgspec

from cluster.fuzz.forgery import Forger
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.requests import Known, Requests, request
from cluster.fuzz.running import RunningChannel
from cluster.fuzz.world import FIRST_PERIOD, METERS, SENDERS, VALIDATORS, history
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.transaction import decode_transaction
from node.http.call import Limits
from node.http_api import HttpApi

SERVER_S, CLIENT_S, MORE_S = 0.1, 1.5, 0.15
"""How long the server waits for a request, this client for an answer, and for more of it: some requests announce more than they bring."""
GONE_S = 15.0
MAX_TASKS = 200
MAX_ANSWER = 4 * 1024 * 1024
RENEW_AFTER = 20_000
LAST = request("GET", "/web/end", "Connection: close\r\n")
"""Comes after every input, so that the server closes when it has answered."""
DOCUMENTED_503 = frozenset({"FULL", "BEHIND", "BUSY", "TIMEOUT", "TOO_MANY_WAITING", "TOO_MANY_WEBSOCKETS", "UNHEALTHY", "NOT_CERTIFIED"})


class Answer(NamedTuple):
    """One answer of the server."""

    status: int
    is_json: bool
    body: bytes


class HttpTarget:
    """Every input is what a client sends over one connection."""

    stateful = True
    renew_after = RENEW_AFTER

    def __init__(self, folder: Path) -> None:
        self._running = running = RunningChannel(folder / "channel")
        limits = Limits(request_timeout_s=SERVER_S, max_wait_s=0.05, max_page=20)
        self._api = HttpApi([running.channel], running.metrics, host="127.0.0.1", port=0, limits=limits)
        running.do(self._api.start())
        forger = Forger(running.channel.application.view, running.clock.now_ms)
        self._requests = Requests(_known(running), forger.change)

    def seeds(self) -> Sequence[bytes]:
        """Return good requests for every path, and two event streams."""
        return self._requests.seeds(_as_json, lambda raws: encode(tuple(raws)))

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return a request changed."""
        return self._requests.change(data, mutator)

    def close(self) -> None:
        """Stop the server and the channel."""
        self._running.do(self._api.stop())
        self._running.close()

    def check(self) -> None:
        """Check that nothing stays behind of the connections that were.

        Raises:
            LawBrokenError: event streams or tasks do.
        """
        self._running.do(self._all_gone())

    async def _all_gone(self) -> None:
        """Wait until the server has noticed that its clients are gone."""
        end_s = time.monotonic() + GONE_S
        while True:
            (answer,) = await self._exchange(request("GET", "/v1/status", "Connection: close\r\n"))
            websockets, tasks = msgspec.json.decode(answer.body)["websockets"], self._running.tasks()
            if not websockets and tasks < MAX_TASKS:
                return
            if time.monotonic() > end_s:
                raise LawBrokenError(f"{websockets} event streams and {tasks} tasks are left")
            await asyncio.sleep(0.01)

    def run(self, data: bytes) -> str:
        """Send the input, read all answers, judge them."""
        answers = self._running.do(self._exchange(data + LAST))
        self._running.check()
        for answer in answers:
            _judge(answer)
        statuses = [answer.status for answer in answers]
        good = any(status < 400 for status in statuses)
        return f"{'accepted' if good else 'refused'}: {', '.join(_shown(answer) for answer in answers[:3]) or 'no answer'}"

    async def _exchange(self, data: bytes) -> list[Answer]:
        """Return the answers to what is sent over a new connection, read until the server closes it (or says nothing more)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._api.port)
        received = b""
        try:
            writer.write(data)
            while len(received) < MAX_ANSWER:
                async with asyncio.timeout(MORE_S if received else CLIENT_S):
                    part = await reader.read(65_536)
                if not part:
                    break
                received += part
        except (TimeoutError, ConnectionError):
            pass  # an unfinished request waits for its rest, an unfinished stream for its end: then the client ends it
        finally:
            writer.transport.abort()
        return _answers(received)


def _answers(received: bytes) -> list[Answer]:
    """Cut what a server sent into answers; what follows a change of protocol is none."""
    answers = []
    while received.startswith(b"HTTP/1."):
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        status = int(lines[0].split()[1])
        length = 0 if rest.startswith(b"HTTP/1.") else int(fields.get("content-length", 0))
        if status != 100:
            answers.append(Answer(status, fields.get("content-type", "").startswith("application/json"), rest[:length]))
        if status == 101:
            break
        received = rest[length:]
    return answers


def _judge(answer: Answer) -> None:
    """Check one answer. What is no HTTP at all gets status 400 as plain text, from the library: there is no request to speak of.

    Raises:
        LawBrokenError: it is none that the document allows.
    """
    if answer.is_json and answer.body:
        try:
            content = json.loads(answer.body)
        except ValueError as error:
            raise LawBrokenError(f"status {answer.status} with what is no JSON: {answer.body[:80]!r}") from error
        code = content.get("error") if isinstance(content, dict) else None
        if answer.status >= 400 and not (isinstance(code, str) and isinstance(content.get("detail"), str)):
            raise LawBrokenError(f"status {answer.status} without error and detail: {answer.body[:80]!r}")
        if answer.status >= 500 and not (answer.status == 503 and code in DOCUMENTED_503):
            raise LawBrokenError(f"status {answer.status} {code}")
    elif answer.status >= 500:
        raise LawBrokenError(f"status {answer.status} {answer.body[:80]!r}")
    elif answer.status > 400 and answer.body:
        raise LawBrokenError(f"status {answer.status} not as JSON: {answer.body[:80]!r}")


def _shown(answer: Answer) -> str:
    code = ""
    if answer.is_json and answer.status >= 400 and answer.body:
        code = str(json.loads(answer.body).get("error", ""))
    return code or HTTPStatus(answer.status).phrase


def _known(running: RunningChannel) -> Known:
    """Return what exists on the chain."""
    chain = running.play.chain
    ids = tuple(decode_transaction(raw).id.hex() for made in chain.made for raw in made.block.transactions)
    heights = ("latest", *(str(height) for height in range(len(chain.made) + 2)))
    periods = ("current", "trading", *(str(FIRST_PERIOD + number) for number in range(-1, 9)))
    words = {
        "height": heights,
        "period": periods,
        "account": SENDERS,
        "meter": METERS,
        "validator": VALIDATORS,
        "id": ids,
        "file": ("index.html", "dashboard.js", "x"),
    }
    blocks = history(running.play.genesis)
    past = [next(blocks)[1] for _ in chain.made]
    waiting = [raw for _ in range(12) for raw in next(blocks)[1]]
    return Known(words, (*waiting, *past[-1]))


def _as_json(raws: Sequence[bytes]) -> bytes:
    """Return transactions as the API takes them in JSON."""
    shown = []
    for raw in raws:
        try:
            envelope = decode_transaction(raw).envelope
        except DecodeError:
            continue
        parts = {"public_key": envelope.public_key, "body": envelope.body, "signature": envelope.signature}
        shown.append({"scheme": envelope.scheme, **{name: part.hex() for name, part in parts.items()}})
    return msgspec.json.encode(shown)
