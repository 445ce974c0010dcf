"""The built-in engine: changes inputs that once did something new, and keeps those that do so again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from cluster.fuzz.mutation import MAX_INPUT_BYTES, Mutator
from cluster.fuzz.novelty import Novelty
from cluster.fuzz.trial import Trial

MAX_CORPUS = 4_000
MAX_CORPUS_BYTES = 64 * 1024
"""A longer input is tried, but not kept."""
AS_IT_IS = 0.05
"""Share of inputs that are fed again as they are: on a target with a state they may do something else."""
NOTICE_EVERY = 64


class Engine:
    """Feeds a trial.

    Args:
        trial: what to feed.
        random: where all chance comes from; the same gives the same inputs (on the same code).
        corpus: inputs to begin with, beside the target's seeds.

    Attributes:
        corpus: inputs that did something new.
        novelty: what was seen.
    """

    def __init__(self, trial: Trial, random: Random, corpus: Sequence[bytes] = ()) -> None:
        self.novelty = Novelty()
        self._trial = trial
        self._random = random
        self._seeds = list(trial.target.seeds())
        self._waiting = deque(data[:MAX_INPUT_BYTES] for data in dict.fromkeys((*self._seeds, *corpus)))
        self._good: list[bytes] = []
        self._other: list[bytes] = []
        self._mutator = Mutator(random, self._parent)

    @property
    def corpus(self) -> list[bytes]:
        """Inputs worth keeping: those that it began with, and those that did something new."""
        return list(dict.fromkeys((*self._seeds, *self._good, *self._other)))

    def run(self, inputs: int | None, seconds: float | None, notice: Callable[[], None]) -> None:
        """Feed what there is and changed inputs in turn, then changed ones alone, until so many were fed or so much time is over.

        Args:
            notice: called now and then.
        """
        trial, end_s = self._trial, None if seconds is None else time.monotonic() + seconds
        while inputs is None or trial.inputs < inputs:
            if trial.inputs % NOTICE_EVERY == 0:
                notice()
                if end_s is not None and time.monotonic() >= end_s:
                    return
            self._feed(self._waiting.popleft() if self._waiting and trial.inputs % 2 == 0 else self._next())

    def _feed(self, data: bytes) -> None:
        outcome = self._trial.feed(data)
        if outcome is None or not self.novelty.is_new(outcome):
            return
        kept = self._good if outcome.startswith("accepted") else self._other
        if len(data) <= MAX_CORPUS_BYTES and len(self._good) + len(self._other) < MAX_CORPUS:
            kept.append(data)

    def _next(self) -> bytes:
        if self._random.random() < AS_IT_IS:
            return self._parent()
        return self._trial.target.change(self._parent(), self._mutator)

    def _parent(self) -> bytes:
        """Return an input to start from: mostly a seed or one that was accepted, rather a late one."""
        way = self._random.random()
        kept = self._seeds if way < 0.5 else self._good if way < 0.85 else self._other
        kept = kept or self._seeds
        return kept[-1 - int(self._random.random() ** 1.5 * len(kept))] if kept else b""
