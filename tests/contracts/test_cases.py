from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contracts
from consensus.errors import InputError
from contracts.cases import run_auction_case, run_settle_case

EXAMPLES = Path(contracts.__file__).parent / "examples"
TABLE_1 = (EXAMPLES / "auction_table1.json").read_bytes()
"""Paper 002, Table 1."""
TABLE_2 = [
    ("S1", "B1", 220_000, 470_000),
    ("S2", "B1", 180_000, 490_000),
    ("S2", "B2", 360_000, 480_000),
    ("S4", "B2", 120_000, 480_000),
    ("S4", "B3", 180_000, 470_000),
    ("S3", "B3", 435_000, 492_150),
]


def changed(text: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(text), **changes}).encode()


def with_order(**changes: object) -> bytes:
    case = json.loads(TABLE_1)
    case["orders"][3] = {**case["orders"][3], **changes}
    return json.dumps(case).encode()


@pytest.mark.parametrize("mode", ["batch", "continuous"])
def test_table_1_gives_all_eight_matches_of_table_2(mode: str) -> None:
    result = run_auction_case(changed(TABLE_1, mode=mode), "table 1")
    assert [(t.sell_order, t.buy_order, t.quantity_wh, t.price) for t in result.trades] == TABLE_2
    assert [t.round for t in result.trades] == [0, 0, 0, 0, 0, 2]
    assert [(g.order, g.side, g.quantity_wh, g.price) for g in result.grid] == [
        ("B3", "buy", 215_000, 590_000),
        ("B4", "buy", 500_000, 590_000),
    ]
    assert (result.reference_sell, result.reference_buy, result.reprice_rounds) == (450_000, 510_000, 2)
    assert result.final_quotes == {
        "S1": 410_000, "S2": 450_000, "S3": 490_500, "S4": 450_000, "B1": 530_000, "B2": 510_000, "B3": 493_800, "B4": 469_500,
    }  # fmt: skip


def test_table_1_makes_buyers_12_percent_and_sellers_55_percent_better_off() -> None:
    result = run_auction_case(TABLE_1, "table 1")
    assert (result.buyer_cost_micro, result.buyer_cost_grid_only_micro) == (1_142_535_250, 1_303_900_000)
    assert (result.seller_income_micro, result.seller_income_grid_only_micro) == (720_685_250, 463_450_000)
    assert round(100 * (result.buyer_cost_micro / result.buyer_cost_grid_only_micro - 1), 4) == -12.3755
    assert round(100 * (result.seller_income_micro / result.seller_income_grid_only_micro - 1), 4) == 55.5044


def test_one_second_round_is_not_enough_for_table_2() -> None:
    result = run_auction_case(changed(TABLE_1, max_reprice_rounds=1), "table 1")
    assert len(result.trades) == 5 and result.final_quotes["S3"] == 495_000 and result.final_quotes["B3"] == 492_000


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"id": "S1"}, "DUPLICATE_ID"),
        ({"quantity_wh": 0}, "BAD_QTY"),
        ({"quantity_wh": 1.5}, "BAD_QTY"),
        ({"quantity_wh": True}, "BAD_QTY"),
        ({"quantity_wh": "1"}, "BAD_QTY"),
        ({"quantity_wh": 10**9 + 1}, "BAD_QTY"),
        ({"price": -1, "reserve_price": -1}, "BAD_PRICE"),
        ({"price": 600_001}, "BAD_PRICE"),
        ({"reserve_price": 450_001}, "RESERVE_CROSSED"),
        ({"side": "buy"}, "RESERVE_CROSSED"),
        ({"side": "hold"}, "BAD_SIDE"),
        ({"time": 99}, "GATE_CLOSED"),
        ({"account": "B1"}, None),
        ({"account": "S1"}, None),
        ({"quantity_wh": 0, "price": -1, "side": "hold"}, "BAD_QTY"),
    ],
)
def test_orders_that_the_market_would_not_admit_are_listed_with_their_code(order: dict[str, object], code: str | None) -> None:
    result = run_auction_case(changed(with_order(**order), price_cap=600_000, gate_close=99), "case")
    if code is not None:
        assert [(rejection.order, rejection.code) for rejection in result.rejected] == [(order.get("id", "S4"), code)]
    elif order["account"] == "B1":
        assert [(rejection.order, rejection.code) for rejection in result.rejected] == [("B1", "OPPOSITE_SIDE")]
        relaxed = run_auction_case(changed(with_order(**order), one_side_per_account=False), "case")
        assert relaxed.rejected == ()
        assert not [trade for trade in relaxed.trades if (trade.sell_order, trade.buy_order) == ("S4", "B1")]
    else:
        assert result.rejected == ()


def test_energy_types_never_meet() -> None:
    result = run_auction_case(with_order(energy_type="wind"), "case")
    assert "S4" not in [trade.sell_order for trade in result.trades]
    assert ("S4", "sell", 300_000, 310_000) in [tuple(msgspec.structs.astuple(part)) for part in result.grid]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"", "case"),
        (b"[]", "case"),
        (b"\xff\xfe", "case"),
        (b"[" * 100_000, "case"),
        (changed(TABLE_1, colour="red"), "colour"),
        (changed(TABLE_1, beta_ppm=0), "beta_ppm"),
        (changed(TABLE_1, mode="random"), "mode"),
        (changed(TABLE_1, grid_buy_price="dear"), "grid_buy_price"),
        (with_order(price="dear"), r"orders\[3\].price"),
        (with_order(price=0.4), r"orders\[3\].price"),
        (with_order(hat=1), r"orders\[3\].*hat|hat"),
        (json.dumps({"orders": []}).encode(), "grid_buy_price"),
    ],
)
def test_a_bad_auction_file_is_refused_with_the_place(text: bytes, place: str) -> None:
    with pytest.raises(InputError, match=place):
        run_auction_case(text, "case")


@given(st.binary(max_size=200))
def test_garbage_is_one_clear_error(text: bytes) -> None:
    for run in (run_auction_case, run_settle_case):
        with pytest.raises(InputError):
            run(text, "case")


SETTLE = {
    "grid_buy_price": 590_000,
    "grid_sell_price": 310_000,
    "fine_ppm": 100_000,
    "tolerance_ppm": 50_000,
    "fee_ppm": 5_000,
    "trades": [{"id": "T", "seller": "S", "buyer": "B", "quantity_wh": 1_000, "price": 450_000}],
    "meters": {"S": {"export_wh": 1_000, "import_wh": 0}, "B": {"export_wh": 0, "import_wh": 1_000}},
}


def settle(**changes: object):
    return run_settle_case(json.dumps({**SETTLE, **changes}).encode(), "case")


def test_a_trade_that_both_keep_pays_its_price_and_two_fees() -> None:
    result = settle()
    assert result.cash_micro == {"S": 450_000 - 2_250, "B": -450_000 - 2_250, "GRID": 0, "OPERATOR": 4_500}
    assert result.performance_ppm == {"S": 1_000_000, "B": 1_000_000}
    assert [line.why for line in result.lines] == ["trade", "fee", "fee"]


def test_a_seller_who_delivers_nothing_pays_damage_and_fine() -> None:
    result = settle(meters={"B": {"export_wh": 0, "import_wh": 1_000}})
    penalty = 950 * (590 - 450 + 45)
    assert result.cash_micro == {"B": penalty - 590_000, "S": -penalty, "GRID": 590_000, "OPERATOR": 0}
    assert result.performed_wh == {"T": 0} and result.performance_ppm == {"S": 0, "B": 1_000_000}
    line = json.loads(msgspec.json.encode(result))["lines"][0]
    assert line == {"reference": "T", "why": "under-delivery", "from": "S", "to": "B", "micro": penalty}


def test_a_buyer_who_takes_less_pays_the_seller() -> None:
    result = settle(meters={"S": {"export_wh": 1_000, "import_wh": 0}, "B": {"export_wh": 0, "import_wh": 400}})
    penalty = (600 - 50) * (450 - 310 + 45)
    assert result.cash_micro["B"] == -180_000 - 900 - penalty
    assert result.cash_micro["S"] == 180_000 - 900 + penalty + 600 * 310


def test_the_common_part_of_two_shortfalls_harms_nobody() -> None:
    result = settle(meters={"S": {"export_wh": 300, "import_wh": 0}, "B": {"export_wh": 0, "import_wh": 300}})
    assert [line.why for line in result.lines] == ["trade", "fee", "fee"]
    assert result.performance_ppm == {"S": 300_000, "B": 300_000}


def test_a_price_above_the_grids_still_costs_the_fine() -> None:
    trade = {"id": "T", "seller": "S", "buyer": "B", "quantity_wh": 1_000, "price": 800_000}
    result = settle(trades=[trade], meters={"B": {"export_wh": 0, "import_wh": 1_000}})
    assert result.cash_micro["S"] == -950 * 80


def test_the_example_settles_to_zero() -> None:
    result = run_settle_case((EXAMPLES / "settle_shortfalls.json").read_bytes(), "example")
    assert sum(result.cash_micro.values()) == 0
    assert result.delivered_wh == {"T1": 800, "T2": 400, "T3": 800}
    assert result.taken_wh == {"T1": 1_000, "T2": 346, "T3": 554}
    assert result.performed_wh == {"T1": 800, "T2": 346, "T3": 554}


NAMES = st.sampled_from(["a", "b", "c", "d", "OPERATOR"])
TRADES = st.lists(st.tuples(NAMES, NAMES, st.integers(1, 5_000), st.integers(0, 10**6)).filter(lambda t: t[0] != t[1]), max_size=12)
METERS = st.dictionaries(NAMES, st.fixed_dictionaries({"export_wh": st.integers(0, 9_000), "import_wh": st.integers(0, 9_000)}))
PPM = st.integers(0, 1_000_000)


@given(TRADES, METERS, PPM, PPM, PPM)
def test_every_settlement_sums_to_zero_and_performs_no_more_than_metered(trades, meters, fine_ppm, tolerance_ppm, fee_ppm) -> None:
    listed = [{"id": str(n), "seller": s, "buyer": b, "quantity_wh": q, "price": p} for n, (s, b, q, p) in enumerate(trades)]
    result = settle(trades=listed, meters=meters, fine_ppm=fine_ppm, tolerance_ppm=tolerance_ppm, fee_ppm=fee_ppm)
    assert sum(result.cash_micro.values()) == 0
    for trade in listed:
        number = trade["id"]
        assert result.performed_wh[number] == min(result.delivered_wh[number], result.taken_wh[number]) <= trade["quantity_wh"]
    for name in {trade["seller"] for trade in listed}:
        sold = sum(result.delivered_wh[trade["id"]] for trade in listed if trade["seller"] == name)
        assert sold == min(meters.get(name, {"export_wh": 0})["export_wh"], sum(t["quantity_wh"] for t in listed if t["seller"] == name))
    penalties = [line for line in result.lines if line.why.startswith("under")]
    assert len({line.reference for line in penalties}) == len(penalties)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"trades": [SETTLE["trades"][0], SETTLE["trades"][0]]}, r"trades\[1\].id"),
        ({"trades": [{**SETTLE["trades"][0], "buyer": "S"}]}, r"trades\[0\].buyer"),
        ({"trades": [{**SETTLE["trades"][0], "buyer": "GRID"}]}, "GRID"),
        ({"trades": [{**SETTLE["trades"][0], "quantity_wh": 0}]}, r"trades\[0\].quantity_wh"),
        ({"meters": {"S": {"export_wh": -1, "import_wh": 0}}}, "meters"),
        ({"meters": {"S": {"export_wh": 1}}}, "import_wh"),
        ({"fee_ppm": 1_000_001}, "fee_ppm"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_bad_settle_file_is_refused_with_the_place(changes: dict[str, object], place: str) -> None:
    with pytest.raises(InputError, match=place):
        settle(**changes)
