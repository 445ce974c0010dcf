"""How a meter deals with what the chain answers: reading in the future, counted before, and nonces that are too far ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from consensus.application import Verdict
from consensus.codec import encode
from consensus.transaction import decode_transaction
from contracts.calls import SubmitReading
from contracts.metering import Circumstances, judge
from contracts.periods import Calendar
from contracts.records import Meter
from contracts.window import EMPTY_WINDOW, Window, is_spent, is_too_far, spend
from meters.agent import DUPLICATE, IN_FUTURE
from meters.outbox import NONCE_SPAN, Outbox
from tests.meters.brokers import RealBroker, until
from tests.meters.chain import PERIOD_MS, START_MS, Chain, make_genesis
from tests.meters.test_agent import USERS, Listener, Street, node, reading_of

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RealBroker]:
    running = RealBroker("amqtt", tmp_path / "broker", USERS)
    await running.start()
    yield running
    await running.stop()


def verdict_on(reading: SubmitReading, sequences: Window = EMPTY_WINDOW) -> str:
    rules = make_genesis(["M1"]).market
    verdict = judge(
        "M1", Meter(START_MS, 0, 0, 0, 0, 0, 0, sequences=sequences), reading, Circumstances(START_MS, 0, 1, Calendar(rules), 0)
    )
    assert isinstance(verdict, Verdict)
    return verdict.code


async def test_the_codes_are_those_of_the_contract() -> None:
    reading = SubmitReading(1, START_MS + PERIOD_MS, 0, 0, "ntp", "", 0)
    assert verdict_on(reading) == IN_FUTURE
    assert verdict_on(reading, spend(EMPTY_WINDOW, 1)) == DUPLICATE
    assert is_too_far(EMPTY_WINDOW, NONCE_SPAN + 500)
    assert not is_too_far(EMPTY_WINDOW, NONCE_SPAN)


async def test_a_reading_that_came_too_early_is_sent_again(broker: RealBroker, tmp_path: Path) -> None:
    street = Street(tmp_path, broker)
    chain = Chain(street.genesis)
    async with node(broker) as seen, street.agent() as agent:
        await agent.take_readings()
        await until(lambda: seen.raws, "published")
        first = seen.raws[0]
        await seen.send(encode(chain.notices([first], code=IN_FUTURE)[0]))
        await until(lambda: seen.raws[-1] != first, "signed again")
        again = seen.raws[-1]
        assert reading_of(again) == reading_of(first)
        assert decode_transaction(again).body.nonce == 2
        assert agent.status.pending == 1
        await seen.send(encode(chain.notices([again])[0]))
        await until(lambda: agent.status.proven == 1, "proven")


async def test_counted_before_settles_only_what_was_signed_twice(broker: RealBroker, tmp_path: Path) -> None:
    street = Street(tmp_path, broker, max_validity_ms=800_000)
    chain = Chain(street.genesis)
    async with node(broker) as seen, street.agent() as agent:
        await agent.take_readings()
        await until(lambda: seen.raws, "published")
        street.now_ms = START_MS + 700_000
        await until(lambda: decode_transaction(seen.raws[-1]).body.nonce == 2, "signed again")
        await seen.send(encode(chain.notices([seen.raws[-1]], code=DUPLICATE)[0]))
        await until(lambda: agent.status.proven == 1, "the first transaction had counted")
        street.now_ms = START_MS + PERIOD_MS
        await agent.take_readings()
        await until(lambda: reading_of(seen.raws[-1]).sequence == 2, "the next one")
        await seen.send(encode(chain.notices([seen.raws[-1]], code=DUPLICATE)[0]))
        await until(lambda: agent.status.refused == 1, "signed once only, so it never counted")


class StrictNode:
    """Proves what a chain would execute: not expired, nonce neither spent nor too far ahead, each sequence once."""

    def __init__(self, street: Street, seen: Listener) -> None:
        self.street = street
        self.seen = seen
        self.chain = Chain(street.genesis)
        self.nonces = EMPTY_WINDOW
        self.counted: list[int] = []
        self.too_far = 0

    async def serve(self) -> None:
        while True:
            raws, self.seen.raws[:] = list(self.seen.raws), []
            good = [raw for raw in raws if self._executes(raw)]
            for notice in self.chain.notices(good) if good else []:
                await self.seen.send(encode(notice))
            await asyncio.sleep(0.01)

    def _executes(self, raw: bytes) -> bool:
        body = decode_transaction(raw).body
        if body.valid_until_ms < self.street.now_ms or is_spent(self.nonces, body.nonce):
            return False
        if is_too_far(self.nonces, body.nonce):
            self.too_far += 1
            return False
        self.nonces = spend(self.nonces, body.nonce)
        self.counted.append(reading_of(raw).sequence)
        return True


async def test_a_long_time_without_a_link_ends_well(broker: RealBroker, tmp_path: Path) -> None:
    """More readings than the chain's nonce window, all taken before the first is published, most of them long expired."""
    street = Street(tmp_path, broker, max_validity_ms=86_400_000)
    await broker.stop()
    async with street.agent() as agent:
        for hundred in range(1, 16):
            street.now_ms = START_MS + hundred * 100 * PERIOD_MS
            await agent.take_readings()
        assert agent.status.pending == 1501
        await broker.start()
        async with node(broker) as seen:
            strict = StrictNode(street, seen)
            serving = asyncio.create_task(strict.serve())
            await until(lambda: agent.status.pending == 0, "everything is proven", 60)
            serving.cancel()
        assert strict.too_far == 0
        assert sorted(strict.counted) == list(range(1, 1502))


async def test_nonces_stay_in_reach_while_the_chain_is_silent(tmp_path: Path, broker: RealBroker) -> None:
    """The chain is down for so long that everything expires again and again: in the end all of it still executes."""
    street = Street(tmp_path, broker, max_validity_ms=800_000)
    async with node(broker) as seen, street.agent() as agent:
        street.now_ms = START_MS + 150 * PERIOD_MS
        await agent.take_readings()
        for round_ in range(1, 9):
            street.now_ms += PERIOD_MS
            newest = street.now_ms
            published = len(seen.raws)
            await until(partial(all_fresh, seen, published, newest), f"published, round {round_}")
        strict = StrictNode(street, seen)
        seen.raws.clear()
        serving = asyncio.create_task(strict.serve())
        await until(lambda: agent.status.pending == 0, "everything is proven", 30)
        serving.cancel()
        assert strict.too_far == 0
        assert sorted(strict.counted) == list(range(1, 152))
    outbox = Outbox(street.outbox_file, "test/main/M1")
    assert outbox.next_nonce <= NONCE_SPAN + 152
    outbox.close()


def all_fresh(seen: Listener, start: int, now_ms: int) -> bool:
    """Tell whether all 151 readings were published in a form that can still execute."""
    alive = [raw for raw in seen.raws[start:] if decode_transaction(raw).body.valid_until_ms > now_ms]
    return len({reading_of(raw).sequence for raw in alive}) == 151
