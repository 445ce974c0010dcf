"""The targets `cases` and `data`: files that people hand in to be computed or replayed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import NUMBERS, TEXTS, Mutator
from cluster.fuzz.target import Stateless, refused
from cluster.fuzz.texts import change_json
from consensus.errors import InputError
from contracts.cases import run_auction_case, run_settle_case
from meters.dataset import Dataset, read_dataset

AUCTION = """{
 "grid_buy_price": 590000, "grid_sell_price": 310000, "beta_ppm": 100000, "mode": "batch", "max_reprice_rounds": 10,
 "price_cap": 1000000, "gate_close": 9, "one_side_per_account": true,
 "orders": [
  {"id": "S", "account": "a", "side": "sell", "energy_type": "x", "price": 410000, "reserve_price": 340000, "quantity_wh": 2200, "time": 0},
 {"id": "B", "account": "b", "side": "buy", "energy_type": "x", "price": 400000, "reserve_price": 450000, "quantity_wh": 3000, "time": 1},
  {"id": "T", "account": "c", "side": "sell", "energy_type": "x", "price": 350000, "reserve_price": 350000, "quantity_wh": 500, "time": 2}
 ]
}"""
SETTLEMENT = """{
 "grid_buy_price": 590000, "grid_sell_price": 310000, "fine_ppm": 100000, "tolerance_ppm": 50000, "fee_ppm": 5000,
 "trades": [
  {"id": "T1", "seller": "S1", "buyer": "B1", "quantity_wh": 1000, "price": 450000},
  {"id": "T2", "seller": "S1", "buyer": "B2", "quantity_wh": 500, "price": 470000}
 ],
 "meters": {"S1": {"export_wh": 1200, "import_wh": 0}, "B1": {"export_wh": 0, "import_wh": 1100}}
}"""
ROWS = 8
CELLS = (
    "",
    "0",
    "-1",
    "1e3",
    "nan",
    "inf",
    "1_0",
    ".5",
    "+0.25",
    "10000",
    "1e99",
    '"',
    '"a\n"',
    "2016-02-30 00:00",
    "9999-12-31 23:59",
    "B 1",
)


class CasesTarget(Stateless):
    """Cases for ``gridpact auction`` and ``gridpact settle``: what is computed adds up."""

    def __init__(self, _folder: Path) -> None:
        self._seeds = (AUCTION.encode(), SETTLEMENT.encode())

    def seeds(self) -> Sequence[bytes]:
        """Return a case of each kind."""
        return self._seeds

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return a case changed."""
        return change_json(data, mutator)

    def run(self, data: bytes) -> str:
        """Compute the case, as what it looks like."""
        try:
            if b'"meters"' in data:
                settled = run_settle_case(data, "case")
                if sum(settled.cash_micro.values()):
                    raise LawBrokenError(f"the cash of a settlement does not sum to zero: {settled.cash_micro}")
                return "accepted: settlement"
            cleared = run_auction_case(data, "case")
        except InputError as error:
            return refused(error)
        if any(trade.quantity_wh <= 0 for trade in cleared.trades):
            raise LawBrokenError("a match of nothing")
        return f"accepted: auction, {'some' if cleared.trades else 'no'} matches"


class DataTarget(Stateless):
    """Household data in CSV: what is accepted can be replayed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "data.csv"
        self._seeds = (_table("load_kw,pv_kw,price_per_kwh", "0.5,1.25,0.30"), _table("load_kw,pv_kw", "1,0"))

    def seeds(self) -> Sequence[bytes]:
        """Return small files, with and without prices."""
        return self._seeds

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return a file with cells, rows or bytes changed."""
        if mutator.chance(0.25):
            return mutator.raw(data)
        rows = [line.split(",") for line in data.decode("utf-8", "replace").split("\n")]
        row = mutator.pick(range(len(rows)))
        match int(mutator.random.random() * 4):
            case 0:
                rows[row : row + 1] = [rows[row]] * mutator.pick((0, 2, 3))
            case 1:
                rows[row] = [*rows[row], mutator.pick(CELLS)] if mutator.chance(0.5) else rows[row][1:]
            case _:
                cell = mutator.pick(range(len(rows[row]))) if rows[row] else 0
                value = mutator.pick((mutator.pick(CELLS), mutator.pick(TEXTS), str(mutator.pick(NUMBERS))))
                rows[row][cell : cell + 1] = [value]
        return "\n".join(",".join(cells) for cells in rows).encode("utf-8", "surrogatepass")

    def run(self, data: bytes) -> str:
        """Read the file and ask for what a simulated meter asks."""
        self._path.write_bytes(data)
        try:
            return _replayed(read_dataset(self._path))
        except InputError as error:
            return refused(InputError(error.field.replace(str(self._path), ""), error.reason))


def _table(columns: str, cells: str) -> bytes:
    lines = [f"timestamp,meter_id,{columns}"]
    lines += [f"2016-08-01 {hour:02d}:00,{meter},{cells}" for hour in range(ROWS) for meter in ("B01", "B02")]
    return "\n".join(lines).encode() + b"\n"


def _replayed(data: Dataset) -> str:
    """Read counters over one and a half laps: they never fall."""
    length_ms = data.end_ms - data.start_ms
    for meter in data.meters:
        before = data.counters_at(meter, data.start_ms)
        for step in range(1, 13):
            now = data.counters_at(meter, data.start_ms + step * length_ms // 8)
            if now.import_wh < before.import_wh or now.export_wh < before.export_wh:
                raise LawBrokenError(f"the counters of {meter} fall")
            before = now
        data.net_series(meter)
    return f"accepted: {len(data.meters)} homes, {'with' if data.tariff() else 'without'} prices"
