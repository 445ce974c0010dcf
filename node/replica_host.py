"""What the replica's effects mean on this node: disk, blocks, certificates, metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from consensus.application import Application
from consensus.effects import (
    Certified,
    CheckBatch,
    Diverged,
    EpochEntered,
    Evidence,
    Fault,
    LogRecord,
    ServeBlocks,
    ServeChunk,
    ServeSnapshot,
    ViewEntered,
    Waiting,
)
from consensus.errors import InvariantViolation
from consensus.mempool import Mempool
from consensus.replica import Replica
from node.block_store import ChannelStore
from node.bodies import Bodies
from node.clock import Clock
from node.driver import Work
from node.metrics import ChannelMetrics
from node.proposals import ProposalDesk
from node.refusals import Told
from node.serving import Serving
from node.vote_log import VoteLog

log = structlog.get_logger("gridpact.replica")
FAULT_AGAIN_MS = 60_000
"""The same kind of fault of the same peer is logged once in so long."""
PATIENCE_FACTOR = 4
"""A transaction counts as overtaken when one that came so many view time-outs later was executed before it."""


class ReplicaHost:
    """Performs the effects of one replica (:class:`node.driver.Host`).

    Args:
        store, votes, mempool, desk, bodies, application, clock, metrics: of the channel.
        view_timeout_ms: first patience with a primary.
        serving: answers those who ask for blocks and snapshots.
        run_block: queues a block or a part of a snapshot.
        announce: told of every certified height.
        entered: told of every epoch that begins.
        accuse: told of every proof of double signing.
    """

    def __init__(
        self,
        store: ChannelStore,
        votes: VoteLog,
        mempool: Mempool,
        desk: ProposalDesk,
        bodies: Bodies,
        application: Application,
        clock: Clock,
        metrics: ChannelMetrics,
        view_timeout_ms: int,
        serving: Serving,
        run_block: Callable[[Work], None],
        announce: Callable[[int], None],
        entered: Callable[[EpochEntered], None],
        accuse: Callable[[Evidence], None],
    ) -> None:
        self.run_block = run_block
        self._store = store
        self._votes = votes
        self._mempool = mempool
        self._desk = desk
        self._bodies = bodies
        self._application = application
        self._clock = clock
        self._metrics = metrics
        self._patience_ms = PATIENCE_FACTOR * view_timeout_ms
        self._serving = serving
        self._told = Told(FAULT_AGAIN_MS, clock.monotonic_ms)
        self._announce = announce
        self._entered = entered
        self._accuse = accuse
        self._deadline_seen_ms: int | None = None
        self._reproposed = 0

    def waiting(self) -> Waiting:
        """Return what the primary should have ordered: the oldest waiting transaction, or a due deadline."""
        since_ms, overtaken = self._mempool.waiting(self._patience_ms, self._clock.now_ms())
        deadline_ms = self._application.next_deadline_ms()
        if deadline_ms is None or deadline_ms > self._clock.now_ms():
            self._deadline_seen_ms = None
        elif self._deadline_seen_ms is None:
            self._deadline_seen_ms = self._clock.monotonic_ms()
        times = [one for one in (since_ms, self._deadline_seen_ms) if one is not None]
        return Waiting(min(times, default=None), overtaken)

    def make_batch(self, replica: Replica) -> bytes | None:
        """Return the next proposal, None while there is nothing to order.

        What the view before had prepared comes first: what it names is reserved when it is here, and may not be named once more. Waiting
        for it costs nothing, since blocks are executed in order.
        """
        seat = replica.committee.index
        if self._reproposed and waits_for_reproposals(replica, self._reproposed, self._clock.monotonic_ms()):
            return None
        self._reproposed = 0
        return None if seat is None else self._desk.make_batch(seat, replica.view, replica.in_flight, replica.wants_block)

    def proposed(self, sequence: int, batch: bytes) -> None:
        """Note an own proposal."""
        self._desk.proposed(sequence, batch)

    def check_batch(self, effect: CheckBatch) -> None:
        """Check a proposal of another validator, or find the bodies of a re-proposal."""
        self._desk.check(effect)

    def bodies_of(self, records: Sequence[LogRecord]) -> list[tuple[int, bytes, tuple[bytes, ...]]]:
        """Return the transactions that must become durable with these records.

        None are needed up to the head: a snapshot may have taken the place of a block while the answer to its proposal was under way.

        Raises:
            InvariantViolation: those of a later batch are not here any more.
        """
        found = []
        head = self._store.head()
        for record in records:
            if record.batch_digest:
                raws = self._bodies.raws_of(record.batch_digest)
                if raws is not None:
                    found.append((record.sequence, record.batch_digest, raws))
                elif head is None or record.sequence > head.height:
                    raise InvariantViolation(f"the transactions of the batch at {record.sequence} were given up before its block")
        return found

    def certified(self, effect: Certified) -> None:
        """Store a certificate; tell subscribers that the block is final.

        Votes go only when a certificate that replaces them is on disk for sure: it is written without waiting, so after a power
        failure it may be gone, and then the votes must not be.
        """
        height = effect.certificate.height
        self._store.put_certificate(effect.certificate, sync=effect.last_of_epoch)
        self._votes.truncate(min(effect.truncate, self._store.durable_certificate), effect.epoch, effect.view)
        self._desk.certified(height)
        self._metrics.certified_height.set(height)
        self._announce(height)

    def serve(self, effect: ServeBlocks | ServeSnapshot | ServeChunk) -> None:
        """Send a peer what it asks for, when it is its turn and if it is here."""
        self._serving.ask(effect)

    def keep_proofs(self, changes: Sequence[bytes]) -> None:
        """Store proofs of epochs."""
        self._store.put_epoch_changes(changes)

    def epoch_entered(self, effect: EpochEntered) -> None:
        """Note a new set of validators."""
        self._metrics.epoch.set(effect.validators.epoch)
        self._metrics.voting.set(effect.index is not None)
        log.info("entered epoch", epoch=effect.validators.epoch, members=",".join(effect.validators.names), seat=effect.index)
        self._entered(effect)

    def view_entered(self, effect: ViewEntered) -> None:
        """Note a new view."""
        self._desk.view_entered()
        self._reproposed = effect.sequence
        self._metrics.view.set(effect.view)
        self._metrics.view_changes.inc()
        log.info("entered view", view=effect.view, primary=effect.primary, after_sequence=effect.sequence)

    def saw_fault(self, effect: Fault) -> None:
        """Count a peer's fault, and log it unless the same was logged lately."""
        self._metrics.peer_fault(effect.fault.code)
        if self._told.is_due(effect.fault.code.name, effect.fault.peer):
            log.warning("peer fault", peer=effect.fault.peer, code=effect.fault.code.name, detail=str(effect.fault))

    def saw_evidence(self, effect: Evidence) -> None:
        """Keep proof of double signing."""
        log.error("validator signed two different votes", validator=effect.first.sender, sequence=effect.first.sequence)
        self._accuse(effect)

    def diverged(self, effect: Diverged) -> None:
        """Say loudly that this node is wrong; the driver stops the channel."""
        self._metrics.diverged.set(1)
        log.critical("diverged", height=effect.sequence, own=effect.own.hex(), certified=effect.certified.hex())


def waits_for_reproposals(replica: Replica, last: int, now_ms: int) -> bool:
    """Tell whether a batch up to ``last``, proposed again in the present view, or a transaction of it, is not here yet."""
    status = replica.status(now_ms)
    return any(slot.view == status.view and not slot.ready and status.executed < slot.sequence <= last for slot in status.in_flight)
