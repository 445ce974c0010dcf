"""The API of real nodes: what they answer fits the document, and what one node streams is what another executed."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from consensus.transaction import decode_transaction
from tests.node.running_cluster import RunningCluster

pytestmark = pytest.mark.asyncio


async def test_real_nodes_answer_as_the_document_says(tmp_path: Path) -> None:
    async with RunningCluster(tmp_path / "home") as cluster, cluster.client(0) as client, aiohttp.ClientSession() as session:
        urls = list(client._pool.urls)
        async with cluster.client(1) as other:
            stream = other.events(["block", "transferred"])
            assert (await asyncio.wait_for(anext(stream), 20))["event"] == "hello"
            raw = cluster.transfer(1)
            transaction_id = decode_transaction(raw).id
            await client.submit(raw)
            executed = await client.wait_receipt(transaction_id, 20)
            seen = [await asyncio.wait_for(anext(stream), 20) for _ in range(2)]
            assert seen[0]["event"] == "transferred"
            assert seen[0]["height"] == executed.header.height
            assert seen[1]["event"] == "block"
            assert seen[1]["hash"] == executed.header.hash.hex()
            await stream.aclose()  # type: ignore[attr-defined]
        proven = await client.proven_account("bob")
        assert proven is not None
        assert proven.account.balance_micro == 1_000_001_000
        document = await _json(session, urls[0] + "/openapi.json")
        paths = {
            "/v1/status": "/v1/status",
            "/v1/genesis": "/v1/genesis",
            "/v1/transactions/{id}": f"/v1/transactions/{transaction_id.hex()}",
            "/v1/blocks": "/v1/blocks",
            "/v1/blocks/{height}": f"/v1/blocks/{executed.header.height}",
            "/v1/accounts": "/v1/accounts",
            "/v1/accounts/{account}": "/v1/accounts/bob?proof=1",
            "/v1/meters": "/v1/meters",
            "/v1/totals": "/v1/totals",
            "/v1/evidence": "/v1/evidence",
            "/healthz": "/healthz",
        }
        for path, asked in paths.items():
            answer = await _json(session, urls[0] + asked)
            schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            jsonschema.validate(answer, {**schema, "components": document["components"]}, cls=jsonschema.Draft202012Validator)
        async with session.get(urls[0] + "/metrics") as response:
            assert 'gridpact_blocks_total{channel="main"}' in await response.text()


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        assert response.status == 200, await response.text()
        return await response.json()
