"""The software of a simulated node, from its start to the next power cut: everything that it holds in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.simulation.clerk import Clerk
from cluster.simulation.clock import NodeClock
from cluster.simulation.desk import SimulatedBodies, make_desk
from cluster.simulation.executor import Executor
from cluster.simulation.intake import Intake
from cluster.simulation.mail import Ask, Share
from cluster.simulation.opening import open_ledger, what_is_found
from cluster.simulation.performer import Performer
from cluster.simulation.proposer import Proposer
from cluster.simulation.snapshots import Snapshots
from cluster.simulation.store import ChainStore, VoteLog
from consensus.application import FinalizedBlock
from consensus.block import Block
from consensus.effects import BatchChecked, CheckBatch, Event, Received, Tick
from consensus.mempool import Mempool, MempoolLimits
from consensus.messages import ValidatorSet
from consensus.replica import Replica
from consensus.state_tree import StateTree
from consensus.transaction import Transaction
from contracts.application import LedgerApplication
from node.sharing import Reminders

if TYPE_CHECKING:
    from cluster.simulation.node import Node

HOUSEKEEPING_MS = 250
SHARE_AGAIN_MS, SHARE_AGAIN_MOST = 1_000, 50
LIMITS = MempoolLimits(500, 1 << 20, 200)


class Process:
    """One run of a node's software.

    Args:
        node: whose.

    Attributes:
        alive: until the power goes.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.alive = True
        self.clock: NodeClock = node.clock
        self.store = ChainStore(node.disk.chain)
        self.votes: VoteLog = VoteLog(node.disk.votes)
        self.application: LedgerApplication = open_ledger(node.world, self.store)
        self.mempool = Mempool(LIMITS)
        self.bodies = SimulatedBodies(node.name, self.mempool, self.store, node.clock, self._ask)
        rules = node.world.genesis.consensus
        self.desk = make_desk(rules, self.bodies, self.mempool, self.application, self.store, node.clock, self._answer)
        self.executor = Executor(self)
        self.snapshots = Snapshots(self)
        self.clerk = Clerk(self)
        self.intake = Intake(
            self.application, self.store, self.mempool, self.bodies, node.clock, node.world.keys.check, node.synced, self._share,
            self._arrived,
        )  # fmt: skip
        for sequence, digest, raws in self.votes.bodies():
            self.bodies.restore(sequence, digest, raws)
        self.replica = Replica(node.replica_config, what_is_found(self.store, self.votes, self.application))
        self.performer = Performer(self)
        self.proposer = Proposer(self)
        self._reminders = Reminders()
        self._inbox: deque[Event] = deque()
        self._pumping = self._woken = False
        self._house_kept_ms = node.clock.monotonic_ms()
        self._tick_at: int | None = None
        self.intake.restore(self.desk.overdue)
        self.bodies.reserve_in_flight(self.store.height)

    def start(self) -> None:
        """Say hello, and go on with what was begun before a stop."""
        self._pumping = True
        self.performer.perform(self.replica.start(self.clock.monotonic_ms()))
        self._pumping = False
        self.pump()

    # -------------------------------------------------------------------------------------------------- events to effects

    def post(self, event: Event) -> None:
        """Queue an event for the replica: all that come in one moment are stepped together."""
        self._inbox.append(event)
        self.wake()

    def wake(self) -> None:
        """Step the replica through what waits when everything else of this moment has happened."""
        if not self._woken and not self._pumping:
            self._woken = True
            simulation = self.node.simulation
            simulation.at(simulation.now_ms, self._if_alive, self.pump, ())

    def receive(self, sender: str, message: object) -> None:
        """Take what came over a link."""
        if isinstance(message, Share):
            self.intake.take(message.raws)
        elif isinstance(message, Ask):
            found = [one.raw for one in map(self.bodies.find, message.ids) if one is not None]
            if found:
                self.node.say(sender, Share(tuple(found)))
        else:
            self.post(Received(sender, message))  # type: ignore[arg-type]  # all else are consensus messages

    def pump(self) -> None:
        """Step the replica through everything that waits, unless its disk is at work; propose what there is."""
        if self._pumping:
            return
        self._pumping, self._woken = True, False
        while self.alive and not self.performer.writing:
            event = self._inbox.popleft() if self._inbox else self.proposer.news() or self.proposer.proposal()
            if event is None:
                break
            effects = self.replica.step(event, self.clock.monotonic_ms())
            self.node.simulation.note_step(self.node, event, effects)
            self.proposer.note(event, effects)
            self.performer.perform(effects)
        self._pumping = False
        if self.alive:
            self._set_timer()

    # -------------------------------------------------------------------------------------------------------------- timers

    def later(self, delay_ms: int, action: Callable[..., None], *arguments: object) -> None:
        """Do something after a while, if the power holds."""
        simulation = self.node.simulation
        simulation.at(simulation.now_ms + delay_ms, self._if_alive, action, arguments)

    def _if_alive(self, action: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if self.alive:
            self.node.guarded(action, *arguments)

    def _set_timer(self) -> None:
        simulation = self.node.simulation
        due = max(self.clock.world_ms_at(self.replica.next_deadline_ms), simulation.now_ms + 1)
        if self._tick_at is None or due < self._tick_at:
            self._tick_at = due
            simulation.at(due, self._if_alive, self._tick, (due,))

    def _tick(self, due: int) -> None:
        if due != self._tick_at:
            return
        self._tick_at = None
        if self.clock.monotonic_ms() < self.replica.next_deadline_ms:
            self._set_timer()
            return
        self._keep_house()
        self.post(Tick())

    def _keep_house(self) -> None:
        """At intervals: ask again for missing bodies, share again what waits for long, let expired transactions go."""
        now_ms = self.clock.monotonic_ms()
        if now_ms - self._house_kept_ms < HOUSEKEEPING_MS:
            return
        self._house_kept_ms = now_ms
        self.bodies.ask_again()
        self.clerk.work()
        old = self.mempool.waiting_since(now_ms - SHARE_AGAIN_MS, SHARE_AGAIN_MOST)
        self.desk.drop_inadmissible(old)
        left = [transaction for transaction in old if transaction.id in self.mempool]
        self._share([transaction.raw for transaction in self._reminders.due(left, now_ms)])

    # ------------------------------------------------------------------------------------------------------- for its parts

    def block_ms(self) -> int:
        """Return how long a block takes to be durable."""
        return self.node.simulation.schedule.block_ms + self.node.disk_ms

    def epochs(self) -> tuple[ValidatorSet, ...]:
        """Return all validator sets that the committed state knows."""
        return self.application.epochs()

    def is_signed(self, transaction: Transaction) -> bool:
        """Tell whether a transaction's signature checks."""
        envelope = transaction.envelope
        return self.node.world.keys.check(envelope.scheme, envelope.public_key, envelope.body, envelope.signature)

    def write(self, block: Block, finalized: FinalizedBlock, included: Sequence[Transaction], named: Sequence[Transaction]) -> bool:
        """Make a block durable and adopt its state; False if the power failed."""
        ids = [transaction.id for transaction in named]

        def write() -> None:
            self.store.append(block, included, finalized, ids)
            self.node.simulation.checker.announced(self.node, finalized.announced)
            self.node.simulation.checker.executed(self.node, block, included)

        if not self.node.synced(write):
            return False
        self.application.commit()
        self.snapshots.executed(block.header.height)
        if len(included) < len(named):
            taken = {transaction.id for transaction in included}
            self.bodies.void(block.header.height, [one for one in named if one.id not in taken])
        self.mempool.executed(ids)
        spent = self.mempool.drop_spent([(one.body.sender, one.body.nonce) for one in included])
        if spent:
            self.store.drop_pending(spent)
        return True

    def replaced(self, height: int, tree: StateTree) -> None:
        """Go on from the state at ``height``: a snapshot took the place of the own one."""
        self.store.reload()
        self.application.restore(tree)
        self.desk.snapshot_adopted()
        self.bodies.certified(height, ())

    def _share(self, raws: Sequence[bytes]) -> None:
        if raws:
            for name in self.node.others:
                self.node.say(name, Share(tuple(raws)))

    def _ask(self, first: str | None, ids: Sequence[bytes]) -> None:
        """Ask one node, or all, for transactions."""
        if ids:
            for name in self.node.others if first is None else (first,):
                self.node.say(name, Ask(tuple(ids)))

    def _arrived(self, transaction_ids: Sequence[bytes]) -> None:
        if self.bodies.arrived(transaction_ids):
            self.desk.retry()
            self.executor.arrived()
        self.wake()

    def _answer(self, effect: CheckBatch, reason: str | None) -> None:
        self.post(BatchChecked(effect.view, effect.sequence, effect.digest, reason is None, reason or ""))
