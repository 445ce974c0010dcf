from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import InvariantViolation
from contracts.billing import check_bills, make_bills
from contracts.settlement import Contract, Metered, Terms, settle

NAMES = st.sampled_from(["a", "b", "c", "fees"])
TERMS = st.builds(Terms, *([st.integers(0, 10**6)] * 5), st.just("GRID"), NAMES)
CONTRACTS = st.lists(st.builds(Contract, st.text("xyz"), NAMES, NAMES, st.integers(1, 5_000), st.integers(0, 10**6)), max_size=10)
METERS = st.dictionaries(NAMES, st.builds(Metered, st.integers(0, 9_000), st.integers(0, 9_000)))


def bills_of(contracts: list[Contract], meters: dict[str, Metered], terms: Terms):
    contracts = [contract for contract in contracts if contract.seller != contract.buyer]
    for contract in contracts:
        meters.setdefault(contract.seller, Metered(0, 0))
        meters.setdefault(contract.buyer, Metered(0, 0))
    return make_bills(7, settle(contracts, meters, terms), meters, terms)


@given(CONTRACTS, METERS, TERMS)
def test_bills_sum_to_zero_and_mirror_the_grid(contracts: list[Contract], meters: dict[str, Metered], terms: Terms) -> None:
    bills = bills_of(contracts, meters, terms)
    assert sum(bill.net_micro for bill in bills) == 0
    assert sum(bill.saving_micro for bill in bills) == 0
    assert [bill.account for bill in bills] == sorted({*meters, "GRID", terms.fee_receiver})
    grid = next(bill for bill in bills if bill.account == "GRID")
    assert grid.grid_sold_wh == sum(bill.grid_bought_wh for bill in bills if bill is not grid)
    for bill in bills:
        if bill is not grid:
            assert (bill.import_wh, bill.export_wh) == (bill.bought_wh + bill.grid_bought_wh, bill.sold_wh + bill.grid_sold_wh)


@pytest.mark.parametrize(
    "change",
    [
        {"paid_micro": 1},
        {"saving_micro": 1},
        {"penalty_micro": 9, "earned_micro": 9},
        {"fee_micro": 9, "earned_micro": 9},
        {"bought_wh": 1, "import_wh": 1},
        {"grid_sold_wh": 1, "export_wh": 1},
        {"import_wh": 3},
        {"export_wh": 3},
    ],
)
def test_one_unit_too_much_is_noticed(change: dict[str, int]) -> None:
    terms = Terms(590_000, 310_000, 100_000, 50_000, 5_000, "GRID", "fees")
    bills = bills_of([Contract("t", "a", "b", 1_000, 450_000)], {"a": Metered(0, 900), "b": Metered(1_000, 0)}, terms)
    check_bills(bills, "GRID")
    place = next(place for place, bill in enumerate(bills) if bill.account == "b")
    wrong = {name: getattr(bills[place], name) + more for name, more in change.items()}
    with pytest.raises(InvariantViolation, match="does not balance"):
        check_bills([*bills[:place], msgspec.structs.replace(bills[place], **wrong), *bills[place + 1 :]], "GRID")


def test_performed_beyond_metered_is_noticed() -> None:
    terms = Terms(590_000, 310_000, 100_000, 50_000, 5_000, "GRID", "fees")
    bills = bills_of([], {"a": Metered(0, 0)}, terms)
    wrong = [
        msgspec.structs.replace(bill, grid_bought_wh=-5, import_wh=-5)
        if bill.account == "a"
        else msgspec.structs.replace(bill, grid_sold_wh=-5 if bill.account == "GRID" else 0)
        for bill in bills
    ]
    with pytest.raises(InvariantViolation, match="negative energy"):
        check_bills(wrong, "GRID")
