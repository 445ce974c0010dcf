"""Trading agents on a real cluster: they trade by what their meters say, keep their reserves, and survive a dead node."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from cluster.agents import AgentsConfig, AgentSetup, AgentsStatus, matched_wh, read_history, run_agents
from consensus.errors import InputError
from node.client import GridPactClient
from node.clock import wall_ms
from tests.cluster.households import HISTORY_PERIODS, PERIOD_MS, Home, make_homes, make_lab, report_readings, write_history

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0


def config_of(homes: list[Home], urls: tuple[str, ...], folder: Path, since_ms: int) -> AgentsConfig:
    """Return agents of which each prefers another node."""
    setups = []
    for number, home in enumerate(homes):
        history = write_history(home, since_ms, since_ms + HISTORY_PERIODS * PERIOD_MS, folder / f"{home.account}.json")
        setups.append(AgentSetup(home.account, home.meter, home.signer, history, urls[number:] + urls[:number]))
    return AgentsConfig(tuple(setups), wall_ms, 1.0, folder / "agents" / "status.json")


async def cleared_market_with_trades(client: GridPactClient, after: int):
    """Return the first market after a period that was cleared with trades."""
    deadline = time.monotonic() + DEADLINE_S
    period = after + 1
    while time.monotonic() < deadline:
        market = await client.market(period)
        if market is not None and market.state not in ("announced", "open", "closed"):
            if market.trade_count:
                return market
            period += 1
        await asyncio.sleep(0.2)
    pytest.fail("no period was cleared with trades in time")


async def test_agents_trade_learn_and_go_on_without_a_node(tmp_path):
    homes = make_homes(anna=-2_000_000, bert=-900_000, cleo=1_500_000, dora=1_000_000)
    since_ms = (wall_ms() // PERIOD_MS - HISTORY_PERIODS) * PERIOD_MS
    (tmp_path / "lab").mkdir()
    async with make_lab(homes, tmp_path / "lab") as lab:
        stop = asyncio.Event()
        config = config_of(homes, lab.urls, tmp_path, since_ms)
        agents = asyncio.create_task(run_agents(config, stop))
        readings = asyncio.create_task(report_readings(lab, homes, since_ms))
        async with GridPactClient(lab.urls[1:], lab.genesis) as client:
            first = await cleared_market_with_trades(client, lab.genesis.market.first_period - 1)
            await asyncio.to_thread(lab.kill, 0)
            second = await cleared_market_with_trades(client, first.period + 1)
            bills = await client.bills("cleo")
        trades = await asyncio.to_thread(_trades_by_command, lab.urls[2], first.period)
        stop.set()
        readings.cancel()
        await asyncio.gather(readings, return_exceptions=True)
        await asyncio.wait_for(agents, 30)
    sides = {home.account: "buy" if home.net_w > 0 else "sell" for home in homes}
    for market in (first, second):
        assert market.orders
        assert all(order.side == sides[order.account] for order in market.orders)
        assert all(80_000 < order.price_micro_per_kwh < 300_000 for order in market.orders)
        assert all(80_000 < trade.price_micro_per_kwh < 300_000 for trade in market.trades)
        for order in market.orders:
            # Steady powers are forecast well; the order is the forecast, a little shaded.
            expected_wh = abs(next(home.net_w for home in homes if home.account == order.account)) * PERIOD_MS / 3_600_000
            assert 0.7 * expected_wh < order.energy_wh < 1.3 * expected_wh
            assert matched_wh(market, order.order) <= order.energy_wh
    # The household whose preferred node was killed trades on through another one.
    assert "anna" in {order.account for order in second.orders}
    assert bills is not None
    assert [trade["trade"] for trade in trades["trades"]] == [trade.trade for trade in first.trades]
    check_status(config.status_file, homes)


def _trades_by_command(url: str, period: int):
    command = [sys.executable, "-m", "cluster", "market", "trades", "--node", url, "--period", str(period), "--json", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def check_status(path: Path, homes: list[Home]) -> None:
    status = msgspec.json.decode(path.read_bytes(), type=AgentsStatus)
    assert status.agents == len(homes)
    assert status.orders_placed == sum(one.placed for one in status.households) >= 2 * len(homes)
    assert {one.account for one in status.households} == {home.account for home in homes}
    # What a household keeps to itself does not leak through the file either.
    assert not {"reserve", "margin", "forecast", "concession"} & set(path.read_text().replace('"', " ").split())


def test_agents_know_nodes_by_their_client_only():
    for name in ("agents", "forecasting", "quoting"):
        tree = ast.parse((ROOT / "cluster" / f"{name}.py").read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        foreign = {module for module in imported if module.split(".")[0] in ("node", "meters", "dispatch")}
        assert foreign <= {"node.client"}


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'[{"time_ms": 1}]', b'[{"time_ms": -1, "import_wh": 0, "export_wh": 0}]', b"\xff\xfe", b"[" * 10_000]
)
async def test_bad_history_is_refused_with_its_name(content, tmp_path):
    path = tmp_path / "history.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_history(path)
    assert str(path) in str(refused.value)
    (home,) = make_homes(anna=1)
    config = AgentsConfig((AgentSetup("anna", "m", home.signer, path, ("http://127.0.0.1:1",)),), wall_ms, 1.0, tmp_path / "status.json")
    with pytest.raises(InputError):
        await run_agents(config, asyncio.Event())


def test_absent_history_is_no_history(tmp_path):
    assert read_history(None) == []
    assert read_history(tmp_path / "none.json") == []


async def test_agents_wait_for_nodes_and_stop_when_told(tmp_path):
    (home,) = make_homes(anna=1)
    setup = AgentSetup("anna", "m", home.signer, None, ("http://127.0.0.1:1",))
    stop = asyncio.Event()
    running = asyncio.create_task(run_agents(AgentsConfig((setup,), wall_ms, 1.0, tmp_path / "status.json"), stop))
    for _ in range(200):
        if (tmp_path / "status.json").exists():
            break
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(running, 10)
    status = msgspec.json.decode((tmp_path / "status.json").read_bytes(), type=AgentsStatus)
    assert (status.agents, status.orders_placed) == (1, 0)
