"""``python -m cluster.fuzz.worker``: one shift in a process of its own.

The shift comes as JSON on standard input, progress goes as JSON lines to standard output. Whatever else is printed here goes to
standard error; what is logged goes nowhere (a target that wants to know keeps it).
"""

from __future__ import annotations

import os
import resource
import sys

import msgspec

from cluster.fuzz.shift import MUTATE, Progress, Shift, run_shift
from cluster.parent import end_with_parent

MAX_MEMORY_BYTES = 3 << 30
"""An input that wants more gets a ``MemoryError``, which is a failure."""


def main() -> None:
    """Work."""
    end_with_parent()
    shift = msgspec.json.decode(sys.stdin.buffer.read(), type=Shift)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, resource.RLIM_INFINITY))

    def tell(progress: Progress) -> None:
        out.write(msgspec.json.encode(progress) + b"\n")
        out.flush()

    if shift.engine == MUTATE:
        from cluster.fuzz.targets import TARGETS  # noqa: PLC0415

        run_shift(shift, TARGETS[shift.target], tell)
        return
    from cluster.fuzz.atheris_engine import instrumented  # noqa: PLC0415

    with instrumented():
        from cluster.fuzz.targets import TABLE, TARGETS  # noqa: PLC0415

        __import__(TABLE[shift.target].where.partition(":")[0])
    run_shift(shift, TARGETS[shift.target], tell)


if __name__ == "__main__":
    main()
