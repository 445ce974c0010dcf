"""Child processes: started, watched, restarted, ended, and ended with their launcher."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.processes import (
    EXIT_KEEP_DISK,
    Supervisor,
    child_environment,
    is_running,
    process_id,
    read_pid_file,
    terminate,
    write_pid_file,
)
from consensus.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0
SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
)


def until(condition, deadline_s=DEADLINE_S):
    """Wait until ``condition()`` is true, and return its value."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return value


@pytest.fixture
def supervisor(tmp_path):
    for name in ("logs", "run"):
        (tmp_path / name).mkdir()
    supervisor = Supervisor(tmp_path / "logs", tmp_path / "run")
    yield supervisor
    supervisor.stop(grace_s=0.0)


def test_a_child_runs_in_a_session_of_its_own_with_log_and_pid_file(supervisor):
    child = supervisor.start("sleeper", SLEEPER)
    until(lambda: supervisor.last_words("sleeper") == "up")
    assert os.getsid(child.process.pid) == child.process.pid
    assert read_pid_file(supervisor.run / "sleeper.pid") == process_id(child.process.pid)
    assert supervisor.stop() == []
    assert not (supervisor.run / "sleeper.pid").exists()
    assert child.process.returncode == -signal.SIGTERM


def test_a_name_is_used_once(supervisor):
    supervisor.start("sleeper", SLEEPER)
    with pytest.raises(InputError, match="runs already"):
        supervisor.start("sleeper", SLEEPER)


def test_a_child_that_ignores_the_request_to_end_is_killed(supervisor):
    child = supervisor.start("stubborn", STUBBORN)
    until(lambda: supervisor.last_words("stubborn") == "up")
    assert supervisor.stop(grace_s=0.2) == ["stubborn"]
    assert child.process.returncode == -signal.SIGKILL


def test_a_paused_child_ends_too(supervisor):
    child = supervisor.start("sleeper", SLEEPER)
    until(lambda: supervisor.last_words("sleeper") == "up")
    process = process_id(child.process.pid)
    os.kill(child.process.pid, signal.SIGSTOP)
    terminate([process], 10.0)
    child.process.wait(10)
    assert child.process.returncode == -signal.SIGTERM


def test_a_crashed_child_is_started_again_with_growing_pauses(supervisor):
    now = [0.0]
    supervisor.clock = lambda: now[0]
    child = supervisor.start("crasher", (sys.executable, "-c", "print('boom'); raise SystemExit(5)"))
    pauses = []
    for _ in range(3):
        child.process.wait(10)
        (line,) = supervisor.check()
        assert line.startswith("crasher ended with status 5, starts again in")
        assert line.endswith("boom")
        assert supervisor.check() == []
        pauses.append(child.due_at - now[0])
        now[0] = child.due_at
        assert supervisor.check() == ["crasher started again"]
    assert pauses == [0.5, 1.0, 2.0]
    assert child.restarts == 3


def test_pauses_are_short_again_after_a_steady_run(supervisor):
    now = [0.0]
    supervisor.clock = lambda: now[0]
    child = supervisor.start("crasher", (sys.executable, "-c", "raise SystemExit(5)"))
    child.process.wait(10)
    supervisor.check()
    now[0] = child.due_at
    supervisor.check()
    child.process.wait(10)
    now[0] += 3600.0
    supervisor.check()
    assert child.due_at - now[0] == 0.5


def test_a_child_that_refuses_its_input_is_not_started_again(supervisor):
    child = supervisor.start("refuser", (sys.executable, "-c", "print('file: is bad'); raise SystemExit(2)"))
    child.process.wait(10)
    assert supervisor.check() == ["refuser refused to run: file: is bad"]
    assert child.gave_up
    assert supervisor.check() == []


def test_a_node_whose_store_is_damaged_is_not_started_again(supervisor):
    child = supervisor.start("node", (sys.executable, "-c", f"print('move it away'); raise SystemExit({EXIT_KEEP_DISK})"))
    child.process.wait(10)
    assert supervisor.check() == ["node stays down: move it away"]
    assert child.store_damaged
    assert supervisor.check() == []


def test_the_end_of_a_child_is_told_by_signal_with_words_of_this_start_only(supervisor):
    routine = "2026-01-01 00:00:00,000 INFO gridpact it works"
    (supervisor.logs / "sleeper.log").write_text("words of an earlier start\n")
    code = f"import time; print({routine!r}, flush=True); time.sleep(600)"
    child = supervisor.start("sleeper", (sys.executable, "-c", code))
    until(lambda: routine in (supervisor.logs / "sleeper.log").read_text())
    child.process.kill()
    child.process.wait(10)
    assert supervisor.check() == ["sleeper was killed (signal 9), starts again in 0.5 s"]


def test_a_recycled_process_id_is_not_taken_for_the_process(tmp_path):
    path = tmp_path / "one.pid"
    write_pid_file(path, os.getpid())
    mine = read_pid_file(path)
    assert mine is not None
    assert is_running(mine)
    path.write_text(f'{{"pid":{os.getpid()},"started":{mine.started - 1}}}')
    assert read_pid_file(path) is None
    assert not is_running(type(mine)(mine.pid, mine.started - 1))


@pytest.mark.parametrize("text", ["", "123", "{}", '{"pid":"x","started":1}', '{"pid":999999999,"started":1}', "\x00" * 99])
def test_a_damaged_pid_file_names_no_process(text, tmp_path):
    path = tmp_path / "one.pid"
    path.write_text(text)
    assert read_pid_file(path) is None
    assert read_pid_file(tmp_path / "absent.pid") is None


def test_a_zombie_has_ended():
    child = subprocess.Popen([sys.executable, "-c", ""])
    until(lambda: process_id(child.pid) is None)
    child.wait()


def test_children_end_when_their_launcher_is_killed(tmp_path):
    for name in ("logs", "run"):
        (tmp_path / name).mkdir()
    code = (
        "import sys, time; from pathlib import Path; from cluster.processes import Supervisor, command_line;"
        f"s = Supervisor(Path({str(tmp_path / 'logs')!r}), Path({str(tmp_path / 'run')!r}));"
        f"child = [sys.executable, '-c', {CHILD!r}];"
        "[s.start(f'child-{n}', child) for n in range(3)]; print('started', flush=True); time.sleep(600)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert launcher.stdout.readline() == b"started\n"
        children = [until(lambda n=n: read_pid_file(tmp_path / "run" / f"child-{n}.pid")) for n in range(3)]
        until(lambda: all((tmp_path / "logs" / f"child-{n}.log").read_bytes() == b"watching\n" for n in range(3)))
        launcher.kill()
        launcher.wait()
        until(lambda: not any(is_running(child) for child in children))
    finally:
        launcher.kill()
        launcher.stdout.close()


CHILD = "from cluster.parent import end_with_parent; end_with_parent(); print('watching', flush=True); import time; time.sleep(600)"


def test_a_child_whose_launcher_died_before_it_looked_ends_at_once():
    environment = {**child_environment(), "GRIDPACT_PARENT": "1"}
    child = subprocess.Popen([sys.executable, "-c", CHILD], env=environment, stdout=subprocess.DEVNULL)
    assert child.wait(DEADLINE_S) == -signal.SIGTERM


def test_without_a_launcher_nothing_is_watched():
    environment = {name: value for name, value in child_environment().items() if name != "GRIDPACT_PARENT"}
    code = "from cluster.parent import end_with_parent; end_with_parent(); import threading; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
