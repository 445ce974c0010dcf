"""How transactions are changed: by somebody else, or by their own sender, who signs what he changed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.fuzz.mutation import Mutator
from cluster.fuzz.trees import Tree, read, write
from cluster.fuzz.world import METERS, PERIOD_MS, SENDERS, VALID_MS, signer_of
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.transaction import Body, Envelope, decode_transaction
from contracts.queries import LedgerView


class Forger:
    """Changes signed transactions so that many of them are still signed, timely and numbered as they must be.

    Args:
        view: the ledger that they are for.
        now_ms: tells its time.
        senders: who may sign.
    """

    def __init__(self, view: LedgerView, now_ms: Callable[[], int], senders: tuple[str, ...] = SENDERS) -> None:
        self._view = view
        self._now_ms = now_ms
        self._senders = senders

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return an envelope changed."""
        if mutator.chance(0.25):
            return mutator.change(data)
        try:
            body = decode_transaction(data).body
        except DecodeError:
            return mutator.change(data)
        call: Tree = read(bytes(body.call))
        holder = [call]
        if isinstance(call, list) and len(call) > 1 and mutator.chance(0.6):
            self._make_timely(call, mutator)
        if mutator.chance(0.5):
            mutator.change_leaf(holder)
        elif mutator.chance(0.4):
            mutator.change_tree(holder)
        raw_call = write(holder[0])
        return self._sealed(body, raw_call, mutator) if raw_call else mutator.raw(data)

    def _sealed(self, body: Body, call: bytes, mutator: Mutator) -> bytes:
        """Return a call in an envelope, signed by its sender or (seldom) by somebody else."""
        sender = body.sender if mutator.chance(0.9) else mutator.pick(self._senders)
        nonce, until_ms = self._next_nonce(sender), self._now_ms() + VALID_MS
        if mutator.chance(0.1):
            nonce = mutator.number(nonce)
        if mutator.chance(0.05):
            until_ms = mutator.number(until_ms)
        encoded = encode(Body(body.chain_id, body.channel, sender, _in_range(nonce), _in_range(until_ms), msgspec.Raw(call)))
        key = signer_of(sender if mutator.chance(0.95) else "nobody")
        return encode(Envelope(key.scheme, key.public_key, encoded, key.sign(encoded)))

    def _make_timely(self, call: list[Tree], mutator: Mutator) -> None:
        """Make a call fit the present: it trades an open period, goes on with a meter's numbers."""
        if call[0] == "order":
            call[1] = self._now_ms() // PERIOD_MS + mutator.pick((1, 1, 1, 2, 0))
        elif call[0] == "reading" and len(call) > 4:
            meter = self._view.meter(mutator.pick(METERS))
            if meter is not None:
                step_wh = mutator.pick((0, 1, 10, 100, 5_000))
                call[1:5] = [meter.last_sequence + 1, self._now_ms(), meter.import_wh + step_wh, meter.export_wh + step_wh]

    def _next_nonce(self, sender: str) -> int:
        view = self._view
        known = view.meter(sender) or view.account(sender) or view.validators.validator(sender)
        return known.next_nonce if known is not None else 1


def _in_range(number: int) -> int:
    return max(-(2**63), min(number, 2**64 - 1))
