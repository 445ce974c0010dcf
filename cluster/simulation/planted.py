"""What a planted bug is."""

from __future__ import annotations

from typing import NamedTuple

ROUGH = ("loss", "partition", "one-way", "crash", "delay", "slow-disk")
"""Faults that cause view changes and restarts."""
TREASON = (*ROUGH, "byzantine")


class Edit(NamedTuple):
    """One snippet of a module, and what stands in its place."""

    module: str
    old: str
    new: str


class Bug(NamedTuple):
    """One planted bug.

    Attributes:
        name: for ``--plant``.
        trap: what went wrong in real systems.
        edits: what is changed.
        nodes, faults: of the runs that look for it.
        seeds: within how many it must be caught.
        habits: of the one Byzantine node that there is then; empty: the seed says who does what.
        calm_ms: bound of the calm.
    """

    name: str
    trap: str
    edits: tuple[Edit, ...]
    nodes: int
    faults: tuple[str, ...]
    seeds: int
    habits: tuple[str, ...] = ()
    calm_ms: int = 40_000
