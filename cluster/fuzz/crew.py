"""Runs the shifts: so many processes at once, each target in turn, everything bounded and put together in the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cluster.fuzz import atheris_engine
from cluster.fuzz.crashes import Crash, write_crash
from cluster.fuzz.journal import read_journal
from cluster.fuzz.law import Failure
from cluster.fuzz.report import FuzzResult, merged
from cluster.fuzz.shift import MUTATE, Found, Progress, Shift
from cluster.options import RunError
from cluster.processes import child_environment
from consensus.errors import InputError

AUTO, ATHERIS = "auto", atheris_engine.NAME
ENGINES = (AUTO, ATHERIS, MUTATE)
SILENT_S = 300.0
"""A process that says nothing for so long hangs in a way that its own clock cannot end. (Its own clock counts processor time, this
one does not: on a machine that is very busy it may say nothing for a minute.)"""
MAX_LINE_BYTES = 64 * 1024 * 1024
LEAST_S = 0.5
MAX_PROCESSES = 4
"""A target that has killed so many processes of one job is left alone."""
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 (only as the parent of a fresh folder)
MEMORY_BYTES = 1 << 30
Show = Callable[[str, float, str], None]
"""Takes the target at work, the share of the whole that is done, and a note."""


@dataclass(frozen=True, slots=True)
class FuzzSettings:
    """What to do.

    Attributes:
        targets: names.
        seconds: for all targets together; inputs: for each target, by name. One of them is None.
        seed: all chance comes from it.
        engine: one of :data:`ENGINES`.
        jobs: processes at once.
        corpus: folder that is read and added to; None: none.
        crashes: folder for crash files.
    """

    targets: tuple[str, ...]
    seconds: float | None
    inputs: Mapping[str, int] | None
    seed: int
    engine: str
    jobs: int
    corpus: Path | None
    crashes: Path


def chosen_engine(wanted: str) -> tuple[str, str]:
    """Return which engine to use, and how to say so.

    Raises:
        InputError: atheris is wanted and not there.
    """
    if wanted == MUTATE:
        return MUTATE, MUTATE
    if atheris_engine.is_installed():
        return ATHERIS, ATHERIS
    if wanted == ATHERIS:
        raise InputError("--engine", "atheris is not installed (pip install atheris); --engine mutate needs nothing")
    return MUTATE, f"{MUTATE} (atheris is not installed)"


def work_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a fresh folder, in memory where there is room for it: many targets write a lot and keep nothing."""
    has_room = os.access(MEMORY_FOLDER, os.W_OK) and shutil.disk_usage(MEMORY_FOLDER).free > MEMORY_BYTES
    parent = MEMORY_FOLDER if has_room else None
    return tempfile.TemporaryDirectory(prefix="gridpact-fuzz-", dir=parent, ignore_cleanup_errors=True)


async def run_fuzz(settings: FuzzSettings, show: Show) -> FuzzResult:
    """Fuzz.

    Raises:
        InputError: the wanted engine is not there.
        RunError: a process ended before it had tried anything.
    """
    engine, told = chosen_engine(settings.engine)
    began_s = time.monotonic()
    with work_folder() as work:
        crew = _Crew(settings, engine, Path(work), show)
        try:
            async with asyncio.TaskGroup() as tasks:
                for job in range(settings.jobs):
                    tasks.create_task(crew.work(job))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return merged(told, settings.seed, settings.jobs, time.monotonic() - began_s, crew.done)


@dataclass(slots=True)
class _Crew:
    """All processes of one run.

    Attributes:
        done: last words of every shift, by target.
        now: the latest words of those that run, by job.
    """

    settings: FuzzSettings
    engine: str
    folder: Path
    show: Show
    done: dict[str, list[Progress]] = field(default_factory=dict)
    now: dict[int, Progress] = field(default_factory=dict)

    async def work(self, job: int) -> None:
        """Let one process after the other work on the targets."""
        settings = self.settings
        for number, target in enumerate(settings.targets):
            seconds = None if settings.seconds is None else settings.seconds / len(settings.targets)
            inputs = None
            if settings.inputs is not None:
                wanted = settings.inputs[target]
                inputs = wanted // settings.jobs + (job < wanted % settings.jobs)
            await self._finish(job, number, target, seconds, inputs)

    async def _finish(self, job: int, number: int, target: str, seconds: float | None, inputs: int | None) -> None:
        """Work on one target until the budget is used up, with further processes when one dies."""
        attempt = 0
        while attempt < MAX_PROCESSES and (seconds is None or seconds >= LEAST_S) and (inputs is None or inputs > 0):
            folder = self.folder / f"{job}-{number}-{attempt}"
            folder.mkdir()
            shift = Shift(
                target=target,
                engine=self.engine,
                seed=f"{self.settings.seed} {target} {job} {attempt}",
                seconds=seconds,
                inputs=inputs,
                work=str(folder),
                corpus="" if self.settings.corpus is None else str(self.settings.corpus),
                crashes=str(self.settings.crashes),
            )
            last = await self._run(job, number, shift)
            self.done.setdefault(target, []).append(last)
            if last.done:
                return
            attempt += 1
            seconds = None if seconds is None else seconds - last.running_s - 1.0
            inputs = None if inputs is None else inputs - max(last.inputs, inputs // 10 + 1)

    async def _run(self, job: int, number: int, shift: Shift) -> Progress:
        """Run one process; return its last words, or what can be said about its death."""
        words = Path(shift.work) / "words"
        with words.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cluster.fuzz.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=MAX_LINE_BYTES,
                env=child_environment(),
            )
        last: Progress | None = None
        try:
            if process.stdin is not None:
                process.stdin.write(msgspec.json.encode(shift))
                process.stdin.close()
            while (line := await self._line(process)) is not None:
                last = msgspec.json.decode(line, type=Progress)
                self._show(job, number, shift, last)
            if last is not None and last.done:
                return last
            return _death(shift, last, await _end(process), words)
        finally:
            self.now.pop(job, None)
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _line(self, process: asyncio.subprocess.Process) -> bytes | None:
        """Return the next line of a process; None when it has ended, or says nothing any more."""
        if process.stdout is None:
            return None
        try:
            async with asyncio.timeout(SILENT_S):
                return await process.stdout.readline() or None
        except TimeoutError:
            return None

    def _show(self, job: int, number: int, shift: Shift, last: Progress) -> None:
        self.now[job] = last
        running = self.now.values()
        share = 1.0
        if shift.inputs:
            share = last.inputs / shift.inputs
        elif shift.seconds:
            share = last.running_s / shift.seconds
        speed = sum(one.inputs / max(one.running_s, 0.1) for one in running)
        ended = [one for done in self.done.values() for one in done]
        crashes = {(found.target, found.mark) for one in (*ended, *running) for found in one.crashes}
        note = f"{speed:,.0f} inputs/s, {len(crashes)} crashes"
        self.show(last.target, (number + min(share, 1.0)) / len(self.settings.targets), note)


async def _end(process: asyncio.subprocess.Process) -> int | None:
    """Return how a process ended, None if it did not end by itself."""
    try:
        async with asyncio.timeout(1.0):
            return await process.wait()
    except TimeoutError:
        return None


def _death(shift: Shift, last: Progress | None, status: int | None, words: Path) -> Progress:
    """Return what is left of a shift whose process died or hung: its last input was written down.

    Raises:
        RunError: it had not begun.
    """
    inputs = tuple(read_journal(Path(shift.work) / "journal"))
    lines = words.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if not inputs:
        raise RunError(f"{shift.target}: the process ended before it had tried anything: {lines[-1] if lines else 'it said nothing'}")
    if status is None:
        failure = Failure("hang", f"hang: no sign of life for {SILENT_S:g} s", "")
    else:
        cause = signal.Signals(-status).name if status < 0 else f"status {status}"
        failure = Failure("death", f"death: the process ended with {cause}" + (f", last words: {lines[-1][:200]}" if lines else ""), "")
    path = write_crash(Path(shift.crashes), Crash(shift.target, failure, inputs))
    before = last or Progress(shift.target, len(inputs), 0.0, ())
    found = Found(shift.target, failure.text, failure.place, str(path), failure.mark)
    return msgspec.structs.replace(before, crashes=(*before.crashes, found))
