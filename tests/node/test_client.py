"""The client against real servers, some of them broken, slow or lying."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from consensus.codec import encode
from consensus.errors import InputError
from consensus.proofs import decode_entry_proof
from consensus.transaction import decode_transaction
from contracts.calls import Transfer
from contracts.genesis import write_genesis
from node.client import GridPactClient, Member, NodeUnreachable, Refused
from node.http.views import ProvenAccountView
from node.http_api import HttpApi
from node.metrics import NodeMetrics
from tests.node.chain_support import FIRST_PERIOD, MONEY_MICRO, START_MS, LocalChannel, make_genesis, signer_of

pytestmark = pytest.mark.asyncio
NOWHERE = "http://127.0.0.1:1"


class Node:
    def __init__(self, folder: Path) -> None:
        self.channel = LocalChannel(folder)
        self.api = HttpApi([self.channel], NodeMetrics(), host="127.0.0.1", port=0)


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "store")
    await made.api.start()
    yield made
    await made.api.stop()
    made.channel.close()


class Liar:
    """A server that answers whatever the test says."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def start(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return await self.answer(request) if callable(self.answer) else web.Response(body=self.answer)


async def test_submit_and_proven_receipt(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as client:
        raw = node.channel.transfer(9)
        transaction_id = await client.submit(raw)
        assert transaction_id == decode_transaction(raw).id.hex()
        executed = await client.wait_receipt(bytes.fromhex(transaction_id), 5)
        assert (executed.receipt.code, executed.header.height) == ("OK", 1)
        account = await client.account("ben")
        assert account is not None
        assert account.balance_micro == MONEY_MICRO + 9
        assert await client.account("nobody") is None


async def test_queries(node: Node) -> None:
    node.channel.clock.time_ms = START_MS + 3_600_000 + 1
    async with GridPactClient([node.api.url]) as client:
        assert (await client.genesis()).digest == make_genesis().digest
        assert (await client.status()).node == "node0"
        assert (await client.totals()).supply_conserved
        market = await client.market("trading")
        assert market is not None
        assert market.period == FIRST_PERIOD
        assert await client.market(1) is None
        meter = await client.meter("meter-anna")
        assert meter is not None
        assert meter.account == "anna"
        assert [one.meter for one in (await client.meters()).meters] == ["meter-anna", "meter-ben"]
        bills = await client.bills("anna")
        assert bills is not None
        assert bills.bills == ()
        credit = await client.credit("anna")
        assert credit is not None
        assert await client.period_bills(FIRST_PERIOD) == ()
        with pytest.raises(Refused, match="BAD_PARAMETER"):
            await client.market("tomorrow")


async def test_refusals_are_typed(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as client:
        await client.submit(node.channel.transfer(1, nonce=1))
        with pytest.raises(Refused) as refused:
            await client.submit(node.channel.transfer(2, nonce=1))
        assert refused.value.code == "NONCE_SPENT"
        with pytest.raises(Refused, match="BAD_TRANSACTION"):
            await client.submit(b"rubbish")
        with pytest.raises(InputError):
            await client.submit(bytes(70_000))


async def test_a_dead_node_is_left_for_the_next(node: Node) -> None:
    async with GridPactClient([NOWHERE, node.api.url], make_genesis()) as client:
        assert (await client.status()).height == 0
        await client.submit(node.channel.transfer())


async def test_broken_and_silent_nodes_are_left_for_the_next(node: Node) -> None:
    async def silent(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    liars = [Liar(b"{nonsense"), Liar(silent), Liar(b'{"no": "status"}')]
    urls = [await liar.start() for liar in liars]
    async with GridPactClient([*urls, node.api.url], make_genesis(), timeout_s=0.5) as client:
        assert (await client.status()).node == "node0"
        executed = await client.wait_receipt(bytes.fromhex(await client.submit(node.channel.transfer())), 20)
        assert executed.receipt.code == "OK"
    assert all(liar.asked for liar in liars)
    for liar in liars:
        await liar.runner.cleanup()


async def test_no_node_at_all_is_one_clear_error() -> None:
    async with GridPactClient([NOWHERE], make_genesis(), timeout_s=0.5) as client:
        with pytest.raises(NodeUnreachable, match=r"127\.0\.0\.1:1"):
            await client.status()
        with pytest.raises(NodeUnreachable):
            await client.submit(b"x")
        with pytest.raises(NodeUnreachable):
            await client.wait_receipt(bytes(32), 0.5)
    with pytest.raises(InputError):
        GridPactClient([])
    with pytest.raises(InputError):
        GridPactClient(["ftp://x"])


async def test_a_proof_of_something_else_is_not_believed(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as honest:
        first = bytes.fromhex(await honest.submit(node.channel.transfer(1)))
        second = decode_transaction(node.channel.transfer(2)).id
        shown = await honest.transaction(first)
        assert shown is not None
    liar = Liar(msgspec.json.encode(shown))
    url = await liar.start()
    async with GridPactClient([url], make_genesis(), timeout_s=1) as client:
        assert (await client.wait_receipt(first, 5)).receipt.code == "OK"
        with pytest.raises((NodeUnreachable, TimeoutError)):
            await client.wait_receipt(second, 0.3)
    other = make_genesis()
    forged = msgspec.structs.replace(
        other, validators=tuple(msgspec.structs.replace(one, public_key=f"{number:064x}") for number, one in enumerate(other.validators))
    )
    async with GridPactClient([url], forged, timeout_s=1) as client:
        with pytest.raises((NodeUnreachable, TimeoutError)):
            await client.wait_receipt(first, 0.3)
    await liar.runner.cleanup()


async def test_an_account_is_believed_with_its_proof_only(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as client:
        await client.submit(node.channel.transfer(7))
        proven = await client.proven_account("ben")
        assert proven is not None
        assert (proven.account.balance_micro, proven.header.height) == (MONEY_MICRO + 7, 1)
        assert await client.proven_account("nobody") is None
        shown = await client._pool.get("/v1/accounts/ben", ProvenAccountView, {"proof": 1})
    assert shown is not None
    assert shown.proof is not None
    proof = decode_entry_proof(bytes.fromhex(shown.proof))
    lies = {
        "another account": (shown.proof, "anna"),
        "a richer one": (encode(msgspec.structs.replace(proof, value=(proof.value or b"")[:-1] + b"\x7f")).hex(), "ben"),
        "no proof": (None, "ben"),
        "rubbish": ("zz", "ben"),
    }
    for text, name in lies.values():
        liar = Liar(msgspec.json.encode(msgspec.structs.replace(shown, proof=text)))
        async with GridPactClient([await liar.start()], make_genesis()) as client:
            with pytest.raises(NodeUnreachable):
                await client.proven_account(name)
        await liar.runner.cleanup()


async def test_genesis_needs_enough_equal_answers(node: Node) -> None:
    forged = write_genesis(msgspec.structs.replace(make_genesis(), chain_id="forged"))
    liar = Liar(forged)
    url = await liar.start()
    async with GridPactClient([url, node.api.url], timeout_s=1) as client:
        with pytest.raises(NodeUnreachable, match="only 1 of the nodes"):
            await client.genesis()
    async with GridPactClient([url, node.api.url, node.api.url.replace("127.0.0.1", "localhost")], timeout_s=1) as client:
        assert (await client.genesis()).chain_id == "test"
    await liar.runner.cleanup()


async def test_wait_receipt_gives_up_in_time(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as client:
        with pytest.raises(TimeoutError):
            await client.wait_receipt(bytes(32), 0.2)
        node.channel.hold()
        transaction_id = bytes.fromhex(await client.submit(node.channel.transfer()))
        waiting = asyncio.ensure_future(client.wait_receipt(transaction_id, 20))
        await asyncio.sleep(0.05)
        node.channel.release()
        assert (await asyncio.wait_for(waiting, 10)).receipt.code == "OK"


async def test_no_room_is_retried_and_then_reported(node: Node) -> None:
    node.channel.full = True
    async with GridPactClient([node.api.url], make_genesis(), patience_s=20) as client:
        submitting = asyncio.ensure_future(client.submit(node.channel.transfer()))
        await asyncio.sleep(0.15)
        assert not submitting.done()
        node.channel.full = False
        await asyncio.wait_for(submitting, 10)
    node.channel.full = True
    async with GridPactClient([node.api.url], make_genesis(), patience_s=0.1) as client:
        with pytest.raises(Refused, match="FULL"):
            await client.submit(node.channel.transfer(3))


async def test_a_node_that_is_behind_is_left_for_another(node: Node, tmp_path: Path) -> None:
    ahead = Node(tmp_path / "ahead")
    await ahead.api.start()
    node.channel.behind = True
    async with GridPactClient([node.api.url, ahead.api.url], make_genesis(), patience_s=20) as client:
        transaction_id = await asyncio.wait_for(client.submit(node.channel.transfer()), 10)
    assert ahead.channel.store.locate(bytes.fromhex(transaction_id)) is not None
    await ahead.api.stop()
    ahead.channel.close()


async def test_submit_many_keeps_the_order(node: Node) -> None:
    raws = [node.channel.transfer(number, nonce=number) for number in range(1, 31)]
    raws.insert(7, b"rubbish")
    async with GridPactClient([node.api.url], make_genesis()) as client:
        answers = await client.submit_many(raws)
    assert [answer.code for answer in answers] == ["OK"] * 7 + ["BAD_TRANSACTION"] + ["OK"] * 23
    assert answers[8].id == decode_transaction(raws[8]).id.hex()


async def test_member_counts_its_nonces(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as client:
        member = Member(client, "anna", signer_of("anna"))
        first = await member.execute(Transfer("ben", 5))
        assert first.receipt.events
        signed = await asyncio.gather(*(member.submit(Transfer("ben", number)) for number in range(1, 6)))
        assert len({one.nonce for one in signed}) == 5
        for one in signed:
            assert (await client.wait_receipt(one.id, 5)).receipt.code == "OK"
        account = await client.account("ben")
        assert account is not None
        assert account.balance_micro == MONEY_MICRO + 5 + 15


async def test_member_recovers_when_somebody_else_used_the_key(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as client:
        member = Member(client, "anna", signer_of("anna"), now_ms=node.channel.clock.now_ms)
        await member.execute(Transfer("ben", 1))
        await client.submit(node.channel.transfer(2))
        with pytest.raises(Refused, match="NONCE_SPENT"):
            await member.submit(Transfer("ben", 3))
        await member.execute(Transfer("ben", 4))
        with pytest.raises(Refused, match="NO_SUCH_ACCOUNT"):
            await Member(client, "nobody", signer_of("nobody")).submit(Transfer("ben", 1))


async def test_member_hears_of_a_failed_call(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as client:
        member = Member(client, "anna", signer_of("anna"))
        with pytest.raises(Refused) as refused:
            await member.execute(Transfer("ben", 10**15))
        assert refused.value.code not in ("OK", "FULL")
        assert (await member.execute(Transfer("ben", 1))).receipt.code == "OK"


async def test_events_go_on_at_another_node(node: Node, tmp_path: Path) -> None:
    first = Node(tmp_path / "first")
    await first.api.start()
    async with GridPactClient([first.api.url, node.api.url], make_genesis()) as client:
        stream = client.events(["block"])
        assert (await asyncio.wait_for(anext(stream), 5))["event"] == "hello"
        first.channel.events.publish("block", {"height": 1})
        assert (await asyncio.wait_for(anext(stream), 5))["height"] == 1
        waiting = asyncio.ensure_future(anext(stream))
        await first.api.stop()
        first.channel.close()
        assert (await asyncio.wait_for(waiting, 10))["event"] == "hello"
        node.channel.events.publish("block", {"height": 2})
        assert (await asyncio.wait_for(anext(stream), 5))["height"] == 2
        await stream.aclose()  # type: ignore[attr-defined]


async def test_a_malicious_answer_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(bytes(100_000))
        return response

    monkeypatch.setattr("node.client_pool.MAX_ANSWER_BYTES", 1_000_000)
    liar = Liar(flood)
    url = await liar.start()
    async with GridPactClient([url], make_genesis(), timeout_s=5) as client:
        with pytest.raises(NodeUnreachable, match="more than 1000000 bytes"):
            await client.status()
    await liar.runner.cleanup()


async def test_the_wire_is_an_array_of_envelopes(node: Node) -> None:
    bodies: list[bytes] = []

    async def catch(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        return web.json_response([{"id": "", "code": "MALFORMED"}])

    liar = Liar(catch)
    async with GridPactClient([await liar.start()], make_genesis()) as client:
        await client.submit_many([b"one"])
    assert bodies == [encode((b"one",))]
    await liar.runner.cleanup()
