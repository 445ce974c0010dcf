"""Four real replicas on one virtual network, clock and ledger: what they say, log and store are the valid inputs of many targets.

The play is always the same: blocks in view 0, one replica that misses some and fetches them, a primary that falls silent, blocks in the
next view, and blocks in the epoch that the validators decided on. Every message kind of normal operation and of view changes occurs.
What depends on the shape of events and effects stands here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from cluster.fuzz.chain import SNAPSHOT_HEIGHT, Chain, make_replica
from cluster.fuzz.world import VALIDATORS, history, make_genesis, signer_of
from consensus.block import Batch, Certificate, CertifiedBlock, decode_block
from consensus.codec import encode
from consensus.effects import (
    Adopt,
    AdoptionFailed,
    BatchChecked,
    Broadcast,
    Certified,
    CheckBatch,
    Diverged,
    Effect,
    Event,
    Execute,
    LogRecord,
    Persist,
    Propose,
    Received,
    Send,
    ServeBlocks,
    Tick,
    Waiting,
)
from consensus.errors import InvariantViolation
from consensus.messages import (
    BlocksMessage,
    ChunkMessage,
    FetchChunk,
    FetchSnapshot,
    Kind,
    Message,
    SnapshotMessage,
    StatusBody,
    StatusMessage,
    VoteMessage,
    body_digest,
    sign_vote,
)
from consensus.replica import Replica
from consensus.transaction import decode_transaction

START_MS = 1_000
TICK_MS = 20
DELAY_MS = 2
IN_VIEW_0 = 14
"""Blocks before the primary falls silent."""
PREPARED = 2
"""Blocks that are prepared when it does, and no more."""
IN_VIEW_1 = 2
IN_EPOCH_1 = 4
"""Blocks of the next epoch, which begins when those of view 1 are certified."""
MISSED = range(8, 11)
"""Heights of which the last replica hears nothing when they are ordered."""


class Said(NamedTuple):
    """One message on its way."""

    at_ms: int
    sender: int
    to: int
    message: Message


@dataclass(slots=True)
class Host:
    """What stands around one replica.

    Attributes:
        heard: every event that the replica took, with its time: stepping a fresh one through them leads to the same state.
        records: its vote log, nothing forgotten.
    """

    index: int
    replica: Replica
    heard: list[tuple[Event | None, int]] = field(default_factory=list)
    records: list[LogRecord] = field(default_factory=list)
    certificates: dict[int, Certificate] = field(default_factory=dict)
    height: int = 0


class Rehearsal:
    """Plays the whole play once.

    Attributes:
        said: all messages, in the order in which they were sent (one entry for each receiver).
        marks: number of events that each replica had taken when a block was certified everywhere, by height.
    """

    def __init__(self) -> None:
        self.genesis = make_genesis()
        self.chain = Chain(self.genesis)
        self.hosts = [Host(index, make_replica(self.genesis, index)) for index in range(len(VALIDATORS))]
        self.said: list[Said] = []
        self.marks: dict[int, tuple[int, ...]] = {}
        self._now_ms = START_MS
        self._mail: list[tuple[int, int, Said]] = []
        self._silent: frozenset[int] = frozenset()
        self._deaf: frozenset[int] = frozenset()
        self._lost: frozenset[tuple[int, int]] = frozenset()
        self._play()

    def snapshot_messages(self) -> list[Message]:
        """Return what is asked and answered when somebody takes the snapshot."""
        manifest, chunks = self.chain.snapshot(self.hosts[1].certificates)
        said: list[Message] = [FetchSnapshot(1), SnapshotMessage(encode(manifest))]
        for index, chunk in enumerate(chunks):
            said += [FetchChunk(SNAPSHOT_HEIGHT, index), ChunkMessage(SNAPSHOT_HEIGHT, index, encode(chunk))]
        return said

    def pruned_statuses(self, seats: Sequence[int]) -> list[StatusMessage]:
        """Return what some of them say at the end if they have the newest block only."""
        height, validators = len(self.chain.made), self.chain.epochs(len(self.chain.made))[-1]
        said = []
        for seat in seats:
            body = StatusBody(
                0, changing=False, executed=height, certified=height, first=height, certificate=self.hosts[1].certificates[height]
            )
            signer = signer_of(VALIDATORS[seat])
            said.append(StatusMessage(sign_vote(signer, validators.domain, Kind.STATUS, 0, 0, body_digest(body), seat), body))
        return said

    # -------------------------------------------------------------------------------------------------------- the play

    def _play(self) -> None:
        for host in self.hosts:
            self._step(host, None)
        blocks = history(self.genesis)
        for height in range(1, IN_VIEW_0 + 1):
            self._deaf = frozenset((3,)) if height in MISSED else frozenset()
            self._order(0, 0, next(blocks))
            self._run(lambda height=height: self._stands(height))  # type: ignore[misc]
            self.marks[height] = tuple(len(host.heard) for host in self.hosts)
        self._run(lambda: all(host.height >= IN_VIEW_0 for host in self.hosts))
        self._change_view([next(blocks) for _ in range(PREPARED)])
        for height in range(IN_VIEW_0 + PREPARED + 1, IN_VIEW_0 + PREPARED + IN_VIEW_1 + 1):
            self._order(1, 1, next(blocks))
            self._run(lambda height=height: self._stands(height))  # type: ignore[misc]
            self.marks[height] = tuple(len(host.heard) for host in self.hosts)
        self._silent, self._lost = frozenset(), frozenset()
        self._run(lambda: all(host.height == len(self.chain.made) and host.replica.committee.epoch == 1 for host in self.hosts))
        for height in range(len(self.chain.made) + 1, len(self.chain.made) + IN_EPOCH_1 + 1):
            self._order(0, 0, next(blocks))
            self._run(lambda height=height: self._stands(height))  # type: ignore[misc]
            self.marks[height] = tuple(len(host.heard) for host in self.hosts)
        self._run(lambda: all(host.height == len(self.chain.made) for host in self.hosts))

    def _change_view(self, prepared: list[tuple[int, list[bytes]]]) -> None:
        """Let batches be prepared, but lose all commits and then the primary; the next one proposes them again."""
        self._lost = frozenset(((Kind.COMMIT, 0),))
        for block in prepared:
            self._order(0, 0, block)
        self._run(lambda: all(len(host.replica.status(self._now_ms).in_flight) >= PREPARED for host in self.hosts))
        settled_ms = self._now_ms + 5 * TICK_MS
        self._run(lambda: self._now_ms > settled_ms)
        self._silent = frozenset((0,))
        for host in self.hosts[1:]:
            self._step(host, Waiting(self._now_ms))
        self._run(lambda: all(host.replica.view == 1 and host.height == IN_VIEW_0 + PREPARED for host in self.hosts[1:]))
        for host in self.hosts[1:]:
            self._step(host, Waiting(None))

    def _stands(self, height: int) -> bool:
        away = self._silent | self._deaf
        return all(height in host.certificates for host in self.hosts if host.index not in away)

    def _order(self, primary: int, view: int, block: tuple[int, list[bytes]]) -> None:
        """Let the primary propose one block's transactions, which everybody has."""
        time_ms, raws = block
        transactions = [decode_transaction(raw) for raw in raws]
        self.chain.transactions.update({one.id: one for one in transactions})
        batch = encode(Batch(view, primary, time_ms, tuple(one.id for one in transactions)))
        self._step(self.hosts[primary], Propose(batch))

    def _run(self, until: Callable[[], bool]) -> None:
        """Let time pass until something holds.

        Raises:
            InvariantViolation: it never does.
        """
        end_ms = self._now_ms + 60_000
        next_tick_ms = self._now_ms
        while not until():
            if self._now_ms > end_ms:
                raise InvariantViolation("the rehearsal stands still")
            if self._mail and self._mail[0][0] <= next_tick_ms:
                at_ms, _, said = heapq.heappop(self._mail)
                self._now_ms = max(self._now_ms, at_ms)
                if said.to not in self._deaf | self._silent:
                    self._step(self.hosts[said.to], Received(VALIDATORS[said.sender], said.message))
                continue
            self._now_ms = next_tick_ms = max(self._now_ms, next_tick_ms) + TICK_MS
            for host in self.hosts:
                self._step(host, Tick())

    # --------------------------------------------------------------------------------------------------------- a host

    def _step(self, host: Host, event: Event | None) -> None:
        """Step one replica (None: start it), perform what it wants, step it with the answers."""
        waiting: list[Event | None] = [event]
        while waiting:
            following = waiting.pop(0)
            host.heard.append((following, self._now_ms))
            effects = host.replica.start(self._now_ms) if following is None else host.replica.step(following, self._now_ms)
            for effect in effects:
                waiting += self._perform(host, effect)

    def _perform(self, host: Host, effect: Effect) -> Iterator[Event]:
        match effect:
            case Persist(records):
                host.records += records
            case Send(peer, message):
                self._send(host, VALIDATORS.index(peer), message)
            case Broadcast(message):
                for other in self.hosts:
                    if other is not host:
                        self._send(host, other.index, message)
            case CheckBatch():
                yield BatchChecked(effect.view, effect.sequence, effect.digest, accepted=True)
            case Execute(sequence, batch):
                host.height = sequence
                self.chain.execute(sequence, batch)
                yield self.chain.executed(sequence)
            case Adopt(sequence, certified) if sequence > host.height:
                yield self._adopt(host, sequence, certified)
            case Certified():
                host.certificates[effect.certificate.height] = effect.certificate
            case ServeBlocks(peer, first, last, _):
                held = range(first, min(last, max(host.certificates, default=0)) + 1)
                blocks = tuple(CertifiedBlock(encode(self.chain.made[one - 1].block), host.certificates[one]) for one in held)
                self._send(host, VALIDATORS.index(peer), BlocksMessage(blocks))
            case Diverged():
                raise InvariantViolation(f"replica {host.index} diverged in the rehearsal")

    def _adopt(self, host: Host, sequence: int, certified: CertifiedBlock) -> Event:
        made = self.chain.execute(sequence, decode_block(certified.block).batch)
        if encode(made) != certified.block:
            return AdoptionFailed(sequence, "another block")
        host.height = sequence
        return self.chain.executed(sequence)

    def _send(self, host: Host, peer: int, message: Message) -> None:
        if host.index in self._silent | self._deaf:
            return
        if isinstance(message, VoteMessage) and (message.vote.kind, message.vote.view) in self._lost:
            return
        said = Said(self._now_ms, host.index, peer, message)
        self.said.append(said)
        heapq.heappush(self._mail, (self._now_ms + DELAY_MS, len(self.said), said))


@cache
def rehearsed() -> Rehearsal:
    """Return the play, played once in this process; nobody may change anything in it."""
    return Rehearsal()
