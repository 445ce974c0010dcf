"""``gridpact market``, ``auction`` and ``settle`` as users run them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest

from cluster.building import create_home
from cluster.commands.market import period_name
from cluster.lab import Lab, lab_plan
from cluster.options import price_micro
from cluster.planning import Wishes
from cluster.tables import energy, money, price, rounded_price
from cluster.workload import make_actors
from node.client import GridPactClient
from node.keys import write_secret

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "contracts" / "examples"


def gridpact(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False, input=stdin
    )


async def test_order_goes_into_the_book_with_its_proof(tmp_path):
    actors = make_actors(2, 0)
    (name, seed), (other, _) = actors.accounts
    key = tmp_path / "member.key"
    write_secret(key, seed.hex().encode() + b"\n")
    async with Lab(4, partial(lab_plan, actors)) as lab:
        node = ("--node", lab.urls[1])
        place = ("market", "order", *node, "--account", name, "--key", str(key), "--side", "sell", "--energy-wh", "500")
        placed = await asyncio.to_thread(gridpact, *place, "--price", "0.15", "--reserve", "0.12", "--json", "-")
        assert placed.returncode == 0, placed.stderr
        result = json.loads(placed.stdout)
        assert (result["code"], result["side"], result["energy_wh"], result["price_micro_per_kwh"]) == ("OK", "sell", 500, 150_000)

        shown = await asyncio.to_thread(gridpact, *place, "--price", "0.2", "--reserve", "0.2")
        assert shown.returncode == 0, shown.stderr
        assert "stands in the book" in shown.stdout

        book = await asyncio.to_thread(gridpact, "market", "book", *node, "--period", str(result["period"]), "--json", "-")
        orders = json.loads(book.stdout)["orders"]
        assert {order["order"] for order in orders} >= {result["order"]}
        assert [order["price_micro_per_kwh"] for order in orders] == [150_000, 200_000]
        assert "reserve" not in book.stdout
        table = await asyncio.to_thread(gridpact, "market", "book", *node)
        assert name in table.stdout
        assert "0.150" in table.stdout

        crossed = await asyncio.to_thread(gridpact, *place, "--price", "0.15", "--reserve", "0.2")
        assert crossed.returncode == 1
        assert "RESERVE_CROSSED" in crossed.stderr
        assert len(crossed.stderr.strip().splitlines()) == 1

        stolen = ("market", "order", *node, "--account", other, "--key", str(key), "--side", "buy", "--energy-wh", "5", "--price", "0.1")
        refused = await asyncio.to_thread(gridpact, *stolen)
        assert refused.returncode == 1, refused.stdout
        async with GridPactClient(lab.urls, lab.genesis) as client:
            market = await client.market(result["period"])
        assert market is not None
        assert {order.account for order in market.orders} == {name}

        trades = await asyncio.to_thread(gridpact, "market", "trades", *node)
        assert "none" in trades.stdout
        bills = await asyncio.to_thread(gridpact, "market", "bills", *node, "--account", name, "--json", "-")
        assert json.loads(bills.stdout)["bills"] == []
        nobody = await asyncio.to_thread(gridpact, "market", "bills", *node, "--account", "nobody")
        assert (nobody.returncode, "nobody" in nobody.stderr) == (2, True)
        assert name in nobody.stderr
        unknown = await asyncio.to_thread(gridpact, "market", "book", *node, "--period", "1")
        assert (unknown.returncode, "--period 1" in unknown.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (("market", "book", "--home", "/no/cluster/here"), 2, "/no/cluster/here"),
        (("market", "book", "--node", "ftp://x"), 2, "ftp://x"),
        (("market", "book", "--period", "soon"), 2, "--period"),
        (("market", "bills"), 2, "--account"),
        (("market", "order", "--account", "a", "--side", "sell", "--energy-wh", "0", "--price", "1"), 2, "--energy-wh"),
        (("market", "order", "--account", "a", "--side", "sell", "--energy-wh", "1", "--price", "cheap"), 2, "--price"),
        (("market", "order", "--account", "a", "--side", "hold", "--energy-wh", "1", "--price", "1"), 2, "--side"),
        (("market", "order", "--account", "a", "--key", "/no.key", "--side", "buy", "--energy-wh", "1", "--price", "1"), 2, "/no.key"),
        (("market", "book", "--node", "http://127.0.0.1:1"), 1, "127.0.0.1:1"),
    ],
)
def test_bad_input_is_one_line(arguments, status, named):
    done = gridpact(*arguments)
    assert done.returncode == status, done.stderr
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_commands_for_a_cluster_that_does_not_run_say_so(tmp_path):
    home = create_home(tmp_path / "home", Wishes(households=2)).root
    stopped = gridpact("market", "book", "--home", str(home))
    assert stopped.returncode == 1
    assert stopped.stderr == f"gridpact: the cluster under {home} does not run; start it with gridpact up\n"
    order = gridpact("market", "order", "--home", str(home), "--account", "B01", "--side", "buy", "--energy-wh", "1", "--price", "1")
    assert order.returncode == 2
    assert "there are home-B01, home-B02, GRID" in order.stderr
    status = gridpact("status", "--home", str(home))
    assert status.returncode == 0
    assert "node-1 -" in status.stdout
    assert "meters: - of 2 connected" in status.stdout
    nodes = [line.split() for line in status.stdout.splitlines() if "http://" in line]
    assert [row[3:] for row in nodes] == [["-"] * 4] * 4


def test_auction_prints_the_papers_table():
    done = gridpact("auction", str(EXAMPLES / "auction_table1.json"))
    assert done.returncode == 0, done.stderr
    rows = [tuple(cell.strip() for cell in line.strip("│").split("│")) for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[:4] for row in rows] == [
        ("S1", "B1", "220.000", "0.470"),
        ("S2", "B1", "180.000", "0.490"),
        ("S2", "B2", "360.000", "0.480"),
        ("S4", "B2", "120.000", "0.480"),
        ("S4", "B3", "180.000", "0.470"),
        ("S3", "B3", "435.000", "0.492"),
        ("grid", "B3", "215.000", "0.590"),
        ("grid", "B4", "500.000", "0.590"),
    ]
    assert "12.38 % less" in done.stdout
    assert "55.50 % more" in done.stdout


def test_auction_and_settle_give_the_keys_of_the_interface():
    auction = json.loads(gridpact("auction", str(EXAMPLES / "auction_table1.json"), "--json", "-").stdout)
    assert set(auction) == {
        "trades", "grid", "rejected", "final_quotes", "reference_sell", "reference_buy", "reprice_rounds", "buyer_cost_micro",
        "seller_income_micro", "buyer_cost_grid_only_micro", "seller_income_grid_only_micro",
    }  # fmt: skip
    settled = json.loads(gridpact("settle", str(EXAMPLES / "settle_shortfalls.json"), "--json", "-").stdout)
    assert set(settled) == {"cash_micro", "performed_wh", "delivered_wh", "taken_wh", "performance_ppm", "lines"}
    assert sum(settled["cash_micro"].values()) == 0
    assert set(settled["lines"][0]) == {"reference", "why", "from", "to", "micro"}
    people = gridpact("settle", str(EXAMPLES / "settle_shortfalls.json"))
    assert "sum 0.00" in people.stdout


@pytest.mark.parametrize("command", ["auction", "settle"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"surprise": 1}', "\x00", "[" * 5_000])
def test_bad_case_names_the_file(command, content, tmp_path):
    path = tmp_path / "case.json"
    path.write_text(content)
    done = gridpact(command, str(path))
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("text", "micro"), [("0.125", 125_000), ("0", 0), ("1.000001", 1_000_001), ("12", 12_000_000), ("1e-3", 1_000)])
def test_prices_are_exact(text, micro):
    assert price_micro(text) == micro


@pytest.mark.parametrize("text", ["", "x", "-1", "1e30", "nan", "inf", "0.0000001", "1,5"])
def test_bad_prices_are_refused(text):
    with pytest.raises(click.BadParameter):
        price_micro(text)


@pytest.mark.parametrize("text", ["", "-1", "next", "1.5", "9" * 20, "٣"])
def test_bad_periods_are_refused(text):
    with pytest.raises(click.BadParameter):
        period_name(text)


def test_amounts_for_people():
    assert [price(value) for value in (150_000, 492_150, 0)] == ["0.150", "0.49215", "0.000"]
    assert [rounded_price(value) for value in (492_150, 492_500, 492_499, 1_234_999_500)] == ["0.492", "0.493", "0.492", "1,235.000"]
    assert [money(value) for value in (1_142_535_250, -5, 0, 1_000_000)] == ["1,142.53525", "-0.000005", "0.00", "1.00"]
    assert energy(1_234_567) == "1,234.567"
