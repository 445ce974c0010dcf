"""``gridpact market``: the book, the trades, the bills and one's own orders, through any node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cluster.bills import bill_table
from cluster.display import chain_time
from cluster.options import RunError, check_json_path, home_option, json_option, price_micro, write_json
from cluster.tables import console, energy, moment, price, print_table, short
from cluster.topology import TOPOLOGY_FILE, read_topology
from consensus.errors import InputError
from contracts.calls import PlaceOrder
from contracts.events import Traded
from contracts.genesis import Genesis
from contracts.views import BillsView, MarketView
from node.client import Executed, GridPactClient, Member, NodeUnreachable
from node.keys import read_signer

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])
TIMEOUT_S = 30.0
NAMED_PERIODS = ("trading", "cleared", "current")
CLEARED_STATES = ("cleared", "delivering", "metering", "settled")
ACCOUNTS_NAMED = 30


def period_name(text: str) -> str:
    """Return a delivery period: its number, or ``trading``, ``cleared`` or ``current`` (a click option's ``type``).

    Raises:
        click.BadParameter: it is not one.
    """
    if text not in NAMED_PERIODS and not (text.isascii() and text.isdigit() and len(text) <= 13):
        raise click.BadParameter(f"{text[:40]!r} is not the number of a period, 'trading', 'cleared' or 'current'")
    return text


def node_option(command: Command) -> Command:
    """Add ``--node URL``, more than once if there are several."""
    text = "URL of a node; may be repeated. Without it the nodes of the cluster under --home are asked."
    return click.option("--node", "nodes", metavar="URL", multiple=True, help=text)(command)


def period_option(default: str) -> Callable[[Command], Command]:
    """Add ``--period``."""
    text = "Number of a period, or trading (takes orders), cleared (the last one that was), current (is delivered)."
    return click.option("--period", type=period_name, metavar="PERIOD", default=default, show_default=True, help=text)


@click.group()
def market() -> None:
    """Show the book, the trades and the bills; place an order."""


@market.command(epilog="Example: gridpact market book --period trading")
@home_option
@node_option
@period_option("trading")
@json_option
def book(home: Path, nodes: tuple[str, ...], period: str, json_path: str | None) -> None:
    """Show the orders of one delivery period."""
    view = _market(home, nodes, period, json_path)
    if json_path is not None:
        write_json(json_path, view)
        return
    rows = (
        (one.side, one.account, one.energy_type, energy(one.energy_wh), energy(one.remaining_wh), price(one.price_micro_per_kwh), one.state)
        for one in sorted(view.orders, key=lambda order: (order.side, order.price_micro_per_kwh))
    )
    print_table(_title("Orders", view), ("side", "account", "energy", ">kWh", ">left kWh", ">price per kWh", "state"), rows, narrow=True)


@market.command(epilog="Example: gridpact market trades")
@home_option
@node_option
@period_option("cleared")
@json_option
def trades(home: Path, nodes: tuple[str, ...], period: str, json_path: str | None) -> None:
    """Show the trades of one delivery period, by default of the last one that was cleared."""
    view = _market(home, nodes, period, json_path)
    if json_path is not None:
        write_json(json_path, {"period": view.period, "mean_price_micro_per_kwh": view.mean_price_micro_per_kwh, "trades": view.trades})
        return
    print_table(_title("Trades", view), ("seller", "buyer", "energy", ">kWh", ">price per kWh", ">round"), map(_trade_row, view.trades))


def _trade_row(trade: Traded) -> tuple[str, ...]:
    quantity = energy(trade.energy_wh)
    return trade.seller, trade.buyer, trade.energy_type, quantity, price(trade.price_micro_per_kwh), str(trade.round)


@market.command(epilog="Example: gridpact market bills --account home-B01 --json -")
@home_option
@node_option
@click.option("--account", required=True, metavar="NAME", help="Whose bills.")
@click.option("--limit", type=click.IntRange(1, 100), default=24, show_default=True, help="How many, newest first.")
@json_option
def bills(home: Path, nodes: tuple[str, ...], account: str, limit: int, json_path: str | None) -> None:
    """Show the latest bills of one account."""
    check_json_path(json_path)

    async def look(client: GridPactClient) -> tuple[BillsView | None, Genesis]:
        return await client.bills(account, limit=limit), await client.genesis()

    found, genesis = _ask(home, nodes, look)
    if found is None:
        raise _unknown_account(account, genesis)
    if json_path is not None:
        write_json(json_path, found)
        return
    if not found.bills:
        click.echo(f"{account} has no bills yet; they come when a period is settled")
        return
    click.echo(f"Bills of {account}, newest first: energy in Wh, money in {genesis.currency}; period: its start")
    starts = [(chain_time(bill.period * genesis.market.period_ms, "%d %b %H:%M"), bill) for bill in found.bills]
    console().print(bill_table("period", starts), crop=False, overflow="ignore", no_wrap=True)


def _unknown_account(account: str, genesis: Genesis) -> InputError:
    """Return the error for an account that does not exist, which lists those that do: members first."""
    members = sorted({meter.account for meter in genesis.meters})
    names = members + [one.account for one in genesis.participants if one.account not in members]
    more = ", ..." if len(names) > ACCOUNTS_NAMED else ""
    return InputError(f"--account {account}", f"there is no such account; there are {', '.join(names[:ACCOUNTS_NAMED])}{more}")


@market.command(epilog="Example: gridpact market order --account home-B01 --side sell --energy-wh 500 --price 0.15 --reserve 0.11")
@home_option
@node_option
@click.option("--account", required=True, metavar="NAME", help="In whose name.")
@click.option(
    "--key", "key_file", type=click.Path(path_type=Path), help="The account's key file; default: keys/<account>.key under --home."
)
@click.option("--side", type=click.Choice(("buy", "sell")), required=True)
@click.option("--energy-wh", type=click.IntRange(1), required=True, help="How much, Wh.")
@click.option("--price", "quote", type=price_micro, metavar="PRICE", required=True, help="The quote, currency per kWh.")
@click.option(
    "--reserve", type=price_micro, metavar="PRICE", help="Limit up to which the second round may move the quote; default: the quote."
)
@click.option("--energy-type", default="pv", show_default=True, help="Only orders of one type meet.")
@period_option("trading")
@json_option
def order(
    home: Path,
    nodes: tuple[str, ...],
    account: str,
    key_file: Path | None,
    side: str,
    energy_wh: int,
    quote: int,
    reserve: int | None,
    energy_type: str,
    period: str,
    json_path: str | None,
) -> None:
    """Place an order, signed with the account's key, and wait until the chain has proven its result."""
    check_json_path(json_path)
    if key_file is None and (home / TOPOLOGY_FILE).exists():
        genesis = read_topology(home).genesis()
        if account not in {one.account for one in genesis.participants}:
            raise _unknown_account(account, genesis)
    signer = read_signer(key_file or home / "keys" / f"{account}.key")

    async def place(client: GridPactClient) -> tuple[int, Executed]:
        number = int(period) if period.isdigit() else (await _view(client, period)).period
        call = PlaceOrder(number, "buy" if side == "buy" else "sell", energy_type, energy_wh, quote, quote if reserve is None else reserve)
        return number, await Member(client, account, signer).execute(call, TIMEOUT_S)

    number, executed = _ask(home, nodes, place)
    result = {
        "order": executed.id.hex(),
        "code": executed.receipt.code,
        "account": account,
        "period": number,
        "side": side,
        "energy_wh": energy_wh,
        "price_micro_per_kwh": quote,
        "height": executed.header.height,
        "block_hash": executed.header.hash.hex(),
        "time_ms": executed.header.time_ms,
    }
    if json_path is not None:
        write_json(json_path, result)
        return
    click.echo(
        f"Order {short(executed.id.hex())} stands in the book of period {number}: {side} {energy(energy_wh)} kWh at {price(quote)} per kWh."
    )
    click.echo(f"Block {executed.header.height} of {moment(executed.header.time_ms)} holds it; a quorum of the nodes has signed it.")


def _title(what: str, view: MarketView) -> str:
    """Return the first line over a table of one period."""
    mean = f", mean price {price(view.mean_price_micro_per_kwh)}" if view.trade_count else ""
    grid = f"grid sells at {price(view.grid_buy_micro_per_kwh)}, buys at {price(view.grid_sell_micro_per_kwh)}"
    return f"{what} of period {view.period} ({moment(view.start_ms)} to {moment(view.end_ms)}, {view.state}){mean}; {grid}"


def _market(home: Path, nodes: tuple[str, ...], period: str, json_path: str | None) -> MarketView:
    check_json_path(json_path)
    return _ask(home, nodes, lambda client: _view(client, period))


async def _view(client: GridPactClient, period: str) -> MarketView:
    view = await (_last_cleared(client) if period == "cleared" else client.market(period))
    if view is None:
        raise InputError(f"--period {period}", "the nodes know no market of it")
    return view


async def _last_cleared(client: GridPactClient) -> MarketView | None:
    """Return the last period that was cleared; before the first one, the period that takes orders."""
    trading = await client.market("trading")
    if trading is None:
        return None
    for back in (1, 2):
        view = await client.market(max(0, trading.period - back))
        if view is not None and view.state in CLEARED_STATES:
            return view
    return trading


def _ask(home: Path, nodes: tuple[str, ...], question: Callable[[GridPactClient], Awaitable[T]]) -> T:
    """Ask the nodes given, or those of the cluster under ``home``.

    Raises:
        InputError: there is no cluster there.
        RunError: the answer does not come in time.
        GridPactError: no node answers, or one refuses.
    """
    if nodes:
        urls, genesis, place = nodes, None, ""
    else:
        topology = read_topology(home)
        urls, genesis, place = topology.http_urls, topology.genesis(), str(home.absolute())

    async def run() -> T:
        async with GridPactClient(urls, genesis) as client:
            return await question(client)

    try:
        return asyncio.run(run())
    except TimeoutError as error:
        raise RunError(str(error)) from error
    except NodeUnreachable as error:
        if place and error.nobody_listens:
            raise RunError(f"the cluster under {place} does not run; start it with gridpact up") from error
        raise
