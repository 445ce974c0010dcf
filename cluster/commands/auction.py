"""``gridpact auction``: the double auction of the chain, offline on a JSON case."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from cluster.options import check_json_path, json_option, write_json
from cluster.tables import energy, money, print_table, rounded_price
from cluster.topology import read_file
from contracts.cases import AuctionResult, run_auction_case


@click.command(epilog="Example: gridpact auction contracts/examples/auction_table1.json")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def auction(file: Path, json_path: str | None) -> None:
    """Clear the orders in FILE as a block would: direct matches, second rounds, the rest with the grid."""
    check_json_path(json_path)
    result = run_auction_case(read_file(file), str(file))
    write_json(json_path, result)
    if json_path is None:
        print_result(result)


def print_result(result: AuctionResult) -> None:
    """Show matches and savings to people; prices are rounded to three decimals, in JSON they are exact."""
    rows = [
        (trade.sell_order, trade.buy_order, energy(trade.quantity_wh), rounded_price(trade.price), _round(trade.round))
        for trade in result.trades
    ]
    for part in result.grid:
        pair = ("grid", part.order) if part.side == "buy" else (part.order, "grid")
        rows.append((*pair, energy(part.quantity_wh), rounded_price(part.price), "grid"))
    print_table("Matches", ("seller", "buyer", ">kWh", ">price per kWh", "round"), rows)
    if result.rejected:
        print_table("Not admitted", ("order", "code"), ((one.order, one.code) for one in result.rejected))
    screen = Console()
    screen.print(_change("Buyers pay", result.buyer_cost_micro, result.buyer_cost_grid_only_micro), highlight=False)
    screen.print(_change("Sellers get", result.seller_income_micro, result.seller_income_grid_only_micro), highlight=False)


def _round(number: int) -> str:
    return "direct" if number == 0 else f"second, step {number}"


def _change(what: str, with_market: int, grid_only: int) -> str:
    """Return how a sum compares with trading everything with the grid."""
    line = f"{what} {money(with_market)} instead of {money(grid_only)} with the grid alone"
    if not grid_only:
        return f"{line}."
    percent = 100 * (with_market - grid_only) / grid_only
    return f"{line}: {abs(percent):.2f} % {'more' if percent > 0 else 'less'}."
