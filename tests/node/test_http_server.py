"""The server itself: errors, limits, channels, health, metrics, files. Ledger and store are real."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
import pytest_asyncio
import yarl
from structlog.testing import capture_logs

from consensus.errors import InputError
from consensus.messages import ValidatorSet
from consensus.proofs import check_entry_proof, decode_entry_proof
from node.http.call import Limits
from node.http.routes import ROUTES
from node.http_api import HttpApi
from node.metrics import NodeMetrics
from tests.node.chain_support import FIRST_PERIOD, MONEY_MICRO, START_MS, LocalChannel

pytestmark = pytest.mark.asyncio


class Site:
    """A running server and a client of it."""

    def __init__(self, channel: LocalChannel, api: HttpApi, session: aiohttp.ClientSession) -> None:
        self.channel, self.api, self.session = channel, api, session

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.get(self.api.url + path, **options) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    channel = LocalChannel(tmp_path / "store")
    api = HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0, version="0.1.0", limits=Limits(max_page=3))
    await api.start()
    async with aiohttp.ClientSession() as session:
        yield Site(channel, api, session)
    await api.stop()
    channel.close()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nothing", 404, "NOT_FOUND"),
        ("/v1/accounts/nobody", 404, "NOT_FOUND"),
        ("/v1/accounts/%2e%2e%2fx", 400, "BAD_PARAMETER"),
        ("/v1/accounts/anna?proof=2", 400, "BAD_PARAMETER"),
        ("/v1/accounts/anna?prof=1", 400, "BAD_PARAMETER"),
        ("/v1/accounts?limit=0", 400, "BAD_PARAMETER"),
        ("/v1/accounts?limit=4", 400, "BAD_PARAMETER"),
        ("/v1/accounts?after=%00", 400, "BAD_PARAMETER"),
        ("/v1/blocks/99", 404, "NOT_FOUND"),
        ("/v1/blocks/-1", 400, "BAD_PARAMETER"),
        ("/v1/blocks/99999999999999999999", 400, "BAD_PARAMETER"),
        ("/v1/blocks/%D9%A3", 400, "BAD_PARAMETER"),
        ("/v1/transactions/xyz", 400, "BAD_PARAMETER"),
        ("/v1/transactions/" + "00" * 32 + "?wait=31", 400, "BAD_PARAMETER"),
        ("/v1/transactions/" + "00" * 32 + "?wait=nan", 400, "BAD_PARAMETER"),
        ("/v1/markets/tomorrow", 400, "BAD_PARAMETER"),
        ("/v1/markets/1", 404, "NOT_FOUND"),
        ("/v1/meters/none", 404, "NOT_FOUND"),
        ("/v1/bills/nobody", 404, "NOT_FOUND"),
        ("/v1/credit/nobody", 404, "NOT_FOUND"),
        ("/v1/contracts/" + "00" * 32, 404, "NOT_FOUND"),
        ("/v1/schedules/1", 404, "NOT_FOUND"),
        ("/v1/status?channel=other", 404, "NOT_FOUND"),
        ("/v1/events", 426, "UPGRADE_REQUIRED"),
        ("/v1/events?kinds=block,nonsense", 400, "BAD_PARAMETER"),
        ("/web/http_api.py", 404, "NOT_FOUND"),
        ("/web/..%2fclient.py", 404, "NOT_FOUND"),
    ],
)
async def test_a_bad_request_gets_one_clear_error(site: Site, path: str, status: int, code: str) -> None:
    got, body = await site.get("")
    async with site.session.get(yarl.URL(site.api.url + path, encoded=True)) as response:
        body = json.loads(await response.text())
        assert (response.status, body["error"]) == (status, code)
    assert body["detail"]
    assert got == 200


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        ("GET /v1/status HTTP/1.1\r\nHost: x\r\nExpect: 200", 417, "EXPECTATION_FAILED"),
        ("GET /no/such/path HTTP/1.1\r\nHost: x\r\nExpect: 200", 417, "EXPECTATION_FAILED"),
        (
            "GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \u00c1",
            426,
            "UPGRADE_REQUIRED",
        ),
    ],
)
async def test_headers_that_the_library_chokes_on_get_one_clear_error(site: Site, head: str, status: int, code: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.api.port)
    writer.write(head.encode("latin-1") + b"\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    lines, _, body = answer.partition(b"\r\n\r\n")
    assert lines.split()[1] == str(status).encode()
    assert b"Content-Length: %d\r\n" % len(body) in lines + b"\r\n"
    assert json.loads(body)["error"] == code
    assert (await site.get("/v1/status"))[0] == 200


async def test_wrong_method_names_the_right_ones(site: Site) -> None:
    async with site.session.delete(site.api.url + "/v1/status") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert (await response.json())["error"] == "METHOD_NOT_ALLOWED"


async def test_unexpected_exception_is_logged_and_answered_and_the_server_goes_on(site: Site) -> None:
    site.channel.broken = True
    headers = {"Content-Type": "application/msgpack"}
    with capture_logs() as logs:
        async with site.session.post(site.api.url + "/v1/transactions", data=b"x", headers=headers) as response:
            assert response.status == 500
            assert await response.json() == {
                "error": "INTERNAL",
                "detail": "the node has a fault; it is in its log",
                "id": "",
                "reasons": [],
            }
    assert [entry["error"] for entry in logs] == ["on purpose"]
    assert (await site.get("/v1/status"))[0] == 200


async def test_health_says_why_not(site: Site) -> None:
    assert await site.get("/healthz") == (200, {"status": "ok", "height": 0})
    site.channel.connected = 2
    assert (await site.get("/healthz"))[0] == 200
    site.channel.connected, site.channel.diverged = 1, True
    status, body = await site.get("/healthz")
    assert status == 503
    assert body["error"] == "UNHEALTHY"
    assert len(body["reasons"]) == 2
    assert "1 other nodes connected, 2 needed" in body["reasons"][0]


async def test_metrics_count_requests_and_follow_the_channel(site: Site) -> None:
    await site.channel.submit([site.channel.transfer()], "http")
    await site.get("/v1/accounts/anna")
    await site.get("/v1/accounts/nobody")
    await site.get("/no/such/path/ever")
    status, text = await site.get("/metrics")
    assert status == 200
    assert 'gridpact_http_requests_total{method="GET",route="/v1/accounts/{account}",status="200"} 1.0' in text
    assert 'gridpact_http_requests_total{method="GET",route="/v1/accounts/{account}",status="404"} 1.0' in text
    assert 'gridpact_http_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'gridpact_height{channel="main"} 1.0' in text


async def test_dashboard_is_served_without_foreign_hosts(site: Site) -> None:
    async with site.session.get(site.api.url + "/") as response:
        page = await response.text()
        assert response.status == 200
        assert response.content_type == "text/html"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    for name in ("dashboard.css", "dashboard.js"):
        assert f"/web/{name}" in page
        status, text = await site.get(f"/web/{name}")
        assert status == 200
        page += text
    assert "https://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")


async def test_blocks_come_newest_first_in_pages(site: Site) -> None:
    for nonce in range(4):
        await site.channel.submit([site.channel.transfer(nonce + 1)], "http")
    _, first = await site.get("/v1/blocks?limit=3")
    assert [block["height"] for block in first["blocks"]] == [4, 3, 2]
    _, second = await site.get(f"/v1/blocks?limit=3&before={first['next_before']}")
    assert [block["height"] for block in second["blocks"]] == [1, 0]
    assert second["next_before"] == 0
    assert all(block["certified"] for block in first["blocks"] + second["blocks"])


async def test_one_block_with_and_without_receipts(site: Site) -> None:
    outcome = (await site.channel.submit([site.channel.transfer(7)], "http"))[0]
    status, block = await site.get("/v1/blocks/latest")
    assert status == 200
    assert block["transactions"] == [outcome.id]
    assert block["receipts"][0]["events"] == [{"event": "transferred", "payer": "anna", "payee": "ben", "amount_micro": 7}]
    assert [vote["name"] for vote in block["certificate"]["votes"]] == ["node0", "node2", "node3"]
    assert (await site.get("/v1/blocks/1?receipts=0"))[1]["receipts"] == []
    assert (await site.get("/v1/blocks/0"))[1]["certified"]


async def test_accounts_in_pages_and_with_proof(site: Site) -> None:
    await site.channel.submit([site.channel.transfer(5)], "http")
    names: list[str] = []
    after = ""
    while True:
        _, page = await site.get("/v1/accounts?limit=3" + (f"&after={after}" if after else ""))
        names += [account["account"] for account in page["accounts"]]
        after = page["next_after"]
        if not after:
            break
    assert names == sorted(names)
    assert set(names) == {"GRID", "OPERATOR", "anna", "ben", "dc0", "dc1", "dc2", "dc3"}
    _, account = await site.get("/v1/accounts/ben?proof=1")
    assert account["balance_micro"] == MONEY_MICRO + 5
    validators: ValidatorSet = site.channel.genesis.validator_set
    proof = decode_entry_proof(bytes.fromhex(account["proof"]))
    assert check_entry_proof([validators], proof).height == account["proof_height"] == 1
    assert proof.key == site.channel.application.view.state_key_of_account("ben")
    site.channel.certifying = False
    await site.channel.submit([site.channel.transfer(6)], "http")
    status, body = await site.get("/v1/accounts/ben?proof=1")
    assert (status, body["error"]) == (503, "NOT_CERTIFIED")


async def test_markets_meters_bills_and_totals(site: Site) -> None:
    site.channel.clock.time_ms = START_MS + 3_600_000 + 1
    assert (await site.get("/v1/markets/trading"))[1]["period"] == FIRST_PERIOD
    assert (await site.get(f"/v1/markets/{FIRST_PERIOD}"))[1]["orders"] == []
    assert (await site.get(f"/v1/markets/{FIRST_PERIOD}/bills"))[1] == {"period": FIRST_PERIOD, "bills": []}
    assert [meter["meter"] for meter in (await site.get("/v1/meters"))[1]["meters"]] == ["meter-anna", "meter-ben"]
    assert (await site.get("/v1/meters/meter-anna"))[1]["account"] == "anna"
    assert (await site.get("/v1/bills/anna"))[1]["bills"] == []
    assert (await site.get("/v1/credit/anna"))[1]["periods"] == 0
    assert (await site.get("/v1/totals"))[1]["supply_conserved"] is True
    assert (await site.get("/v1/evidence"))[1] == {"evidence": []}
    assert (await site.get("/v1/genesis"))[1]["chain_id"] == "test"


async def test_taken_address_is_a_clear_error(site: Site) -> None:
    second = HttpApi([site.channel], NodeMetrics(), host="127.0.0.1", port=site.api.port)
    with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1"):
        await second.start()


async def test_slow_body_times_out(tmp_path: Path) -> None:
    channel = LocalChannel(tmp_path / "store")
    api = HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0, limits=replace(Limits(), request_timeout_s=0.2))
    await api.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\nContent-Length: 50\r\n\r\nhalf")
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
    assert b"503" in answer.split(b"\r\n")[0]
    assert b'"TIMEOUT"' in answer
    writer.close()
    await api.stop()
    channel.close()


async def test_too_many_requests_at_once_are_turned_away(tmp_path: Path) -> None:
    channel = LocalChannel(tmp_path / "store")
    api = HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0, limits=replace(Limits(), max_requests=1))
    await api.start()
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\nContent-Length: 50\r\n\r\nhalf")
    async with aiohttp.ClientSession() as session:
        for _ in range(1000):
            if api._context.requests:
                break
            await asyncio.sleep(0.01)
        async with session.get(api.url + "/v1/status") as response:
            assert (response.status, (await response.json())["error"]) == (503, "BUSY")
        writer.close()
        for _ in range(1000):
            if not api._context.requests:
                break
            await asyncio.sleep(0.01)
        async with session.get(api.url + "/v1/status") as response:
            assert response.status == 200
    await api.stop()
    channel.close()


async def test_rubbish_instead_of_http_does_not_stop_the_server(site: Site) -> None:
    for rubbish in (b"\x00\xff\x16\x03\x01" * 20 + b"\r\n\r\n", b"GET " + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.api.port)
        writer.write(rubbish)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert (await site.get("/v1/status"))[0] == 200


async def test_document_has_every_route_and_real_answers_fit_it(site: Site) -> None:
    outcome = (await site.channel.submit([site.channel.transfer(5)], "http"))[0]
    site.channel.clock.time_ms = START_MS + 3_600_000 + 1
    _, document = await site.get("/openapi.json")
    assert document["openapi"] == "3.1.0"
    served = {(route.method.lower(), route.path) for route in ROUTES}
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == served
    examples = {
        "/v1/transactions/{id}": f"/v1/transactions/{outcome.id}",
        "/v1/blocks/{height}": "/v1/blocks/latest",
        "/v1/accounts/{account}": "/v1/accounts/anna?proof=1",
        "/v1/markets/{period}": "/v1/markets/trading",
        "/v1/markets/{period}/bills": f"/v1/markets/{FIRST_PERIOD}/bills",
        "/v1/meters/{meter}": "/v1/meters/meter-ben",
        "/v1/bills/{account}": "/v1/bills/anna",
        "/v1/credit/{account}": "/v1/credit/anna",
        "/v1/contracts/{id}": "/v1/contracts/" + "ab" * 32,
        "/v1/schedules/{period}": "/v1/schedules/4",
    }
    for path, methods in document["paths"].items():
        if "get" not in methods or path in ("/v1/events", "/web/{file}", "/", "/metrics", "/openapi.json"):
            continue
        status, answer = await site.get(examples.get(path, path))
        schema = methods["get"]["responses"][str(status)]["content"]["application/json"]["schema"]
        jsonschema.validate(answer, {**schema, "components": document["components"]}, cls=jsonschema.Draft202012Validator)
        if status == 200:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({"no": "such"}, {**schema, "components": document["components"]}, cls=jsonschema.Draft202012Validator)


async def test_stop_ends_streams_and_waiting_requests(site: Site) -> None:
    socket = await site.session.ws_connect(site.api.url + "/v1/events")
    await socket.receive_json(timeout=5)
    await asyncio.wait_for(site.api.stop(), 10)
    assert (await socket.receive(timeout=5)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    with pytest.raises(aiohttp.ClientError):
        await site.get("/v1/status")
