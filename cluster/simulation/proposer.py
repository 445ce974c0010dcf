"""What a simulated node tells its replica unasked: what waits to be ordered, and the next proposal (as :mod:`node.driver`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from consensus.effects import Effect, Event, Persist, Propose, Waiting
from node.replica_host import waits_for_reproposals

if TYPE_CHECKING:
    from cluster.simulation.process import Process

PATIENCE_FACTOR = 4
COALESCE_MS = 20


class Proposer:
    """Looks after what should be ordered next.

    Args:
        process: the software of the node that it belongs to.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._patience_ms = PATIENCE_FACTOR * process.node.world.genesis.consensus.view_timeout_ms
        self._last_waiting: Waiting | None = None
        self._deadline_seen_ms: int | None = None
        self._poked = False
        self._reproposed = 0

    def view_entered(self, last: int) -> None:
        """A view began that proposes batches up to ``last`` again: these come first."""
        self._reproposed = last

    def news(self) -> Event | None:
        """Return what waits to be ordered, if that changed."""
        process = self._process
        now_ms = process.clock.now_ms()
        since_ms, overtaken = process.mempool.waiting(self._patience_ms, now_ms)
        deadline_ms = process.application.next_deadline_ms()
        if deadline_ms is None or deadline_ms > now_ms:
            self._deadline_seen_ms = None
        elif self._deadline_seen_ms is None:
            self._deadline_seen_ms = process.clock.monotonic_ms()
        times = [one for one in (since_ms, self._deadline_seen_ms) if one is not None]
        waiting = Waiting(min(times, default=None), overtaken)
        if waiting == self._last_waiting:
            return None
        self._last_waiting = waiting
        return waiting

    def proposal(self) -> Event | None:
        """Return the next proposal, if this node may make one and there is something to propose."""
        process = self._process
        replica, seat = process.replica, process.replica.committee.index
        if not replica.can_propose or seat is None:
            return None
        if self._reproposed and waits_for_reproposals(replica, self._reproposed, process.clock.monotonic_ms()):
            return None
        self._reproposed = 0
        batch = process.desk.make_batch(seat, replica.view, replica.in_flight, replica.wants_block)
        if batch is None:
            self._poke_later()
            return None
        return Propose(batch)

    def note(self, event: Event, effects: Sequence[Effect]) -> None:
        """Note an own proposal that is in flight now."""
        if not isinstance(event, Propose):
            return
        for effect in effects:
            if isinstance(effect, Persist) and effect.records[0].batch_digest:
                self._process.desk.proposed(effect.records[0].sequence, event.batch)
                return

    def _poke_later(self) -> None:
        """Look again soon: more transactions may have come by then."""
        process = self._process
        if not self._poked and process.mempool.waiting(0, 0)[0] is not None:
            self._poked = True
            process.later(COALESCE_MS, self._poke)

    def _poke(self) -> None:
        self._poked = False
        self._process.pump()
