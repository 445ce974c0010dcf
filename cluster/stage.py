"""The stage of a drill: a cluster under load, and what there is to wait for on it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from cluster.collect import Head, read_head
from cluster.history import History
from cluster.lab import Lab
from cluster.lab_meters import LabMeters
from cluster.load import BlockWatch
from cluster.load_stream import LoadStream
from cluster.options import RunError

HEAD_TIMEOUT_S = 1.0
PATIENCE_S = 60.0
REPLAY_PER_S = 20
"""Blocks per second that a node which starts with nothing surely takes in."""
POLL_S = 0.05
VIEW_PATIENCE_S = 3.0
"""So long after a round is a node given to vote in the others' view again."""


@dataclass(slots=True)
class Stage:
    """What a round plays on.

    Attributes:
        meters: publish through the broker; None if the lab has none.
        refilled: nodes that have lost their disk once, and got everything from the others.
        withdrawn: number of transactions that were promised by nobody but a node whose disk was then deleted.
    """

    lab: Lab
    session: aiohttp.ClientSession
    history: History
    watch: BlockWatch
    load: LoadStream
    meters: LabMeters | None
    refilled: set[int] = field(default_factory=set)
    withdrawn: int = 0

    async def heads(self) -> list[Head | None]:
        """Return what the nodes say of themselves, None for those who do not answer."""
        return list(await asyncio.gather(*(read_head(self.session, url, HEAD_TIMEOUT_S) for url in self.lab.urls)))

    async def primary(self) -> tuple[int, int]:
        """Return the index of the primary that most nodes follow, and its view.

        Raises:
            RunError: no node answers.
        """
        named = Counter((head.primary, head.view) for head in await self.heads() if head is not None)
        if not named:
            raise RunError("no node answers")
        (primary, view), _ = named.most_common(1)[0]
        return self.lab.names.index(primary), view

    async def left_out(self) -> tuple[str, ...]:
        """Wait a little until all nodes vote in one view; return the names of those that do not.

        They follow another view than most, or wait for another. To the others each is as good as failed, until the view changes for all.
        """
        deadline_s = time.monotonic() + VIEW_PATIENCE_S
        while True:
            found = await self._in_other_views()
            if not found or time.monotonic() > deadline_s:
                return found
            await asyncio.sleep(POLL_S)

    async def _in_other_views(self) -> tuple[str, ...]:
        heads = await self.heads()
        views = Counter((head.view, head.changing) for head in heads if head is not None)
        common = views.most_common(1)
        return tuple(
            name
            for name, head in zip(self.lab.names, heads, strict=True)
            if head is not None and common and (head.view, head.changing) != common[0][0]
        )

    # ----------------------------------------------------------------------------------------------------------- waiting

    async def wait(self, done: Callable[[], Awaitable[bool]], what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until ``done()``.

        Raises:
            RunError: it does not come true in time; ``what`` says what was waited for.
        """
        deadline_s = time.monotonic() + patience_s
        while not await done():
            if time.monotonic() > deadline_s:
                raise RunError(f"{what} within {patience_s:g} s")
            await asyncio.sleep(POLL_S)

    async def wait_final(self, since_s: float, when: str) -> float:
        """Wait until a transaction that was first sent after ``since_s`` is final; return when that was.

        Raises:
            RunError: none is in time.
        """
        if not await self.watch.wait_until(lambda: self.history.first_final_s(since_s) is not None, PATIENCE_S):
            raise RunError(f"no transaction became final within {PATIENCE_S:g} s {when}")
        return self.history.first_final_s(since_s) or since_s

    async def wait_level(self, *, may_end: int | None = None) -> int | None:
        """Wait until all nodes are connected with each other, vote, and have everything that the highest one had at the beginning.

        Args:
            may_end: a node that may end instead: then its exit status is returned.

        Raises:
            RunError: they are not in time, or another one ended.
        """
        goal = max((head.certified for head in await self.heads() if head is not None), default=0)
        patience_s = PATIENCE_S + goal / REPLAY_PER_S
        deadline_s = time.monotonic() + patience_s
        while True:
            heads = await self.heads()
            left = [index for index, head in enumerate(heads) if not _is_level(head, goal)]
            if not left:
                return None
            if may_end in left and (status := self.lab.exit_status(may_end)) is not None:
                return status
            for index in left:
                self.lab.check_running(index)
            if time.monotonic() > deadline_s:
                why = "; ".join(f"{self.lab.names[index]} {_state(heads[index])}" for index in left)
                raise RunError(f"the nodes are not level at height {goal} within {patience_s:.0f} s: {why}")
            await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Hold the load and wait until everything that was promised is final; let it go on afterwards.

        Raises:
            RunError: something is not final in time.
        """
        self.load.hold()
        if self.meters is not None:
            self.meters.time.hold()
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            while not self._is_settled():
                if time.monotonic() > deadline_s:
                    raise RunError(f"not final within {PATIENCE_S:g} s: {self._unsettled()}")
                await asyncio.sleep(POLL_S)
            yield
        finally:
            if self.meters is not None:
                self.meters.time.release()
            self.load.release()

    def _is_settled(self) -> bool:
        pending = self.meters.pending if self.meters is not None else 0
        return self.load.answered and not self.history.open_positions() and not pending

    def _unsettled(self) -> str:
        """Say what is not final, or has no answer yet."""
        history, found = self.history, []
        open_positions = history.open_positions()
        if open_positions:
            first, node = history.ids[open_positions[0]].hex(), self.lab.names[history.taken_by[open_positions[0]]]
            found.append(f"{len(open_positions)} transactions, the first {first}, acknowledged by {node}")
        if not self.load.answered:
            found.append("requests without an answer")
        if self.meters is not None and self.meters.pending:
            found.append(f"{self.meters.pending} readings in the meters' outboxes")
        return ", ".join(found)

    # ------------------------------------------------------------------------------------------------------------- disks

    async def wipe(self, index: int) -> None:
        """Delete all data of a node that does not run. What it alone has promised is sent again by those who sent it."""
        self.refilled.add(index)
        await asyncio.to_thread(shutil.rmtree, self.lab.node_folder(index) / "data")
        gone = self.history.withdraw(index)
        self.withdrawn += len(gone)
        self.load.send_again(gone, {index})


def _is_level(head: Head | None, goal: int) -> bool:
    return head is not None and head.linked and head.voting and head.certified >= goal


def _state(head: Head | None) -> str:
    """Say in words how a node does."""
    if head is None:
        return "does not answer"
    away = [peer.name for peer in head.peers if not peer.connected]
    return f"has {head.certified} blocks" + (f", no link to {', '.join(away)}" if away else "") + ("" if head.voting else ", does not vote")
