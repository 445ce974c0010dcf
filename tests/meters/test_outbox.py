"""The outbox: what it has taken survives a kill, is never overwritten, and goes only when it is settled."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.calls import SubmitReading
from meters.outbox import CAPACITY_READINGS, NONCE_SPAN, Outbox, OutboxError, OutboxFullError
from meters.reading import MeterIdentity, SignedReading, sign_again, sign_reading, unsigned_reading
from meters.schedule import MAX_CATCH_UP, due_times_ms
from tests.meters.brokers import ROOT
from tests.meters.chain import START_MS, make_genesis, meter_key

OWNER = "test/main/M1"
IDENTITY = MeterIdentity.of(make_genesis(["M1"]), "M1", meter_key("M1"))


def signed(sequence: int, nonce: int | None = None) -> SignedReading:
    reading = SubmitReading(sequence, START_MS + sequence * 1000, sequence, 0, "ntp", "boot", 0)
    return sign_reading(IDENTITY, reading, sequence if nonce is None else nonce, START_MS)


def test_keeps_order_and_counts(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o", OWNER)
    assert (outbox.next_sequence, outbox.next_nonce, outbox.last_time_ms) == (1, 1, None)
    readings = [signed(number) for number in range(1, 6)]
    outbox.append(readings[:3])
    outbox.append([])
    outbox.append(readings[3:])
    assert outbox.unproven() == readings
    assert outbox.unproven(after=2, limit=2) == readings[2:4]
    assert outbox.last_time_ms == START_MS + 5000
    outbox.settle([2, 4], [5])
    outbox.settle([2, 4, 99], [5])
    assert outbox.totals == (5, 2, 1)
    assert outbox.totals.pending == 2
    outbox.close()
    outbox = Outbox(tmp_path / "o", OWNER)
    assert (outbox.totals, outbox.next_sequence, outbox.unproven()) == ((5, 2, 1), 6, [readings[0], readings[2]])
    outbox.close()


def test_signed_again_counts_under_both_ids(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o", OWNER)
    old = signed(1)
    outbox.append([old])
    new = sign_again(IDENTITY, old, outbox.next_nonce, START_MS + 50_000)
    outbox.replace([new])
    assert outbox.unproven() == [new]
    assert new.id != old.id
    assert (outbox.sent(old.id), outbox.sent(new.id), outbox.sent(bytes(32))) == ((1, 1, 2), (1, 2, 2), None)
    assert (outbox.next_sequence, outbox.next_nonce) == (2, 3)
    with pytest.raises(OutboxError, match="nonce"):
        outbox.replace([sign_again(IDENTITY, old, 9, START_MS)])
    newest = sign_again(IDENTITY, new, new.nonce, START_MS + 90_000)
    outbox.replace([newest])
    assert (outbox.sent(newest.id), outbox.next_nonce) == ((1, 2, 3), 3)
    outbox.settle([1])
    assert outbox.sent(old.id) is None
    outbox.close()


def test_new_nonces_stay_near_the_proven_ones(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o", OWNER)
    assert outbox.free_nonces == NONCE_SPAN
    outbox.append([signed(1), unsigned_reading(SubmitReading(2, START_MS, 2, 0, "ntp", "boot", 0))])
    assert (outbox.next_sequence, outbox.next_nonce, outbox.free_nonces) == (3, 2, NONCE_SPAN - 1)
    assert outbox.unproven()[1].raw == b""
    outbox.replace([sign_again(IDENTITY, outbox.unproven()[1], 2, START_MS)])
    outbox.settle([1], [], 1)
    outbox.close()
    outbox = Outbox(tmp_path / "o", OWNER)
    assert (outbox.next_nonce, outbox.free_nonces) == (3, NONCE_SPAN - 1)
    outbox.close()


def test_full_refuses_and_overwrites_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o", OWNER, capacity=3)
    outbox.append([signed(1), signed(2)])
    with pytest.raises(OutboxFullError, match="full with 2 readings"):
        outbox.append([signed(3), signed(4)])
    assert (outbox.totals.taken, outbox.room) == (2, 1)
    outbox.append([signed(3)])
    with pytest.raises(OutboxFullError):
        outbox.append([signed(4)])
    assert outbox.unproven() == [signed(1), signed(2), signed(3)]
    outbox.settle([1])
    outbox.append([signed(4)])
    assert outbox.room == 0
    outbox.close()
    assert CAPACITY_READINGS == 518_400


def test_numbers_must_follow_on(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o", OWNER)
    for wrong in ([signed(2)], [signed(1), signed(3)], [signed(1), signed(1)], [signed(1, nonce=7)]):
        with pytest.raises(OutboxError, match="does not follow on"):
            outbox.append(wrong)
    assert outbox.totals.taken == 0
    outbox.close()


def test_one_process_one_owner_one_format(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o", OWNER)
    outbox.append([signed(1)])
    with pytest.raises(OutboxError, match="locked"):
        Outbox(tmp_path / "o", OWNER)
    outbox.close()
    with pytest.raises(OutboxError, match="belongs to test/main/M1, not to test/main/M2"):
        Outbox(tmp_path / "o", "test/main/M2")
    (tmp_path / "junk").write_bytes(b"not a database at all " * 100)
    with pytest.raises(OutboxError, match="not a database"):
        Outbox(tmp_path / "junk", OWNER)
    with pytest.raises(OutboxError, match="unable to open"):
        Outbox(tmp_path / "absent" / "o", OWNER)
    with sqlite3.connect(tmp_path / "o") as database:
        database.execute("PRAGMA user_version=9")
    database.close()
    with pytest.raises(OutboxError, match="format 9"):
        Outbox(tmp_path / "o", OWNER)


def test_synced_write_ahead_log(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o", OWNER)
    assert outbox._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert outbox._database.execute("PRAGMA synchronous").fetchone() == (2,)
    outbox.close()


WRITER = """
import sys
from pathlib import Path
from meters.outbox import Outbox
from tests.meters.test_outbox import OWNER, signed

outbox = Outbox(Path(sys.argv[1]), OWNER)
while True:
    first = outbox.next_sequence
    outbox.append([signed(first), signed(first + 1)])
    if first > 8:
        outbox.settle([first - 8])
    print(first + 1, outbox.totals.proven, flush=True)
"""


def test_survives_sigkill(tmp_path: Path) -> None:
    """Killed in full swing, three times: nothing that was reported as stored is missing, and the numbers go on without a gap."""
    path = tmp_path / "outbox.sqlite"
    told = proven = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(20):
            told, proven = (int(word) for word in process.stdout.readline().split())
        process.kill()
        rest = process.stdout.read().splitlines()
        complete = [line for line in rest if len(line.split()) == 2]
        if complete:
            told, proven = (int(word) for word in complete[-1].split())
        process.stdout.close()
        process.wait()
        outbox = Outbox(path, OWNER)
        totals = outbox.totals
        assert totals.taken >= told
        assert totals.taken <= told + 2
        assert proven <= totals.proven <= proven + 1
        waiting = outbox.unproven(limit=10_000)
        assert len(waiting) == totals.pending
        assert waiting[-1].sequence == totals.taken
        assert all(reading == signed(reading.sequence) for reading in waiting[-5:])
        outbox.close()
    assert told >= 120


HOUR = 3_600_000


def test_schedule_takes_every_boundary() -> None:
    assert due_times_ms(None, START_MS, START_MS - 1, HOUR, knows_past=True) == []
    assert due_times_ms(None, START_MS, START_MS, HOUR, knows_past=True) == [START_MS]
    assert due_times_ms(None, START_MS, START_MS + 2 * HOUR + 5, HOUR, knows_past=True) == [START_MS, START_MS + HOUR, START_MS + 2 * HOUR]
    assert due_times_ms(START_MS, START_MS, START_MS + HOUR - 1, HOUR, knows_past=True) == []
    assert due_times_ms(START_MS, START_MS, START_MS + HOUR + 3, HOUR, knows_past=False) == [START_MS + HOUR]
    assert due_times_ms(START_MS, START_MS, START_MS + 5 * HOUR + 60_000, HOUR, knows_past=False) == [START_MS + 5 * HOUR + 60_000]
    assert due_times_ms(START_MS + 7, START_MS, START_MS + HOUR, HOUR, knows_past=False) == [START_MS + HOUR]
    assert len(due_times_ms(0, 0, 10_000 * HOUR, HOUR, knows_past=True)) == MAX_CATCH_UP


@given(
    st.none() | st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12), st.sampled_from([1000, 60_000, HOUR]), st.booleans()
)
def test_schedule_never_repeats_and_never_looks_ahead(last: int | None, first: int, now: int, interval: int, knows_past: bool) -> None:
    due = due_times_ms(last, first, now, interval, knows_past=knows_past)
    assert due == sorted(set(due))
    assert all(time_ms <= now and (last is None or time_ms > last) for time_ms in due)
    if knows_past:
        assert all(time_ms % interval == 0 for time_ms in due)
