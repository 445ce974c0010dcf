"""Draws a running cluster in the terminal: nodes, meters, the running market, the last bills. Only draws; asks nobody."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.bills import bill_table, money
from cluster.snapshot import NodeState, Saving, Snapshot, saving_of
from cluster.tables import plural
from contracts.events import Billed
from contracts.views import MarketView

MAX_BILLS = 20
FEWEST_BILLS = 3
LINES_AROUND_BILLS = 6
"""Lines of the panel of bills besides its rows, and of the spinner under the display; on a narrow terminal two more."""
WIDE = 100
_STATE_STYLE = {
    "healthy": "green",
    "starting": "yellow",
    "stopped": "red",
    "not reachable": "yellow",
    "no quorum": "yellow",
    "cut off": "yellow",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What does not change while a cluster runs.

    Attributes:
        currency: of all prices.
        members: accounts with a meter, whose bills are shown.
        hints: lines under the display: what to do next.
        notice: what to know about the data, "" for nothing.
    """

    currency: str
    members: frozenset[str]
    period_ms: int
    dashboard: str
    hints: tuple[str, ...]
    notice: str = ""


def chain_time(time_ms: int, layout: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return chain time for people: the data's local time."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime(layout)


def span(market: MarketView) -> str:
    """Return when a period is delivered."""
    return f"{chain_time(market.start_ms, '%d %b %H:%M')}-{chain_time(market.end_ms, '%H:%M')}"


def kwh(energy_wh: int) -> str:
    """Return energy for people."""
    return f"{energy_wh / 1000:.3f} kWh"


def draw(snapshot: Snapshot, setting: Setting, notes: Sequence[str] = (), width: int = 140, height: int = 60) -> RenderableType:
    """Return the whole display.

    Args:
        notes: the last things that happened and are not seen above.
        width, height: of the terminal; on a small one fewer bills are shown.
    """
    head = Text.assemble(
        ("GridPact", "bold"),
        f"   chain time {chain_time(snapshot.chain_ms)}   {snapshot.speed:g} times real time   ",
        (setting.dashboard, "cyan"),
    )
    parts: list[RenderableType] = [head]
    if setting.notice:
        parts.append(Text(setting.notice, style="dim"))
    parts += [_nodes(snapshot.nodes), _meters(snapshot), _market(snapshot, setting)]
    below = [Text(trouble, style="red") for trouble in snapshot.troubles]
    below += [Text(note, style="yellow") for note in notes]
    below += [Text(hint, style="dim") for hint in setting.hints]
    if snapshot.settled is not None:
        narrow = width < WIDE
        rows = height - _lines([*parts, *below], width) - LINES_AROUND_BILLS - 2 * narrow
        parts.append(_bills(snapshot.settled, snapshot.bills, setting, min(MAX_BILLS, max(FEWEST_BILLS, rows)), narrow))
    return Group(*parts, *below)


def _lines(parts: Sequence[RenderableType], width: int) -> int:
    """Return how many lines of a terminal some parts take."""
    paper = Console(width=width, file=io.StringIO())
    return len(paper.render_lines(Group(*parts), pad=False))


def _nodes(nodes: Sequence[NodeState]) -> Table:
    table = Table(expand=False, pad_edge=False, box=None, header_style="dim")
    for name in ("node", "state", "height", "view", "primary", "peers", "waiting", "head"):
        table.add_column(name, justify="right" if name in {"height", "view", "peers", "waiting"} else "left")
    for node in nodes:
        state = node.state if not node.reason or (node.healthy and node.voting) else f"{node.state}: {node.reason}"
        table.add_row(
            node.name,
            Text(state, style=_STATE_STYLE.get(node.state, "red")),
            str(node.height),
            str(node.view),
            node.primary,
            f"{node.peers}/{node.others}",
            str(node.pending),
            node.head_hash[:12],
        )
    return table


def _meters(snapshot: Snapshot) -> Text:
    counts = snapshot.meters
    refused = f", {counts.refused} refused" if counts.refused else ""
    return Text(
        f"meters {counts.connected} of {counts.meters} connected   readings: {counts.published} published, "
        f"{counts.proven} proven on the chain, {counts.pending} on their way{refused}"
    )


def _market(snapshot: Snapshot, setting: Setting) -> RenderableType:
    lines = []
    if snapshot.trading is not None:
        lines.append(f"trading     {trading_line(snapshot.trading, snapshot.chain_ms, snapshot.speed)}")
    if snapshot.delivering is not None:
        left_s = max(0, snapshot.delivering.end_ms - snapshot.chain_ms) / 1000 / snapshot.speed
        lines.append(f"delivering  {span(snapshot.delivering)}   {matched(snapshot.delivering)}   ends in {left_s:.0f} s")
        lines.append(f"            {prices(snapshot.delivering, setting.currency)}")
    if not lines:
        lines.append("no period runs yet")
    return Panel(Text("\n".join(lines)), title="market", title_align="left", expand=False)


def trading_line(market: MarketView, chain_ms: int, speed: float) -> str:
    """Return one line about the period that takes orders."""
    left_s = (market.gate_closure_ms - chain_ms) / 1000 / speed
    gate = f"gate closes in {left_s:.0f} s" if left_s > 0 else "gate closed"
    return f"{span(market)}   {plural(market.order_count, 'order')}   {gate}"


def delivering_line(market: MarketView, currency: str) -> str:
    """Return one line about a period that was cleared: what was matched, and the mean price beside the grid's."""
    return f"{span(market)}   {matched(market)}; {prices(market, currency)}"


def matched(market: MarketView) -> str:
    """Return what was matched in a period that was cleared."""
    orders = plural(market.order_count, "order")
    if not market.trade_count:
        return f"{orders}, nothing matched"
    return f"{orders}, {plural(market.trade_count, 'trade')}, {kwh(market.energy_wh)} matched"


def prices(market: MarketView, currency: str) -> str:
    """Return the mean price of a period that was cleared, beside the grid's."""
    grid = f"the grid sells at {money(market.grid_buy_micro_per_kwh)} and buys at {money(market.grid_sell_micro_per_kwh)} {currency}/kWh"
    return f"mean price {money(market.mean_price_micro_per_kwh)}, {grid}" if market.trade_count else grid


def settled_line(market: MarketView, bills: tuple[Billed, ...], setting: Setting) -> str:
    """Return one line about a settled period: energy traded and with the grid, and the saving."""
    mine = [bill for bill in bills if bill.account in setting.members]
    traded_wh = sum(bill.bought_wh for bill in mine)
    grid_wh = sum(bill.grid_bought_wh + bill.grid_sold_wh for bill in mine)
    if without_readings(mine):
        return f"{span(market)}   without any reading: billed as no energy at all"
    return f"{span(market)}   {kwh(traded_wh)} traded, {kwh(grid_wh)} with the grid; {saving_text(bills, setting)}"


def without_readings(bills: Sequence[Billed]) -> bool:
    """Tell whether members had no metered energy at all in a settled period, which is what a period without readings looks like."""
    return not any(bill.import_wh or bill.export_wh for bill in bills)


def saving_text(bills: tuple[Billed, ...], setting: Setting) -> str:
    """Return the members' saving against trading everything with the grid."""
    return saving_words(saving_of(bills, setting.members), setting.currency)


def saving_words(saving: Saving, currency: str) -> str:
    """Return what members paid, what it would have been, and the difference."""
    paid = f"{'paid' if saving.net_micro >= 0 else 'earned'} {money(abs(saving.net_micro))} {currency} net"
    alone = f"{'paying' if saving.grid_only_micro >= 0 else 'earning'} {money(abs(saving.grid_only_micro))} with the grid alone"
    better = f"{'better' if saving.saving_micro >= 0 else 'worse'} by {money(abs(saving.saving_micro))}"
    return f"members {paid} instead of {alone}: {better}"


def _bills(settled: MarketView, bills: tuple[Billed, ...], setting: Setting, rows: int, narrow: bool) -> RenderableType:
    mine = [bill for bill in bills if bill.account in setting.members]
    parts: list[RenderableType] = [bill_table("account", [(bill.account, bill) for bill in mine[:rows]], narrow=narrow)]
    rest = len(mine) - rows
    if rest > 0:
        parts.append(Text(f"and {rest} more", style="dim"))
    parts.append(
        Text("settled without any reading: billed as no energy at all", style="red")
        if without_readings(mine)
        else Text(saving_text(bills, setting))
    )
    title = f"bills of {span(settled)} (Wh, {setting.currency})"
    return Panel(Group(*parts), title=title, title_align="left", expand=False)
