"""What a member or a dishonest meter may not gain, and what an honest one may not lose."""

from __future__ import annotations

import pytest

from contracts.calls import PlaceOrder, ResetMeter, SubmitReading
from contracts.events import Billed, DebtRecorded, ReadingAccepted
from tests.contracts.world import FIRST, GRID_BUY, PERIOD_MS, World, make_genesis

START = FIRST * PERIOD_MS
END = START + PERIOD_MS


def opened(world: World) -> World:
    """Orders of the first period are taken from now on."""
    world.block(time_ms=START - 2 * PERIOD_MS + 1)
    return world


def started() -> World:
    """Everybody was read at the start of the first period."""
    world = World()
    world.block(*(world.read(name, START, 0, 0) for name in "ABC"), time_ms=START)
    return world


def test_public_deposits_do_not_tell_a_buyers_reserve_price() -> None:
    locked = []
    for reserve in (450_000, 550_000):
        world = opened(World())
        world.order("A", "buy", 10_000, 400_000, reserve=reserve)
        view = world.view.account("A")
        assert view is not None and reserve <= GRID_BUY
        locked.append(view.locked_micro)
    assert locked[0] == locked[1]


def test_public_deposits_do_not_tell_a_sellers_reserve_price() -> None:
    locked = []
    for reserve in (350_000, 450_000):
        world = opened(World())
        world.order("A", "sell", 10_000, 500_000, reserve=reserve)
        view = world.view.account("A")
        assert view is not None
        locked.append(view.locked_micro)
    assert locked[0] == locked[1]


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (PlaceOrder(FIRST, "buy", "pv", 9_000_000, 399_991, 777_773), "INSUFFICIENT_FUNDS"),
        (PlaceOrder(FIRST, "sell", "pv", 9_000_000, 399_991, 377_773), "INSUFFICIENT_FUNDS"),
        (PlaceOrder(FIRST, "buy", "pv", 1, 399_991, 1_377_773_991), "BAD_PRICE"),
        (PlaceOrder(FIRST, "buy", "pv", 1, 13_777_739, 13_777_739), "BAD_PRICE"),
        (PlaceOrder(FIRST, "buy", "pv", 1, 399_991, 377_773), "RESERVE_CROSSED"),
    ],
)
def test_public_receipts_of_refused_orders_tell_no_price(order: PlaceOrder, code: str) -> None:
    world = opened(World())
    receipt = world.call("A", order)
    assert receipt.code == code
    assert not any(part in receipt.detail for part in ("399991", "77773", "13777739"))


def test_the_same_elapsed_time_does_not_allow_energy_twice() -> None:
    """20 kW for 15 minutes is 5 kWh; a meter whose clock stands still, with a new boot each time, fed in 600 kWh and was paid 186 CNY."""
    world = started()
    world.block(world.read("A", START + 1, 0, 0, boot_id="first"), time_ms=START + 600_000)
    fed_in_wh = 0
    for boot in range(200):
        fed_in_wh += 3_000
        world.block(world.read("A", START + 1, 0, fed_in_wh, boot_id=f"boot {boot}"), time_ms=START + 600_000 + boot)
    world.block(*(world.read(name, END, 0, fed_in_wh if name == "A" else 0) for name in "ABC"), time_ms=END)
    (billed,) = [bill.export_wh for bill in world.events_of(Billed) if bill.account == "A"]
    assert billed <= 20_000 * PERIOD_MS // 3_600_000 + 10


def test_many_readings_are_not_many_spare_watt_hours() -> None:
    """Counters are cut to whole Wh, so one Wh too many is tolerated; once, not with every reading."""
    world = started()
    for number in range(1, 40):
        world.block(world.read("A", START + number, 0, number), time_ms=START + number)
    view = world.view.meter("m-A")
    assert view is not None
    assert view.quarantine == "ABOVE_FUSE"
    assert view.export_wh == 500 + 1


def test_an_honest_meter_at_the_fuses_limit_is_never_taken_for_one_above_it() -> None:
    """Its clock stands still now and then, it restarts, and is not synchronised for a while; 20 kW all the time."""
    world = started()
    for step in range(1, 200):
        now = START + step * 4_321
        true_wh = 20_000 * (now - START) // 3_600_000
        stopped, unsynced = step % 17 == 3, step % 31 in (5, 6, 7)
        changes = {"boot_id": f"boot {step // 13}", "uptime_ms": step % 13 * 4_321}
        if unsynced:
            changes["clock"] = "unsynced"
        reading = world.read("A", now - 4_321 if stopped else now, true_wh, 0, **changes)
        assert isinstance(world.block(reading, time_ms=now)[0].events[0], ReadingAccepted), step


def test_a_backlog_of_a_restarted_unsynced_meter_is_taken() -> None:
    world = started()
    now = START + 600_000
    backlog = [world.read("A", 0, 50 * step, 0, clock="unsynced", boot_id="again", uptime_ms=15_000 * step) for step in range(1, 20)]
    receipts = world.block(*backlog, time_ms=now)
    assert [receipt.events[0] for receipt in receipts[:19] if not isinstance(receipt.events[0], ReadingAccepted)] == []


def test_a_late_reading_of_an_unsynced_clock_does_not_quarantine_an_honest_meter() -> None:
    world = World()
    first = world.read("A", START, 0, 0, clock="unsynced", uptime_ms=1_000)
    world.block(first, *(world.read(name, START, 0, 0) for name in "BC"), time_ms=START)
    late, third, fourth = (
        world.read("A", START + after_ms, wh, 0, clock="unsynced", uptime_ms=1_000 + after_ms, sequence=sequence)
        for sequence, after_ms, wh in ((2, PERIOD_MS - 15_000, 100), (3, PERIOD_MS, 105), (4, PERIOD_MS + 15_000, 110))
    )
    world.block(third, time_ms=END)
    world.block(fourth, *(world.read(name, END, 0, 0) for name in "BC"), time_ms=END + 15_000)
    assert world.block(late, time_ms=END + 16_000)[0].code == "OK"
    view = world.view.meter("m-A")
    assert view is not None
    assert view.quarantine == ""


def unsynced_world() -> World:
    """Meter A has no clock; it was read at the start and a minute after it, three numbers later."""
    world = World()
    first = world.read("A", 0, 0, 0, clock="unsynced", uptime_ms=1_000)
    world.block(first, *(world.read(name, START, 0, 0) for name in "BC"), time_ms=START)
    world.block(world.read("A", 0, 60, 0, clock="unsynced", uptime_ms=61_000, sequence=5), time_ms=START + 60_000)
    return world


@pytest.mark.parametrize(
    ("import_wh", "changes", "code"),
    [
        (30, {}, "OK"),
        (61, {}, "CONTRADICTS_NEIGHBOURS"),
        (30, {"boot_id": "before"}, "OK"),
        (0, {"boot_id": "before"}, "OK"),
        (61, {"boot_id": "before"}, "CONTRADICTS_NEIGHBOURS"),
        (-1, {"boot_id": "before"}, "CONTRADICTS_NEIGHBOURS"),
        (30, {"boot_id": ""}, "OK"),
        (30, {"uptime_ms": 70_000}, "OK"),
    ],
)
def test_a_late_reading_without_a_clock_is_dated_by_uptime_or_only_checked(import_wh: int, changes: dict[str, object], code: str) -> None:
    world = unsynced_world()
    late = world.read("A", 0, import_wh, 0, **{"clock": "unsynced", "uptime_ms": 31_000, "sequence": 3, **changes})
    before = world.view.meter("m-A")
    assert world.block(late, time_ms=START + 61_000)[0].code == code
    after = world.view.meter("m-A")
    assert before is not None
    assert after is not None
    assert (after.quarantine, after.quarantined) == ("", 0)
    assert (after.accepted - before.accepted, before.missing - after.missing) == ((1, 1) if code == "OK" else (0, 0))
    world.block(*(world.read(name, END, 100, 0, sequence=9) for name in "ABC"), time_ms=END)
    assert [bill.import_wh for bill in world.events_of(Billed) if bill.account == "A"] == [100]


def test_a_late_reading_dated_by_uptime_moves_energy_into_its_period() -> None:
    world = unsynced_world()
    after_ms = END + 30_000
    world.block(world.read("A", 0, 200, 0, clock="unsynced", uptime_ms=1_000 + PERIOD_MS + 30_000, sequence=9), time_ms=after_ms)
    late = world.read("A", 0, 180, 0, clock="unsynced", uptime_ms=1_000 + PERIOD_MS, sequence=8)
    world.block(late, *(world.read(name, END, 0, 0) for name in "BC"), time_ms=after_ms)
    assert [bill.import_wh for bill in world.events_of(Billed) if bill.account == "A"] == [180]


def test_a_replaced_device_that_counts_from_one_can_report_after_the_operators_reset() -> None:
    world = started()
    for second in range(5):
        world.block(world.read("A", START + 1_000 * second + 1_000, second, 0), time_ms=START + 1_000 * second + 1_000)
    assert world.call("OPERATOR", ResetMeter("m-A", 0, 0, "replaced", True)).code == "OK"
    view = world.view.meter("m-A")
    assert view is not None
    assert view.last_sequence == 0
    assert view.next_nonce == 7
    readings = [SubmitReading(number, world.time_ms + number, 0, 0, "ntp", "new device", 5) for number in (1, 2)]
    assert world.block(world.transaction("m-A", readings[0], nonce=6)) == []
    assert world.call("m-A", readings[0], nonce=view.next_nonce).code == "OK"
    assert world.call("m-A", readings[0], nonce=view.next_nonce + 1).code == "DUPLICATE_READING"
    assert world.call("m-A", readings[1], nonce=view.next_nonce + 2).code == "OK"


def test_a_device_that_stays_must_go_on_with_its_numbers_after_a_reset() -> None:
    world = started()
    assert world.call("OPERATOR", ResetMeter("m-A", 0, 0, "read wrongly")).code == "OK"
    reading = SubmitReading(1, world.time_ms, 0, 0, "ntp", "same device", 5)
    assert world.call("m-A", reading, nonce=50).code == "DUPLICATE_READING"


def test_who_trades_can_pay_from_the_deposit_alone() -> None:
    """At a price above feed-in / (fine - fee), taking nothing costs a buyer more than the deposit."""
    world = opened(World(make_genesis(balance_micro=53_450_000)))
    assert world.order("A", "buy", 5_000, 10_000_000).code == "OK"
    view = world.view.account("A")
    assert view is not None
    assert view.balance_micro == 0
    assert world.order("B", "sell", 5_000, 10_000_000).code == "OK"
    world.block(*(world.read(name, START, 0, 0) for name in "ABC"), time_ms=START)
    world.block(*(world.read(name, END, 0, 5_000 if name == "B" else 0) for name in "ABC"), time_ms=END)
    assert world.events_of(DebtRecorded) == []
