"""One channel of a node: genesis, replica, mempool, application and stores, and how they are wired.

The walk of a transaction: :mod:`node.intake` (checked, stored, pooled, shared) -> :mod:`node.proposals` (named by a batch) ->
:mod:`node.driver` and the replica (ordered) -> :mod:`node.executor` (block) -> certificate -> :mod:`node.publisher` (subscribers).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Threads

import structlog

from consensus.application import FinalizedBlock
from consensus.block import Header
from consensus.codec import encode
from consensus.effects import EpochEntered, Event, Evidence, Fault, LogRecord, Pruned, Received
from consensus.errors import PeerFault, Suspicion
from consensus.mempool import Mempool
from consensus.messages import ChunkMessage, Message
from consensus.replica import Replica
from consensus.snapshot import SnapshotManifest
from consensus.transaction import Transaction, decode_transaction
from consensus.validators import EpochChange
from contracts.genesis import Genesis
from node.bodies import Bodies
from node.channel_reports import ChannelReports
from node.clerk import Clerk
from node.clock import Clock
from node.driver import Driver, answered
from node.epochs import EpochBook
from node.event_hub import EventHub
from node.executor import Executor
from node.intake import Intake, Submission
from node.metrics import ChannelMetrics
from node.opening import ChannelDisk, Identity, found_on, open_ledger, replica_config
from node.peers import PeerDoor
from node.proposals import ProposalDesk
from node.prover import Prover
from node.publisher import Publisher
from node.replica_host import ReplicaHost
from node.serving import Serving
from node.sharing import Reminders
from node.transport import PeerLinks
from node.upkeep import Upkeep

log = structlog.get_logger("gridpact.channel")
HOUSEKEEPING_S = 0.25
SHARE_AGAIN_MS = 1_000
SHARE_AGAIN_MOST = 200


class Channel(ChannelReports):
    """Everything that one channel needs on one node.

    Args:
        genesis: of the channel.
        identity: who this node is; the validator sets of the chain say whether it votes or follows.
        disk: opened databases.
        clock: chain time and monotonic time.
        threads: where signatures are checked and disks are waited for.
        metrics: of the channel.

    Attributes:
        name, node: of the channel, of this node.
        publisher: announces what is final.
        stopped_because: why the channel stopped by itself; None while it works.

    Raises:
        InputError: the store belongs to another genesis.
        InvariantViolation: its state does not hash to the head's root.
    """

    def __init__(
        self, genesis: Genesis, identity: Identity, disk: ChannelDisk, clock: Clock, threads: Threads, metrics: ChannelMetrics
    ) -> None:
        self.name, self.node = genesis.channel, identity.name
        self.genesis = genesis
        self.clock = clock
        self.events = EventHub()
        self.stopped_because: str | None = None
        self.store, self._votes = store, votes = disk.store, disk.votes
        self.application = application = open_ledger(genesis, store)
        self._epochs = epochs = EpochBook(application.epochs())
        writing = asyncio.Lock()
        self.publisher = Publisher(self.events, store, genesis, epochs, metrics)
        self._threads = threads
        self._metrics = metrics
        self._reminders = Reminders()
        self._mempool = mempool = Mempool()
        self._prover = Prover(store, application, self.events)
        self._door = door = PeerDoor(genesis.channel, self)
        self._addresses: Callable[[], None] = lambda: None
        rules = genesis.consensus

        def post(event: Event) -> None:
            self._driver.post(event)

        self._bodies = bodies = Bodies(identity.name, mempool, store, clock, lambda peer, ids: door.ask(peer, self._intake.hurry(ids)))
        for sequence, digest, raws in votes.bodies():
            bodies.restore(sequence, digest, raws)
        self._desk = desk = ProposalDesk(rules, bodies, mempool, application, store, clock, lambda effect, why: post(answered(effect, why)))
        self._executor = Executor(
            application, store, bodies, epochs, application.sender_key, threads, writing, post, self._committed, self._replaced, metrics
        )
        self._serving = Serving(store, disk.shelf, clock, threads, door.send_message)
        self._host = ReplicaHost(
            store, votes, mempool, desk, bodies, application, clock, metrics, rules.view_timeout_ms, self._serving, self._executor.put,
            self._announce, self._epoch_entered, self._accuse,
        )  # fmt: skip
        self._replica = replica = Replica(replica_config(genesis, identity, disk), found_on(store, votes, application))
        self._driver = Driver(replica, self._host, clock, self._persist, door.send_message, self._broadcast, metrics)
        self._intake = Intake(
            application, application.sender_key, store, mempool, bodies, self._arrived, clock, threads, door.share, self.is_level, metrics
        )
        self._clerk = Clerk(identity, votes, application, clock, self._intake.submit)
        self._upkeep = Upkeep(disk, rules.window, self.epoch_changes, lambda first: post(Pruned(first)), threads, writing)

    # ----------------------------------------------------------------------------------------------------------- running

    async def run(self, links: PeerLinks) -> None:
        """Work until cancelled.

        Raises:
            InvariantViolation: this node broke a rule: stop, keep the disk.
            StoreError: its store is damaged, or refuses a write.
        """
        self._door.open(links)
        self._restore_pending()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._executor.run(), name="executor")
                tasks.create_task(self._executor.staging.run(), name="staging")
                tasks.create_task(self._intake.run(), name="intake")
                tasks.create_task(self._driver.run(), name="driver")
                tasks.create_task(self._keep_house(), name="housekeeping")
                tasks.create_task(self._upkeep.run(), name="upkeep")
                tasks.create_task(self._serving.run(), name="serving")
                tasks.create_task(self._door.run(), name="door")
        except BaseExceptionGroup as group:
            self.stopped_because = "; ".join(str(error) for error in group.exceptions)
            raise

    def _restore_pending(self) -> None:
        """Take the transactions back that were taken in before a stop and not executed."""
        now_ms, gone = self.clock.monotonic_ms(), []
        for transaction_id, raw in self.store.pending():
            transaction = decode_transaction(raw)
            if self._desk.overdue.is_good_now(transaction):
                self._mempool.add(transaction, now_ms, forced=True)
            elif not self._desk.overdue.take(transaction):
                gone.append(transaction_id)
                continue
            self._intake.restored(transaction_id)
        if gone:
            log.warning("transactions taken in before the stop can no longer execute", count=len(gone))
            self.store.drop_pending(gone)
        head = self.store.head()
        self._bodies.reserve_in_flight(head.height if head is not None else 0)

    async def _keep_house(self) -> None:
        """At intervals: ask again for missing bodies, share again what waits for long, let expired transactions go."""
        while True:
            before_ms = self.clock.monotonic_ms()
            await asyncio.sleep(HOUSEKEEPING_S)
            now_ms = self.clock.monotonic_ms()
            self._desk.size.note_lateness(now_ms - before_ms - int(HOUSEKEEPING_S * 1_000))
            self._bodies.ask_again()
            old = self._mempool.waiting_since(now_ms - SHARE_AGAIN_MS, SHARE_AGAIN_MOST)
            late = self._desk.drop_inadmissible(old)
            if late:
                self._intake.gone([transaction.id for transaction in late])
                log.warning("transactions can no longer execute", count=len(late), first=late[0].id.hex())
            left = [transaction for transaction in old if transaction.id in self._mempool]
            self._door.share([transaction.raw for transaction in self._reminders.due(left, now_ms)])
            await self._clerk.work(self.is_level())
            self._metrics.mempool_transactions.set(len(self._mempool))
            self._metrics.mempool_bytes.set(self._mempool.size_bytes)
            self._driver.wake()

    # ------------------------------------------------------------------------------------------------- for API and feeds

    @property
    def door(self) -> PeerDoor:
        """Where the frames of the other validators come in."""
        return self._door

    async def submit(self, raws: Sequence[bytes], source: str) -> list[Submission]:
        """Check and store transactions; one answer each, in order."""
        return await self._intake.submit(raws, source)

    # ------------------------------------------------------------------------------------------- for the door (PeerUser)

    async def take_message(self, peer: str, message: Message) -> None:
        """Give a consensus message to the replica."""
        await self._driver.room()
        if isinstance(message, ChunkMessage):
            await self._executor.staging.room()
        self._driver.post(Received(peer, message))

    async def take_transactions(self, raws: Sequence[bytes]) -> None:
        """Take transactions that a peer shares."""
        await self._intake.take_from_peer(raws)

    def find_transaction(self, transaction_id: bytes) -> Transaction | None:
        """Return a transaction that a peer asks for."""
        return self._bodies.find(transaction_id)

    def peer_fault(self, peer: str, code: Suspicion, detail: str) -> None:
        """Count a broken rule of a peer."""
        self._host.saw_fault(Fault(PeerFault(peer, code, detail)))

    # ------------------------------------------------------------------------------------------------------------ wiring

    def _broadcast(self, body: bytes, everybody: bool) -> None:
        self._door.broadcast_message(body, None if everybody else self._replica.committee.validators.names)

    def on_new_epoch(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever a validator set is announced or takes effect."""
        self._addresses = listener

    def _epoch_entered(self, effect: EpochEntered) -> None:
        previous = effect.validators.epoch - 1
        last = effect.validators.first_height - 1
        header, certificate = self.store.header(last), self.store.certificate(last)
        if previous >= 0 and header is not None and certificate is not None:
            self.store.put_epoch_changes([encode(EpochChange(encode(header), certificate, effect.validators))])
        self._addresses()

    def _accuse(self, evidence: Evidence) -> None:
        if self._votes.add_evidence(evidence.first, evidence.second):
            self._metrics.evidence.inc()
            self._clerk.report(evidence)

    def _arrived(self, transaction_ids: Sequence[bytes]) -> None:
        if self._bodies.arrived(transaction_ids):
            self._desk.retry()
        self._driver.wake()

    def _announce(self, height: int) -> None:
        header = self.store.header(height)
        mine = header is not None and self._epochs.proposer(height, header.proposer) == self.node
        self.publisher.certified(height, self.transaction_proof if mine else None)
        self._upkeep.certified(height)

    def _committed(self, header: Header, included: Sequence[Transaction], named: Sequence[Transaction], finalized: FinalizedBlock) -> None:
        ids = [transaction.id for transaction in named]
        self._desk.size.note_block(len(ids))
        self._mempool.executed(ids)
        spent = self._mempool.drop_spent([(one.body.sender, one.body.nonce) for one in included])
        if spent:
            self.store.drop_pending(spent)
        self._intake.gone([*ids, *spent])
        self.publisher.executed(header, included, finalized)
        self._upkeep.executed(header.height)
        if finalized.announced:
            self._addresses()

    def _replaced(self, header: Header, _: SnapshotManifest) -> None:
        """A snapshot took the place of the state: what was in flight is over."""
        log.info("took a snapshot", height=header.height)
        self._desk.snapshot_adopted()
        self._bodies.certified(header.height, ())
        self._upkeep.replaced()

    async def _persist(self, records: Sequence[LogRecord], bodies: list[tuple[int, bytes, tuple[bytes, ...]]]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._votes.append, records, bodies)
