"""What is shown of a running cluster, and its summary."""

import io

import msgspec
import pytest
from rich.console import Console

from cluster.bills import bill_table, money
from cluster.display import Setting, delivering_line, draw, saving_words, settled_line, trading_line
from cluster.progress import PlainProgress, TerminalProgress
from cluster.snapshot import MeterCounts, NodeState, Saving, Snapshot, saving_of
from cluster.summary import Replay, Timing, summarise, summary_text
from cluster.troubles import broker_trouble, lap_note, laps
from contracts.events import Billed
from contracts.views import LedgerTotals, MarketView

START_MS = 1_470_553_200_000
QUARTER_MS = 900_000
SETTING = Setting("USD", frozenset({"home-a", "home-b"}), QUARTER_MS, "http://127.0.0.1:1", ("Ctrl-C stops",), "counters are interpolated")
NODE = NodeState(
    "node-1",
    "http://127.0.0.1:1",
    "healthy",
    height=7,
    view=2,
    primary="node-3",
    peers=3,
    others=4,
    head_hash="ab" * 32,
    state_root="cd" * 32,
)


def market(**changes):
    values = {
        "period": START_MS // QUARTER_MS,
        "state": "delivering",
        "start_ms": START_MS,
        "end_ms": START_MS + QUARTER_MS,
        "opens_ms": START_MS - QUARTER_MS,
        "gate_closure_ms": START_MS - 60_000,
        "grid_buy_micro_per_kwh": 220_000,
        "grid_sell_micro_per_kwh": 80_000,
        "mean_price_micro_per_kwh": 151_000,
        "energy_wh": 1_234,
        "order_count": 9,
        "trade_count": 1,
        "orders": (),
        "trades": (),
    }
    return MarketView(**{**values, **changes})


def bill(account, **changes):
    values = dict.fromkeys(Billed.__struct_fields__, 0) | {"account": account, "period": START_MS // QUARTER_MS}
    return Billed(**{**values, **changes})


REPLAY = Replay(START_MS, QUARTER_MS, 60.0, True)
BILLS = (
    bill("GRID", grid_sold_wh=500, paid_micro=1, saving_micro=-900),
    bill("home-a", import_wh=1500, bought_wh=1000, grid_bought_wh=500, paid_micro=260_000, fee_micro=1_000, saving_micro=69_000),
    bill("home-b", export_wh=1000, sold_wh=1000, earned_micro=150_000, penalty_micro=500, saving_micro=69_500),
)
TOTALS = LedgerTotals(
    money_micro=10, genesis_money_micro=10, periods_settled=3, last_settled_period=9, readings_accepted=40, readings_quarantined=2,
    orders=12, trades=5, energy_traded_wh=1_000, energy_grid_wh=500, supply_conserved=True, current_period=11, trading_period=12,
)  # fmt: skip


def drawn(snapshot, width=140, height=60):
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(draw(snapshot, SETTING, ("node-2 started again",), width, height))
    return console.file.getvalue()


def test_the_display_shows_nodes_meters_market_and_bills():
    counts = MeterCounts(2, 2, 40, 38, 0, 2)
    down = NodeState("node-2", "http://127.0.0.1:2", "no quorum", "1 other nodes connected, 2 needed")
    follower = NodeState("node-3", "http://127.0.0.1:3", "healthy", "has no vote in epoch 2", voting=False)
    shown = drawn(Snapshot(START_MS - 120_000, 60.0, (NODE, down, follower), counts, TOTALS, market(), market(), market(), BILLS))
    for text in (
        "2016-08-07 06:58:00",
        "60 times real time",
        "http://127.0.0.1:1",
        "counters are interpolated",
        "abababababab",
        "no quorum: 1 other nodes connected, 2 needed",
        "healthy: has no vote in epoch 2",
        "3/4",
        "meters 2 of 2 connected",
        "40 published, 38 proven",
        "07 Aug 07:00-07:15   9 orders   gate closes in 1 s",
        "1 trade, 1.234 kWh matched",
        "mean price 0.1510, the grid sells at 0.2200 and buys at 0.0800 USD/kWh",
        "home-a",
        "0.2600",
        "0.0010",
        "penalty",
        "node-2 started again",
        "Ctrl-C stops",
    ):
        assert text in shown, text
    assert "GRID" not in shown


def test_the_display_of_a_cluster_of_which_nothing_is_known_yet():
    shown = drawn(Snapshot(START_MS, 1.0, (NodeState("node-1", "", "starting"),)))
    assert "no period runs yet" in shown
    assert "bills" not in shown


def test_a_small_terminal_shows_fewer_bills():
    many = tuple(bill(f"home-{number:02d}") for number in range(14))
    wide = Setting(SETTING.currency, frozenset(one.account for one in many), QUARTER_MS, "", ())
    console = Console(file=io.StringIO(), width=140, height=16)
    console.print(draw(Snapshot(START_MS, 1.0, (NODE,), settled=market(), bills=many), wide, (), 140, 16))
    shown = console.file.getvalue()
    assert len(shown.splitlines()) <= 16
    assert "home-02" in shown
    assert "home-03" not in shown
    assert "and 11 more" in shown


def test_a_terminal_of_100_by_30_has_room_for_eight_bills():
    many = tuple(bill(f"home-{number:02d}", grid_bought_wh=500, saving_micro=number - 7) for number in range(14))
    setting = Setting("USD", frozenset(one.account for one in many), QUARTER_MS, "http://127.0.0.1:1", ("Ctrl-C stops",), "interpolated")
    console = Console(file=io.StringIO(), width=100, height=30)
    snapshot = Snapshot(START_MS, 60.0, (NODE,) * 4, MeterCounts(14, 14), TOTALS, market(), market(), market(), many)
    console.print(draw(snapshot, setting, (), 100, 30))
    shown = console.file.getvalue()
    assert "home-07" in shown
    assert len(shown.splitlines()) < 30


def test_bills_leave_out_empty_columns_and_show_no_negative_zero():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(bill_table("period", [("07 Aug 07:00", bill("home-a", grid_bought_wh=500, saving_micro=-20)), ("x", bill("home-b"))]))
    shown = console.file.getvalue()
    assert "grid" in shown
    assert "sold" not in shown
    assert "-0.0000" not in shown
    assert "\x1b[31m0.0000" in shown
    console.print(bill_table("period", [("x", bill("home-b"))]))
    assert "sold" in console.file.getvalue()
    assert money(-49) == "0.0000"
    assert money(-51) == "-0.0001"


def test_bills_with_all_columns_fit_into_80():
    full = bill("x", bought_wh=12345, sold_wh=12345, grid_bought_wh=12345, grid_sold_wh=12345, paid_micro=12_345_678,
                earned_micro=12_345_678, penalty_micro=-1_000_000, saving_micro=-12_345_678)  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    console.print(bill_table("period", [("07 Aug 07:00", full)]))
    shown = console.file.getvalue()
    assert [len(line.rstrip()) <= 80 for line in shown.splitlines()] == [True] * 3
    assert shown.splitlines()[-1].split() == ["07", "Aug", "07:00", *["12345"] * 4, "12.3457", "12.3457", "-1.0000", "-12.3457"]


def test_lines_about_periods():
    assert "gate closed" in trading_line(market(), START_MS, 60.0)
    assert "0 orders, nothing matched; the grid sells" in delivering_line(market(order_count=0, trade_count=0), "USD")
    line = settled_line(market(), BILLS, SETTING)
    assert "1.000 kWh traded, 0.500 kWh with the grid" in line


def test_savings_are_of_the_members_alone():
    saving = saving_of(BILLS, frozenset({"home-a", "home-b", "GRID"}))
    assert saving == Saving(net_micro=261_000 - 149_500, grid_only_micro=261_000 - 149_500 + 138_500)
    assert saving.saving_micro == 138_500


@pytest.mark.parametrize(
    ("saving", "words"),
    [
        (Saving(100_000, 150_000), "members paid 0.1000 USD net instead of paying 0.1500 with the grid alone: better by 0.0500"),
        (Saving(-10_000, 50_000), "members earned 0.0100 USD net instead of paying 0.0500 with the grid alone: better by 0.0600"),
        (Saving(-150_000, -100_000), "members earned 0.1500 USD net instead of earning 0.1000 with the grid alone: better by 0.0500"),
        (Saving(150_000, 100_000), "members paid 0.1500 USD net instead of paying 0.1000 with the grid alone: worse by 0.0500"),
    ],
)
def test_savings_in_words(saving, words):
    assert saving_words(saving, "USD") == words


def agreeing(**changes):
    fields = {name: getattr(NODE, name) for name in NODE.__slots__}
    return NodeState(**{**fields, **changes})


@pytest.mark.parametrize(
    ("other", "agree"),
    [
        ({}, True),
        ({"height": 8}, False),
        ({"head_hash": "ff" * 32}, False),
        ({"state_root": "ff" * 32}, False),
        ({"head_hash": "", "state_root": "", "height": 0, "state": "stopped"}, False),
    ],
)
def test_agreement_needs_one_head_and_one_state_at_one_height(other, agree):
    nodes = (NODE, agreeing(name="node-2", **other))
    assert Snapshot(0, 1.0, nodes).agreed is agree
    summary = summarise(nodes, TOTALS, MeterCounts(2, 2, 42, 42), BILLS, SETTING, REPLAY, Timing(1.0, 2.0))
    assert summary.agree is agree
    assert summary.good is agree
    assert ("NOT at the same head" in summary_text(summary)) is not agree


def test_nodes_that_answer_nothing_do_not_agree():
    silent = NodeState("node-1", "", "stopped")
    assert not Snapshot(0, 1.0, (silent, silent)).agreed


def test_the_summary_has_the_keys_that_scripts_rely_on():
    summary = summarise((NODE, NODE), TOTALS, MeterCounts(2, 2, 42, 42), BILLS, SETTING, REPLAY, Timing(1.0, 2.0))
    written = msgspec.json.decode(msgspec.json.encode(summary))
    stable = (
        "nodes height periods_settled readings_published readings_committed orders trades energy_traded_wh energy_grid_wh "
        "head_hashes state_roots agree supply_conserved bills"
    )
    assert set(stable.split()) <= set(written)
    line = "account period bought_wh sold_wh grid_bought_wh grid_sold_wh paid_micro earned_micro penalty_micro fee_micro saving_micro"
    assert set(line.split()) <= set(written["bills"][0])
    assert written["readings_committed"] == 42
    assert written["head_hashes"] == ["ab" * 32] * 2
    assert "to the last unit" in summary_text(summary)
    broken = msgspec.structs.replace(summary, supply_conserved=False)
    assert not broken.good
    assert "NOT CONSERVED" in summary_text(broken)


def test_plain_progress_says_each_thing_once():
    console = Console(file=io.StringIO(), width=200)
    with PlainProgress(console) as progress:
        progress.waiting("waiting for node-1")
        progress.waiting("waiting for node-1")
        progress.event("[b]cleared[/b]")
        progress.show(Snapshot(0, 1.0, (NODE,)))
    assert console.file.getvalue() == "waiting for node-1\n[b]cleared[/b]\n"


def test_plain_progress_says_a_trouble_when_it_begins():
    console = Console(file=io.StringIO(), width=200)
    with PlainProgress(console) as progress:
        for troubles in (("no broker",), ("no broker",), (), ("no broker",)):
            progress.show(Snapshot(0, 1.0, (NODE,), troubles=troubles))
    assert console.file.getvalue() == "no broker\nno broker\n"


def test_under_the_picture_stand_notes_and_troubles_but_no_routine():
    console = Console(file=io.StringIO(), width=140, height=60, force_terminal=True)
    with TerminalProgress(console, SETTING) as progress:
        progress.event("cleared  07 Aug")
        progress.note("node-1 started again")
        progress.show(Snapshot(START_MS, 1.0, (NODE,), troubles=("meters cannot reach the broker",)))
    last = console.file.getvalue().rpartition("GridPact")[2]
    assert "node-1 started again" in last
    assert "meters cannot reach the broker" in last
    assert "cleared" not in last


@pytest.mark.parametrize(
    ("connected", "log", "said"),
    [
        (1, ["x: broker h:1: [Errno 111] Connection refused"], ""),
        (0, ["a INFO b"], "meters cannot reach mqtt://h:1: see gridpact logs fleet"),
        (0, ["W B01: broker h:1: timed out", "W B01: broker h:1: [Errno 111] Connection refused"], "mqtt://h:1: Connection refused"),
        (0, ["W B01: broker h:1: [code:5] Not authorized"], "mqtt://h:1: Not authorized"),
    ],
)
def test_a_broker_out_of_reach_is_named_with_the_reason(connected, log, said):
    trouble = broker_trouble("mqtt://h:1", MeterCounts(2, connected), log)
    assert trouble.endswith(said)
    assert bool(trouble) == bool(said)


def test_the_replay_that_begins_its_data_again_is_noticed():
    hour_ms = 3_600_000
    assert [laps(hour_ms, 3 * hour_ms, time_ms) for time_ms in (0, hour_ms, 3 * hour_ms - 1, 3 * hour_ms, 7 * hour_ms)] == [0, 0, 0, 1, 3]
    assert laps(0, 0, hour_ms) == 0
    assert "1970-01-01 03:00" in lap_note(hour_ms, 3 * hour_ms)


def test_a_period_without_readings_says_so():
    assert "without any reading" in settled_line(market(), (bill("home-a"), bill("home-b"), BILLS[0]), SETTING)
    assert "without any reading" not in settled_line(market(), BILLS, SETTING)


def test_the_summary_tells_this_run_from_the_whole_chain():
    text = summary_text(summarise((NODE,), TOTALS, MeterCounts(), BILLS, SETTING, REPLAY, Timing(1.0, 2.0)))
    assert "3 periods settled, 1 of them in this run, 12 orders" in text
    assert "of 1 period in this run" in text
    fresh = msgspec.structs.replace(TOTALS, periods_settled=1, trades=1)
    text = summary_text(summarise((NODE,), fresh, MeterCounts(), BILLS, SETTING, REPLAY, Timing(1.0, 2.0)))
    assert "1 period settled, 12 orders, 1 trade\n" in text
    assert "since the chain began" not in text


def test_terminal_progress_shows_what_it_waits_for_and_leaves_the_last_picture():
    console = Console(file=io.StringIO(), width=140, height=60, force_terminal=True)
    with TerminalProgress(console, SETTING) as progress:
        progress.waiting("waiting for node-1")
        progress.event("node-1 started again")
        progress.show(Snapshot(START_MS, 1.0, (NODE,)))
        progress.waiting("stopping")
    shown = console.file.getvalue()
    assert "waiting for node-1" in shown
    assert "abababababab" in shown.rpartition("stopping")[2]
