"""The seam between ordering and meaning, after CometBFT's ABCI 2.0.

The host calls an application from one task, in this order: ``info`` once; ``init_chain`` on an empty store; then, per height,
``finalize_block`` and ``commit``. ``check_transaction``, ``process_proposal`` and ``query`` come between at any time.

Duties of an application:

1. ``init_chain``, ``process_proposal`` and ``finalize_block`` are pure functions of the committed state and their arguments: no clock, no
   randomness, no floats, no iteration over sets, nothing from outside.
2. ``finalize_block`` never raises because of a transaction. A bad one gets a receipt with a code, or is *void* (left out of the block).
3. ``finalize_block`` changes nothing that ``query`` or ``check_transaction`` can see; ``commit`` does. A second ``finalize_block`` without
   a ``commit`` in between replaces the first.
4. The host makes ``writes`` durable, in one batch with the block, before it calls ``commit``. That is all the durability there is:
   after a crash the application starts from what the store holds.

| crash after | on disk | what the host does at the next start |
| --- | --- | --- |
| ``finalize_block`` | nothing of the height | orders it again, from its votes or its peers |
| the host's write | block, receipts, state of the height | goes on with the next height |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from consensus.messages import ValidatorSet
from consensus.state_tree import StateTree
from consensus.transaction import Transaction

OK = "OK"


class StateReader(Protocol):
    """Committed state as the application reads it; the host gives it one at construction."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``."""

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all pairs whose key starts with ``prefix``, by rising key."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to "may this be so?".

    Attributes:
        code: ``OK`` or the code of the refusal, in capitals.
        detail: the reason in words, naming the field; empty when OK.
    """

    code: str = OK
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return self.code == OK


@dataclass(frozen=True, slots=True)
class FinalizedBlock:
    """What executing one batch gives.

    Attributes:
        included: positions, in the list given, of the transactions that take part in the block, rising.
        receipts: encoded receipts: one per included transaction, then at most one for what fell due.
        writes: the changed state entries by rising key; None deletes.
        tree: commitment to the state after the block.
        events: what happened, for subscribers (the same values as in the receipts, decoded).
        announced: validator sets that this block announces, by rising epoch; the first height of each lies more than a window of sequence
            numbers above this block.
    """

    included: tuple[int, ...]
    receipts: tuple[bytes, ...]
    writes: tuple[tuple[bytes, bytes | None], ...]
    tree: StateTree
    events: tuple[object, ...]
    announced: tuple[ValidatorSet, ...] = ()


class Application(Protocol):
    """What a ledger means. See the duties in the module's docstring."""

    def init_chain(self) -> FinalizedBlock:
        """Make the state of height 0 from genesis (no receipts); ``commit`` adopts it."""

    def check_transaction(self, transaction: Transaction, time_ms: int) -> Verdict:
        """Tell whether the transaction could execute now; its signature was checked by the caller."""

    def process_proposal(self, transactions: Sequence[Transaction], time_ms: int) -> Verdict:
        """Tell whether a batch may be proposed: known senders and keys, no spent nonce, none twice, none expired at ``time_ms``."""

    def finalize_block(self, height: int, time_ms: int, proposer: int, transactions: Sequence[Transaction]) -> FinalizedBlock:
        """Execute a batch on the committed state (signatures checked by the caller)."""

    def commit(self) -> None:
        """Adopt the last finalized block: the host has made it durable."""

    def restore(self, tree: StateTree) -> None:
        """Forget everything and go on from the committed state as it is now: a snapshot took its place."""

    def epochs(self) -> tuple[ValidatorSet, ...]:
        """Return all validator sets that the committed state knows, from epoch 0 on (the last ones may be announced only)."""

    def next_deadline_ms(self) -> int | None:
        """Return the block time at which something falls due even if nobody sends a transaction."""
