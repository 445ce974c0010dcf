"""Feeds inputs to one target, makes it anew when that is due, and keeps what fails."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.fuzz.crashes import SMALLER_S, Crash, smaller
from cluster.fuzz.journal import Journal
from cluster.fuzz.law import Failure, Watch, outcome_class
from cluster.fuzz.target import MakeTarget, Target

CHECK_EVERY = 256
MAX_CRASHES = 50
LIMIT_S = 4.0


class Trial:
    """One target and what it was fed.

    Args:
        name: of the target.
        make: makes it.
        folder: for its files; each new target gets an empty folder in it.
        found: told of every new crash.
        limit_s: processor time that one input may take.
        smaller_s: time to look for fewer and shorter inputs with the same failure.

    Attributes:
        target: the present one.
        inputs: fed so far.
        failures: inputs that failed.
        marks: the different failures.
    """

    def __init__(
        self,
        name: str,
        make: MakeTarget,
        folder: Path,
        found: Callable[[Crash], None],
        limit_s: float = LIMIT_S,
        smaller_s: float = SMALLER_S,
    ) -> None:
        self.name = name
        self.inputs = 0
        self.failures = 0
        self.marks: set[str] = set()
        self._make = make
        self._folder = folder
        self._found = found
        self._smaller_s = smaller_s
        self._watch = Watch(limit_s)
        self._numbers = itertools.count()
        self._age = 0
        self.journal = Journal(folder / "journal")
        self.target = self._new_target()

    def feed(self, data: bytes) -> str | None:
        """Try one input; return what it led to, in short; None if it failed."""
        if not self.target.stateful:
            self.journal.clear()
        elif self._age >= self.target.renew_after:
            self.renew()
        if not self.journal.add(data):
            self.renew()
            self.journal.add(data)
        target = self.target
        self.inputs += 1
        self._age += 1
        outcome = ""
        with self._watch as watch:
            outcome = target.run(data)
            if self.inputs % CHECK_EVERY == 0:
                target.check()
        if watch.failure is None:
            return outcome_class(outcome)
        self._failed(watch.failure)
        return None

    def renew(self) -> None:
        """Make the target anew."""
        with self._watch as watch:
            self.target.close()
        if watch.failure is not None:
            self._failed(watch.failure, closed=True)
            return
        self.target = self._new_target()
        self._age = 0
        self.journal.clear()

    def close(self) -> None:
        """Check the target a last time, and close it."""
        with self._watch as watch:
            self.target.check()
            self.target.close()
        if watch.failure is not None:
            self._failed(watch.failure, closed=True)
            self.target.close()
        self.journal.close()

    def _new_target(self) -> Target:
        folder = self._folder / f"target-{next(self._numbers)}"
        folder.mkdir()
        target = self._make(folder)
        for old in self._folder.glob("target-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        return target

    def _failed(self, failure: Failure, *, closed: bool = False) -> None:
        """Note a failure; go on with a new target."""
        self.failures += 1
        inputs = tuple(self.journal.inputs())
        stateful = self.target.stateful
        if stateful and not closed:
            with self._watch:
                self.target.close()
        if failure.mark not in self.marks and len(self.marks) < MAX_CRASHES:
            self.marks.add(failure.mark)
            fewer = smaller(inputs, lambda tried: self._fails_alike(tried, failure), self._smaller_s)
            self._found(Crash(self.name, failure, fewer))
        if stateful or closed:
            self.target = self._new_target()
        self._age = 0
        self.journal.clear()

    def _fails_alike(self, inputs: Sequence[bytes], failure: Failure) -> bool:
        again = self.replay(inputs) if self.target.stateful else self._outcome(self.target, inputs)
        return again is not None and again.mark == failure.mark

    def replay(self, inputs: Sequence[bytes]) -> Failure | None:
        """Feed inputs to a new target; return how the first one fails, if one does."""
        target = self._new_target()
        try:
            return self._outcome(target, inputs)
        finally:
            with self._watch:
                target.close()

    def _outcome(self, target: Target, inputs: Sequence[bytes]) -> Failure | None:
        for data in inputs:
            with self._watch as watch:
                target.run(data)
            if watch.failure is not None:
                return watch.failure
        with self._watch as watch:
            target.check()
        return watch.failure
