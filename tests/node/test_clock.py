"""Real and replayed time."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import InputError
from node.clock import Clock, RealClock, ReplayClock, ReplayTime, read_replay_time, wall_ms, write_replay_time


def test_real_clock() -> None:
    clock: Clock = RealClock()
    before = time.time_ns() // 1_000_000
    now_ms = clock.now_ms()
    assert before <= now_ms <= time.time_ns() // 1_000_000
    first = clock.monotonic_ms()
    assert clock.monotonic_ms() >= first


def test_held_clock_stands_still_until_the_file_releases_it(tmp_path: Path) -> None:
    path = tmp_path / "clock.json"
    write_replay_time(path, ReplayTime(1_000_000, wall_ms() - 5_000, 60.0, held=True))
    clock = ReplayClock(path)
    assert [clock.now_ms(), clock.now_ms()] == [1_000_000, 1_000_000]
    write_replay_time(path, ReplayTime(1_000_500, 0, 60.0, held=True))
    assert clock.now_ms() == 1_000_500
    path.write_text("{")
    assert clock.now_ms() == 1_000_500
    started_ms = wall_ms() - 1_000
    write_replay_time(path, ReplayTime(2_000_000, started_ms, 60.0, held=False))
    low = 2_000_000 + 60 * (wall_ms() - started_ms)
    now_ms = clock.now_ms()
    assert low <= now_ms <= 2_000_000 + 60 * (wall_ms() - started_ms)
    path.unlink()
    assert clock.now_ms() >= now_ms


def test_two_clocks_on_one_file_agree(tmp_path: Path) -> None:
    path = tmp_path / "clock.json"
    write_replay_time(path, ReplayTime(0, wall_ms(), 1000.0, held=False))
    first, second = ReplayClock(path), ReplayClock(path)
    low, between, high = first.now_ms(), second.now_ms(), first.now_ms()
    assert low <= between <= high


def test_replay_never_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "clock.json"
    write_replay_time(path, ReplayTime(9_000, 0, 1.0, held=True))
    clock = ReplayClock(path)
    assert clock.now_ms() == 9_000
    write_replay_time(path, ReplayTime(5_000, wall_ms() + 60_000, 1.0, held=False))
    assert clock.now_ms() == 9_000


def test_a_running_clock_is_set_by_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "clock.json"
    start_ms = wall_ms()
    write_replay_time(path, ReplayTime(start_ms, start_ms, 1.0, held=False))
    clock = ReplayClock(path)
    assert abs(clock.now_ms() - wall_ms()) < 20_000
    for offset_ms in (3_600_000, -3_600_000, 0):
        write_replay_time(path, ReplayTime(start_ms + offset_ms, start_ms, 1.0, held=False))
        until_s = time.monotonic() + 10
        while abs(clock.now_ms() - wall_ms() - offset_ms) > 20_000:
            assert time.monotonic() < until_s
            time.sleep(0.01)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"chain_ms": 1, "wall_ms": 2, "speed": 0, "held": true}',
        '{"chain_ms": 1, "wall_ms": 2, "held": true}',
        '{"chain_ms": -1, "wall_ms": 2, "speed": 1, "held": true}',
        '{"chain_ms": 1, "wall_ms": 2, "speed": 1, "held": true, "x": 1}',
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clock.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"clock\.json"):
        ReplayClock(path)
    with pytest.raises(InputError, match="No such file"):
        ReplayClock(tmp_path / "absent")


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**53), st.integers(0, 2**53), st.floats(0.001, 1e6), st.booleans())
def test_file_round_trip(tmp_path_factory: pytest.TempPathFactory, chain_ms: int, start_ms: int, speed: float, held: bool) -> None:
    path = tmp_path_factory.mktemp("clock") / "clock.json"
    replay = ReplayTime(chain_ms, start_ms, speed, held)
    write_replay_time(path, replay)
    assert read_replay_time(path) == replay
