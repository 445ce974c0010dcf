"""The traps of meters: duplicates, gaps, late and falling and jumping counters, wrong clocks, replaced devices."""

from __future__ import annotations

import msgspec
import pytest

from contracts.calls import ResetMeter
from contracts.events import Billed, MeterMissing, MeterReset, ReadingAccepted, ReadingQuarantined
from tests.contracts.world import FIRST, PERIOD_MS, World

START = FIRST * PERIOD_MS
END = START + PERIOD_MS
GRACE = END + 600_000


def world_with_a_start() -> World:
    """Everybody was read at the start of the first period."""
    world = World()
    world.block(*(world.read(name, START, 0, 0) for name in "ABC"), time_ms=START)
    return world


def billed(world: World, account: str) -> list[tuple[int, int, int]]:
    return [(bill.period - FIRST, bill.import_wh, bill.export_wh) for bill in world.events_of(Billed) if bill.account == account]


def test_a_sequence_counts_once_whatever_its_nonce() -> None:
    world = world_with_a_start()
    world.block(world.read("A", START + 10_000, 5, 0), time_ms=START + 20_000)
    receipt = world.block(world.read("A", START + 20_000, 9, 0, sequence=2))[0]
    assert receipt.code == "DUPLICATE_READING"
    assert world.view.meter("m-A").import_wh == 1_005


def test_gaps_are_counted_until_the_late_reading_comes() -> None:
    world = world_with_a_start()
    world.block(world.read("A", START + 30_000, 30, 0, sequence=4), time_ms=START + 40_000)
    assert (world.view.meter("m-A").missing, world.view.meter("m-A").accepted) == (2, 2)
    assert world.block(world.read("A", START + 10_000, 10, 0, sequence=2))[0].code == "OK"
    assert (world.view.meter("m-A").missing, world.view.meter("m-A").accepted) == (1, 3)
    assert world.view.meter("m-A").import_wh == 1_030 and world.view.meter("m-A").quarantine == ""


def test_a_late_reading_before_settlement_moves_energy_into_its_period() -> None:
    world = world_with_a_start()
    after = END + 60_000
    world.block(world.read("A", after, 300, 0, sequence=3), time_ms=after)
    assert billed(world, "A") == []
    world.block(world.read("A", END, 250, 0, sequence=2), time_ms=after)
    world.block(*(world.read(name, END, 0, 0) for name in "BC"), time_ms=after)
    assert billed(world, "A") == [(0, 250, 0)]
    assert world.events_of(MeterMissing) == []


def test_a_late_reading_after_settlement_changes_nothing_and_loses_nothing() -> None:
    world = world_with_a_start()
    after = END + 60_000
    world.block(world.read("A", after, 300, 0, sequence=3), *(world.read(name, END, 0, 0) for name in "BC"), time_ms=after)
    assert billed(world, "A") == [(0, 0, 0)]
    assert [(event.meter, event.period) for event in world.events_of(MeterMissing)] == [("m-A", FIRST)]
    assert world.block(world.read("A", END, 250, 0, sequence=2))[0].code == "OK"
    next_end = END + PERIOD_MS
    world.block(*(world.read(name, next_end, 400, 0, sequence=9) for name in "ABC"), time_ms=next_end)
    assert billed(world, "A") == [(0, 0, 0), (1, 400, 0)]
    assert world.view.totals(next_end).supply_conserved


@pytest.mark.parametrize("late", [(END - 50_000, 301), (START + 90_000, 9)])
def test_a_late_reading_that_contradicts_its_neighbours_is_refused_alone(late: tuple[int, int]) -> None:
    world = world_with_a_start()
    world.block(world.read("A", START + 10_000, 10, 0, sequence=2), world.read("A", END + 5, 300, 0, sequence=9), time_ms=END + 5)
    before = world.view.meter("m-A")
    receipt = world.block(world.read("A", late[0], late[1], 0, sequence=4))[0]
    assert (receipt.code, receipt.events) == ("CONTRADICTS_NEIGHBOURS", ())
    assert world.view.meter("m-A") == msgspec.structs.replace(before, next_nonce=before.next_nonce + 1)


@pytest.mark.parametrize(
    ("import_wh", "export_wh", "code"),
    [(99, 50, "FALLING_COUNTER"), (100, 49, "FALLING_COUNTER"), (102 + 2_500, 50, "ABOVE_FUSE"), (100, 52 + 2_500, "ABOVE_FUSE")],
)
def test_falls_and_jumps_put_the_meter_into_quarantine_until_the_operator_decides(import_wh: int, export_wh: int, code: str) -> None:
    world = world_with_a_start()
    world.block(world.read("A", START + 50_000, 100, 50), time_ms=START + 50_000)
    now = START + 500_000
    receipt = world.block(world.read("A", now, import_wh, export_wh), time_ms=now)[0]
    assert receipt.code == "OK" and receipt.events == (ReadingQuarantined("m-A", 3, code),)
    good = world.block(world.read("A", now + 1_000, 110, 55), time_ms=now + 1_000)[0]
    assert good.events == (ReadingQuarantined("m-A", 4, code),)
    meter = world.view.meter("m-A")
    assert (meter.quarantine, meter.quarantined, meter.import_wh) == (code, 2, 1_100)
    world.block(*(world.read(name, END, 10, 0) for name in "BC"), time_ms=END)
    assert billed(world, "A") == [(0, 100, 50)]
    reset = world.call("OPERATOR", ResetMeter("m-A", 1_100, 550, "glitch"))
    assert reset.events == (MeterReset("m-A", 1_100, 550, "glitch"),)
    second = END + PERIOD_MS
    world.block(*(world.read(name, second, 300, 60) for name in "ABC"), time_ms=second)
    assert billed(world, "A") == [(0, 100, 50), (1, 200, 10)]
    assert world.view.totals(second).supply_conserved


def test_the_fuse_allows_exactly_what_it_can_carry() -> None:
    world = world_with_a_start()
    now = START + 450_000
    assert world.block(world.read("A", now, 2_501, 0), time_ms=now)[0].events[0] == ReadingAccepted("m-A", 2, FIRST, 3_501, 500)


def test_a_transient_zero_never_settles() -> None:
    world = world_with_a_start()
    world.block(world.read("A", START + 60_000, -1_000, -500), time_ms=START + 60_000)
    world.block(world.read("A", END, 38, 0), *(world.read(name, END, 0, 0) for name in "BC"), time_ms=END)
    assert billed(world, "A") == [(0, 0, 0)]


def test_a_replaced_meter_goes_on_without_a_break() -> None:
    world = world_with_a_start()
    world.block(world.read("A", START + 400_000, 120, 30), time_ms=START + 400_000)
    world.call("OPERATOR", ResetMeter("m-A", 0, 9, "new device"))
    world.block(world.read("A", END, -1_000 + 40, -500 + 9 + 5), *(world.read(name, END, 0, 0) for name in "BC"), time_ms=END)
    assert billed(world, "A") == [(0, 160, 35)]
    assert (world.view.meter("m-A").import_wh, world.view.meter("m-A").export_wh) == (40, 14)
    assert world.view.totals(END).supply_conserved


def test_a_reading_from_before_the_reset_is_refused() -> None:
    world = world_with_a_start()
    world.block(world.read("A", START + 400_000, 120, 30, sequence=5), time_ms=START + 400_000)
    world.call("OPERATOR", ResetMeter("m-A", 0, 0, "new device"))
    assert world.block(world.read("A", START + 300_000, 100, 20, sequence=4))[0].code == "BEFORE_RESET"
    assert world.view.meter("m-A").quarantine == ""


def test_only_known_meters_are_reset() -> None:
    assert World().call("OPERATOR", ResetMeter("m-X", 0, 0, "?")).code == "NO_SUCH_METER"
    assert World().call("OPERATOR", ResetMeter("A", 0, 0, "?")).code == "NO_SUCH_METER"


def test_a_clock_ahead_of_the_block_is_refused_beyond_the_tolerance() -> None:
    world = world_with_a_start()
    assert world.block(world.read("A", START + 5_001, 1, 0))[0].code == "READING_IN_FUTURE"
    assert world.block(world.read("A", START + 5_000, 1, 0))[0].code == "OK"


def test_a_clock_that_is_far_behind_moves_its_energy_to_the_open_period() -> None:
    world = world_with_a_start()
    now = START + 400_000
    accepted = world.block(world.read("A", 0, 100, 0, boot_id="again"), time_ms=now)[0].events[0]
    assert accepted == ReadingAccepted("m-A", 2, FIRST - 1, 1_100, 500)
    world.block(*(world.read(name, END, 150, 0) for name in "ABC"), time_ms=END)
    assert billed(world, "A") == [(0, 50, 0)]
    old = world.block(world.read("A", 5, 180, 0, boot_id="third"), time_ms=END + 400_000)[0].events[0]
    assert old.period == FIRST + 1
    world.block(*(world.read(name, END + PERIOD_MS, 200, 0) for name in "ABC"), time_ms=END + PERIOD_MS)
    assert billed(world, "A") == [(0, 50, 0), (1, 50, 0)]
    assert world.view.totals(world.time_ms).supply_conserved


def test_time_that_stands_still_carries_no_more_than_the_uptime_allows() -> None:
    world = world_with_a_start()
    now = START + 800_000
    world.block(world.read("A", START + 1_000, 1, 0, uptime_ms=1_000), time_ms=now)
    assert world.block(world.read("A", START + 1_000, 57, 0, uptime_ms=11_000))[0].events[0].import_wh == 1_057
    assert world.block(world.read("A", START + 1_000, 157, 0, uptime_ms=12_000))[0].events[0].code == "ABOVE_FUSE"


def test_an_unsynchronised_clock_is_counted_on_by_uptime_or_replaced_by_the_blocks() -> None:
    world = world_with_a_start()
    now = START + 800_000
    world.block(world.read("A", 77, 10, 0, clock="unsynced", uptime_ms=300_000), time_ms=now)
    assert world.view.meter("m-A").last_time_ms == START + 300_000
    world.block(world.read("A", 2**53, 12, 0, clock="unsynced", boot_id="new", uptime_ms=5))
    assert world.view.meter("m-A").last_time_ms == now
    world.block(world.read("A", 2**53, 13, 0, clock="unsynced", boot_id="new", uptime_ms=10**12))
    assert world.view.meter("m-A").last_time_ms == now


def test_settlement_waits_for_the_last_meter_but_not_beyond_the_grace_time() -> None:
    world = world_with_a_start()
    world.block(*(world.read(name, END, 10, 0) for name in "AB"), time_ms=END)
    assert billed(world, "A") == [] and world.application.next_deadline_ms() == GRACE
    world.block(time_ms=GRACE - 1)
    assert billed(world, "A") == []
    world.block(time_ms=GRACE)
    assert billed(world, "A") == [(0, 10, 0)] and billed(world, "C") == [(0, 0, 0)]
    assert [event.meter for event in world.events_of(MeterMissing)] == ["m-C"]
    world.block(*(world.read(name, END + PERIOD_MS, 25, 0) for name in "ABC"), time_ms=END + PERIOD_MS)
    assert billed(world, "C") == [(0, 0, 0), (1, 25, 0)] and billed(world, "A") == [(0, 10, 0), (1, 15, 0)]


def test_readings_ahead_of_the_block_settle_at_the_end_of_the_period() -> None:
    world = world_with_a_start()
    world.block(*(world.read(name, END, 10, 0) for name in "ABC"), time_ms=END - 4_000)
    assert billed(world, "A") == [] and world.application.next_deadline_ms() == END
    world.block(time_ms=END)
    assert billed(world, "A") == [(0, 10, 0)]


def test_energy_before_the_first_period_is_nobodys_business_and_after_it_never_lost() -> None:
    world = World()
    world.block(
        world.read("A", START - 200_000, 70, 0),
        world.read("A", START, 80, 0),
        world.read("B", START + 100_000, 33, 0),
        time_ms=START + 100_000,
    )
    world.block(*(world.read(name, END, 100, 0) for name in "ABC"), time_ms=END)
    assert billed(world, "A") == [(0, 20, 0)] and billed(world, "B") == [(0, 100, 0)]
    assert world.view.totals(END).supply_conserved


def test_registers_stay_bounded() -> None:
    world = world_with_a_start()
    for step in range(1, 40):
        now = START + step * 400_000
        world.block(*(world.read(name, now, step * 10, 0) for name in "ABC"), time_ms=now)
    records = [meter for _, meter in world.application._ledger.state.meters.scan()]
    assert all(len(meter.registers) <= 2 for meter in records)
