"""One shift: one target, one engine, one budget, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec

from cluster.fuzz import atheris_engine
from cluster.fuzz.crashes import SMALLER_S, Crash, write_crash
from cluster.fuzz.engine import Engine
from cluster.fuzz.law import Failure
from cluster.fuzz.memory import Growth
from cluster.fuzz.novelty import Novelty
from cluster.fuzz.target import MakeTarget
from cluster.fuzz.trial import LIMIT_S, Trial

TELL_S = 0.25
MUTATE = "mutate"
MAX_CORPUS_FILES = 5_000
GROWTH_INPUTS = 2_000


class Shift(msgspec.Struct, frozen=True):
    """What one process has to do.

    Fields:
        target, engine: by name.
        seed: text that all chance comes from.
        seconds, inputs: the budget; one of them is None.
        work: empty folder for the files of this shift; the journal is in it.
        corpus: folder with inputs to begin with, where new ones are kept; empty: none.
        crashes: folder for crash files.
        limit_s: processor time that one input may take; smaller_s: time to look for fewer and shorter inputs with the same failure.
    """

    target: str
    engine: str
    seed: str
    seconds: float | None
    inputs: int | None
    work: str
    corpus: str
    crashes: str
    limit_s: float = LIMIT_S
    smaller_s: float = SMALLER_S


class Found(msgspec.Struct, frozen=True):
    """A crash and the file that reproduces it."""

    target: str
    error: str
    place: str
    file: str
    mark: str


class Progress(msgspec.Struct, frozen=True):
    """How far a shift is, and at its end what came of it.

    Fields:
        outcomes, corpus: only at the end: how often each outcome came, and the digests of the inputs that were kept.
        cpu_s: processor time of the process.
        rss_start_mb, rss_warm_mb, rss_end_mb: resident memory before the first input, after a quarter of the run, and at its end.
        rss_growth_mb, rss_slope_mb_per_min: over the last half of the run.
        done: whether this is the end.
    """

    target: str
    inputs: int
    running_s: float
    crashes: tuple[Found, ...]
    cpu_s: float = 0.0
    rss_start_mb: float = 0.0
    rss_warm_mb: float = 0.0
    rss_end_mb: float = 0.0
    rss_growth_mb: float = 0.0
    rss_slope_mb_per_min: float = 0.0
    outcomes: dict[str, int] = {}
    corpus: tuple[str, ...] = ()
    done: bool = False


def run_shift(shift: Shift, make: MakeTarget, tell: Callable[[Progress], None]) -> None:
    """Work through a shift; the last thing told is its result."""
    _Worker(shift, make, tell).run()


class _Worker:
    """The shift while it runs."""

    def __init__(self, shift: Shift, make: MakeTarget, tell: Callable[[Progress], None]) -> None:
        self._shift = shift
        self._tell = tell
        self._found: list[Found] = []
        self._growth = Growth()
        self._failures = 0
        work = Path(shift.work)
        self._trial = Trial(shift.target, make, work, self._keep, shift.limit_s, shift.smaller_s)
        self._corpus_folder = Path(shift.corpus) / shift.target if shift.corpus else None
        random, corpus = Random(shift.seed), _read_corpus(self._corpus_folder)  # noqa: S311  no secret
        self._engine: Engine | atheris_engine.AtherisEngine
        if shift.engine == MUTATE:
            self._engine = Engine(self._trial, random, corpus)
        else:
            self._engine = atheris_engine.AtherisEngine(self._trial, random, random.getrandbits(31), work, corpus)
        self._begun_s = self._told_s = time.monotonic()
        self._begun_cpu_s = time.process_time()

    def run(self) -> None:
        """Run the engine to the end of the budget."""
        shift = self._shift
        if isinstance(self._engine, Engine):
            self._engine.run(shift.inputs, shift.seconds, self._notice)
            self._end()
        else:
            self._engine.run(shift.inputs, shift.seconds, self._notice, self._end)

    @property
    def _novelty(self) -> Novelty:
        return self._engine.novelty

    def _notice(self) -> None:
        now_s = time.monotonic()
        if self._trial.failures != self._failures:
            self._failures, self._growth = self._trial.failures, Growth()  # a new target, and what a failure holds: begin anew
        self._growth.sample()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            self._tell(self._progress())

    def _progress(self) -> Progress:
        return Progress(self._shift.target, self._trial.inputs, time.monotonic() - self._begun_s, tuple(self._found))

    def _end(self) -> None:
        """Judge the growth, close the target, keep the corpus, tell the result."""
        ran_s, cpu_s = time.monotonic() - self._begun_s, time.process_time() - self._begun_cpu_s
        growth = self._growth
        growth.sample()
        if growth.is_growing:
            failure = Failure("growth", f"the process grew by {growth.last_half_mb:.0f} MB in the last half of {ran_s:.0f} s", "")
            self._keep(Crash(self._shift.target, failure, tuple(self._trial.journal.inputs()[-GROWTH_INPUTS:])))
        self._trial.close()
        corpus = self._engine.corpus
        digests = tuple(_write_corpus(self._corpus_folder, data) for data in corpus)
        self._novelty.close()
        self._tell(
            Progress(
                self._shift.target,
                self._trial.inputs,
                ran_s,
                tuple(self._found),
                cpu_s=cpu_s,
                rss_start_mb=growth.start_mb,
                rss_warm_mb=growth.warm_mb,
                rss_end_mb=growth.end_mb,
                rss_growth_mb=growth.last_half_mb,
                rss_slope_mb_per_min=growth.slope_mb_per_min,
                outcomes=self._novelty.outcomes,
                corpus=digests,
                done=True,
            )
        )

    def _keep(self, crash: Crash) -> None:
        """Write a crash file at once: whatever happens later, it is there."""
        failure = crash.failure
        path = write_crash(Path(self._shift.crashes), crash)
        self._found.append(Found(crash.target, failure.text, failure.place, str(path), failure.mark))


def run_here(target: str, targets: Mapping[str, MakeTarget], **more: object) -> Progress:
    """Work through one shift of the built-in engine in this process, and return its result.

    Args:
        targets: the table.
        more: fields of :class:`Shift`.
    """
    told: list[Progress] = []
    fields: dict[str, object] = {"target": target, "engine": MUTATE, "seconds": None, "inputs": None, "corpus": "", **more}
    run_shift(msgspec.convert(fields, Shift), targets[target], told.append)
    return told[-1]


def _read_corpus(folder: Path | None) -> list[bytes]:
    if folder is None or not folder.is_dir():
        return []
    return [path.read_bytes() for path in sorted(folder.iterdir())[:MAX_CORPUS_FILES] if path.is_file()]


def _write_corpus(folder: Path | None, data: bytes) -> str:
    """Keep an input, if there is a folder; return its digest."""
    name = sha256(data).hexdigest()[:16]
    if folder is not None and not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return name
