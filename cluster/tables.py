"""Tables for people: prices per kWh, money and energy in the units that people use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 132
MICRO = 1_000_000


def console() -> Console:
    """Return where tables go: standard output, wide enough for all columns when it is not a terminal."""
    screen = Console()
    return screen if screen.is_terminal else Console(width=PLAIN_WIDTH)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str = "none", narrow: bool = False) -> None:
    """Print a table; columns whose name starts with ``>`` are right-aligned and never folded. Without rows it says ``empty``.

    Args:
        narrow: without lines between the columns, for many columns in 80.
    """
    table = Table(box=box.SIMPLE_HEAD if narrow else box.HEAVY_HEAD, show_edge=not narrow, pad_edge=not narrow)
    for column in columns:
        number = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        table.add_row(*row)
    paper = console()
    if not table.row_count:
        paper.print(f"{title}: {empty}", highlight=False)
        return
    paper.print(title, style="italic", highlight=False)
    paper.print(table)


def plural(number: int, noun: str) -> str:
    """Return a count with its noun, which takes an s unless there is exactly one."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def price(micro_per_kwh: int) -> str:
    """Return a price in currency per kWh, at least three decimals, never rounded."""
    return _decimal(micro_per_kwh, 3)


def rounded_price(micro_per_kwh: int) -> str:
    """Return a price in currency per kWh, rounded half up to three decimals."""
    thousandths = (2 * micro_per_kwh + 1_000) // 2_000
    return f"{thousandths // 1_000:,}.{thousandths % 1_000:03d}"


def money(micro: int) -> str:
    """Return an amount in currency, at least two decimals, never rounded."""
    return _decimal(micro, 2)


def energy(energy_wh: int) -> str:
    """Return an energy in kWh, three decimals (exact)."""
    return f"{energy_wh / 1000:,.3f}"


def moment(time_ms: int) -> str:
    """Return a chain time for people."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def short(identifier: str) -> str:
    """Return the beginning of a long id."""
    return identifier[:12]


def _decimal(micro: int, least: int) -> str:
    whole, part = divmod(abs(micro), MICRO)
    digits = f"{part:06d}"
    kept = digits[:least] + digits[least:].rstrip("0")
    return f"{'-' if micro < 0 else ''}{whole:,}.{kept}"
