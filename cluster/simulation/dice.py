"""The one source of chance in a simulation: everything random comes from a seed and the name of what it is for."""

from __future__ import annotations

import random

Dice = random.Random
"""A source of chance; the same seed gives the same numbers on every machine (Mersenne Twister)."""


def dice(seed: int, purpose: str) -> Dice:
    """Return the dice of one purpose: what one part of a run draws never shifts what another one gets."""
    return random.Random(f"{purpose}/{seed}")  # noqa: S311  # reproducible chance, no secrets
