"""The result of `gridpact up`: the keys that scripts rely on, and the same for people."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from cluster.display import Setting, kwh, saving_words
from cluster.snapshot import MeterCounts, NodeState, Saving, saving_of
from cluster.tables import plural
from contracts.events import Billed
from contracts.views import LedgerTotals


class BillLine(msgspec.Struct, frozen=True):
    """One bill of the summary."""

    account: str
    period: int
    import_wh: int
    export_wh: int
    bought_wh: int
    sold_wh: int
    grid_bought_wh: int
    grid_sold_wh: int
    paid_micro: int
    earned_micro: int
    penalty_micro: int
    fee_micro: int
    saving_micro: int


class Summary(msgspec.Struct, frozen=True):
    """What ``gridpact up --json`` writes. Sums are over the whole chain; ``bills`` are of the periods settled in this run.

    Fields:
        nodes: how many.
        height: of the common head.
        readings_published, readings_committed: by the meters, and by the chain.
        head_hashes, state_roots: one per node.
        agree: all nodes have the same head and state at the same height.
        supply_conserved: money and energy balance to the last unit.
        periods_settled_now: in this run.
        saving_micro, grid_only_micro: of the members in this run, and what they would have paid with the grid alone.
        healthy_s: real time from the start of the first process to all nodes healthy.
        wall_s: real time of the whole run.
    """

    nodes: int
    height: int
    periods_settled: int
    readings_published: int
    readings_committed: int
    orders: int
    trades: int
    energy_traded_wh: int
    energy_grid_wh: int
    head_hashes: list[str]
    state_roots: list[str]
    agree: bool
    supply_conserved: bool
    bills: list[BillLine]
    periods_settled_now: int
    saving_micro: int
    grid_only_micro: int
    currency: str
    start_ms: int
    period_ms: int
    speed: float
    interpolated: bool
    healthy_s: float
    wall_s: float

    @property
    def good(self) -> bool:
        """Whether the nodes agree and nothing was made or lost."""
        return self.agree and self.supply_conserved


class Timing(NamedTuple):
    """Real seconds: until all nodes were healthy, and of the whole run."""

    healthy_s: float
    wall_s: float


class Replay(NamedTuple):
    """How the chain's time runs."""

    start_ms: int
    period_ms: int
    speed: float
    interpolated: bool


def summarise(
    nodes: tuple[NodeState, ...],
    totals: LedgerTotals,
    meters: MeterCounts,
    bills: tuple[Billed, ...],
    setting: Setting,
    replay: Replay,
    timing: Timing,
) -> Summary:
    """Put the summary together."""
    heads = {(node.height, node.head_hash, node.state_root) for node in nodes}
    saving = saving_of(bills, setting.members)
    return Summary(
        nodes=len(nodes),
        height=min(node.height for node in nodes),
        periods_settled=totals.periods_settled,
        readings_published=meters.published,
        readings_committed=totals.readings_accepted + totals.readings_quarantined,
        orders=totals.orders,
        trades=totals.trades,
        energy_traded_wh=totals.energy_traded_wh,
        energy_grid_wh=totals.energy_grid_wh,
        head_hashes=[node.head_hash for node in nodes],
        state_roots=[node.state_root for node in nodes],
        agree=len(heads) == 1 and all(node.head_hash for node in nodes),
        supply_conserved=totals.supply_conserved,
        bills=[_line(bill) for bill in bills],
        periods_settled_now=len({bill.period for bill in bills}),
        saving_micro=saving.saving_micro,
        grid_only_micro=saving.grid_only_micro,
        currency=setting.currency,
        start_ms=replay.start_ms,
        period_ms=replay.period_ms,
        speed=replay.speed,
        interpolated=replay.interpolated,
        healthy_s=round(timing.healthy_s, 3),
        wall_s=round(timing.wall_s, 3),
    )


def _line(bill: Billed) -> BillLine:
    return BillLine(**{name: getattr(bill, name) for name in BillLine.__struct_fields__})


def summary_text(summary: Summary) -> str:
    """Return the summary for people."""
    agree = "all at the same head" if summary.agree else "NOT at the same head"
    balance = "to the last unit" if summary.supply_conserved else "NOT CONSERVED"
    saving = Saving(summary.grid_only_micro - summary.saving_micro, summary.grid_only_micro)
    before = summary.periods_settled - summary.periods_settled_now
    whole = f", {summary.periods_settled_now} of them in this run" if before else ""
    counts = f"{plural(summary.orders, 'order')}, {plural(summary.trades, 'trade')}"
    lines = [
        f"nodes      {summary.nodes}, {agree}, height {summary.height}",
        f"readings   {summary.readings_published} published, {summary.readings_committed} on the chain",
        f"market     {plural(summary.periods_settled, 'period')} settled{whole}, {counts}",
        f"energy     {kwh(summary.energy_traded_wh)} traded, {kwh(summary.energy_grid_wh)} with the grid",
        f"balance    money and energy: {balance}",
        f"bills      of {plural(summary.periods_settled_now, 'period')} in this run: {saving_words(saving, summary.currency)}",
    ]
    if before:
        lines.insert(1, "           readings, orders, trades and energy are counted since the chain began")
    return "\n".join(lines)
