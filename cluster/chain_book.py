"""The chain as all nodes together have shown it so far, checked block by block as it grows. Pure; can be given planted faults.

One node's blocks are entered in full (:meth:`ChainBook.enter`); what the others have must be the same (:meth:`ChainBook.compare`). A
header's hash covers its transactions, their results, the state and its predecessor: equal hashes at one height mean equal chains up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from cluster.checkers import OK, StoredBlock
from cluster.history import Payment


class Violation(msgspec.Struct, frozen=True):
    """Something that must never happen.

    Fields:
        kind: "lost", "duplicated", "fork", "foreign", "balance", "equivocation", or "failed" (a node or the cluster did not do what
            it must).
        text: what it is, for people.
        transaction: id of the transaction that it is about, hex; empty if it is about none.
        node: where it was seen; empty if it is not about one node.
    """

    kind: str
    text: str
    transaction: str = ""
    node: str = ""


class ChainBook:
    """The chain from height 1 on.

    Args:
        genesis_hash: hash of the block at height 0.
        opening_balances: at genesis, of the accounts under test, micro.
        payment_of: what a transaction moves, None if it moves nothing.
        was_sent: whether somebody sent this transaction.

    Attributes:
        balances: what each account under test must have after the last block.
        readings: sequence numbers of each meter that a block has accepted.
        refused: number of transactions with another code than OK.
    """

    def __init__(
        self,
        genesis_hash: str,
        opening_balances: Mapping[str, int],
        payment_of: Callable[[bytes], Payment | None],
        was_sent: Callable[[bytes], bool],
    ) -> None:
        self.balances = dict(opening_balances)
        self.readings: dict[str, set[int]] = {}
        self.refused = 0
        self._hashes = [genesis_hash]
        self._places: dict[bytes, int] = {}
        self._payment_of = payment_of
        self._was_sent = was_sent

    def __contains__(self, transaction_id: bytes) -> bool:
        return transaction_id in self._places

    @property
    def height(self) -> int:
        """Height of the last block entered."""
        return len(self._hashes) - 1

    @property
    def transactions(self) -> int:
        """Number of transactions in the chain."""
        return len(self._places)

    def hash_at(self, height: int) -> str:
        """Return the hash of a block that was entered."""
        return self._hashes[height]

    def enter(self, node: str, blocks: Sequence[StoredBlock]) -> list[Violation]:
        """Enter the next blocks, as one node has them; return what is wrong with them.

        Nothing is entered from a block on that does not follow its predecessor.
        """
        found: list[Violation] = []
        for block in blocks:
            height = self.height + 1
            if block.height != height or block.previous_hash != self._hashes[-1]:
                follows = f"block {block.height} of {node} does not follow block {self.height}, {self._hashes[-1][:12]}"
                return [*found, Violation("fork", follows, node=node)]
            self._hashes.append(block.hash)
            codes = block.codes or (OK,) * len(block.transactions)
            for transaction, code in zip(block.transactions, codes, strict=True):
                found += self._execute(node, height, transaction, code, is_known=transaction in block.by_validators)
            for meter, sequence in block.readings:
                found += self._read(node, height, meter, sequence)
        return found

    def _execute(self, node: str, height: int, transaction: bytes, code: str, *, is_known: bool) -> list[Violation]:
        before = self._places.get(transaction)
        if before is not None:
            return [_violation("duplicated", f"is in block {before} and in block {height}", transaction, node)]
        self._places[transaction] = height
        payment = self._payment_of(transaction)
        if code != OK:
            self.refused += 1
        elif payment is not None:
            for account, moved_micro in ((payment.payer, -payment.amount_micro), (payment.payee, payment.amount_micro)):
                if account in self.balances:
                    self.balances[account] += moved_micro
        if not (is_known or self._was_sent(transaction)):
            return [_violation("foreign", f"in block {height} was sent by nobody", transaction, node)]
        return []

    def _read(self, node: str, height: int, meter: str, sequence: int) -> list[Violation]:
        known = self.readings.setdefault(meter, set())
        if sequence in known:
            return [Violation("duplicated", f"reading {sequence} of {meter} counts a second time in block {height}", node=node)]
        known.add(sequence)
        return []

    def compare(self, node: str, hashes: Mapping[int, str], heights: Iterable[int]) -> list[Violation]:
        """Return where a node's blocks differ from those that were entered.

        Args:
            hashes: of the node's blocks, by height.
            heights: where it must have one.
        """
        found = []
        for height in heights:
            if height not in hashes:
                found.append(Violation("lost", f"{node} lacks block {height}", node=node))
            elif hashes[height] != self._hashes[height]:
                differ = f"block {height} is {hashes[height][:12]} on {node}, {self._hashes[height][:12]} elsewhere"
                found.append(Violation("fork", differ, node=node))
        return found

    def missing(self, acknowledged: Collection[tuple[bytes, str]]) -> list[Violation]:
        """Return what was promised and is in no block: pairs of a transaction and the node that acknowledged it."""
        return [
            _violation("lost", f"was acknowledged by {node} and is in no block up to {self.height}", transaction, node)
            for transaction, node in acknowledged
            if transaction not in self._places
        ]

    def wrong_balances(self, node: str, balances: Mapping[str, int]) -> list[Violation]:
        """Return accounts with another balance than the executed transfers give, each counted once."""
        return [
            Violation("balance", f"{account} has {balances.get(account, 0)} micro, its transfers give {expected}", node=node)
            for account, expected in self.balances.items()
            if balances.get(account, 0) != expected
        ]

    def missing_readings(self, confirmed: Mapping[str, Collection[int]]) -> list[Violation]:
        """Return readings that were taken or confirmed, and that no block has accepted."""
        return [
            Violation("lost", f"reading {sequence} of {meter} was promised and is in no block up to {self.height}")
            for meter, sequences in confirmed.items()
            for sequence in sorted(set(sequences) - self.readings.get(meter, set()))
        ]


def _violation(kind: str, what: str, transaction: bytes, node: str) -> Violation:
    return Violation(kind, f"transaction {transaction.hex()} {what}", transaction.hex(), node)
