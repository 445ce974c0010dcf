"""Bills as tables for people: the same columns in the display and in `gridpact market bills`.

What a home bought and sold, from and to neighbours and the grid, what it paid and earned for it, penalties and fees, and the saving.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from contracts.events import Billed

COLUMNS = ("bought", "sold", "from grid", "to grid", "paid", "earned", "penalty+fee", "saving")
ENERGY_COLUMNS = 4


def money(amount_micro: int, digits: int = 4) -> str:
    """Return an amount for people, without the currency; what rounds to zero has no sign."""
    text = f"{amount_micro / 1e6:.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def bill_table(first: str, bills: Sequence[tuple[str, Billed]], *, narrow: bool = True) -> Table:
    """Return bills as a table, energy in Wh; columns without any value are left out (none, if all are).

    Args:
        first: heading of the first column.
        bills: each with what the first column says.
        narrow: headings take two lines, so that all columns fit into 80.
    """
    filled = [any(values[column] for values in map(_values, (bill for _, bill in bills))) for column in range(len(COLUMNS))]
    if not any(filled):
        filled = [True] * len(COLUMNS)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True, vertical="bottom")
    for column in _chosen(COLUMNS, filled):
        heading = str(column).replace(" ", "\n").replace("+", "\n+") if narrow else str(column)
        table.add_column(heading, justify="right", no_wrap=True)
    for name, bill in bills:
        table.add_row(name, *_chosen(_cells(bill), filled))
    return table


def _chosen(cells: Sequence[str | Text], filled: Sequence[bool]) -> Iterator[str | Text]:
    return (cell for cell, wanted in zip(cells, filled, strict=True) if wanted)


def _values(bill: Billed) -> tuple[int, ...]:
    penalty_and_fee_micro = bill.penalty_micro + bill.fee_micro
    energies = (bill.bought_wh, bill.sold_wh, bill.grid_bought_wh, bill.grid_sold_wh)
    return (*energies, bill.paid_micro, bill.earned_micro, penalty_and_fee_micro, bill.saving_micro)


def _cells(bill: Billed) -> tuple[str | Text, ...]:
    values = _values(bill)
    style = {-1: "red", 0: "", 1: "green"}[(bill.saving_micro > 0) - (bill.saving_micro < 0)]
    energies = (str(value) for value in values[:ENERGY_COLUMNS])
    return (*energies, *(money(value) for value in values[ENERGY_COLUMNS:-1]), Text(money(values[-1]), style=style))
