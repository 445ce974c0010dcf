"""What a reading means: cumulative counters, each reading once, nothing lost, nothing that cannot be.

Law.

1. (meter, sequence) counts once. Numbers left out are counted as missing until they come; late ones are taken if their counters fit between
   those known before and after them, else refused, alone.
2. A counter that falls, or rises faster than the fuse allows, puts the meter into quarantine: this and all later readings are recorded and
   counted but not settled, until the operator's signed reset says from which counters the meter goes on.
3. Time. A synchronised clock is believed if it is not ahead of the block; time never runs backwards for a meter. An unsynchronised one
   is not believed: the time is counted on by the uptime since the last reading of the same boot, else it is the block's. A late reading
   is counted back in the same way; if nothing tells when it was taken, it is only checked and recorded nowhere.
4. Energy of a period is the difference of the registers at its two boundaries; the register at a boundary is the last reading not after
   it. A reading for a period that is settled already moves its energy to the next one that is not: nothing is lost.
5. The same time carries energy once. What a reading adds takes the fuse a certain time, and that time is used up (``fuse_time_ms``),
   whatever the meter says of its clock and its boots; so no meter counts more than its fuse lets through, and once one Wh, since
   counters are cut to whole ones.

Counters of replaced devices are joined by offsets, so that a meter's scale never breaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from consensus.application import Verdict
from contracts.calls import ResetMeter, SubmitReading
from contracts.events import MeterReset, ReadingAccepted, ReadingQuarantined
from contracts.ledger import Ledger, Outcome, present
from contracts.periods import Calendar
from contracts.records import Meter, Register
from contracts.registry import Sender
from contracts.units import shortest_time_ms
from contracts.window import EMPTY_WINDOW, is_spent, spend

FALLING_COUNTER = "FALLING_COUNTER"
ABOVE_FUSE = "ABOVE_FUSE"
CONTRADICTS_NEIGHBOURS = "CONTRADICTS_NEIGHBOURS"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a reading is judged by besides the meter's past.

    Attributes:
        time_ms: block time.
        drift_ms: how far a clock may be ahead of it.
        fuse_w: rating of the meter's fuse.
        calendar: of the delivery periods.
        first_open_period: earliest period whose register may still change.
    """

    time_ms: int
    drift_ms: int
    fuse_w: int
    calendar: Calendar
    first_open_period: int


class Judged(NamedTuple):
    """The meter after a reading, and the event that tells of it."""

    meter: Meter
    event: ReadingAccepted | ReadingQuarantined


class Closed(NamedTuple):
    """A meter after a period: its record, what it metered in it, whether its end is missing."""

    meter: Meter
    import_wh: int
    export_wh: int
    missing: bool


def submit_reading(ledger: Ledger, sender: Sender, call: SubmitReading, time_ms: int) -> Outcome:
    """Take a reading of the sending meter."""
    meter = present(ledger.state.meters.get(sender.key), f"meter {sender.name}")
    rules, progress = ledger.rules, ledger.progress
    first_open = progress.next_settle if progress.next_settle > rules.first_period else rules.first_period - 1
    drift_ms = ledger.genesis.consensus.max_drift_ms
    outcome = judge(sender.name, meter, call, Circumstances(time_ms, drift_ms, sender.fuse_w, ledger.calendar, first_open))
    if isinstance(outcome, Verdict):
        return outcome
    ledger.state.meters.put(sender.key, outcome.meter)
    return (outcome.event,)


def reset_meter(ledger: Ledger, call: ResetMeter) -> Outcome:
    """End a meter's quarantine: it goes on from the counters in the call, its scale unbroken.

    A new device counts its readings from 1, so none of its predecessor's numbers stands in the way any more. Nonces stay spent for good.
    """
    sender = ledger.registry.meter(call.meter)
    if sender is None:
        return Verdict("NO_SUCH_METER", f"meter: there is no meter {call.meter}")
    meter = present(ledger.state.meters.get(sender.key), f"meter {call.meter}")
    after = msgspec.structs.replace(
        meter,
        import_wh=call.import_wh,
        export_wh=call.export_wh,
        import_offset_wh=meter.import_offset_wh + meter.import_wh - call.import_wh,
        export_offset_wh=meter.export_offset_wh + meter.export_wh - call.export_wh,
        boot_id="",
        sequences=EMPTY_WINDOW if call.new_device else meter.sequences,
        reset_sequence=0 if call.new_device else meter.sequences.highest,
        quarantine="",
    )
    ledger.state.meters.put(sender.key, after)
    return (MeterReset(call.meter, call.import_wh, call.export_wh, call.reason),)


def judge(name: str, meter: Meter, reading: SubmitReading, around: Circumstances) -> Judged | Verdict:
    """Decide on one reading; pure."""
    if is_spent(meter.sequences, reading.sequence):
        return Verdict("DUPLICATE_READING", f"sequence: {reading.sequence} was counted before, or is too old to tell")
    if reading.clock != "unsynced" and reading.time_ms > around.time_ms + around.drift_ms:
        return Verdict("READING_IN_FUTURE", f"time_ms: {reading.time_ms} is ahead of the block's time, {around.time_ms}")
    if reading.sequence <= meter.reset_sequence:
        return Verdict("BEFORE_RESET", f"sequence: {reading.sequence} was read before the meter was reset")
    if meter.quarantine:
        return _quarantined(name, _counted(meter, reading.sequence), reading, meter.quarantine)
    if reading.sequence < meter.sequences.highest:
        return _late(name, meter, reading, around)
    return _newest(name, _counted(meter, reading.sequence), reading, around)


def _counted(meter: Meter, sequence: int) -> Meter:
    """Note that a sequence number came."""
    skipped = sequence - meter.sequences.highest - 1
    missing = meter.missing + (skipped if skipped >= 0 else -1)
    return msgspec.structs.replace(meter, sequences=spend(meter.sequences, sequence), missing=missing)


def _quarantined(name: str, meter: Meter, reading: SubmitReading, code: str) -> Judged:
    after = msgspec.structs.replace(meter, quarantine=code, quarantined=meter.quarantined + 1)
    return Judged(after, ReadingQuarantined(name, reading.sequence, code))


def _newest(name: str, meter: Meter, reading: SubmitReading, around: Circumstances) -> Judged:
    """Judge a reading with the highest sequence number so far."""
    risen_import, risen_export = reading.import_wh - meter.import_wh, reading.export_wh - meter.export_wh
    if risen_import < 0 or risen_export < 0:
        return _quarantined(name, meter, reading, FALLING_COUNTER)
    claimed_ms = _claimed_ms(meter, reading, around)
    fuse_time_ms = meter.fuse_time_ms + shortest_time_ms(around.fuse_w, max(risen_import, risen_export))
    if fuse_time_ms > _latest_ms(meter, reading, claimed_ms, around) + shortest_time_ms(around.fuse_w, 1):
        return _quarantined(name, meter, reading, ABOVE_FUSE)
    if reading.clock != "unsynced":
        fuse_time_ms = max(fuse_time_ms, claimed_ms)
    time_ms = max(claimed_ms, meter.time_ms)
    period = max(around.calendar.metered_period(time_ms), around.first_open_period)
    unbroken = (reading.import_wh + meter.import_offset_wh, reading.export_wh + meter.export_offset_wh)
    kept = meter.registers[:-1] if meter.registers and meter.registers[-1].period == period else meter.registers
    after = msgspec.structs.replace(
        meter,
        time_ms=time_ms,
        import_wh=reading.import_wh,
        export_wh=reading.export_wh,
        boot_id=reading.boot_id,
        uptime_ms=reading.uptime_ms,
        fuse_time_ms=fuse_time_ms,
        registers=(*kept, Register(period, time_ms, *unbroken)),
        accepted=meter.accepted + 1,
    )
    return Judged(after, ReadingAccepted(name, reading.sequence, period, reading.import_wh, reading.export_wh))


def _claimed_ms(meter: Meter, reading: SubmitReading, around: Circumstances) -> int:
    """Return when a reading was taken, as far as it can be believed."""
    if reading.clock != "unsynced":
        return reading.time_ms
    if _same_boot(meter, reading):
        return min(meter.time_ms + reading.uptime_ms - meter.uptime_ms, around.time_ms)
    return around.time_ms


def _latest_ms(meter: Meter, reading: SubmitReading, claimed_ms: int, around: Circumstances) -> int:
    """Return until when the energy of a reading may have flowed.

    A clock that goes on is taken at its word. Where it stood still or went back, or is none, the block's time is the bound, and what
    went by since the last reading of the same boot.
    """
    goes_on = claimed_ms > meter.time_ms and meter.fuse_time_ms <= meter.time_ms + shortest_time_ms(around.fuse_w, 1)
    if goes_on and reading.clock != "unsynced":
        return claimed_ms
    latest_ms = around.time_ms + around.drift_ms
    if _same_boot(meter, reading):
        return min(latest_ms, meter.fuse_time_ms + reading.uptime_ms - meter.uptime_ms)
    return latest_ms


def _same_boot(meter: Meter, reading: SubmitReading) -> bool:
    return meter.boot_id == reading.boot_id and meter.boot_id != "" and reading.uptime_ms >= meter.uptime_ms


def _late(name: str, meter: Meter, reading: SubmitReading, around: Circumstances) -> Judged | Verdict:
    """Judge a reading that comes after one with a higher sequence number: it may only refine the register of its period."""
    time_ms = _late_ms(meter, reading)
    period = around.first_open_period if time_ms is None else max(around.calendar.metered_period(time_ms), around.first_open_period)
    settled = time_ms is None or around.calendar.metered_period(time_ms) < around.first_open_period
    taken = Register(period, time_ms or 0, reading.import_wh + meter.import_offset_wh, reading.export_wh + meter.export_offset_wh)
    before = Register(0, 0, meter.settled_import_wh, meter.settled_export_wh)
    if settled:
        before = Register(0, 0, meter.base_import_wh, meter.base_export_wh)
    after = Register(0, 0, meter.import_wh + meter.import_offset_wh, meter.export_wh + meter.export_offset_wh)
    for register in meter.registers if time_ms is not None else ():
        if register.time_ms < taken.time_ms:
            before = register
        else:
            after = register
            break
    if not (before.import_wh <= taken.import_wh <= after.import_wh and before.export_wh <= taken.export_wh <= after.export_wh):
        return Verdict(CONTRADICTS_NEIGHBOURS, "import_wh, export_wh: do not fit between the readings before and after this late one")
    meter = _counted(meter, reading.sequence)
    registers = meter.registers
    if not settled and all(register.period != period or register.time_ms < taken.time_ms for register in registers):
        others = [register for register in registers if register.period != period]
        registers = tuple(sorted([*others, taken], key=_period_of))
    meter = msgspec.structs.replace(meter, registers=registers, accepted=meter.accepted + 1)
    return Judged(meter, ReadingAccepted(name, reading.sequence, period, reading.import_wh, reading.export_wh))


def _late_ms(meter: Meter, reading: SubmitReading) -> int | None:
    """Return when a late reading was taken, not after the newest one; None if its clock is none and it is of another boot."""
    if reading.clock != "unsynced":
        return min(reading.time_ms, meter.time_ms)
    if meter.boot_id != reading.boot_id or meter.boot_id == "" or reading.uptime_ms > meter.uptime_ms:
        return None
    return max(0, meter.time_ms - (meter.uptime_ms - reading.uptime_ms))


def _period_of(register: Register) -> int:
    return register.period


def has_reported(meter: Meter, boundary_ms: int) -> bool:
    """Tell whether settlement need not wait for this meter: it was read at or after the boundary, or is in quarantine."""
    return meter.time_ms >= boundary_ms or meter.quarantine != ""


def close_period(meter: Meter, period: int, boundary_ms: int, is_first: bool) -> Closed:
    """Take the energy of a period out of a meter's registers.

    Args:
        boundary_ms: end of the period.
        is_first: no period was settled before; what was metered until its start is nobody's business.
    """
    start_import, start_export = meter.settled_import_wh, meter.settled_export_wh
    end_import, end_export = start_import, start_export
    read_in_period = False
    for register in meter.registers:
        if register.period > period:
            break
        end_import, end_export = register.import_wh, register.export_wh
        if is_first and register.period < period:
            start_import, start_export = end_import, end_export
        read_in_period = read_in_period or register.period == period
    after = msgspec.structs.replace(
        meter,
        settled_import_wh=end_import,
        settled_export_wh=end_export,
        base_import_wh=start_import if is_first else meter.base_import_wh,
        base_export_wh=start_export if is_first else meter.base_export_wh,
        registers=tuple(register for register in meter.registers if register.period > period),
    )
    missing = not read_in_period or meter.time_ms < boundary_ms
    return Closed(after, end_import - start_import, end_export - start_export, missing)
