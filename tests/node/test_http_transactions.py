"""Transactions over HTTP, good and bad, against a real ledger and store."""

import asyncio
import gzip
import http.client
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.proofs import check_transaction_proof, decode_transaction_proof
from consensus.transaction import Envelope, decode_transaction
from contracts.calls import Transfer
from node.http.call import Limits
from node.http_api import HttpApi
from node.metrics import NodeMetrics
from tests.node.chain_support import LocalChannel

MSGPACK = {"Content-Type": "application/msgpack"}


class Site:
    def __init__(self, channel: LocalChannel, api: HttpApi, session: aiohttp.ClientSession) -> None:
        self.channel, self.api, self.session = channel, api, session

    async def post(self, path: str, data: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        async with self.session.post(self.api.url + path, data=data, headers=headers or MSGPACK) as response:
            self.headers = response.headers
            return response.status, await response.json()

    async def state(self, transaction_id: str, wait: str = "0") -> Any:
        async with self.session.get(f"{self.api.url}/v1/transactions/{transaction_id}?wait={wait}") as response:
            assert response.status == 200
            return await response.json()


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    channel = LocalChannel(tmp_path / "store")
    limits = replace(Limits(), max_batch_transactions=5, max_batch_bytes=300_000, max_waiting=1)
    api = HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0, limits=limits)
    await api.start()
    async with aiohttp.ClientSession() as session:
        yield Site(channel, api, session)
    await api.stop()
    channel.close()


def as_json(raw: bytes) -> dict[str, Any]:
    scheme, public_key, body, signature = msgpack.unpackb(raw)
    return {"scheme": scheme, "public_key": public_key.hex(), "body": body.hex(), "signature": signature.hex()}


@pytest.mark.asyncio
@pytest.mark.parametrize("form", ["application/msgpack", "application/octet-stream", "application/json"])
async def test_a_transaction_is_taken_executed_and_proven(site: Site, form: str) -> None:
    raw = site.channel.transfer(42)
    data = json.dumps(as_json(raw)).encode() if form.endswith("json") else raw
    status, answer = await site.post("/v1/transactions", data, {"Content-Type": form})
    transaction_id = decode_transaction(raw).id
    assert (status, answer) == (202, {"id": transaction_id.hex(), "code": "OK", "detail": ""})
    found = await site.state(answer["id"])
    assert (found["status"], found["certified"], found["height"], found["position"]) == ("executed", True, 1, 0)
    assert found["receipt"]["events"][0]["amount_micro"] == 42
    proof = decode_transaction_proof(bytes.fromhex(found["proof"]["encoded"]))
    assert check_transaction_proof([site.channel.genesis.validator_set], transaction_id, proof).height == 1
    assert found["proof"]["header"]["hash"] == found["proof"]["certificate"]["header_hash"]


@pytest.mark.asyncio
async def test_again_is_harmless_and_a_spent_nonce_is_a_conflict(site: Site) -> None:
    raw = site.channel.transfer(1, nonce=1)
    assert (await site.post("/v1/transactions", raw))[0] == 202
    assert (await site.post("/v1/transactions", raw))[0] == 202
    other = site.channel.transfer(2, nonce=1)
    status, answer = await site.post("/v1/transactions", other)
    assert (status, answer["error"]) == (409, "NONCE_SPENT")
    assert answer["id"] == decode_transaction(other).id.hex()
    head = site.channel.store.head()
    assert head is not None
    assert head.height == 1


def forgeries(channel: LocalChannel) -> dict[str, tuple[bytes, int, str]]:
    good = decode_transaction(channel.transfer()).envelope
    scheme, key, body, signature = good.scheme, good.public_key, good.body, good.signature
    fields = msgpack.unpackb(body)
    return {
        "empty": (b"", 400, "BAD_TRANSACTION"),
        "no MessagePack": (b"\xc1garbage", 400, "BAD_TRANSACTION"),
        "cut short": (encode(good)[:-1], 400, "BAD_TRANSACTION"),
        "more after it": (encode(good) + b"\x00", 400, "BAD_TRANSACTION"),
        "one field more": (msgpack.packb([scheme, key, body, signature, 1]), 400, "BAD_TRANSACTION"),
        "a map": (msgpack.packb({"scheme": 1}), 400, "BAD_TRANSACTION"),
        "text for bytes": (msgpack.packb([scheme, "key", body, signature]), 400, "BAD_TRANSACTION"),
        "body no transaction": (encode(Envelope(scheme, key, b"\x90", signature)), 400, "BAD_TRANSACTION"),
        "body one field more": (encode(Envelope(scheme, key, msgpack.packb([*fields, 0]), signature)), 400, "BAD_TRANSACTION"),
        "deep nesting": (b"\x91" * 60_000, 400, "BAD_TRANSACTION"),
        "wrong signature": (encode(Envelope(scheme, key, body, bytes(64))), 400, "BAD_SIGNATURE"),
        "short signature": (encode(Envelope(scheme, key, body, b"")), 400, "BAD_SIGNATURE"),
        "unknown scheme": (encode(Envelope(9, key, body, signature)), 400, "BAD_SIGNATURE"),
        "changed body": (encode(Envelope(scheme, key, body[:-1] + b"\x01", signature)), 400, "BAD_SIGNATURE"),
    }


@pytest.mark.asyncio
async def test_each_forgery_gets_its_error_and_changes_nothing(site: Site) -> None:
    for name, (raw, status, code) in forgeries(site.channel).items():
        got, answer = await site.post("/v1/transactions", raw)
        assert (name, got, answer["error"]) == (name, status, code)
        assert answer["detail"]
    head = site.channel.store.head()
    assert head is not None
    assert head.height == 0
    assert (await site.post("/v1/transactions", site.channel.transfer()))[0] == 202


@pytest.mark.asyncio
async def test_what_the_ledger_refuses_is_not_the_fault_of_the_form(site: Site) -> None:
    refused = [
        site.channel.signed(Transfer("ben", 1), key="ben"),
        site.channel.signed(Transfer("ben", 1), chain_id="other"),
        site.channel.signed(Transfer("ben", 1), sender="nobody"),
        site.channel.signed(["no such call"]),
    ]
    for raw in refused:
        status, answer = await site.post("/v1/transactions", raw)
        assert status in (400, 409, 422), answer
        assert answer["error"] not in ("OK", "BAD_TRANSACTION", "BAD_SIGNATURE")
        assert answer["id"] == decode_transaction(raw).id.hex()


@pytest.mark.asyncio
async def test_what_passes_says_when_to_come_back(site: Site) -> None:
    site.channel.full = True
    status, answer = await site.post("/v1/transactions", site.channel.transfer())
    assert (status, answer["error"], site.headers["Retry-After"]) == (503, "FULL", "1")
    site.channel.full, site.channel.behind = False, True
    status, answer = await site.post("/v1/transactions", site.channel.transfer())
    assert (status, answer["error"], site.headers["Retry-After"]) == (503, "BEHIND", "1")


@pytest.mark.asyncio
async def test_sizes_and_media_types_are_bounded(site: Site) -> None:
    assert (await site.post("/v1/transactions", bytes(65_537)))[0] == 413
    assert (await site.post("/v1/transactions", b"[" * 300_000, {"Content-Type": "application/json"}))[0] == 413
    status, answer = await site.post("/v1/transactions/batch", bytes(300_001))
    assert (status, answer["error"]) == (413, "TOO_LARGE")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield bytes(10_000)

    assert (await site.post("/v1/transactions", endless()))[0] == 413
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 65_536
    assert (await site.post("/v1/transactions", bomb, {**MSGPACK, "Content-Encoding": "gzip"}))[0] == 413
    status, answer = await site.post("/v1/transactions", b"x", {**MSGPACK, "Content-Encoding": "gzip"})
    assert status == 400
    status, answer = await site.post("/v1/transactions", b"a=1", {"Content-Type": "application/x-www-form-urlencoded"})
    assert (status, answer["error"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.asyncio
async def test_bad_json_names_the_field(site: Site) -> None:
    good = as_json(site.channel.transfer())
    bad = {
        "$.signature": {**good, "signature": 5},
        "`more`": {**good, "more": 1},
        "`body`": {key: value for key, value in good.items() if key != "body"},
        "$.public_key": {**good, "public_key": "xyz"},
        "scheme": {**good, "scheme": 2**70},
        "array": [good],
    }
    for name, value in bad.items():
        status, answer = await site.post("/v1/transactions", json.dumps(value).encode(), {"Content-Type": "application/json"})
        assert (name, status) == (name, 400)
        assert name in answer["detail"]
    for rubbish in (b"{", b"\xff\xfe", b"[" * 50_000, b"null", b""):
        assert (await site.post("/v1/transactions", rubbish, {"Content-Type": "application/json"}))[0] == 400


@pytest.mark.asyncio
async def test_batch_judges_each_by_itself(site: Site) -> None:
    first, second = site.channel.transfer(1, nonce=1), site.channel.transfer(2, nonce=2)
    bad = b"rubbish"
    status, answers = await site.post("/v1/transactions/batch", encode((first, bad, second)))
    assert status == 200
    assert [answer["code"] for answer in answers] == ["OK", "BAD_TRANSACTION", "OK"]
    assert answers[0]["id"] == decode_transaction(first).id.hex()
    assert answers[1]["id"] == ""
    status, answers = await site.post(
        "/v1/transactions/batch", json.dumps([as_json(second)]).encode(), {"Content-Type": "application/json"}
    )
    assert [answer["code"] for answer in answers] == ["OK"]
    assert await site.post("/v1/transactions/batch", encode(())) == (200, [])
    assert (await site.post("/v1/transactions/batch", encode((first,) * 6)))[0] == 413
    assert (await site.post("/v1/transactions/batch", encode(first)))[1]["error"] == "MALFORMED"


@pytest.mark.asyncio
async def test_status_of_a_transaction_goes_from_unknown_to_certified(site: Site) -> None:
    raw = site.channel.transfer()
    transaction_id = decode_transaction(raw).id.hex()
    assert (await site.state(transaction_id))["status"] == "unknown"
    site.channel.hold()
    site.channel.certifying = False
    await site.post("/v1/transactions", raw)
    assert (await site.state(transaction_id.upper()))["status"] == "pending"
    waiting = asyncio.ensure_future(site.state(transaction_id, "20"))
    for _ in range(1000):
        if site.api._context.waiting:
            break
        await asyncio.sleep(0.01)
    async with site.session.get(f"{site.api.url}/v1/transactions/{transaction_id}?wait=1") as response:
        assert (response.status, (await response.json())["error"]) == (503, "TOO_MANY_WAITING")
    site.channel.release()
    found = await site.state(transaction_id)
    assert (found["status"], found["certified"], found["proof"]) == ("executed", False, None)
    assert not waiting.done()
    site.channel.certify(1)
    found = await asyncio.wait_for(waiting, 10)
    assert found["certified"]
    assert found["proof"]
    assert site.api._context.waiting == 0


@pytest.mark.asyncio
async def test_waiting_ends_in_time_with_what_is_known(site: Site) -> None:
    assert (await site.state("00" * 32, "0.05"))["status"] == "unknown"


class Background:
    """A server in a thread of its own, for synchronous tests."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.channel, self.api = self.run(self._start(folder))

    async def _start(self, folder: Path) -> tuple[LocalChannel, HttpApi]:
        channel = LocalChannel(folder)
        api = HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0)
        await api.start()
        return channel, api

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def stop(self) -> None:
        self.run(self.api.stop())
        self.channel.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def post(self, path: str, body: bytes, media_type: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.api.port, timeout=10)
        try:
            connection.request("POST", path, body, {"Content-Type": media_type})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def background(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    server = Background(tmp_path_factory.mktemp("http") / "store")
    yield server
    server.stop()


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=80) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)
_bodies = st.one_of(
    st.binary(max_size=300),
    _values.map(msgpack.packb),
    st.lists(_values, min_size=4, max_size=4).map(msgpack.packb),
    st.lists(_values, min_size=6, max_size=6).map(lambda value: msgpack.packb([1, bytes(32), msgpack.packb(value), bytes(64)])),
    st.dictionaries(st.sampled_from(["scheme", "public_key", "body", "signature", "x"]), _values.filter(lambda v: not _has_bytes(v))).map(
        lambda value: json.dumps(value).encode()
    ),
)


def _has_bytes(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_bytes(one) for one in value.values())
    return isinstance(value, bytes) or (isinstance(value, list) and any(_has_bytes(one) for one in value))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=_bodies,
    path=st.sampled_from(["/v1/transactions", "/v1/transactions/batch"]),
    media_type=st.sampled_from(["application/msgpack", "application/json", "text/plain"]),
)
def test_any_body_gets_one_clear_answer(background: Background, body: bytes, path: str, media_type: str) -> None:
    status, answer = background.post(path, body, media_type)
    if status == 200:
        assert path.endswith("batch")
        assert all(one["code"] != "OK" for one in answer)
    else:
        assert 400 <= status < 500
        assert answer["error"]
        assert answer["detail"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_byte_is_accepted(background: Background, data: st.DataObject) -> None:
    raw = background.channel.transfer(nonce=1)
    position = data.draw(st.integers(0, len(raw) - 1))
    flipped = raw[:position] + bytes([raw[position] ^ data.draw(st.integers(1, 255))]) + raw[position + 1 :]
    status, answer = background.post("/v1/transactions", flipped, "application/msgpack")
    assert 400 <= status < 500, answer
