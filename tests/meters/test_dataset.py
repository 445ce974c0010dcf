"""Household data: the shipped file's facts, exact counters, and refusal of everything that does not fit."""

from __future__ import annotations

import gzip
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.errors import InputError
from meters.dataset import SHIPPED_FILE, Dataset, read_dataset, shipped_dataset
from meters.simulated import ReplayMeter

HEADER = "timestamp,meter_id,load_kw,pv_kw\n"
HOUR_MS = 3_600_000
PERIOD_MS = 900_000


@pytest.fixture(scope="module")
def shipped() -> Dataset:
    return shipped_dataset()


def write(folder: Path, text: str, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def hourly(*rows: str) -> str:
    return HEADER + "\n".join(rows) + "\n"


def test_facts_of_the_shipped_data(shipped: Dataset) -> None:
    assert len(shipped.meters) == 14
    assert shipped.intervals == 672
    assert shipped.start_ms == int(datetime(2016, 8, 7, tzinfo=UTC).timestamp()) * 1000
    assert round(shipped.load_wh() / 1000) == 13_671
    assert round(shipped.pv_wh() / 1000) == 8_084
    nets_mwh = list(zip(*(shipped.net_series(meter) for meter in shipped.meters), strict=True))
    assert sum(min(hour) < 0 < max(hour) for hour in nets_mwh) == 309
    matchable = sum(min(sum(net for net in hour if net > 0), -sum(net for net in hour if net < 0)) for hour in nets_mwh)
    assert f"{matchable / 1_000_000:.1f}" == "712.9"


def test_the_shipped_tariff(shipped: Dataset) -> None:
    tariff = shipped.tariff()
    assert tariff is not None
    assert tariff.weekday_micro_per_kwh == (220_000,) * 15 + (540_000,) * 5 + (220_000,) * 4
    assert tariff.weekend_micro_per_kwh == (220_000,) * 15 + (400_000,) * 5 + (220_000,) * 4


def test_the_shipped_file_has_no_time_stamp_inside() -> None:
    assert SHIPPED_FILE.read_bytes()[4:8] == bytes(4)
    assert (SHIPPED_FILE.parent / "LICENCE").read_text().startswith("MIT")


def test_replay_starts_where_both_sides_are(shipped: Dataset) -> None:
    start_ms = shipped.first_two_sided_ms(PERIOD_MS)
    assert start_ms is not None
    assert datetime.fromtimestamp(start_ms / 1000, UTC).isoformat() == "2016-08-07T06:00:00+00:00"
    nets = [shipped.net_wh(meter, start_ms, start_ms + PERIOD_MS) for meter in shipped.meters]
    assert min(nets) < 0 < max(nets)
    for before_ms in range(shipped.start_ms, start_ms, PERIOD_MS):
        nets = [shipped.net_wh(meter, before_ms, before_ms + PERIOD_MS) for meter in shipped.meters]
        assert not min(nets) < 0 < max(nets)


def test_counters_end_as_the_energies_sum_up(shipped: Dataset) -> None:
    for meter in shipped.meters:
        net_mwh = shipped.net_series(meter)
        counters = shipped.counters_at(meter, shipped.end_ms)
        assert counters.import_wh == sum(net for net in net_mwh if net > 0) // 1000
        assert counters.export_wh == -sum(net for net in net_mwh if net < 0) // 1000


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3 * 672 * HOUR_MS), min_size=2, max_size=20), st.integers(0, 13))
def test_counters_never_fall_even_past_the_end(shipped: Dataset, offsets: list[int], home: int) -> None:
    meter = shipped.meters[home]
    read = [shipped.counters_at(meter, shipped.start_ms + offset) for offset in sorted(offsets)]
    for before, after in itertools.pairwise(read):
        assert before.import_wh <= after.import_wh
        assert before.export_wh <= after.export_wh


def test_counters_are_exact_and_wrap(tmp_path: Path) -> None:
    path = write(tmp_path, hourly("2024-01-01 00:00,A,1.5,0.5", "2024-01-01T01:00:00,A,0.25,2.25"))
    data = read_dataset(path)
    at = [data.counters_at("A", data.start_ms + minutes * 60_000) for minutes in (0, 15, 30, 60, 75, 120, 135, 240)]
    assert at == [(0, 0), (250, 0), (500, 0), (1000, 0), (1000, 500), (1000, 2000), (1250, 2000), (2000, 4000)]
    assert ReplayMeter(data, "A").read(data.start_ms + HOUR_MS) == (1000, 0)
    with pytest.raises(InputError, match="starts at"):
        data.counters_at("A", data.start_ms - 1)
    with pytest.raises(InputError, match="no household 'B'"):
        ReplayMeter(data, "B")


def test_select_and_interpolation(shipped: Dataset) -> None:
    two = shipped.select(("B03", "B01"))
    assert two.meters == ("B03", "B01")
    assert two.counters_at("B03", shipped.end_ms) == shipped.counters_at("B03", shipped.end_ms)
    assert shipped.interpolated(PERIOD_MS)
    assert not shipped.interpolated(HOUR_MS)
    assert not shipped.interpolated(2 * HOUR_MS)
    for wrong in ((), ("B99",)):
        with pytest.raises(InputError):
            shipped.select(wrong)


def test_compressed_and_plain_give_the_same(tmp_path: Path, shipped: Dataset) -> None:
    plain = tmp_path / "same.csv"
    plain.write_bytes(b"\xef\xbb\xbf" + gzip.decompress(SHIPPED_FILE.read_bytes()).replace(b"\n", b"\r\n"))
    data = read_dataset(plain)
    assert data.counters_at("B17", data.end_ms) == shipped.counters_at("B17", shipped.end_ms)
    assert data.tariff() == shipped.tariff()


def test_optional_columns_and_their_order(tmp_path: Path) -> None:
    text = (
        "pv_kw,load_kvar,meter_id,load_kw,timestamp,carbon_kg_per_kwh\n0,-0.04,A,1e0,2024-01-01 00:00,0.1\n.5,0.1,A,0,2024-01-01 00:15,0\n"
    )
    data = read_dataset(write(tmp_path, text))
    assert data.interval_ms == PERIOD_MS
    assert data.net_series("A") == (250_000, -125_000)
    assert data.tariff() is None


def prices(path: Path, price: str, hours: int = 24 * 7) -> Dataset:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [f"{start + timedelta(hours=hour):%Y-%m-%d %H:%M},A,1,0,{price if hour == 30 else 0.2}" for hour in range(hours)]
    return read_dataset(write(path, "timestamp,meter_id,load_kw,pv_kw,price_per_kwh\n" + "\n".join(rows)))


def test_prices_are_a_tariff_or_refused(tmp_path: Path) -> None:
    assert prices(tmp_path, "0.2").tariff() is not None
    with pytest.raises(
        InputError, match=r"line 32: price_per_kwh: weekdays had another price at 06:00 above; a tariff must repeat"
    ) as refused:
        prices(tmp_path, "0.3")
    assert refused.value.field.endswith("line 32: price_per_kwh")
    two = "2024-01-01 00:00,A,1,0,0.2\n2024-01-01 00:00,B,1,0,0.3\n2024-01-01 01:00,A,1,0,0.2\n2024-01-01 01:00,B,1,0,0.2\n"
    with pytest.raises(InputError, match=r"line 3: price_per_kwh: is not the price of line 2"):
        read_dataset(write(tmp_path, "timestamp,meter_id,load_kw,pv_kw,price_per_kwh\n" + two))


def test_hours_without_a_price_take_that_of_the_nearest_hour(tmp_path: Path) -> None:
    rows = [f"2024-01-01 {hour:02d}:00,A,1,0,{hour / 100}" for hour in range(10, 16)]
    tariff = read_dataset(write(tmp_path, "timestamp,meter_id,load_kw,pv_kw,price_per_kwh\n" + "\n".join(rows))).tariff()
    assert tariff is not None
    assert tariff.weekend_micro_per_kwh == tariff.weekday_micro_per_kwh
    assert tariff.weekday_micro_per_kwh[10:16] == tuple(range(100_000, 160_000, 10_000))
    assert set(tariff.weekday_micro_per_kwh[16:22]) == {150_000}
    assert set(tariff.weekday_micro_per_kwh[1:10]) == {100_000}


def test_prices_of_the_other_kind_of_day_come_before_the_nearest_hour(tmp_path: Path) -> None:
    rows = [f"2024-01-05 {hour:02d}:00,A,1,0,0.{hour + 10}" for hour in range(24)] + ["2024-01-06 00:00,A,1,0,0.5"]
    tariff = read_dataset(write(tmp_path, "timestamp,meter_id,load_kw,pv_kw,price_per_kwh\n" + "\n".join(rows))).tariff()
    assert tariff is not None
    assert tariff.weekend_micro_per_kwh == (500_000, *tariff.weekday_micro_per_kwh[1:])


BAD = [
    ("", r"data.csv: is empty"),
    (HEADER, r"no rows"),
    ("time,meter_id,load_kw,pv_kw\n", r"line 1: 'time': unknown column"),
    ("timestamp,meter_id,load_kw,pv_kw,watts\n", r"line 1: 'watts': unknown column; known are .*price_usd_per_kwh, price_per_kwh"),
    ("timestamp;meter_id;load_kw;pv_kw\n", r"line 1: header: separate columns by commas"),
    ("timestamp,meter_id,load_kw\n", r"line 1: header: column pv_kw is missing"),
    ("timestamp,meter_id,load_kw,pv_kw,pv_kw\n", r"line 1: pv_kw: the column occurs twice"),
    ("timestamp,meter_id,load_kw,pv_kw,price_per_kwh,price_usd_per_kwh\n", r"line 1: header: give one of"),
    (hourly("2024-01-01 00:00,A,1,0", "2024-01-01 01:00,A,one,0"), r"line 3: load_kw: 'one' is not a number"),
    (hourly("2024-01-01 00:00,A,1,nan"), r"line 2: pv_kw: 'nan' is not a number"),
    (hourly("2024-01-01 00:00,A,inf,0"), r"line 2: load_kw: 'inf' is not a number"),
    (hourly("2024-01-01 00:00,A,-0.5,0"), r"line 2: load_kw: -0.5 is negative"),
    (hourly("2024-01-01 00:00,A,1,10000.1"), r"line 2: pv_kw: 10000.1 is more than 10000"),
    (hourly("2024-01-01 00:00,A,1e99,0"), r"line 2: load_kw: 1e99 is more than"),
    (hourly("2024-01-01 00:00,A,,0"), r"line 2: load_kw: '' is not a number"),
    (hourly("2024-01-01 00:00,A,1"), r"line 2: 3 fields, the header has 4"),
    (hourly("2024-01-01 00:00,A,1,0,9"), r"line 2: 5 fields"),
    (hourly("2024-01-01 00:00,A/B,1,0"), r"line 2: meter_id: 'A/B' is not a name"),
    (hourly("01.01.2024,A,1,0"), r"line 2: timestamp: '01.01.2024' is not YYYY"),
    (hourly("2024-02-30 00:00,A,1,0"), r"line 2: timestamp: '2024-02-30 00:00' is no date"),
    (hourly("1960-01-01 00:00,A,1,0"), r"line 2: timestamp: .* before 1970"),
    (hourly("2024-01-01 00:00,A,1,0"), r"single time stamp"),
    (hourly("2024-01-01 00:00,A,1,0", "2024-01-01 00:00,A,1,0"), r"line 3: meter_id: A occurs twice"),
    (hourly("2024-01-01 00:00,A,1,0", "2024-01-01 01:00,A,1,0", "2024-01-01 03:00,A,1,0"), r"line 4: timestamp: the interval is 3600 s"),
    (hourly("2024-01-01 01:00,A,1,0", "2024-01-01 00:00,A,1,0"), r"line 3: timestamp: lies before"),
    (hourly("2024-01-01 00:00,A,1,0", "2024-01-03 00:00,A,1,0"), r"line 3: timestamp: an interval of 172800 s"),
    (hourly("2024-01-01 00:00,A,1,0", "2024-01-01 00:00,B,1,0", "2024-01-01 01:00,B,1,0"), r"line 4: meter_id: A has no row"),
    (hourly("2024-01-01 00:00,A,1,0", "2024-01-01 01:00,A,1,0", "2024-01-01 01:00,B,1,0"), r"line 4: meter_id: B has no rows"),
    (hourly('2024-01-01 00:00,"A,1,0'), r"is not CSV"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_malformed_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read_dataset(write(tmp_path, text))
    assert str(refused.value).startswith(str(tmp_path / "data.csv"))


def test_unreadable_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_dataset(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_dataset(tmp_path)
    latin = tmp_path / "latin.csv"
    latin.write_bytes(HEADER.encode() + b"2024-01-01 00:00,K\xfcche,1,0\n")
    with pytest.raises(InputError, match=r"latin.csv: line 2: is not UTF-8"):
        read_dataset(latin)
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(SHIPPED_FILE.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a whole gzip file"):
        read_dataset(broken)
    bomb = tmp_path / "bomb.csv.gz"
    monkeypatch.setattr("meters.data_file.MAX_FILE_BYTES", 1024 * 1024)
    bomb.write_bytes(gzip.compress(bytes(4 * 1024 * 1024)))
    with pytest.raises(InputError, match="is larger than 1 MiB"):
        read_dataset(bomb)
    monkeypatch.setattr("meters.data_file.MAX_ROWS", 100)
    with pytest.raises(InputError, match=r"line 102: more than 100 rows"):
        shipped_dataset()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_data_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(HEADER.encode() + data)
    try:
        read_dataset(path)
    except InputError as error:
        assert str(error).startswith(str(path))


CELLS = st.sampled_from(["0", "1", "2.5", "-1", "nan", "", "x", "1e3", "٣", "1_0", "0x1", " 1", "9" * 20, '"1"'])
STAMPS = st.sampled_from(["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01T02:00:00", "2024-01-01 25:00", "", "2024-01-01"])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(STAMPS, st.sampled_from(["A", "B", "", "A B"]), CELLS, CELLS), max_size=8))
def test_rows_of_any_cells_are_data_or_refused(tmp_path: Path, rows: list[tuple[str, str, str, str]]) -> None:
    path = write(tmp_path, hourly(*(",".join(row) for row in rows)), "cells.csv")
    try:
        data = read_dataset(path)
    except InputError as error:
        assert str(error).startswith(str(path))
        return
    for meter in data.meters:
        counters = data.counters_at(meter, data.end_ms)
        assert counters.import_wh >= 0
        assert counters.export_wh >= 0
