"""The target `transactions`: signed envelopes into a real ledger that goes on from block to block."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from cluster.fuzz.chain import Chain
from cluster.fuzz.forgery import Forger
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.target import refused
from cluster.fuzz.world import ALL_CALLS, GENESIS_MS, PERIOD_MS, STEP_MS, VALIDATORS, history, make_genesis
from consensus.application import FinalizedBlock
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.state_tree import StateTree
from consensus.transaction import Transaction, decode_transaction, signature_is_valid
from contracts.application import LedgerApplication
from contracts.events import decode_receipt

RENEW_AFTER = 1_500
TWICE_OF = 8
"""One block in so many is executed twice before it is committed."""


class TransactionsTarget:
    """Every input becomes a block of its own, twice named; time goes on, so gates close and periods settle.

    That signatures check is the business of who calls the ledger, so envelopes with a bad one are executed as well: it must bear them.
    """

    stateful = True
    renew_after = RENEW_AFTER

    def __init__(self, _folder: Path) -> None:
        self._chain = Chain(make_genesis())
        self._time_ms = GENESIS_MS
        self._height = 0
        self._forger = Forger(self._chain.application.view, lambda: self._time_ms)
        self._seeds = tuple(raw for _, (_, raws) in zip(range(ALL_CALLS), history(self._chain.genesis), strict=False) for raw in raws)

    def seeds(self) -> Sequence[bytes]:
        """Return transactions with a call of every kind."""
        return self._seeds

    def check(self) -> None:
        """Check that a ledger opened from the store is where this one is, and that all sums fit.

        Raises:
            LawBrokenError: it is not.
        """
        chain = self._chain
        entries = list(chain.state.scan(b""))
        if StateTree.of(entries).root != chain.application.tree.root:
            raise LawBrokenError("the commitment is not that of the committed state")
        fresh = LedgerApplication(chain.genesis, chain.state, StateTree.of(entries))
        later_ms = self._time_ms + PERIOD_MS
        own, other = (one.finalize_block(self._height + 1, later_ms, 0, ()) for one in (chain.application, fresh))
        if _results(own) != _results(other):
            raise LawBrokenError("a ledger opened from the store gives another block")
        totals = chain.application.view.totals(self._time_ms)
        if not totals.supply_conserved:
            raise LawBrokenError(f"sums do not fit: {totals}")

    def close(self) -> None:
        """Nothing is open."""

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return an envelope changed: as bytes, as a value, or by its own sender."""
        return self._forger.change(data, mutator)

    # ---------------------------------------------------------------------------------------------------------- running

    def run(self, data: bytes) -> str:
        """Decode, check and execute."""
        self._time_ms += STEP_MS // 8
        try:
            transaction = decode_transaction(data)
        except DecodeError as error:
            return refused(error)
        if transaction.raw != data or encode(transaction.envelope) != data:
            raise LawBrokenError("an envelope that is not encoded in the one shortest way was accepted")
        application = self._chain.application
        verdict = application.check_transaction(transaction, self._time_ms)
        proposed = application.process_proposal([transaction], self._time_ms)
        if verdict.ok and not proposed.ok:
            raise LawBrokenError(f"the check allows what no batch may name: {proposed}")
        if proposed.ok and application.process_proposal([transaction, transaction], self._time_ms).ok:
            raise LawBrokenError("a batch may name a transaction twice")
        code = self._execute(transaction, data)
        signed = "signed" if signature_is_valid(transaction) else "unsigned"
        return f"{'accepted' if code == 'OK' else 'refused'}: {code or 'void'}, {verdict.code}, {proposed.code}, {signed}"

    def _execute(self, transaction: Transaction, data: bytes) -> str:
        """Make a block of the transaction; return the code of its receipt, empty if it is void."""
        application, state = self._chain.application, self._chain.state
        self._height += 1
        proposer, named = self._height % len(VALIDATORS), [transaction, transaction]
        finalized = application.finalize_block(self._height, self._time_ms, proposer, named)
        if zlib.crc32(data) % TWICE_OF == 0:
            again = application.finalize_block(self._height, self._time_ms, proposer, named)
            if _results(again) != _results(finalized):
                raise LawBrokenError("the same block gives another result the second time")
            finalized = again
        if len(finalized.included) > 1:
            raise LawBrokenError("one transaction took part twice")
        receipts = [decode_receipt(receipt) for receipt in finalized.receipts]
        state.apply(finalized.writes)
        application.commit()
        return receipts[0].code if finalized.included else ""


def _results(finalized: FinalizedBlock) -> tuple[object, ...]:
    return finalized.included, finalized.receipts, finalized.writes, finalized.tree.root, finalized.events
