"""A real channel that runs in this process, with real stores and without peers: what stands behind the API and the meter feed."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog
import uvloop
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.rehearsal import rehearsed
from cluster.fuzz.stored import BACKUP, build_folder
from cluster.fuzz.world import STEP_MS, VALIDATORS, signer_of
from node.block_store import BLOCKS_FOLDER, ChannelStore
from node.channel import Channel
from node.clock import monotonic_ms
from node.framing import Frame
from node.metrics import NodeMetrics
from node.opening import ChannelDisk, Identity
from node.snapshots import SNAPSHOTS_FOLDER, SnapshotShelf
from node.transport import PeerLinks
from node.vote_log import VOTES_FOLDER, VoteLog

T = TypeVar("T")
PATIENCE_S = 30.0
OTHERS = (1, 3)
"""Who says once where the chain stands, so that the node knows that it is level, and refuses for good what it refuses."""
LIBRARIES = ("asyncio", "aiohttp.server", "aiohttp.web", "aiomqtt", "mqtt")


class Mishaps(logging.Handler):
    """What went wrong where nobody sees it: errors that were logged with a traceback, tasks and callbacks that failed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._seen: list[tuple[str, BaseException | None]] = []
        self._before = structlog.get_config()
        structlog.configure(
            processors=[self._note],
            wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        for name in LIBRARIES:
            logging.getLogger(name).addHandler(self)
            logging.getLogger(name).propagate = False

    def _note(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        """Keep an event of the node's log that has a traceback."""
        if event.get("exc_info"):
            error = event["exc_info"] if isinstance(event["exc_info"], BaseException) else sys.exc_info()[1]
            self._seen.append((str(event.get("event")), error))
        return ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a library says about an exception; a request that is no HTTP, or not coded as it says, is the client's fault."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is not None and not isinstance(error, HttpProcessingError | web.RequestPayloadError):
            self._seen.append((record.getMessage(), error))

    def on_loop(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep what the event loop says about a task or callback."""
        self._seen.append((str(context.get("message")), context.get("exception")))

    def raise_first(self) -> None:
        """Raise what was seen since the last call.

        Raises:
            LawBrokenError: from the exception, if there is one.
        """
        if self._seen:
            (text, error), self._seen = self._seen[0], []
            raise LawBrokenError(f"{text}: {error}") from error

    def end(self) -> None:
        """Let others log again."""
        structlog.configure(**self._before)
        for name in LIBRARIES:
            logging.getLogger(name).removeHandler(self)
            logging.getLogger(name).propagate = True


class QuietLinks:
    """Links to peers that are all away."""

    peers: tuple[str, ...] = VALIDATORS

    def send(self, _peer: object, _frame: Frame) -> None:
        """Lose a frame."""

    def broadcast(self, _frame: Frame, _to: object = None) -> None:
        """Lose a frame."""

    def status(self) -> list[object]:
        """Return no links."""
        return []


class StandingClock:
    """Chain time stands a while after the last block; monotonic time is real."""

    def __init__(self, time_ms: int) -> None:
        self._time_ms = time_ms

    def now_ms(self) -> int:
        """Return chain time."""
        return self._time_ms

    def monotonic_ms(self) -> int:
        """Return real milliseconds."""
        return monotonic_ms()


class RunningChannel:
    """One channel of one node, opened on the disk of the rehearsal, and its event loop.

    Args:
        folder: for its databases.
    """

    def __init__(self, folder: Path) -> None:
        self.play = play = rehearsed()
        build_folder(folder, play)
        self.mishaps = Mishaps()
        self.metrics = NodeMetrics()
        self.clock = StandingClock(play.chain.headers[-1].time_ms + STEP_MS // 2)
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(self.mishaps.on_loop)
        self._threads = ThreadPoolExecutor(2)
        self._store = ChannelStore.open(folder / BLOCKS_FOLDER)
        self._votes = VoteLog.open(folder / VOTES_FOLDER)
        self._shelf = SnapshotShelf(folder / SNAPSHOTS_FOLDER)
        self.channel = self.do(self._open())
        self._task = self._loop.create_task(self.channel.run(cast("PeerLinks", QuietLinks())))
        for said in play.pruned_statuses(OTHERS):
            self.do(self.channel.take_message(VALIDATORS[said.vote.sender], said))

    async def _open(self) -> Channel:
        return Channel(
            self.play.genesis,
            Identity(VALIDATORS[BACKUP], (signer_of(VALIDATORS[BACKUP]),)),
            ChannelDisk(self._store, self._votes, self._shelf),
            self.clock,
            self._threads,
            self.metrics.channel(self.play.genesis.channel),
        )

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the loop run until ``work`` is done."""
        return self._loop.run_until_complete(asyncio.wait_for(work, PATIENCE_S))

    def tasks(self) -> int:
        """Return how many tasks live."""
        return len(asyncio.all_tasks(self._loop))

    def check(self) -> None:
        """Check that the channel works and nothing failed unseen.

        Raises:
            LawBrokenError: it has stopped, or something failed.
        """
        if self._task.done():
            raise LawBrokenError("the channel has stopped") from self._task.exception()
        self.mishaps.raise_first()

    def close(self) -> None:
        """Stop the channel and close everything."""
        self._task.cancel()
        self._loop.run_until_complete(asyncio.wait((self._task,)))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._shelf.close()
        self._threads.shutdown()
        self._votes.close()
        self._store.close()
        self._loop.close()
        self.mishaps.end()
