"""One channel of a node: genesis, replica, mempool, application and stores, and how they are wired.

The walk of a transaction: :mod:`node.intake` (checked, stored, pooled, shared) -> :mod:`node.proposals` (named by a batch) ->
:mod:`node.driver` and the replica (ordered) -> :mod:`node.executor` (block) -> certificate -> :mod:`node.publisher` (subscribers).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor as Threads

import structlog

from consensus.application import FinalizedBlock
from consensus.block import Header, genesis_header
from consensus.codec import encode
from consensus.crypto import Signer
from consensus.effects import Event, Fault, LogRecord, Received
from consensus.errors import InputError, InvariantViolation, PeerFault, Suspicion
from consensus.mempool import Mempool
from consensus.messages import Message
from consensus.proofs import EntryProof, TransactionProof
from consensus.quorum import quorums
from consensus.recovery import Recovered
from consensus.replica import Replica
from consensus.state import ReplicaConfig
from consensus.state_tree import StateTree
from consensus.transaction import Transaction, decode_transaction
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.block_store import ChannelStore
from node.bodies import Bodies
from node.clock import Clock
from node.driver import Driver, answered
from node.event_hub import EventHub
from node.executor import Executor
from node.intake import Intake, Submission
from node.metrics import ChannelMetrics
from node.peers import PeerDoor
from node.proposals import ProposalDesk
from node.prover import Prover
from node.publisher import Publisher
from node.replica_host import ReplicaHost
from node.transport import PeerLinks
from node.vote_log import VoteLog

log = structlog.get_logger("gridpact.channel")
HOUSEKEEPING_S = 0.25
SHARE_AGAIN_MS = 1_000
SHARE_AGAIN_MOST = 200


class Channel:
    """Everything that one channel needs on one node.

    Args:
        genesis: of the channel.
        index: this node's place among the validators.
        signer: its validator key.
        store, votes: opened databases.
        clock: chain time and monotonic time.
        threads: where signatures are checked and disks are waited for.
        metrics: of the channel.

    Attributes:
        publisher: announces what is final.
        stopped_because: why the channel stopped by itself; None while it works.

    Raises:
        InputError: the store belongs to another genesis.
        InvariantViolation: its state does not hash to the head's root.
    """

    def __init__(
        self,
        genesis: Genesis,
        index: int,
        signer: Signer,
        store: ChannelStore,
        votes: VoteLog,
        clock: Clock,
        threads: Threads,
        metrics: ChannelMetrics,
    ) -> None:
        self.name = genesis.channel
        self.genesis = genesis
        self.index = index
        self._indices = {validator.name: place for place, validator in enumerate(genesis.validators)}
        names: dict[int | None, str] = {place: name for name, place in self._indices.items()}
        self.store = store
        self.clock = clock
        self.events = EventHub()
        self.stopped_because: str | None = None
        self.application = application = _open_ledger(genesis, store)
        self.publisher = Publisher(self.events, store, genesis, metrics)
        self._votes = votes
        self._threads = threads
        self._metrics = metrics
        self._mempool = mempool = Mempool()
        self._prover = Prover(store, application, self.events)
        self._door = door = PeerDoor(genesis.channel, self)
        rules, send = genesis.consensus, _sender(door, names)

        def post(event: Event) -> None:
            self._driver.post(event)

        self._bodies = bodies = Bodies(index, mempool, store, clock, lambda peer, ids: door.ask(names.get(peer), self._intake.hurry(ids)))
        for sequence, digest, raws in votes.bodies():
            bodies.restore(sequence, digest, raws)
        self._desk = desk = ProposalDesk(
            index, rules, bodies, mempool, application, store, clock, lambda effect, why: post(answered(effect, why))
        )
        self._executor = Executor(application, store, bodies, application.sender_key, threads, post, self._committed, metrics)
        self._host = ReplicaHost(
            store, votes, mempool, desk, bodies, application, clock, metrics, rules.view_timeout_ms, self._executor.put, send,
            self._announce,
        )  # fmt: skip
        replica = Replica(_replica_config(genesis, index, signer), _found(store, votes))
        self._driver = Driver(replica, self._host, clock, self._persist, send, metrics)
        self._intake = Intake(
            application, application.sender_key, store, mempool, bodies, self._arrived, clock, threads, door.share, metrics
        )

    # ----------------------------------------------------------------------------------------------------------- running

    async def run(self, links: PeerLinks) -> None:
        """Work until cancelled.

        Raises:
            InvariantViolation: this node broke a rule: stop, keep the disk.
        """
        self._door.open(links)
        self._restore_pending()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._executor.run(), name="executor")
                tasks.create_task(self._intake.run(), name="intake")
                tasks.create_task(self._driver.run(), name="driver")
                tasks.create_task(self._keep_house(), name="housekeeping")
        except BaseExceptionGroup as group:
            self.stopped_because = "; ".join(str(error) for error in group.exceptions)
            raise

    def _restore_pending(self) -> None:
        """Take the transactions back that were taken in before a stop and not executed."""
        now_ms, gone = self.clock.monotonic_ms(), []
        for transaction_id, raw in self.store.pending():
            transaction = decode_transaction(raw)
            if self.application.process_proposal([transaction], self.clock.now_ms()).ok:
                self._mempool.add(transaction, now_ms, forced=True)
                self._intake.restored(transaction_id)
            else:
                gone.append(transaction_id)
        if gone:
            log.warning("transactions taken in before the stop can no longer execute", count=len(gone))
            self.store.drop_pending(gone)
        head = self.store.head()
        self._bodies.reserve_in_flight(head.height if head is not None else 0)

    async def _keep_house(self) -> None:
        """At intervals: ask again for missing bodies, share again what waits for long, let expired transactions go."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self._bodies.ask_again()
            old = self._mempool.waiting_since(self.clock.monotonic_ms() - SHARE_AGAIN_MS, SHARE_AGAIN_MOST)
            late = self._desk.drop_inadmissible(old, self.clock.now_ms())
            if late:
                self._intake.gone([transaction.id for transaction in late])
                log.warning("transactions can no longer execute", count=len(late), first=late[0].id.hex())
            self._door.share([transaction.raw for transaction in old if transaction.id in self._mempool])
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

    def find(self, transaction_id: bytes) -> str | None:
        """Return "pending" if the transaction waits to be ordered."""
        return "pending" if transaction_id in self._mempool else None

    def transaction_proof(self, transaction_id: bytes) -> TransactionProof | None:
        """Return the proof of an executed transaction, None while its block is not certified."""
        return self._prover.transaction_proof(transaction_id)

    async def entry_proof(self, key: bytes, timeout_s: float = 2.0) -> EntryProof | None:
        """Return the proof of a state entry at the present head, None if that is not certified in time."""
        return await self._prover.entry_proof(key, timeout_s)

    def status(self) -> dict[str, object]:
        """Return how the channel does, ready for JSON."""
        status = self._driver.replica.status(self.clock.monotonic_ms())
        head = self.store.head()
        names = [validator.name for validator in self.genesis.validators]
        open_slots = [slot for slot in status.in_flight if not slot.decided]
        return {
            "chain_id": self.genesis.chain_id,
            "channel": self.name,
            "node": names[self.index],
            "index": self.index,
            "view": status.view,
            "next_view": status.view if status.changing else status.view + 1,
            "primary": names[status.primary],
            "changing": status.changing,
            "timer_left_ms": status.timer_left_ms,
            "height": status.executed,
            "certified": status.certified,
            "head_hash": head.hash.hex() if head is not None else "",
            "state_root": head.state_root.hex() if head is not None else "",
            "time_ms": head.time_ms if head is not None else 0,
            "clock_ms": self.clock.now_ms(),
            "in_flight": [
                {
                    "sequence": slot.sequence,
                    "view": status.view if slot.view is None else slot.view,
                    "prepared_by": list(slot.prepared_by),
                    "committed_by": list(slot.committed_by),
                }
                for slot in open_slots
            ],
            "mempool": {"transactions": len(self._mempool), "bytes": self._mempool.size_bytes},
            "peers": self._peers(status.peer_heights),
            "diverged": status.diverged or self.stopped_because is not None,
        }

    def _peers(self, heights: dict[int, int]) -> list[dict[str, object]]:
        links = self._door.links.status() if self._door.links is not None else []
        return [
            {
                "name": link.name,
                "connected": link.connected,
                "height": heights.get(self._indices[link.name]),
                "last_seen_ms": link.last_seen_ms,
            }
            for link in links
            if link.name in self._indices
        ]

    def evidence(self) -> list[dict[str, object]]:
        """Return recorded double signing, ready for JSON."""
        names = [validator.name for validator in self.genesis.validators]
        return [
            {"validator": names[pair.first.sender], "first": encode(pair.first).hex(), "second": encode(pair.second).hex()}
            for pair in self._host.evidence
        ]

    # ------------------------------------------------------------------------------------------- for the door (PeerUser)

    async def take_message(self, peer: str, message: Message) -> None:
        """Give a consensus message of a validator to the replica."""
        if peer in self._indices:
            await self._driver.room()
            self._driver.post(Received(self._indices[peer], message))

    async def take_transactions(self, raws: Sequence[bytes]) -> None:
        """Take transactions that a peer shares."""
        await self._intake.take_from_peer(raws)

    def find_transaction(self, transaction_id: bytes) -> Transaction | None:
        """Return a transaction that a peer asks for."""
        return self._bodies.find(transaction_id)

    def peer_fault(self, peer: str, code: Suspicion, detail: str) -> None:
        """Count a broken rule of a peer."""
        self._host.saw_fault(Fault(PeerFault(self._indices.get(peer, -1), code, f"{peer}: {detail}")))

    # ------------------------------------------------------------------------------------------------------------ wiring

    def _arrived(self, transaction_ids: Sequence[bytes]) -> None:
        if self._bodies.arrived(transaction_ids):
            self._desk.retry()
        self._driver.wake()

    def _announce(self, height: int) -> None:
        header = self.store.header(height)
        mine = header is not None and header.proposer == self.index
        self.publisher.certified(height, self.transaction_proof if mine else None)

    def _committed(self, header: Header, included: Sequence[Transaction], named: Sequence[Transaction], finalized: FinalizedBlock) -> None:
        ids = [transaction.id for transaction in named]
        self._mempool.executed(ids)
        spent = self._mempool.drop_spent([(one.body.sender, one.body.nonce) for one in included])
        if spent:
            self.store.drop_pending(spent)
        self._intake.gone([*ids, *spent])
        self.publisher.executed(header, included, finalized)

    async def _persist(self, records: Sequence[LogRecord], bodies: list[tuple[int, bytes, tuple[bytes, ...]]]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._votes.append, records, bodies)


def _replica_config(genesis: Genesis, index: int, signer: Signer) -> ReplicaConfig:
    rules = genesis.consensus
    return ReplicaConfig(
        index=index,
        validators=genesis.validator_set,
        quorums=quorums(len(genesis.validators)),
        signer=signer,
        window=rules.window,
        max_in_flight=rules.max_in_flight,
        view_timeout_ms=rules.view_timeout_ms,
        max_view_timeout_ms=rules.max_view_timeout_ms,
    )


def _open_ledger(genesis: Genesis, store: ChannelStore) -> LedgerApplication:
    """Return the ledger over the store's state; an empty store gets height 0 from genesis."""
    head = store.head()
    if head is None:
        application = LedgerApplication(genesis, store.state)
        finalized = application.init_chain()
        header = genesis_header(genesis.chain_id, genesis.channel, genesis.time_ms, genesis.digest, finalized.tree.root)
        store.start(header, finalized)
        application.commit()
        return application
    first = store.header(0)
    if first is None or first.previous_hash != genesis.digest:
        raise InputError(str(store.path), "belongs to another genesis")
    tree = StateTree.of(store.entries())
    if tree.root != head.state_root:
        raise InvariantViolation(f"{store.path}: the stored state does not hash to the state root of block {head.height}")
    return LedgerApplication(genesis, store.state, tree)


def _sender(door: PeerDoor, names: Mapping[int | None, str]) -> Callable[[int | None, bytes], None]:
    """Return what sends an encoded message to the validator of an index (None: to all)."""

    def send(peer: int | None, body: bytes) -> None:
        if peer is None:
            door.broadcast_message(body, names.values())
        else:
            door.send_message(names[peer], body)

    return send


def _found(store: ChannelStore, votes: VoteLog) -> Recovered:
    """Return what the disk holds for the replica."""
    head = store.head()
    height = head.height if head is not None else 0
    certificate = store.last_certificate()
    certified = certificate.height if certificate is not None else 0
    above = [header for one in range(certified + 1, height + 1) if (header := store.header(one)) is not None]
    hashes = {header.height: header.hash for header in above}
    batches = {header.height: header.batch_digest for header in above}
    return Recovered(height, certificate, hashes, batches, tuple(votes.records()))
