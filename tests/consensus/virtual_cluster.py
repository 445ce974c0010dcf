"""A cluster of real replicas on a virtual network, clock and disk, driven from one seed.

The application is a plain hash chain: block s = hash(block s - 1, batch). Disks lose what was not synced. Checkers run after every step.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from consensus.block import Certificate, CertifiedBlock, batch_digest
from consensus.crypto import Ed25519Signer
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
    Evidence,
    Execute,
    Executed,
    Fault,
    LogRecord,
    Persist,
    Propose,
    Received,
    Send,
    ServeBlocks,
    Tick,
    ViewEntered,
    Waiting,
)
from consensus.messages import BlocksMessage, Domain, Message, ValidatorSet, Vote
from consensus.recovery import Recovered
from consensus.replica import Replica
from consensus.state import ReplicaConfig

DOMAIN = Domain("test-chain", "main", 0)


def signer(index: int) -> Ed25519Signer:
    return Ed25519Signer(bytes([index + 1]) * 32)


def validator_set(n: int) -> ValidatorSet:
    return ValidatorSet(DOMAIN, 1, tuple(name(i) for i in range(n)), tuple(signer(i).public_key for i in range(n)), (b"",) * n)


def name(index: int) -> str:
    return f"dc{index}"


def index_of(peer: str) -> int:
    return int(peer[2:])


def header_of(previous: bytes, batch: bytes) -> bytes:
    return sha256(b"block" + previous + batch).digest()


@dataclass
class Disk:
    """What survives a crash."""

    records: dict[tuple[int, int, int], LogRecord] = field(default_factory=dict)
    blocks: list[tuple[bytes, bytes]] = field(default_factory=list)  # (hash, batch)
    certificates: dict[int, Certificate] = field(default_factory=dict)


class Host:
    """One node around one replica."""

    def __init__(self, cluster: VirtualCluster, index: int) -> None:
        self.cluster, self.index, self.disk = cluster, index, Disk()
        self.up = False
        self.incarnation = 0
        self.replica: Replica
        self.pending: dict[bytes, int] = {}
        self.proposed: set[bytes] = set()
        self.sent: dict[tuple[int, int, int], bytes] = {}
        self.faults: list[Fault] = []
        self.evidence: list[Evidence] = []
        self.refuse: Callable[[bytes], bool] = lambda batch: False

    def config(self) -> ReplicaConfig:
        return ReplicaConfig(name(self.index), (signer(self.index),), window=16, max_in_flight=4)

    def start(self) -> None:
        height = len(self.disk.blocks)
        certified = max((h for h in self.disk.certificates if h <= height), default=0)
        headers = {h: self.disk.blocks[h - 1][0] for h in range(certified + 1, height + 1)}
        records = tuple(record for _, record in sorted(self.disk.records.items()))
        batches = {h: batch_digest(self.disk.blocks[h - 1][1]) for h in range(certified + 1, height + 1)}
        epochs = (validator_set(self.cluster.n),)
        found = Recovered(epochs, b"", 1, height, self.disk.certificates.get(certified), headers, batches, records)
        self.replica = Replica(self.config(), found)
        self.up = True
        self.incarnation += 1
        self.perform(self.replica.start(self.cluster.now_ms))
        self.after_step()

    def crash(self) -> None:
        self.up = False

    def submit(self, batch: bytes) -> None:
        if all(batch != stored for _, stored in self.disk.blocks):
            self.pending.setdefault(batch, self.cluster.now_ms)

    def step(self, event: Event) -> None:
        if self.up:
            self.perform(self.replica.step(event, self.cluster.now_ms))
            self.after_step()

    def after_step(self) -> None:
        if not self.up:
            return
        since = min(self.pending.values(), default=None)
        self.perform(self.replica.step(Waiting(since), self.cluster.now_ms))
        if self.up and self.pending and self.replica.can_propose and self.replica.in_flight < 3:
            free = [batch for batch in self.pending if batch not in self.proposed]
            if free:
                self.proposed.add(free[0])
                self.perform(self.replica.step(Propose(free[0]), self.cluster.now_ms))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if not self.up:
                return
            match effect:
                case Persist(records):
                    if self.cluster.maybe_crash(self):
                        return
                    for record in records:
                        self.disk.records[(record.sequence, record.view, record.kind)] = record
                case Send(peer, message):
                    self.note(message)
                    self.cluster.send(self.index, index_of(peer), message)
                case Broadcast(message):
                    self.note(message)
                    for peer in range(self.cluster.n):
                        if peer != self.index:
                            self.cluster.send(self.index, peer, message)
                case CheckBatch(view, sequence, digest, batch, _, _, fresh):
                    ok = not (fresh and self.refuse(batch))
                    self.cluster.later(self, 1, BatchChecked(view, sequence, digest, ok))
                case Execute(sequence, batch):
                    self.append(sequence, batch)
                    self.cluster.later(self, 1, Executed(sequence, self.disk.blocks[sequence - 1][0]))
                case Adopt(sequence, block):
                    if sequence <= len(self.disk.blocks):
                        continue  # executed meanwhile: the answer to that is on its way
                    previous = self.disk.blocks[-1][0] if self.disk.blocks else b""
                    if header_of(previous, block.block) != block.certificate.header_hash:
                        self.cluster.later(self, 1, AdoptionFailed(sequence, "hash"))
                    else:
                        self.append(sequence, block.block)
                        self.cluster.later(self, 1, Executed(sequence, block.certificate.header_hash))
                case Certified(certificate, truncate, _, view):
                    self.disk.certificates[certificate.height] = certificate
                    for key in [k for k in self.disk.records if 0 < k[0] <= truncate or (k[0] == 0 and k[1] < view)]:
                        del self.disk.records[key]
                case ServeBlocks(peer, first, last):
                    blocks = tuple(CertifiedBlock(self.disk.blocks[h - 1][1], self.disk.certificates[h]) for h in self.served(first, last))
                    self.cluster.send(self.index, index_of(peer), BlocksMessage(blocks))
                case Fault():
                    self.faults.append(effect)
                case Evidence():
                    self.evidence.append(effect)
                case Diverged():
                    raise AssertionError(f"replica {self.index} diverged at {effect.sequence}")
                case ViewEntered():
                    self.proposed = set()

    def served(self, first: int, last: int) -> Iterator[int]:
        for height in range(first, last + 1):
            if height not in self.disk.certificates:
                return
            yield height

    def append(self, sequence: int, batch: bytes) -> None:
        if sequence != len(self.disk.blocks) + 1:
            raise AssertionError(f"block {sequence} after {len(self.disk.blocks)}")
        previous = self.disk.blocks[-1][0] if self.disk.blocks else b""
        # like a real application: a batch that was executed before has no effect
        self.disk.blocks.append((header_of(previous, batch), batch))
        self.pending.pop(batch, None)
        self.cluster.check_agreement(self.index, sequence)

    def note(self, message: Message) -> None:
        """Check that this replica never signs two different votes for one place, across all restarts."""
        vote: Vote | None = getattr(message, "vote", None)
        if vote is None or vote.sender != self.index or vote.kind == 7:
            return
        place = (vote.kind, vote.view, vote.sequence)
        if self.sent.setdefault(place, vote.digest) != vote.digest:
            raise AssertionError(f"replica {self.index} signed two votes at {place}")


class VirtualCluster:
    """n hosts, one event queue, one random source."""

    def __init__(self, n: int = 4, seed: int = 0, *, loss: float = 0.0, duplicate: float = 0.0, delay_ms: int = 5) -> None:
        self.n, self.random = n, random.Random(seed)
        self.now_ms = 1_000
        self.loss, self.duplicate, self.delay_ms = loss, duplicate, delay_ms
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = 0
        self.cut: set[tuple[int, int]] = set()
        self.crash_chance = 0.0
        self.intercept: Callable[[int, int, Message], Message | None] = lambda sender, to, message: message
        self.chain: list[bytes] = []
        self.hosts = [Host(self, index) for index in range(n)]

    def start(self) -> None:
        for host in self.hosts:
            host.start()

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        self.counter += 1
        heapq.heappush(self.queue, (self.now_ms + delay_ms, self.counter, action))

    def later(self, host: Host, delay_ms: int, event: Event) -> None:
        incarnation = host.incarnation
        self.at(delay_ms, lambda: host.step(event) if host.incarnation == incarnation else None)

    def send(self, sender: int, to: int, message: Message) -> None:
        changed = self.intercept(sender, to, message)
        if changed is None or (sender, to) in self.cut or self.random.random() < self.loss:
            return
        copies = 2 if self.random.random() < self.duplicate else 1
        for _ in range(copies):
            delay = self.random.randrange(1, self.delay_ms + 1)
            self.at(delay, lambda: self.hosts[to].step(Received(name(sender), changed)))

    def maybe_crash(self, host: Host) -> bool:
        if self.random.random() >= self.crash_chance:
            return False
        host.crash()
        self.at(self.random.randrange(50, 3_000), host.start)
        return True

    def submit(self, batch: bytes, to: range | None = None) -> None:
        for index in to or range(self.n):
            self.hosts[index].submit(batch)

    def run(self, ms: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Run for so long in virtual time; True as soon as ``until`` holds."""
        end = self.now_ms + ms
        next_tick = self.now_ms
        while self.now_ms < end:
            if until():
                return True
            if self.queue and self.queue[0][0] <= next_tick:
                when, _, action = heapq.heappop(self.queue)
                self.now_ms = max(self.now_ms, when)
                action()
            else:
                self.now_ms = max(self.now_ms, next_tick)
                next_tick = self.now_ms + 20
                for host in self.hosts:
                    host.step(Tick())
        return until()

    def check_agreement(self, index: int, sequence: int) -> None:
        block = self.hosts[index].disk.blocks[sequence - 1][0]
        if sequence > len(self.chain):
            self.chain.append(block)
        if self.chain[sequence - 1] != block:
            raise AssertionError(f"fork at height {sequence}: replica {index} differs")

    def everybody_has(self, batches: list[bytes]) -> bool:
        heights = {len(host.disk.blocks) for host in self.hosts}
        return len(heights) == 1 and all(host.up and set(batches) <= {batch for _, batch in host.disk.blocks} for host in self.hosts)
