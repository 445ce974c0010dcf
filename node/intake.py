"""Intake: from bytes that somebody sent to a checked, stored, shared transaction in the mempool.

Law. Every signature is checked here, once, before the transaction can be ordered. OK means: it is on this node's disk (or was executed
already). FULL means: try again; nothing was kept. Anything else is final. One worker takes all that waits in one go: signatures in
threads, then one synced write, then the mempool, then the peers. BEHIND means: what this node knows speaks against it, but it lags; try
again, at another node best.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from consensus.application import OK, Application
from consensus.errors import DecodeError
from consensus.mempool import ADDED, FULL, KNOWN, Mempool
from consensus.transaction import Transaction, decode_transaction, signature_is_valid
from node.block_store import ChannelStore
from node.bodies import Bodies
from node.clock import Clock
from node.http.views import BEHIND
from node.key_value import StoreError
from node.metrics import ChannelMetrics

HTTP, MQTT, PEER = "http", "mqtt", "peer"
MAX_WAITING = 20_000
MAX_GROUP = 512
CHUNK = 64
_LASTING = frozenset({"WRONG_CHAIN", "EXPIRED", "VALID_TOO_LONG", "NONCE_SPENT", "BAD_CALL"})
"""Refusals that no block to come changes."""


class Submission(NamedTuple):
    """What became of one submitted transaction.

    Attributes:
        id: in hex; empty if the bytes are no transaction.
        code: OK (durable here, or known, or executed already), FULL or BEHIND (try again later), else refused for good.
        detail: the reason in words.
    """

    id: str
    code: str
    detail: str = ""


class _Item:
    """One transaction on its way in; ``checked`` if its signature was checked before (a peer had shared it)."""

    __slots__ = ("answer", "checked", "source", "taken", "transaction")

    def __init__(self, transaction: Transaction, source: str, answer: asyncio.Future[Submission] | None, *, checked: bool) -> None:
        self.transaction = transaction
        self.source = source
        self.answer = answer
        self.checked = checked
        self.taken = False


class Intake:
    """Takes transactions in for one channel.

    Args:
        application, store, mempool, bodies, clock: of the channel.
        key_of: tells a sender's key: an envelope signed with another one must never stand in for the real one, whose id it shares.
        arrived: told which transactions are in the mempool now.
        threads: where signatures are checked and the disk is waited for.
        share: gives raw transactions to the other nodes.
        is_level: tells whether this node knows the present state.
        metrics: of the channel.
    """

    def __init__(
        self,
        application: Application,
        key_of: Callable[[str], bytes | None],
        store: ChannelStore,
        mempool: Mempool,
        bodies: Bodies,
        arrived: Callable[[Sequence[bytes]], None],
        clock: Clock,
        threads: Executor,
        share: Callable[[Sequence[bytes]], None],
        is_level: Callable[[], bool],
        metrics: ChannelMetrics,
    ) -> None:
        self._application = application
        self._key_of = key_of
        self._store = store
        self._mempool = mempool
        self._bodies = bodies
        self._arrived = arrived
        self._clock = clock
        self._threads = threads
        self._share = share
        self._is_level = is_level
        self._metrics = metrics
        self._waiting: deque[_Item] = deque()
        self._urgent: deque[_Item] = deque()
        self._underway: dict[bytes, _Item] = {}
        self._durable: set[bytes] = set()
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def submit(self, raws: Sequence[bytes], source: str) -> list[Submission]:
        """Check and store transactions; one answer each, in order."""
        answers: list[Submission | asyncio.Future[Submission]] = [self._admit(raw, source, wanted=True) for raw in raws]
        return [one if isinstance(one, Submission) else await one for one in answers]

    async def take_from_peer(self, raws: Sequence[bytes]) -> None:
        """Take shared transactions without waiting for the result, only for room."""
        await self._room.wait()
        for raw in raws:
            self._admit(raw, PEER, wanted=False)

    def _admit(self, raw: bytes, source: str, *, wanted: bool) -> Submission | asyncio.Future[Submission]:
        """Do the cheap checks; queue the transaction for the expensive ones."""
        try:
            transaction = decode_transaction(raw)
        except DecodeError as error:
            return self._refused("", "BAD_TRANSACTION", str(error), source)
        id_hex = transaction.id.hex()
        pooled = transaction.id in self._mempool
        if (pooled and (source == PEER or transaction.id in self._durable)) or self._store.locate(transaction.id) is not None:
            if source == MQTT:
                self._metrics.readings_duplicated.inc()
            return Submission(id_hex, OK)
        underway = self._underway.get(transaction.id)
        if underway is not None and underway.transaction.raw == raw:
            if underway.answer is None and wanted:
                underway.answer = asyncio.get_running_loop().create_future()
                underway.source = source
            return underway.answer if underway.answer is not None else Submission(id_hex, OK)
        if self._key_of(transaction.body.sender) not in (None, transaction.envelope.public_key):
            return self._against(id_hex, "WRONG_KEY", f"public_key is not the key of {transaction.body.sender}", source)
        if not pooled and not self._bodies.wants(transaction.id):
            verdict = self._application.check_transaction(transaction, self._clock.now_ms())
            if not verdict.ok:
                return self._against(id_hex, verdict.code, verdict.detail, source)
            if self._mempool.room_for(transaction) != ADDED or len(self._waiting) >= MAX_WAITING:
                return self._no_room(transaction, source)
        answer = asyncio.get_running_loop().create_future() if wanted else None
        known = self._mempool.get(transaction.id)
        item = _Item(transaction, source, answer, checked=known is not None and known.raw == raw)
        self._waiting.append(item)
        self._underway.setdefault(transaction.id, item)
        if len(self._waiting) >= MAX_WAITING:
            self._room.clear()
        self._work.set()
        return answer if answer is not None else Submission(id_hex, OK)

    def _no_room(self, transaction: Transaction, source: str) -> Submission:
        why = self._mempool.room_for(transaction)
        if why in (ADDED, FULL):
            return self._refused(transaction.id.hex(), FULL, "the node has no room for more transactions now, try again", source)
        return self._refused(transaction.id.hex(), why, f"nonce {transaction.body.nonce} is used by another waiting transaction", source)

    def _against(self, id_hex: str, code: str, detail: str, source: str) -> Submission:
        """Refuse what the state that is known here speaks against: for good only if that lasts, or is the present state."""
        if code in _LASTING or self._is_level():
            return self._refused(id_hex, code, detail, source)
        return self._refused(id_hex, BEHIND, f"this node is behind the others, try again; so far {code}: {detail}", source)

    def _refused(self, id_hex: str, code: str, detail: str, source: str) -> Submission:
        self._metrics.transaction_refused(code, source)
        return Submission(id_hex, code, detail)

    def restored(self, transaction_id: bytes) -> None:
        """Note a transaction that the store kept from before a restart."""
        self._durable.add(transaction_id)

    def gone(self, transaction_ids: Sequence[bytes]) -> None:
        """Note that transactions left the pending part of the store (executed, void or expired)."""
        self._durable.difference_update(transaction_ids)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._work.wait()
            group: list[_Item] = []
            for queue in (self._urgent, self._waiting):
                while queue and len(group) < MAX_GROUP:
                    item = queue.popleft()
                    if not item.taken:
                        item.taken = True
                        group.append(item)
            if not self._waiting and not self._urgent:
                self._work.clear()
            if len(self._waiting) < MAX_WAITING:
                self._room.set()
            await self._take(group)

    def hurry(self, transaction_ids: Sequence[bytes]) -> list[bytes]:
        """Take transactions next that a proposal names; return the ids of those that are not on their way in."""
        absent = []
        for transaction_id in transaction_ids:
            item = self._underway.get(transaction_id)
            if item is None:
                absent.append(transaction_id)
            elif not item.taken:
                self._urgent.append(item)
        return absent

    async def _take(self, group: list[_Item]) -> None:
        loop = asyncio.get_running_loop()
        unchecked = [item for item in group if not item.checked]
        chunks = [unchecked[start : start + CHUNK] for start in range(0, len(unchecked), CHUNK)]
        await asyncio.gather(*(loop.run_in_executor(self._threads, _check_signatures, chunk) for chunk in chunks))
        good = []
        for item in group:
            if item.checked:
                good.append(item)
            else:
                id_hex = item.transaction.id.hex()
                self._finish(item, self._refused(id_hex, "BAD_SIGNATURE", "the signature does not check under public_key", item.source))
        while own := [
            (item.transaction.id, item.transaction.raw) for item in good if item.source != PEER and item.transaction.id not in self._durable
        ]:
            try:
                await loop.run_in_executor(self._threads, self._store.add_pending, own)
            except StoreError:
                for item in good:
                    self._finish(item, Submission(item.transaction.id.hex(), FULL, "the node cannot write to its disk"))
                raise
            self._durable.update(transaction_id for transaction_id, _ in own)
        self._keep(good)

    def _keep(self, good: list[_Item]) -> None:
        """Put checked, stored transactions into the mempool and tell those who wait for them."""
        now_ms = self._clock.monotonic_ms()
        shared, arrived, refused = [], [], []
        for item in good:
            transaction = item.transaction
            forced = self._bodies.wants(transaction.id)
            executed = self._store.locate(transaction.id) is not None
            state = KNOWN if executed and not forced else self._mempool.add(transaction, now_ms, forced=forced)
            if state in (ADDED, KNOWN):
                arrived.append(transaction.id)
                if item.source == HTTP:
                    shared.append(transaction.raw)
                self._finish(item, Submission(transaction.id.hex(), OK))
            else:
                refused.append(transaction.id)
                self._finish(item, self._no_room(transaction, item.source))
            if executed or state not in (ADDED, KNOWN):
                refused.append(transaction.id)
        if refused:
            self._store.drop_pending(refused)
            self._durable.difference_update(refused)
        if arrived:
            self._arrived(arrived)
        if shared:
            self._share(shared)

    def _finish(self, item: _Item, result: Submission) -> None:
        if self._underway.get(item.transaction.id) is item:
            del self._underway[item.transaction.id]
        if item.answer is not None and not item.answer.done():
            item.answer.set_result(result)


def _check_signatures(items: list[_Item]) -> None:
    for item in items:
        item.checked = signature_is_valid(item.transaction)
