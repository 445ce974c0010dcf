"""What an audit finds, while it runs and afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.messages import ValidatorSet

MAX_FAULTS = 1_000
Progress = Callable[[int, int], None]
"""Called with the height that was checked and the height of the head."""


@dataclass(frozen=True, slots=True)
class AuditFault:
    """Something that is not as it must be.

    Attributes:
        height: of the block that it belongs to, None for what belongs to no block.
        what: part of the store in a word or two.
        detail: what is wrong with it.
    """

    height: int | None
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found.

    Attributes:
        height: of the last block (-1: there is none).
        blocks: checked, genesis included.
        transactions: checked.
        certified_height: of the last certificate (0 if none); the few blocks above it may still wait for theirs.
        faults: empty if all is well; at most :data:`MAX_FAULTS`.
        base: height of the block that the stored chain hangs on (0: genesis); what is below is not stored.
        replayed_from: height of the state from which all later blocks were executed again, None if none was.
        notes: what could not be checked, and why, for people.
    """

    height: int
    blocks: int
    transactions: int
    certified_height: int
    faults: tuple[AuditFault, ...]
    base: int = 0
    replayed_from: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


@dataclass(slots=True)
class Findings:
    """Collects faults and counts while an audit runs; ``epochs`` are the validator sets that were found."""

    height: int = -1
    blocks: int = 0
    transactions: int = 0
    certified_height: int = 0
    faults: list[AuditFault] = field(default_factory=list)
    base: int = 0
    replayed_from: int | None = None
    notes: list[str] = field(default_factory=list)
    epochs: tuple[ValidatorSet, ...] = ()

    def add(self, height: int | None, what: str, detail: str) -> None:
        """Note a fault (none beyond the bound)."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(AuditFault(height, what, detail))

    def report(self) -> AuditReport:
        """Return everything found so far."""
        return AuditReport(
            self.height,
            self.blocks,
            self.transactions,
            self.certified_height,
            tuple(self.faults),
            self.base,
            self.replayed_from,
            tuple(self.notes),
        )
