"""Whole nodes: what one accepts, all execute; restarts and a dead primary lose nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from consensus.errors import InputError, InvariantViolation
from consensus.transaction import decode_transaction
from node.client import Executed, GridPactClient
from node.config import read_config
from node.key_value import open_database
from node.service import _warn_of_expiry, run_node
from tests.node.running_cluster import RunningCluster


async def execute(client: GridPactClient, raw: bytes, timeout_s: float = 20.0) -> Executed:
    await client.submit(raw)
    return await client.wait_receipt(decode_transaction(raw).id, timeout_s)


def heights_agree(statuses: list[dict[str, object]], nodes: int = 4) -> bool:
    return len(statuses) == nodes and len({(one["certified"], one["head_hash"], one["state_root"]) for one in statuses}) == 1


async def test_a_transfer_sent_to_any_node_is_executed_and_proven_on_all(tmp_path: Path) -> None:
    async with RunningCluster(tmp_path / "home") as cluster:
        raws = [cluster.transfer(nonce) for nonce in range(1, 9)]
        for number, raw in enumerate(raws):
            async with cluster.client(number % 4) as client:
                receipt = await execute(client, raw)
                assert receipt.receipt.code == "OK"
        await cluster.until(heights_agree)
        for index in range(4):
            async with cluster.client(index) as client:
                bob = await client.account("bob")
                assert bob is not None and bob.balance_micro == 1_000_000_000 + 8_000


async def test_the_cluster_goes_on_without_its_primary_and_takes_it_back(tmp_path: Path) -> None:
    async with RunningCluster(tmp_path / "home") as cluster:
        async with cluster.client(1) as client:
            await execute(client, cluster.transfer(1))
            await cluster.stop(0)
            receipt = await execute(client, cluster.transfer(2), timeout_s=30)
            assert receipt.receipt.code == "OK"
        cluster.start(0)
        statuses = await cluster.until(heights_agree)
        assert all(one["view"] == statuses[0]["view"] for one in statuses) and statuses[0]["view"] != 0


async def test_everything_stops_and_starts_again_where_it_was(tmp_path: Path) -> None:
    async with RunningCluster(tmp_path / "home") as cluster:
        async with cluster.client(2) as client:
            for nonce in range(1, 6):
                await execute(client, cluster.transfer(nonce))
        before = await cluster.until(heights_agree)
        for index in range(4):
            await cluster.stop(index)
        for index in range(4):
            cluster.start(index)
        after = await cluster.until(heights_agree)
        assert after[0]["head_hash"] == before[0]["head_hash"]
        async with cluster.client(3) as client:
            assert (await execute(client, cluster.transfer(6))).receipt.code == "OK"


async def test_the_same_transaction_sent_everywhere_at_once_executes_once(tmp_path: Path) -> None:
    async with RunningCluster(tmp_path / "home") as cluster:
        raw = cluster.transfer(1)
        clients = [cluster.client(index) for index in range(4)]
        results = await asyncio.gather(*(client.submit(raw) for client in clients for _ in range(5)))
        assert set(results) == {decode_transaction(raw).id.hex()}
        await clients[0].wait_receipt(decode_transaction(raw).id)
        await cluster.until(heights_agree)
        alice = await clients[1].account("alice")
        assert alice is not None and alice.balance_micro == 1_000_000_000 - 1_000
        for client in clients:
            await client.close()


async def test_a_store_of_another_genesis_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with RunningCluster(home) as cluster:
        await cluster.until(heights_agree)
    text = (home / "nodes" / "node-0" / "genesis.json").read_text()
    (home / "nodes" / "node-0" / "genesis.json").write_text(text.replace('"currency": "USD"', '"currency": "EUR"'))
    with pytest.raises(InputError, match="another genesis"):
        await run_node(read_config(home / "nodes" / "node-0"), asyncio.Event())


async def test_a_state_that_does_not_hash_to_its_root_is_kept_and_never_voted_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with RunningCluster(home) as cluster:
        await cluster.until(heights_agree)
    config = read_config(home / "nodes" / "node-0")
    database = open_database(config.blocks_folder("main"))
    key, value = next(iter(database.scan(b"s\x00/")))
    database.write([(key, value + b"\x00")], sync=True)
    database.close()
    with pytest.raises(InvariantViolation, match="state root"):
        await run_node(config, asyncio.Event())
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster", "node", "run", "--home", str(config.path), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await done.communicate()
    assert done.returncode == 3
    assert b"votes no more" in errors and b"Traceback" not in errors


@pytest.mark.parametrize(("days", "text"), [(29, "expires soon"), (0, "expires soon"), (-1, "has expired"), (30, None)])
def test_the_log_says_whether_the_certificate_expires_or_has(days: int, text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    _warn_of_expiry(days)
    said = capsys.readouterr().out
    assert (said == "") if text is None else (text in said and f"={abs(days)}" in said)
