"""The executor of a simulated node: blocks strictly in order, each durable before it is announced (as :mod:`node.executor`)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from cluster.simulation.settings import Violation
from consensus.block import NULL_BATCH, Block, batch_digest, decode_batch, decode_block
from consensus.effects import Adopt, AdoptionFailed, AdoptSnapshot, Execute, Executed
from consensus.errors import DecodeError, InvariantViolation
from consensus.transaction import Transaction, decode_transaction
from consensus.validators import set_at
from node.block_making import make_block, objection

if TYPE_CHECKING:
    from cluster.simulation.process import Process

Work = Execute | Adopt | AdoptSnapshot


class Executor:
    """Executes blocks of one node in order.

    Args:
        process: the software of the node that it belongs to.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._queue: deque[Work] = deque()
        self._busy = False
        self._waiting: Execute | None = None

    def put(self, effect: Work) -> None:
        """Queue a block or a snapshot. A certified block takes the place of a batch that waits for its bodies, a snapshot that of all."""
        if isinstance(effect, Adopt) and effect.sequence <= self._process.store.height:
            return
        if isinstance(effect, AdoptSnapshot):
            self._queue.clear()
        if not isinstance(effect, Execute) and self._waiting is not None:
            self._waiting = None
            self._process.bodies.give_up()
            self._queue.appendleft(effect)
        else:
            self._queue.append(effect)
        self._next()

    def arrived(self) -> None:
        """Look again for the transactions that a batch waits for."""
        if self._waiting is not None:
            effect, self._waiting = self._waiting, None
            self._queue.appendleft(effect)
            self._next()

    def _next(self) -> None:
        while self._queue and not self._busy and self._waiting is None:
            effect = self._queue.popleft()
            if isinstance(effect, Execute):
                named = self._find(effect)
                if named is None:
                    self._waiting = effect
                    return
                self._begin(self._execute, effect, named)
            elif isinstance(effect, AdoptSnapshot):
                self._begin(self._adopt_snapshot, effect)
            elif effect.sequence > self._process.store.height:
                self._begin(self._adopt, effect)

    def _begin(self, *work: object) -> None:
        self._busy = True
        self._process.later(self._process.block_ms(), self._finish, *work)

    def _finish(self, work: object, *arguments: object) -> None:
        work(*arguments)  # type: ignore[operator]  # one of the methods below
        self._busy = False
        if self._process.alive:
            self._next()

    def _find(self, effect: Execute) -> tuple[Transaction, ...] | None:
        if effect.batch == NULL_BATCH:
            return ()
        bodies, decoded = self._process.bodies, decode_batch(effect.batch)
        found = bodies.find_all(batch_digest(effect.batch), decoded)
        bodies.executes(None if found is not None else decoded)
        if found is None:
            names = set_at(self._process.epochs(), effect.sequence).names
            bodies.want(decoded, names[decoded.proposer] if 0 <= decoded.proposer < len(names) else None)
        return found

    def _execute(self, effect: Execute, named: tuple[Transaction, ...]) -> None:
        process = self._process
        head = process.store.head()
        if head is None or effect.sequence != head.height + 1:
            raise Violation("order", f"batch {effect.sequence} is to be executed on block {process.store.height}")
        block, finalized = make_block(process.application, head, effect.batch, named, process.epochs())
        if process.write(block, finalized, [named[position] for position in finalized.included], named):
            process.post(Executed(block.header.height, block.header.hash, finalized.announced))

    def _adopt(self, effect: Adopt) -> None:
        process = self._process
        head = process.store.head()
        if head is None or effect.sequence != head.height + 1:
            raise Violation("order", f"block {effect.sequence} is to be adopted on block {process.store.height}")
        try:
            block = decode_block(effect.block.block)
            transactions = [decode_transaction(raw) for raw in block.transactions]
        except DecodeError as error:
            self._refuse(effect.sequence, str(error))
            return
        reason = objection(head, block, transactions, effect.block, process.application.sender_key)
        if reason is None and not all(process.is_signed(one) for one in transactions):
            reason = "a transaction has a bad signature"
        if reason is not None:
            self._refuse(effect.sequence, reason)
            return
        own, finalized = make_block(process.application, head, block.batch, transactions, process.epochs())
        if own.header != block.header:
            raise InvariantViolation(f"block {effect.sequence}: own result {own.header} differs from the certified {block.header}")
        if process.write(Block(own.header, block.batch, block.transactions, block.receipts), finalized, transactions, transactions):
            process.post(Executed(effect.sequence, own.header.hash, finalized.announced))

    def _refuse(self, sequence: int, reason: str) -> None:
        """Say that a peer's block is bad. What is queued behind it is given up: the replica hands it out again."""
        self._queue.clear()
        self._process.post(AdoptionFailed(sequence, reason))

    def _adopt_snapshot(self, effect: AdoptSnapshot) -> None:
        answer = self._process.snapshots.adopt(effect)
        if answer is not None:
            self._process.post(answer)
