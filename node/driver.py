"""The driver: owns the replica, feeds it events, performs its effects in order.

Law. One task steps the replica. All events that wait are stepped together; what they persist becomes durable in one synced write before
anything that they say leaves the node. An :class:`InvariantViolation` or a divergence stops the channel: it votes no more, and the
disk is kept as it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from consensus.codec import encode
from consensus.effects import (
    Adopt,
    AdoptSnapshot,
    BatchChecked,
    Broadcast,
    Certified,
    CheckBatch,
    Diverged,
    Effect,
    EpochEntered,
    Event,
    Evidence,
    Execute,
    Fault,
    KeepProofs,
    LogRecord,
    Persist,
    Propose,
    Send,
    ServeBlocks,
    ServeChunk,
    ServeSnapshot,
    StageChunk,
    StageSnapshot,
    Tick,
    ViewEntered,
    Waiting,
)
from consensus.errors import InvariantViolation
from consensus.replica import Replica
from node.clock import Clock
from node.metrics import ChannelMetrics

log = structlog.get_logger("driver")
MAX_QUEUED_EVENTS = 20_000
Work = Execute | Adopt | StageSnapshot | StageChunk | AdoptSnapshot
"""What the executor does, strictly in order."""


class Host(Protocol):
    """What the driver's channel does for it."""

    def waiting(self) -> Waiting:
        """Return what waits to be ordered."""

    def make_batch(self, replica: Replica) -> bytes | None:
        """Return the next proposal, None if there is nothing worth proposing yet."""

    def proposed(self, sequence: int, batch: bytes) -> None:
        """Note an own proposal."""

    def check_batch(self, effect: CheckBatch) -> None:
        """Check a proposal; answer through :meth:`Driver.post`, at once or later."""

    def bodies_of(self, records: Sequence[LogRecord]) -> list[tuple[int, bytes, tuple[bytes, ...]]]:
        """Return the transactions that must become durable with these records."""

    @property
    def run_block(self) -> Callable[[Work], None]:
        """Executes a block, or takes a part of a snapshot, and answers through :meth:`Driver.post`."""

    def certified(self, effect: Certified) -> None:
        """Store a certificate."""

    def serve(self, effect: ServeBlocks | ServeSnapshot | ServeChunk) -> None:
        """Send certified blocks, a manifest or a chunk to a peer."""

    def keep_proofs(self, changes: Sequence[bytes]) -> None:
        """Store proofs of epochs."""

    def epoch_entered(self, effect: EpochEntered) -> None:
        """A new set of validators orders blocks."""

    def view_entered(self, effect: ViewEntered) -> None:
        """A new view begins."""

    def saw_fault(self, effect: Fault) -> None:
        """Count a peer's fault."""

    def saw_evidence(self, effect: Evidence) -> None:
        """Keep proof of double signing."""

    def diverged(self, effect: Diverged) -> None:
        """Say loudly that this node is wrong."""


class Driver:
    """Runs one replica.

    Args:
        replica: the state machine.
        host: the channel.
        clock: for the replica's time.
        persist: makes vote log records durable (runs in a thread).
        send: sends an encoded message to one node.
        broadcast: sends one to all other validators of the epoch, or to everybody.
        metrics: of the channel.
    """

    def __init__(
        self,
        replica: Replica,
        host: Host,
        clock: Clock,
        persist: Callable[[Sequence[LogRecord], list[tuple[int, bytes, tuple[bytes, ...]]]], Awaitable[None]],
        send: Callable[[str, bytes], None],
        broadcast: Callable[[bytes, bool], None],
        metrics: ChannelMetrics,
    ) -> None:
        self.replica = replica
        self._host = host
        self._clock = clock
        self._persist = persist
        self._send = send
        self._broadcast = broadcast
        self._metrics = metrics
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._last_waiting: Waiting | None = None

    def post(self, event: Event) -> None:
        """Queue an event."""
        self._events.append(event)
        self._wake.set()
        if len(self._events) >= MAX_QUEUED_EVENTS:
            self._room.clear()

    async def room(self) -> None:
        """Wait until the queue has room again (links call this before they read on)."""
        await self._room.wait()

    def wake(self) -> None:
        """Look soon whether there is something to propose."""
        self._wake.set()

    async def run(self) -> None:
        """Drive the replica until cancelled.

        Raises:
            InvariantViolation: this replica broke a rule: the node must stop and keep its disk.
        """
        await self._perform(self.replica.start(self._clock.monotonic_ms()))
        while True:
            timeout_s = max(0.0, (self.replica.next_deadline_ms - self._clock.monotonic_ms()) / 1000)
            if not self._wake.is_set():
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._wake.wait()
                except TimeoutError:
                    self._events.append(Tick())
            self._wake.clear()
            await self._perform(self._step_all())
            await self._propose()

    def _step_all(self) -> list[Effect]:
        """Step every queued event, then tell the replica what waits."""
        effects: list[Effect] = []
        now_ms = self._clock.monotonic_ms()
        while self._events:
            effects += self.replica.step(self._events.popleft(), now_ms)
        self._room.set()
        waiting = self._host.waiting()
        if waiting != self._last_waiting:
            self._last_waiting = waiting
            effects += self.replica.step(waiting, now_ms)
        return effects

    async def _propose(self) -> None:
        while self.replica.can_propose:
            batch = self._host.make_batch(self.replica)
            if batch is None:
                return
            effects = self.replica.step(Propose(batch), self._clock.monotonic_ms())
            for effect in effects:
                if isinstance(effect, Persist) and effect.records[0].batch_digest:
                    self._host.proposed(effect.records[0].sequence, batch)
            await self._perform(effects)

    async def _perform(self, effects: list[Effect]) -> None:
        """Persist first, then everything else in order. Saying something later than allowed is always allowed."""
        records = [record for effect in effects if isinstance(effect, Persist) for record in effect.records]
        if records:
            with self._metrics.vote_log_write.time():
                await self._persist(records, self._host.bodies_of(records))
        for effect in effects:
            self._perform_one(effect)

    def _perform_one(self, effect: Effect) -> None:
        host = self._host
        match effect:
            case Persist():
                pass
            case Broadcast(message, everybody):
                self._broadcast(encode(message), everybody)
            case Send(peer, message):
                self._send(peer, encode(message))
            case ServeBlocks() | ServeSnapshot() | ServeChunk():
                host.serve(effect)
            case CheckBatch():
                host.check_batch(effect)
            case Execute() | Adopt() | StageSnapshot() | StageChunk() | AdoptSnapshot():
                host.run_block(effect)
            case Certified():
                host.certified(effect)
            case KeepProofs(changes):
                host.keep_proofs(changes)
            case _:
                self._tell(effect)

    def _tell(self, effect: Effect) -> None:
        """Tell the host what happened."""
        host = self._host
        match effect:
            case ViewEntered():
                host.view_entered(effect)
            case EpochEntered():
                host.epoch_entered(effect)
            case Fault():
                host.saw_fault(effect)
            case Evidence():
                host.saw_evidence(effect)
            case Diverged():
                host.diverged(effect)
                raise InvariantViolation(f"own block {effect.sequence} differs from the certified one")


def answered(effect: CheckBatch, reason: str | None) -> BatchChecked:
    """Return the answer to a check: accepted if there is no reason against it."""
    return BatchChecked(effect.view, effect.sequence, effect.digest, reason is None, reason or "")
