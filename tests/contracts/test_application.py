from __future__ import annotations

from contracts.events import Billed, Traded
from tests.contracts.world import FIRST, PERIOD_MS, World


def test_a_reading_and_an_order_walk_through_to_a_bill() -> None:
    world = World()
    world.block(time_ms=world.start() - 2 * PERIOD_MS)
    assert world.order("A", "sell", 1_000, 400_000).code == "OK"
    assert world.order("B", "buy", 1_000, 500_000).code == "OK"
    world.block(time_ms=world.at_gate())
    assert [(t.buyer, t.seller, t.energy_wh, t.price_micro_per_kwh) for t in world.events_of(Traded)] == [("B", "A", 1_000, 450_000)]
    start, end = world.start(), world.start(FIRST + 1)
    world.block(*(world.read(name, start, 0, 0) for name in "ABC"), time_ms=start)
    world.block(world.read("A", end, 0, 1_500), world.read("B", end, 1_200, 0), world.read("C", end, 300, 0), time_ms=end)
    bills = {bill.account: bill for bill in world.events_of(Billed)}
    assert sum(bill.net_micro for bill in bills.values()) == 0
    assert bills["A"].sold_wh == 1_000 and bills["A"].grid_sold_wh == 500
    assert bills["B"].bought_wh == 1_000 and bills["B"].grid_bought_wh == 200
    assert bills["A"].earned_micro == 450_000 + 155_000
    assert bills["B"].paid_micro == 450_000 + 118_000
    assert bills["DC0"].fee_micro == -2 * 2_250
    totals = world.view.totals(world.time_ms)
    assert totals.supply_conserved and totals.periods_settled == 1
    assert world.view.account("A").locked_micro == 0
