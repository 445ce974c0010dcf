"""What a simulation is asked to do, and what one run of it tells."""

from __future__ import annotations

import msgspec

FAULTS = (
    "loss",
    "duplication",
    "reordering",
    "delay",
    "partition",
    "one-way",
    "crash",
    "torn",
    "wipe",
    "slow-disk",
    "clock-skew",
    "clock-jump",
    "lag",
    "dead",
    "byzantine",
    "twins",
    "membership",
)
"""All faults by name."""
CALM_MS = 30_000
"""How much virtual time everything may take to commit once the faults have stopped."""


class Settings(msgspec.Struct, frozen=True):
    """How runs are made.

    Fields:
        nodes: validators.
        faults: names out of :data:`FAULTS`.
        byzantine: exactly so many Byzantine nodes; None: as many as the seed says, up to f.
        habits: what every Byzantine node does; empty: what the seed says.
        calm_ms: bound on the virtual time after the faults.
        real_signatures: Ed25519 instead of a keyed hash.
        plant: name of a planted bug; empty for none.
    """

    nodes: int = 4
    faults: tuple[str, ...] = FAULTS
    byzantine: int | None = None
    habits: tuple[str, ...] = ()
    calm_ms: int = CALM_MS
    real_signatures: bool = False
    plant: str = ""

    @property
    def faulty(self) -> int:
        """How many nodes may be faulty at a time: f."""
        return (self.nodes - 1) // 3


class Outcome(msgspec.Struct, frozen=True):
    """What one run did.

    Fields:
        safety, liveness: the violation in one line; empty if there is none.
        checker: name of the checker that found it.
        events: steps of the virtual world.
        virtual_ms: how much time passed in it.
        faults: how often each fault struck.
        fingerprint: differs as soon as two runs differ anywhere.
        blocks, transactions, views: what the run came to: height, transactions in the chain, highest view.
    """

    nodes: int
    seed: int
    safety: str
    liveness: str
    checker: str
    events: int
    virtual_ms: int
    faults: dict[str, int]
    fingerprint: int
    blocks: int
    transactions: int
    views: int

    @property
    def failed(self) -> bool:
        """Whether something was violated."""
        return bool(self.safety or self.liveness)


class Violation(Exception):
    """A checker found something that must never be.

    Args:
        checker: its name.
        text: what it saw.
    """

    def __init__(self, checker: str, text: str) -> None:
        super().__init__(f"{checker}: {text}")
        self.checker = checker
        self.text = text
