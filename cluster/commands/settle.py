"""``gridpact settle``: the settlement of the chain, offline on a JSON case."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.options import check_json_path, json_option, write_json
from cluster.tables import energy, money, print_table
from cluster.topology import read_file
from contracts.cases import SettleResult, run_settle_case


@click.command(epilog="Example: gridpact settle contracts/examples/settle_shortfalls.json")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def settle(file: Path, json_path: str | None) -> None:
    """Settle the trades in FILE against its meters: payments, imbalance with the grid, penalties and fees; all cash sums to zero."""
    check_json_path(json_path)
    result = run_settle_case(read_file(file), str(file))
    write_json(json_path, result)
    if json_path is None:
        print_result(result)


def print_result(result: SettleResult) -> None:
    """Show energies, cash flows and cash per account to people."""
    trades = (
        (trade, energy(result.delivered_wh[trade]), energy(result.taken_wh[trade]), energy(performed))
        for trade, performed in result.performed_wh.items()
    )
    print_table("Trades", ("trade", ">delivered kWh", ">taken kWh", ">performed kWh"), trades)
    lines = ((line.reference, line.why, line.payer, line.payee, money(line.micro)) for line in result.lines)
    print_table("Cash flows", ("reference", "why", "from", "to", ">amount"), lines)
    cash = (
        (account, money(micro), f"{result.performance_ppm[account] / 10_000:.2f} %" if account in result.performance_ppm else "")
        for account, micro in result.cash_micro.items()
    )
    print_table(f"Cash by account, sum {money(sum(result.cash_micro.values()))}", ("account", ">amount", ">performance"), cash)
