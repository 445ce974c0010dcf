"""The part of the audit that executes blocks again, and compares the stored state with what that gives."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from consensus.block import NO_PROPOSER, NULL_BATCH, Block, Header, decode_batch
from consensus.errors import InvariantViolation
from consensus.state_tree import StateTree
from consensus.transaction import Transaction
from consensus.validators import set_at
from contracts.application import LedgerApplication
from contracts.genesis import Genesis
from node.audit_report import Findings
from node.genesis_block import genesis_block


class MemoryState:
    """State entries in memory: what an application reads while the chain is replayed."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``."""
        return self._values.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all pairs whose key starts with ``prefix``, by rising key, as they are at the call."""
        first = bisect_left(self._keys, prefix)
        found = []
        for position in range(first, len(self._keys)):
            key = self._keys[position]
            if not key.startswith(prefix):
                break
            found.append((key, self._values[key]))
        return iter(found)

    def apply(self, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Change entries; None deletes."""
        for key, value in writes:
            if value is not None:
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value
            elif self._values.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]


class Replay:
    """Executes blocks from a known state on.

    After a fault that makes it impossible to go on it stops; blocks are then still checked one by one by others.
    """

    def __init__(self, genesis: Genesis, findings: Findings) -> None:
        self._genesis = genesis
        self._findings = findings
        self._state = MemoryState()
        self._application = LedgerApplication(genesis, self._state)
        self._running = False

    def genesis_header(self, start: bool) -> Header:
        """Make height 0 from the genesis file alone; return its header.

        Args:
            start: whether blocks are executed from there on.
        """
        header, finalized = genesis_block(self._genesis, self._application)
        if start:
            self._state.apply(finalized.writes)
            self._application.commit()
            self._running = True
            self._findings.replayed_from = 0
        return header

    def start(self, height: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Execute blocks from the state after block ``height`` on."""
        self._state = MemoryState()
        self._state.apply(sorted(entries))
        self._application = LedgerApplication(self._genesis, self._state, StateTree.of(self._state.scan(b"")))
        self._running = True
        self._findings.replayed_from = height

    def execute(self, block: Block, transactions: Sequence[Transaction]) -> None:
        """Execute a block again; note where its results differ."""
        if not self._running:
            return
        header = block.header
        proposer = NO_PROPOSER if block.batch == NULL_BATCH else decode_batch(block.batch).proposer
        try:
            finalized = self._application.finalize_block(header.height, header.time_ms, proposer, transactions)
        except InvariantViolation as error:
            self._findings.add(header.height, "execution", str(error))
            self.stop(header.height)
            return
        if finalized.included != tuple(range(len(transactions))):
            self._findings.add(header.height, "execution", "the block holds a transaction that must have no effect")
        if finalized.receipts != block.receipts:
            self._findings.add(header.height, "receipts", "are not what executing the block gives")
        if finalized.tree.root != header.state_root:
            self._findings.add(header.height, "state root", "is not what executing the block gives")
            self.stop(header.height)
            return
        self._state.apply(finalized.writes)
        self._application.commit()
        if set_at(self._application.epochs(), header.height + 1).digest != header.next_validators:
            self._findings.add(header.height, "next validators", "are not what executing the blocks gives")

    def stop(self, height: int) -> None:
        """Note that a block cannot be executed again."""
        if self._running:
            self._findings.add(height, "execution", "state cannot be made again from here on")
        self._running = False

    def check_state(self, stored: Iterable[tuple[bytes, bytes]], head: Header | None) -> None:
        """Compare the stored state with the replayed one, or, if there is none, its root with the last header's."""
        if not self._running:
            if head is not None and StateTree.of(stored).root != head.state_root:
                self._findings.add(None, "state", f"the entries do not hash to the state root of block {head.height}")
            return
        for found, wanted in zip_longest(stored, self._state.scan(b"")):
            if found != wanted:
                key = min(pair[0] for pair in (found, wanted) if pair is not None)
                self._findings.add(None, "state", f"entry {key!r} is not what executing the blocks gives")
                if found is None or wanted is None or found[0] != wanted[0]:
                    return
