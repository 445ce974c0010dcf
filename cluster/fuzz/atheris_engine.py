"""The other engine: atheris, which is libFuzzer for Python, guided by the branches that an input takes.

It calls us for every input and never returns, so the end of the run comes from inside such a call. It also asks our targets to change
inputs. Whatever is to guide it must be imported in the context of :func:`instrumented`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, cast

from cluster.fuzz.mutation import Mutator
from cluster.fuzz.novelty import Novelty
from cluster.fuzz.trial import Trial

NAME = "atheris"
MAX_BYTES = 64 * 1024
OWN_CHANGES = 0.8
"""Share of changes that the target makes; the others libFuzzer makes."""
NOTICE_EVERY = 64
NEVER_S = 1_000_000
"""libFuzzer's own bound on an input; ours is shorter, and counts processor time."""


def is_installed() -> bool:
    """Tell whether atheris can be imported here."""
    return find_spec(NAME) is not None


def instrumented() -> AbstractContextManager[None]:
    """Return a context in which imports of the tested packages are instrumented."""
    atheris: Any = import_module(NAME)
    return cast(
        "AbstractContextManager[None]", atheris.instrument_imports(include=["consensus", "contracts", "node"], enable_loader_override=False)
    )


class AtherisEngine:
    """Feeds a trial.

    Args:
        trial: what to feed.
        random: where the chance of our own changes comes from.
        seed: of libFuzzer's.
        folder: for the corpus.
        corpus: inputs to begin with, beside the target's seeds.
    """

    def __init__(self, trial: Trial, random: Random, seed: int, folder: Path, corpus: Sequence[bytes] = ()) -> None:
        self.novelty = Novelty()
        self._atheris: Any = import_module(NAME)
        self._trial = trial
        self._random = random
        self._seed = seed
        self._folder = folder / "corpus"
        self._folder.mkdir()
        self._first = list(dict.fromkeys((*trial.target.seeds(), *corpus)))
        for data in self._first:
            (self._folder / sha256(data).hexdigest()[:16]).write_bytes(data[:MAX_BYTES])
        self._mutator = Mutator(random, lambda: random.choice(self._first))

    @property
    def corpus(self) -> list[bytes]:
        """Inputs that reached something new."""
        return [path.read_bytes() for path in sorted(self._folder.iterdir())]

    def run(self, inputs: int | None, seconds: float | None, notice: Callable[[], None], end: Callable[[], None]) -> None:
        """Feed until so many inputs were fed or so much time is over; then call ``end`` and end the process.

        Args:
            notice: called now and then.
        """
        end_s = None if seconds is None else time.monotonic() + seconds

        def feed(data: bytes) -> None:
            trial = self._trial
            outcome = trial.feed(bytes(data))
            if outcome is not None:
                self.novelty.is_new(outcome)
            if trial.inputs % NOTICE_EVERY == 0:
                notice()
            if (inputs is not None and trial.inputs >= inputs) or (end_s is not None and time.monotonic() >= end_s):
                end()
                sys.stdout.flush()
                os._exit(0)

        def change(data: bytes, max_size: int, _seed: int) -> bytes:
            if self._random.random() < OWN_CHANGES:
                return self._trial.target.change(bytes(data), self._mutator)[:max_size]
            return bytes(self._atheris.Mutate(data, max_size))

        limits = [f"-max_len={MAX_BYTES}", f"-timeout={NEVER_S}", "-rss_limit_mb=0", "-len_control=0", f"-seed={self._seed or 1}"]
        handlers = [f"-handle_{name}=0" for name in ("segv", "bus", "abrt", "ill", "fpe", "int", "term", "xfsz", "usr1", "usr2")]
        quiet = ["-print_final_stats=0", "-verbosity=0", f"-artifact_prefix={self._folder.parent}/"]
        arguments = [sys.argv[0], *limits, *handlers, *quiet, str(self._folder)]
        self._atheris.Setup(arguments, feed, custom_mutator=change, enable_python_coverage=True)
        self._atheris.Fuzz()
