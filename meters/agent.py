"""The agent of one meter: takes readings on time, keeps them in its outbox, publishes them until the chain has proven each.

Law: QoS 1 is not delivery. The broker's acknowledgement means nothing here; a reading leaves the outbox only when a certificate of the
chain's validators shows that a block holds it. Until then it is published again and again, with growing pauses. Who the validators are is
proven from genesis on; a receipt by validators that are not known yet waits until they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import aiomqtt
import msgspec

from consensus.application import OK
from consensus.errors import GridPactError, InputError, UnknownEpochError
from contracts.calls import ClockQuality, SubmitReading
from contracts.events import decode_receipt
from contracts.topics import OFFLINE, ONLINE, Purpose, decode_receipt_notice, every_epochs, meter_topic
from meters.link import BrokerLogin, end, hold_session
from meters.outbox import Outbox
from meters.reading import CounterSource, MeterIdentity, SignedReading, sign_again, sign_reading, unsigned_reading
from meters.schedule import due_times_ms, next_due_ms
from meters.validators import EpochWatch

WINDOW = 200
"""Most readings published and not yet proven at a time."""
BURST = 20
DUPLICATE = "DUPLICATE_READING"
"""The chain has counted the reading before: by an earlier transaction, if it was signed more than once."""
IN_FUTURE = "READING_IN_FUTURE"
"""The meter's clock was ahead of the block's; the reading counts when it is sent again later."""
MAX_PARKED = 2 * WINDOW
"""Most receipts that wait for the proof of their epoch; the oldest goes first, and its reading is published again."""
_RECEIPTS_AT_ONCE = 100
_REFUSED = 0x80
_FAILURE_PAUSE_MS = 1_000
_T = TypeVar("_T")


class MeterStatus(msgspec.Struct, frozen=True):
    """One meter as ``status.json`` shows it: readings published, proven, refused and waiting, over the outbox's whole life.

    ``epoch`` is the last one whose validators it knows.
    """

    meter: str
    published: int
    proven: int
    refused: int
    pending: int
    connected: bool
    failure: str
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How a meter works.

    Attributes:
        interval_ms: chain time between readings; the period length is a multiple of it.
        first_ms: chain time before which no reading matters.
        clock: quality of the meter's clock.
        retry_ms, max_retry_ms: real time after which an unproven reading is published again; doubles each time, up to the maximum.
    """

    interval_ms: int
    first_ms: int
    clock: ClockQuality = "ntp"
    retry_ms: int = 4_000
    max_retry_ms: int = 60_000


@dataclass(slots=True)
class _Waiting:
    """A reading in the window: how often it was published, when it is next (real time, ms), whether its transaction is used up."""

    reading: SignedReading
    attempts: int = 0
    next_ms: int = 0
    stale: bool = False


@dataclass(slots=True)
class _Results:
    """Sequences that the proofs at hand settle, and the highest nonce that they show as used."""

    accepted: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    nonce: int = 0


class MeterAgent:
    """One meter.

    Args:
        identity: its name and key, and the chain.
        settings: see there.
        source: its counters.
        outbox: its readings that are not proven yet.
        login: its broker.
        now_ms: chain time.
        executor: runs what blocks (disk, counters); None for asyncio's own.
    """

    def __init__(
        self,
        identity: MeterIdentity,
        settings: AgentSettings,
        source: CounterSource,
        outbox: Outbox,
        login: BrokerLogin,
        now_ms: Callable[[], int],
        executor: Executor | None = None,
    ) -> None:
        self._identity = identity
        self._settings = settings
        self._source = source
        self._outbox = outbox
        self._login = login
        self._now_ms = now_ms
        self._executor = executor
        self._logger = logging.getLogger("gridpact.meters")
        self._boot_id = str(uuid.uuid4())
        self._booted_ms = _monotonic_ms()
        self._reading_topic = meter_topic(identity.channel, identity.meter, Purpose.READING)
        self._receipt_topic = meter_topic(identity.channel, identity.meter, Purpose.RECEIPT)
        self._status_topic = meter_topic(identity.channel, identity.meter, Purpose.STATUS)
        self._epochs_filter = every_epochs(identity.channel)
        self._validators = EpochWatch(identity.meter, identity.validators, outbox)
        self._parked: dict[bytes, bytes] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._aired: set[int] = set()
        self._loaded = 0
        self._connected = False
        self._failure = ""
        self._blocked_until_ms = 0
        self._wake = asyncio.Event()
        self._signing = asyncio.Lock()

    @property
    def next_due_ms(self) -> int:
        """Chain time of the next reading."""
        return next_due_ms(self._outbox.last_time_ms, self._settings.first_ms, self._settings.interval_ms)

    @property
    def status(self) -> MeterStatus:
        """Counts and state of the connection; ``failure`` says why no reading could be taken (empty when all is well)."""
        totals = self._outbox.totals
        published = totals.proven + totals.refused + len(self._aired)
        return MeterStatus(
            meter=self._identity.meter,
            published=published,
            proven=totals.proven,
            refused=totals.refused,
            pending=totals.pending,
            connected=self._connected,
            failure=self._failure,
            epoch=self._validators.light.epoch,
        )

    async def take_readings(self) -> int:
        """Take and store the readings that are due; return how many.

        A failing counter or disk and a full outbox are logged and shown in ``status``; a call from a second later on tries again.
        """
        if _monotonic_ms() < self._blocked_until_ms:
            return 0
        try:
            async with self._signing:
                taken = await self._blocking(self._take)
        except (GridPactError, OSError) as error:
            if str(error) != self._failure:
                self._logger.error("%s: no reading taken: %s", self._identity.meter, error)
            self._failure = str(error)
            self._blocked_until_ms = _monotonic_ms() + _FAILURE_PAUSE_MS
            return 0
        self._failure = ""
        if taken:
            self._wake.set()
        return taken

    async def run(self, stop: asyncio.Event) -> None:
        """Hold the session with the broker, publish and settle, until ``stop`` is set; then say goodbye.

        Raises:
            OutboxError: the disk failed while a proof was being recorded.
        """
        await hold_session(
            self._login,
            f"gridpact-{self._identity.channel}-meter-{self._identity.meter}",
            aiomqtt.Will(self._status_topic, OFFLINE, qos=1, retain=True),
            lambda client: self._session(client, stop),
            stop=stop,
            logger=self._logger,
        )

    def _take(self) -> int:
        now_ms, outbox = self._now_ms(), self._outbox
        due = due_times_ms(
            outbox.last_time_ms, self._settings.first_ms, now_ms, self._settings.interval_ms, knows_past=self._source.knows_past
        )
        uptime_ms = _monotonic_ms() - self._booted_ms
        unsent = max(0, outbox.totals.pending - WINDOW + len(due))
        taken = []
        for place, time_ms in enumerate(due[: max(1, outbox.room)]):
            import_wh, export_wh = self._source.read(time_ms)
            reading = SubmitReading(
                outbox.next_sequence + place, time_ms, import_wh, export_wh, self._settings.clock, self._boot_id, uptime_ms
            )
            can_sign = not unsent and place < outbox.free_nonces
            nonce = outbox.next_nonce + place
            taken.append(sign_reading(self._identity, reading, nonce, now_ms) if can_sign else unsigned_reading(reading))
        outbox.append(taken)
        return len(taken)

    async def _session(self, client: aiomqtt.Client, stop: asyncio.Event) -> None:
        """Publish and settle on one connection."""
        for waiting in self._waiting.values():
            waiting.attempts, waiting.next_ms = 0, 0
        for wanted in (self._receipt_topic, self._epochs_filter):
            granted = await client.subscribe(wanted, qos=1)
            if any(code >= _REFUSED if isinstance(code, int) else code.is_failure for code in granted):
                raise aiomqtt.MqttError(f"the broker refuses the subscription to {wanted}")
        await client.publish(self._status_topic, ONLINE, qos=1, retain=True)
        self._connected = True
        tasks: list[asyncio.Future[object]] = [
            asyncio.ensure_future(work) for work in (self._publish(client), self._settle(client), stop.wait())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._connected = False
            await end(tasks)
        await client.publish(self._status_topic, OFFLINE, qos=1, retain=True)

    async def _publish(self, client: aiomqtt.Client) -> None:
        """Publish what is due, oldest first, for ever."""
        while True:
            self._wake.clear()
            await self._refill()
            now_ms = _monotonic_ms()
            due = [waiting for waiting in self._waiting.values() if waiting.next_ms <= now_ms][:BURST]
            if not due:
                await self._sleep(now_ms)
                continue
            due = await self._renew(due)
            await asyncio.gather(*(client.publish(self._reading_topic, waiting.reading.raw, qos=1) for waiting in due))
            now_ms = _monotonic_ms()
            for waiting in due:
                waiting.next_ms = now_ms + min(self._settings.retry_ms << min(waiting.attempts, 20), self._settings.max_retry_ms)
                waiting.attempts += 1
                if waiting.reading.sequence in self._waiting:
                    self._aired.add(waiting.reading.sequence)

    async def _sleep(self, now_ms: int) -> None:
        """Wait for a new reading, for room in the window, or for the next time-out."""
        next_ms = min((waiting.next_ms for waiting in self._waiting.values()), default=now_ms + 3_600_000)
        try:
            async with asyncio.timeout((next_ms - now_ms) / 1000):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _refill(self) -> None:
        """Load waiting readings from the outbox into the window."""
        room = WINDOW - len(self._waiting)
        if room > 0 and self._loaded < self._outbox.totals.taken:
            for reading in await self._blocking(partial(self._outbox.unproven, self._loaded, room)):
                self._waiting[reading.sequence] = _Waiting(reading)
                self._loaded = reading.sequence

    async def _renew(self, due: list[_Waiting]) -> list[_Waiting]:
        """Sign those that are not signed yet or can no longer execute; return all that can be published.

        A new nonce each, as far as there are any; else the old one again, which is spent only if the old transaction was executed.
        """
        now_ms = self._now_ms()
        worn = [waiting for waiting in due if waiting.stale or waiting.reading.valid_until_ms <= now_ms]
        if not worn:
            return due

        def renew() -> list[SignedReading]:
            first, free = self._outbox.next_nonce, self._outbox.free_nonces
            nonces = [first + place if place < free else waiting.reading.nonce for place, waiting in enumerate(worn)]
            signed = [
                sign_again(self._identity, waiting.reading, nonce, now_ms) if nonce else waiting.reading
                for waiting, nonce in zip(worn, nonces, strict=True)
            ]
            self._outbox.replace([reading for reading in signed if reading.raw])
            return signed

        async with self._signing:
            renewed = await self._blocking(renew)
        for waiting, reading in zip(worn, renewed, strict=True):
            waiting.reading, waiting.stale = reading, False
        pause_ms = _monotonic_ms() + self._settings.retry_ms
        for waiting in worn:
            if not waiting.reading.raw:
                waiting.next_ms = pause_ms
        return [waiting for waiting in due if waiting.reading.raw]

    async def _settle(self, client: aiomqtt.Client) -> None:
        """Take in proofs, for ever; what has arrived together is recorded together."""
        while True:
            messages = [await anext(client.messages)]
            while len(client.messages) and len(messages) < _RECEIPTS_AT_ONCE:
                messages.append(await anext(client.messages))
            results = _Results()
            for message in messages:
                if isinstance(message.payload, bytes):
                    if message.topic.value == self._receipt_topic:
                        self._judge(message.payload, results)
                    elif message.topic.matches(self._epochs_filter):
                        await self._learn(message.topic.value, message.payload, results)
            settled = [*results.accepted, *results.refused]
            if results.nonce:
                await self._blocking(partial(self._outbox.settle, results.accepted, results.refused, results.nonce))
                for sequence in settled:
                    self._waiting.pop(sequence, None)
                    self._aired.discard(sequence)
                self._wake.set()

    async def _learn(self, topic: str, payload: bytes, results: _Results) -> None:
        """Learn of validators, and look again at the receipts that waited for them."""
        try:
            if not await self._blocking(partial(self._validators.take, topic, payload)):
                return
        except InputError as error:
            self._logger.warning("%s: a proof of an epoch is worthless: %s: %s", self._identity.meter, topic, error)
            return
        parked, self._parked = self._parked, {}
        for receipt in parked.values():
            self._judge(receipt, results)

    def _judge(self, payload: bytes, results: _Results) -> None:
        """Check one receipt notice; put it aside if its validators are not known yet."""
        try:
            self._check(payload, results)
        except UnknownEpochError as error:
            if len(self._parked) >= MAX_PARKED:
                del self._parked[next(iter(self._parked))]
            self._parked[decode_receipt_notice(payload).transaction_id] = payload
            self._logger.info("%s: a receipt waits for the proof of epoch %d", self._identity.meter, error.epoch)
        except InputError as error:
            self._logger.warning("%s: a receipt is worthless: %s", self._identity.meter, error)

    def _check(self, payload: bytes, results: _Results) -> None:
        """Check one receipt notice; add the reading that it settles to ``results``.

        Raises:
            UnknownEpochError: the validators that signed are not known yet.
            InputError: the notice does not decode, or proves nothing.
        """
        notice = decode_receipt_notice(payload)
        sent = self._outbox.sent(notice.transaction_id)
        if sent is None:
            return
        self._validators.light.transaction(notice.transaction_id, notice.proof)
        receipt = decode_receipt(notice.proof.receipt)
        if receipt.transaction_id != notice.transaction_id:
            raise InputError("proof: receipt", "is of another transaction")
        results.nonce = max(results.nonce, sent.nonce)
        waiting = self._waiting.get(sent.sequence)
        if receipt.code == OK or (receipt.code == DUPLICATE and sent.versions > 1):
            results.accepted.append(sent.sequence)
        elif receipt.code == IN_FUTURE:
            if waiting is not None and waiting.reading.id == notice.transaction_id:
                waiting.stale = True
        else:
            self._logger.error("%s: the chain refuses reading %d: %s %s", self._identity.meter, sent.sequence, receipt.code, receipt.detail)
            results.refused.append(sent.sequence)

    async def _blocking(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
