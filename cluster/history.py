"""What clients saw while they put load on a cluster: every transaction that was sent, who took it, who refused it, when.

The history is what the checkers hold the chain against. It knows nothing of the chain itself. It is kept in columns, because a load
test makes hundreds of thousands of entries: a transaction is known by its position.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

from consensus.transaction import decode_transaction
from contracts.calls import Transfer, decode_call

NEVER = -1.0
NOBODY = -1


class Payment(NamedTuple):
    """What a transfer moves when it executes with code OK."""

    payer: str
    payee: str
    amount_micro: int


class History:
    """All transactions of a run, by position.

    Attributes:
        ids, raws, payments: id, signed envelope, and what a transfer moves (None for other calls).
        position_of: position by id.
        sent_s: when it was first sent (in an open loop: when it was due), monotonic seconds; NEVER before.
        taken_by: index of the node that acknowledged it; NOBODY before.
        certified_s: when it was first seen in a certified block; NEVER before.
        refusals: codes of those that were refused for good.
        resent: how often a transaction was sent again, for want of an answer.
    """

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.raws: list[bytes] = []
        self.payments: list[Payment | None] = []
        self.position_of: dict[bytes, int] = {}
        self.sent_s = array("d")
        self.taken_by = array("h")
        self.certified_s = array("d")
        self.refusals: dict[int, str] = {}
        self.resent = 0
        self._open: dict[int, None] = {}
        self._news: list[int] = []
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, raws: Iterable[bytes]) -> range:
        """Take pre-signed transactions that are still to be sent; return their positions."""
        first = len(self.ids)
        for raw in raws:
            transaction = decode_transaction(raw)
            call = decode_call(transaction.body.call)
            self.payments.append(Payment(transaction.body.sender, call.to, call.amount_micro) if isinstance(call, Transfer) else None)
            self.position_of[transaction.id] = len(self.ids)
            self.ids.append(transaction.id)
            self.raws.append(raw)
        count = len(self.ids) - first
        self.sent_s.extend([NEVER] * count)
        self.taken_by.extend([NOBODY] * count)
        self.certified_s.extend([NEVER] * count)
        return range(first, len(self.ids))

    def note_sent(self, positions: Iterable[int], now_s: float) -> None:
        """Note a sending; a second one counts as sent again, and keeps the first time."""
        for position in positions:
            if self.sent_s[position] == NEVER:
                self.sent_s[position] = now_s
            else:
                self.resent += 1

    def note_answer(self, position: int, node: int, code: str) -> None:
        """Note a node's final answer: OK, or the code of a refusal."""
        if code != "OK":
            self.refusals[position] = code
            return
        if self.taken_by[position] == NOBODY:
            self._news.append(position)
        self.taken_by[position] = node
        if self.certified_s[position] == NEVER:
            self._open[position] = None

    def note_certified(self, transaction_id: bytes, now_s: float) -> bool:
        """Note the first sight of a transaction in a certified block; tell whether it is one of this history, seen for the first time."""
        position = self.position_of.get(transaction_id)
        if position is None or self.certified_s[position] != NEVER:
            return False
        self.certified_s[position] = now_s
        self._order.append(position)
        self._open.pop(position, None)
        return True

    def withdraw(self, node: int) -> list[int]:
        """Take back what one node alone has promised, and what is not final: its disk is gone. Return it, to be sent again."""
        gone = [position for position in self._open if self.taken_by[position] == node]
        for position in gone:
            del self._open[position]
            self.taken_by[position] = NOBODY
        return gone

    def take_news(self) -> list[int]:
        """Return what was acknowledged since the last call (and not withdrawn)."""
        news, self._news = self._news, []
        return [position for position in dict.fromkeys(news) if self.taken_by[position] != NOBODY]

    def first_final_s(self, since_s: float) -> float | None:
        """Return when the first transaction that was first sent after ``since_s`` was seen in a certified block; None if none was."""
        found = None
        for position in reversed(self._order):
            if self.certified_s[position] < since_s:
                break
            if self.sent_s[position] >= since_s:
                found = self.certified_s[position]
        return found

    @property
    def certified_count(self) -> int:
        """Number of transactions that were seen in certified blocks."""
        return len(self._order)

    def was_sent(self, transaction_id: bytes) -> bool:
        """Tell whether a transaction was sent at least once."""
        position = self.position_of.get(transaction_id)
        return position is not None and self.sent_s[position] != NEVER

    @property
    def sent_count(self) -> int:
        """Number of transactions that were sent at least once."""
        return sum(1 for when in self.sent_s if when != NEVER)

    def sent_ids(self) -> frozenset[bytes]:
        """Ids that were sent at least once."""
        return frozenset(self.ids[position] for position, when in enumerate(self.sent_s) if when != NEVER)

    def acknowledged_ids(self) -> frozenset[bytes]:
        """Ids that a node has answered OK for: it promised that they will not be lost."""
        return frozenset(self.ids[position] for position, node in enumerate(self.taken_by) if node != NOBODY)

    @property
    def open_count(self) -> int:
        """Number of transactions that were acknowledged and not yet seen in a certified block."""
        return len(self._open)

    def open_positions(self) -> list[int]:
        """Return what was acknowledged and not yet seen in a certified block."""
        return list(self._open)

    def payments_by_id(self) -> dict[bytes, Payment]:
        """Return what each transfer moves."""
        return {self.ids[position]: payment for position, payment in enumerate(self.payments) if payment is not None}

    def latencies_ms(self) -> list[float]:
        """Times from sending to the sight of the certified block, rising."""
        pairs = zip(self.sent_s, self.certified_s, strict=True)
        return sorted((certified - sent) * 1000 for sent, certified in pairs if min(sent, certified) >= 0)

    def last_certified_s(self) -> float:
        """Return when the last certified transaction was seen; NEVER if none was."""
        return max(self.certified_s, default=NEVER)
