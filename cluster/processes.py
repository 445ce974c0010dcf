"""Child processes of a local cluster: started apart, logged to files, watched, restarted, stopped by id.

Each child has its own session, a log file and a pid file. A pid file holds the start time of the process beside its id (both from the
kernel), so that an id that was given to somebody else since is never signalled. Children watch their parent
(:mod:`cluster.parent`): when the launcher dies, even by kill -9, they end too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cluster.parent import PARENT_VARIABLE
from consensus.errors import GridPactError, InputError

GRACE_S = 15.0
KILL_GRACE_S = 5.0
POLL_S = 0.05
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
STEADY_S = 60.0
EXIT_BAD_INPUT = 2
EXIT_KEEP_DISK = 3
LOG_LIMIT_BYTES = 64 * 1024 * 1024
LAST_WORDS_BYTES = 4096
_ROUTINE = re.compile(r'^\S+ \S+ (INFO|DEBUG) |"level": ?"(info|debug)"')
"""Log lines, of :func:`cluster.running.log_to_stderr` and of nodes, that say nothing about an end."""
_START_TIME_FIELD = 19
"""Position of the start time in /proc/PID/stat, counted from the field after the command's name."""


class ProcessId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A process that can be told from a later one with the same id: ``started`` is in clock ticks since the machine's start."""

    pid: int
    started: int


def process_id(pid: int) -> ProcessId | None:
    """Return the identity of a running process, or None if it has ended (a zombie has)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        return None
    return ProcessId(pid, int(fields[_START_TIME_FIELD]))


def is_running(process: ProcessId) -> bool:
    """Tell whether this very process still runs."""
    return process_id(process.pid) == process


def read_pid_file(path: Path) -> ProcessId | None:
    """Return the process that a pid file names if it still runs; None if it has ended, or the file is absent or unreadable."""
    try:
        process = msgspec.json.decode(path.read_bytes(), type=ProcessId)
    except (OSError, msgspec.MsgspecError):
        return None
    return process if is_running(process) else None


def write_pid_file(path: Path, pid: int) -> None:
    """Write the pid file of a running process, whole or not at all. A process that has already ended gets none.

    Raises:
        GridPactError: it cannot be written.
    """
    process = process_id(pid)
    if process is None:
        return
    partial = path.with_suffix(".new")
    try:
        partial.write_bytes(msgspec.json.encode(process))
        partial.replace(path)
    except OSError as error:
        raise GridPactError(f"{path.absolute()}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def terminate(processes: Sequence[ProcessId], grace_s: float = GRACE_S) -> list[ProcessId]:
    """End processes: SIGTERM to all, SIGKILL to those that still run after ``grace_s``. Return those that had to be killed."""
    _signal_all(processes, signal.SIGTERM)
    left = _wait_all(processes, grace_s)
    _signal_all(left, signal.SIGKILL)
    _wait_all(left, KILL_GRACE_S)
    return left


def _signal_all(processes: Sequence[ProcessId], number: signal.Signals) -> None:
    for process in processes:
        if is_running(process):
            try:
                os.kill(process.pid, number)
                os.kill(process.pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def _wait_all(processes: Sequence[ProcessId], timeout_s: float) -> list[ProcessId]:
    """Wait until the processes have ended; return those that have not."""
    deadline = time.monotonic() + timeout_s
    left = [process for process in processes if is_running(process)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [process for process in left if is_running(process)]
    return left


def command_line(*arguments: str) -> tuple[str, ...]:
    """Return how to run ``gridpact ARGUMENTS`` with this very interpreter."""
    return (sys.executable, "-m", "cluster", *arguments)


def child_environment() -> dict[str, str]:
    """Return the environment of a child: it finds this code wherever it is started, and knows whom to watch."""
    root = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": root if not inherited else f"{root}{os.pathsep}{inherited}",
        "PYTHONUNBUFFERED": "1",
        PARENT_VARIABLE: str(os.getpid()),
    }


@dataclass(slots=True)
class Child:
    """One supervised process.

    Attributes:
        name: what it is called; log and pid file carry the name.
        command: program and arguments.
        process: the running or last instance.
        restarts: how often it was started again after it ended by itself.
        exit_status: of the last instance that ended (negative: by that signal).
        gave_up: it refused its input (exit status 2) or its store is damaged (3); starting it again would end the same way.
        log_start: how long the log was when the last instance started.
    """

    name: str
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    started_at: float
    restarts: int = 0
    exit_status: int | None = None
    gave_up: bool = False
    backoff_s: float = FIRST_BACKOFF_S
    due_at: float | None = None
    log_start: int = 0

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @property
    def store_damaged(self) -> bool:
        """Whether it gave up because its store is damaged."""
        return self.gave_up and self.exit_status == EXIT_KEEP_DISK


@dataclass(slots=True)
class Supervisor:
    """Starts children, keeps them running, ends them.

    Attributes:
        logs: folder of the log files, ``<name>.log``; output is appended.
        run: folder of the pid files, ``<name>.pid``.
        environment: what to add to the environment of every child.
        clock: monotonic seconds.
    """

    logs: Path
    run: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    children: dict[str, Child] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a child.

        Raises:
            InputError: one of this name runs already.
        """
        if name in self.children and self.children[name].running:
            raise InputError(f"process {name}", "runs already")
        log_start = self._log_size(name)
        child = Child(name, tuple(command), self._spawn(name, command), self.clock(), log_start=log_start)
        self.children[name] = child
        return child

    def check(self) -> list[str]:
        """Look after the children: note those that ended, start those that are due again. Return what happened, one line each."""
        lines = []
        now = self.clock()
        for child in self.children.values():
            if child.gave_up or child.running:
                continue
            if child.due_at is None:
                lines.append(self._note_end(child, now))
            elif now >= child.due_at:
                child.log_start = self._log_size(child.name)
                child.process, child.started_at, child.due_at = self._spawn(child.name, child.command), now, None
                child.restarts += 1
                lines.append(f"{child.name} started again")
        return lines

    def stop(self, names: Sequence[str] | None = None, grace_s: float = GRACE_S) -> list[str]:
        """End children (all, if ``names`` is None) at once; return the names of those that had to be killed."""
        chosen = [self.children.pop(name) for name in (list(self.children) if names is None else names) if name in self.children]
        for child in chosen:
            if child.running:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        killed = []
        for child in chosen:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
                killed.append(child.name)
            (self.run / f"{child.name}.pid").unlink(missing_ok=True)
        return killed

    def last_lines(self, name: str) -> list[str]:
        """Return the last lines that a child wrote since it was started."""
        child = self.children.get(name)
        try:
            with (self.logs / f"{name}.log").open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                start = child.log_start if child is not None and child.log_start <= end else 0
                log.seek(max(start, end - LAST_WORDS_BYTES))
                return [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            return []

    def last_words(self, name: str) -> str:
        """Return the last line that a child wrote since it was started and that is no routine (INFO) line, "" if none."""
        telling = [line for line in self.last_lines(name) if not _ROUTINE.search(line)]
        return telling[-1].removeprefix("gridpact: ") if telling else ""

    def _note_end(self, child: Child, now: float) -> str:
        status = child.exit_status = child.process.returncode
        said = self.last_words(child.name)
        if status in (EXIT_BAD_INPUT, EXIT_KEEP_DISK):
            child.gave_up = True
            refused = "refused to run" if status == EXIT_BAD_INPUT else "stays down"
            return f"{child.name} {refused}: {said}"
        if now - child.started_at >= STEADY_S:
            child.backoff_s = FIRST_BACKOFF_S
        child.due_at = now + child.backoff_s
        ended = f"was killed (signal {-status})" if status < 0 else f"ended with status {status}"
        line = f"{child.name} {ended}, starts again in {child.backoff_s:g} s" + (f": {said}" if said else "")
        child.backoff_s = min(child.backoff_s * 2, MAX_BACKOFF_S)
        return line

    def _log_size(self, name: str) -> int:
        """Return where the log of the next instance begins."""
        path = self.logs / f"{name}.log"
        size = path.stat().st_size if path.exists() else 0
        return 0 if size > LOG_LIMIT_BYTES else size

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        path = self.logs / f"{name}.log"
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.old"))
        with path.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**child_environment(), **self.environment},
            )
        write_pid_file(self.run / f"{name}.pid", process.pid)
        return process
