"""Fleet, broker and feed together: whatever is cut off, every reading settles once and every outbox ends empty."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.broker import BrokerUser
from consensus.proofs import TransactionProof
from consensus.transaction import decode_transaction
from contracts.calls import SubmitReading, decode_call
from meters.agent import AgentSettings
from meters.dataset import shipped_dataset
from meters.fleet import FleetConfig, FleetMeter, run_fleet
from meters.link import BrokerLogin
from meters.outbox import Outbox
from meters.simulated import ReplayMeter
from node.meter_feed import BrokerSettings, MeterFeed
from tests.meters.brokers import RealBroker, until
from tests.meters.chain import PERIOD_MS, START_MS, Chain, make_genesis, meter_key
from tests.node.test_meter_feed import Answer

HOMES = ("B01", "B02", "B03", "B04")
USERS = (*(BrokerUser(home, f"secret-{home}", "meter") for home in HOMES), BrokerUser("dc0", "node-secret", "node"))
pytestmark = pytest.mark.asyncio


class Ledger:
    """A node's channel in small: stores each transaction once, counts (meter, sequence) once, and proves it by a real certificate."""

    def __init__(self) -> None:
        self.chain = Chain(make_genesis(HOMES))
        self.settled: Counter[tuple[str, int]] = Counter()
        self.readings: dict[tuple[str, int], SubmitReading] = {}
        self.proofs: dict[bytes, TransactionProof] = {}
        self.submissions = 0
        self.hangs = False

    async def submit(self, raws: Sequence[bytes], source: str) -> list[Answer]:
        self.submissions += len(raws)
        if self.hangs:
            await asyncio.sleep(3600)
        answers, fresh = [], []
        for raw in raws:
            transaction = decode_transaction(raw)
            answers.append(Answer(transaction.id.hex(), "OK", ""))
            if transaction.id not in self.proofs and raw not in fresh:
                fresh.append(raw)
                call = decode_call(bytes(transaction.body.call))
                assert isinstance(call, SubmitReading)
                self.settled[transaction.body.sender, call.sequence] += 1
                self.readings[transaction.body.sender, call.sequence] = call
        for notice in self.chain.notices(fresh) if fresh else []:
            self.proofs[notice.transaction_id] = notice.proof
        return answers

    @asynccontextmanager
    async def feed(self, broker: RealBroker) -> AsyncIterator[MeterFeed]:
        settings = BrokerSettings(broker.address, "dc0", "node-secret")
        feed = MeterFeed(channel="main", node="dc0", broker=settings, submit=self.submit, find_proof=self.proofs.get)
        await feed.start()
        try:
            yield feed
        finally:
            await feed.stop()


class Street:
    """A fleet of real meter agents with a clock that the test moves on."""

    def __init__(self, folder: Path, broker: RealBroker) -> None:
        self.folder = folder
        self.now_ms = START_MS
        self.status_file = folder / "status.json"
        self.data = shipped_dataset()
        self._stop = asyncio.Event()
        meters = tuple(
            FleetMeter(
                home,
                meter_key(home),
                ReplayMeter(self.data, home),
                folder / home / "outbox.sqlite",
                BrokerLogin(broker.address, home, f"secret-{home}"),
            )
            for home in HOMES
        )
        settings = AgentSettings(PERIOD_MS, START_MS, retry_ms=300, max_retry_ms=1_000)
        config = FleetConfig(make_genesis(HOMES), meters, settings, lambda: self.now_ms, self.status_file)
        self._task = asyncio.create_task(run_fleet(config, self._stop))

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self._task, 20)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.status_file.read_bytes())
        return status

    def all_proven(self) -> bool:
        status = self.status()
        return (status["proven"], status["pending"], status["connected"]) == (60, 0, 4)

    def check(self, ledger: Ledger) -> None:
        """Check every reading against the data, and that every outbox is empty."""
        status = self.status()
        assert (status["published"], status["proven"], status["refused"], status["pending"], status["connected"]) == (60, 60, 0, 0, 0)
        assert [meter["meter"] for meter in status["meters"]] == list(HOMES)
        for home in HOMES:
            for sequence in range(1, 16):
                reading = ledger.readings[home, sequence]
                assert reading.time_ms == START_MS + (sequence - 1) * PERIOD_MS
                assert (reading.import_wh, reading.export_wh) == self.data.counters_at(home, reading.time_ms)
            outbox = Outbox(self.folder / home / "outbox.sqlite", f"test/main/{home}")
            assert (outbox.totals.taken, outbox.totals.proven, outbox.unproven()) == (15, 15, [])
            outbox.close()


@pytest.mark.parametrize("kind", ["amqtt", "mosquitto"])
async def test_every_reading_settles_once(kind: str, tmp_path: Path) -> None:
    broker = RealBroker(kind, tmp_path / "broker", USERS)
    await broker.start()
    ledger, street = Ledger(), Street(tmp_path / "meters", broker)

    def settled(periods: int) -> bool:
        return len(ledger.settled) == len(HOMES) * (periods + 1)

    try:
        async with ledger.feed(broker):
            street.now_ms += 3 * PERIOD_MS
            await until(lambda: settled(3), "the first periods settle")
        ledger.hangs = True
        async with ledger.feed(broker):
            before = ledger.submissions
            street.now_ms += PERIOD_MS
            await until(lambda: ledger.submissions > before, "received, and cut off before it was stored")
        ledger.hangs = False
        assert settled(3)
        await broker.kill()
        street.now_ms += 10 * PERIOD_MS
        await broker.start()
        async with ledger.feed(broker):
            await until(lambda: settled(14), "everything settles in the end")
            await until(street.all_proven, "every outbox is empty")
    finally:
        await street.stop()
        await broker.stop()
    assert set(ledger.settled.values()) == {1}
    street.check(ledger)
