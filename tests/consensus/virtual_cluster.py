"""A cluster of real replicas on a virtual network, clock and disk, driven from one seed.

Disks lose what was not synced, links lose what was sent before the receiver's start. Checkers run after every step (``checkers.py``).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable

from consensus.block import Certificate
from consensus.effects import Event, Received, Tick
from consensus.messages import Message, ValidatorSet
from tests.consensus.checkers import Witness
from tests.consensus.plain_ledger import DOMAIN, name, signer, validator_set
from tests.consensus.virtual_host import Host

__all__ = ["DOMAIN", "Host", "VirtualCluster", "name", "signer", "validator_set"]
NEVER = 1_000_000


class VirtualCluster:
    """Hosts, one event queue, one random source.

    Args:
        n: validators of epoch 0.
        extra: nodes beside them.
        snapshot_every: every so many blocks a snapshot is made; 0: never.
        snapshot_gap: of the replicas.
    """

    def __init__(
        self,
        n: int = 4,
        seed: int = 0,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        delay_ms: int = 5,
        extra: int = 0,
        snapshot_every: int = 0,
        snapshot_gap: int | None = NEVER,
    ) -> None:
        self.n, self.random = n, random.Random(seed)
        self.now_ms = 1_000
        self.loss, self.duplicate, self.delay_ms = loss, duplicate, delay_ms
        self.snapshot_every, self.snapshot_gap = snapshot_every, snapshot_gap
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = 0
        self.cut: set[tuple[int, int]] = set()
        self.crash_chance = self.lose_chance = 0.0
        self.intercept: Callable[[int, int, Message], Message | None] = lambda sender, to, message: message
        self.genesis = validator_set(n)
        self.witness = Witness(self.genesis)
        self.hosts = [Host(self, index) for index in range(n + extra)]

    @property
    def chain(self) -> list[bytes]:
        """All block hashes."""
        return [hash_ for _, hash_ in sorted(self.witness.chain.items())]

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
            self.later(self.hosts[to], self.random.randrange(1, self.delay_ms + 1), Received(name(sender), changed))

    def maybe_crash(self, host: Host) -> bool:
        if self.random.random() >= self.crash_chance:
            return False
        host.crash(self.random.randrange(1, 4) if self.lose_chance and self.random.random() < self.lose_chance else 0)
        self.at(self.random.randrange(50, 3_000), lambda: None if host.up else host.start())
        return True

    def submit(self, batch: bytes, to: Iterable[int] | None = None) -> None:
        for index in range(len(self.hosts)) if to is None else to:
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
        self.witness.block(self.hosts[index].name, sequence, self.hosts[index].disk.ledger.head.hash)

    def check_epochs(self, announced: tuple[ValidatorSet, ...]) -> None:
        for validators in announced:
            self.witness.announced(validators)

    def check_certificate(self, certificate: Certificate) -> None:
        self.witness.certificate(certificate)

    def everybody_has(self, batches: list[bytes]) -> bool:
        heights = {host.disk.height for host in self.hosts}
        return len(heights) == 1 and all(host.up and all(map(host.disk.ledger.has, batches)) for host in self.hosts)
