"""Puts load on a cluster through the HTTP batch endpoint, and watches certified blocks; made to cost little, since it shares the cores.

Clients behave as real ones should: what is not answered is sent again, to another node; what finds no room is sent again later.
A *closed* loop keeps so many transactions under way; an *open* loop sends at a fixed rate whatever comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import aiohttp
import msgspec

from cluster.history import History
from consensus.codec import encode
from node.http.views import BEHIND, PASSING

HEADERS = {"Content-Type": "application/msgpack"}
PASSING_PAUSE_S = 0.05
DOWN_PAUSE_S = 0.05
WATCH_PAUSE_S = 0.2
CALL_TIMEOUT_S = 10.0


class Answer(msgspec.Struct, frozen=True):
    """What became of one submitted transaction."""

    id: str
    code: str


class HeaderPart(msgspec.Struct, frozen=True):
    """What is read of a block's header."""

    height: int
    hash: str
    previous_hash: str
    state_root: str


class EventPart(msgspec.Struct, frozen=True):
    """What is read of what happened to a meter's reading; empty where it is about something else."""

    event: str
    meter: str = ""
    sequence: int = 0


class ReceiptPart(msgspec.Struct, frozen=True):
    """What is read of a receipt."""

    transaction_id: str
    code: str
    events: tuple[EventPart, ...] = ()


class BlockPart(msgspec.Struct, frozen=True):
    """What is read of a block."""

    header: HeaderPart
    certified: bool
    transactions: tuple[str, ...]
    receipts: tuple[ReceiptPart, ...]


class BlockLine(msgspec.Struct, frozen=True):
    """What is read of a block in a list."""

    height: int
    hash: str


class BlockPage(msgspec.Struct, frozen=True):
    """A page of the list of blocks, newest first."""

    blocks: tuple[BlockLine, ...]


class BlockEvent(msgspec.Struct, frozen=True):
    """What is read of the event stream."""

    event: str
    height: int = 0


_decode_answers = msgspec.json.Decoder(list[Answer])
_decode_block = msgspec.json.Decoder(BlockPart)
_decode_page = msgspec.json.Decoder(BlockPage)
_decode_event = msgspec.json.Decoder(BlockEvent)


class Batch(NamedTuple):
    """Positions in the history that are sent together, with the request's body, encoded before the clock starts."""

    positions: Sequence[int]
    body: bytes


def make_batches(history: History, positions: Sequence[int], size: int) -> list[Batch]:
    """Return the batches of some transactions, encoded."""
    return [_batch(history, positions[first : first + size]) for first in range(0, len(positions), size)]


def _batch(history: History, positions: Sequence[int]) -> Batch:
    return Batch(positions, encode(tuple(history.raws[position] for position in positions)))


class LoadClient:
    """Sends batches and notes in the history what comes back.

    Args:
        session: HTTP connections.
        urls: of the nodes, by index.
        history: where everything is noted.
        now: monotonic seconds.
        timeout_s: for one attempt at one node.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: Sequence[str],
        history: History,
        now: Callable[[], float],
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._session = session
        self._urls = [url + "/v1/transactions/batch" for url in urls]
        self._history = history
        self._now = now
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def send(self, batch: Batch, node: int, due_s: float | None = None) -> None:
        """Send a batch until every transaction in it has a final answer.

        Args:
            node: which node is tried first.
            due_s: when it should have been sent (open loop); None: now.
        """
        while True:
            self._history.note_sent(batch.positions, self._now() if due_s is None else due_s)
            answers = await self._post(batch.body, node)
            if answers is None or len(answers) != len(batch.positions):
                node = (node + 1) % len(self._urls)
                await asyncio.sleep(DOWN_PAUSE_S)
                continue
            again, behind = [], False
            for position, answer in zip(batch.positions, answers, strict=True):
                if answer.code in PASSING:
                    again.append(position)
                    behind = behind or answer.code == BEHIND
                else:
                    self._history.note_answer(position, node, answer.code)
            if not again:
                return
            batch = _batch(self._history, again)
            node = (node + behind) % len(self._urls)
            await asyncio.sleep(PASSING_PAUSE_S)

    async def _post(self, body: bytes, node: int) -> list[Answer] | None:
        """Return a node's answers; None if it gives none."""
        try:
            async with self._session.post(self._urls[node], data=body, headers=HEADERS, timeout=self._timeout) as response:
                content = await response.read()
                return _decode_answers.decode(content) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
            return None


class BlockWatch:
    """Notes in the history when transactions are first seen in certified blocks, from the event streams of some nodes.

    Args:
        session: HTTP connections.
        urls: of the nodes to watch; the first to tell of a block counts.
        history: where it is noted.
        now: monotonic seconds.
        timeout_s: for one block from one node.

    Attributes:
        height: highest certified block whose transactions were noted.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: Sequence[str],
        history: History,
        now: Callable[[], float],
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._urls = tuple(urls)
        self._history = history
        self._now = now
        self.height = 0
        self._told: dict[int, float] = {}
        self._news = asyncio.Event()
        self._progress = asyncio.Condition()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for url in self._urls:
                group.create_task(self._listen(url))
            group.create_task(self._read_blocks())

    async def wait_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``done()``, asked after every block; tell False if it does not come true in time."""
        try:
            async with asyncio.timeout(timeout_s), self._progress:
                await self._progress.wait_for(done)
        except TimeoutError:
            return done()
        return True

    async def _listen(self, url: str) -> None:
        """Follow one node's stream; a connection that fails is made again."""
        while True:
            try:
                async with self._session.ws_connect(url + "/v1/events", params={"kinds": "block"}, heartbeat=5.0) as socket:
                    async for message in socket:
                        if message.type is not aiohttp.WSMsgType.TEXT:
                            break
                        self._note(_decode_event.decode(message.data))
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
                await asyncio.sleep(WATCH_PAUSE_S)
                continue
            await asyncio.sleep(WATCH_PAUSE_S)

    def _note(self, event: BlockEvent) -> None:
        """Note the time of all heights up to an event's; the greeting tells of earlier blocks that are certified, or will be soon."""
        if event.event not in ("block", "hello"):
            return
        top = max(self._told, default=self.height)
        for height in range(top + 1, event.height + 1):
            self._told[height] = self._now()
        self._news.set()

    async def _read_blocks(self) -> None:
        """Read the transactions of every block that was told of, in order."""
        turn = 0
        while True:
            height = self.height + 1
            if height not in self._told:
                self._news.clear()
                await self._news.wait()
                continue
            block = await self._read(self._urls[turn % len(self._urls)], height)
            if block is None or not block.certified:
                turn += 1
                await asyncio.sleep(0.005 if block is not None else DOWN_PAUSE_S)
                continue
            seen_s = self._told.pop(height)
            for transaction in block.transactions:
                self._history.note_certified(bytes.fromhex(transaction), seen_s)
            self.height = height
            async with self._progress:
                self._progress.notify_all()

    async def _read(self, url: str, height: int) -> BlockPart | None:
        try:
            return await read_block(self._session, url, height, receipts=False, timeout_s=self._timeout_s)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
            return None


async def read_block(
    session: aiohttp.ClientSession, url: str, height: int, *, receipts: bool, timeout_s: float = CALL_TIMEOUT_S
) -> BlockPart | None:
    """Return one block of a node; None if it does not have it.

    Raises:
        aiohttp.ClientError, TimeoutError, OSError: the node does not answer.
        msgspec.MsgspecError: it answers nonsense.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with session.get(f"{url}/v1/blocks/{height}", params={"receipts": str(int(receipts))}, timeout=timeout) as response:
        content = await response.read()
        return _decode_block.decode(content) if response.status == 200 else None


async def read_block_page(session: aiohttp.ClientSession, url: str, before: int) -> tuple[BlockLine, ...]:
    """Return the node's blocks below a height, newest first, as many as it gives at once.

    Raises:
        aiohttp.ClientError, TimeoutError, OSError: the node does not answer.
        msgspec.MsgspecError: it answers nonsense.
    """
    timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
    async with session.get(f"{url}/v1/blocks", params={"before": str(before)}, timeout=timeout) as response:
        return _decode_page.decode(await response.read()).blocks
