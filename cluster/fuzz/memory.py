"""Whether a process grows while nothing that it must keep does."""

from __future__ import annotations

import os
import time
from pathlib import Path

SAMPLE_S = 0.25
BOUND_MB = 10.0
WARM_SHARE = 0.25
LEAST_S = 20.0
"""A shorter run is not judged: caches fill, libraries warm up."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")


def resident_mb() -> float:
    """Return the resident memory of this process."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES / 2**20


class Growth:
    """Samples of the resident memory over a run."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []

    def sample(self) -> None:
        """Take a sample, unless the last one is fresh."""
        now_s = time.monotonic()
        if not self._samples or now_s - self._samples[-1][0] >= SAMPLE_S:
            self.add(now_s, resident_mb())

    def add(self, at_s: float, size_mb: float) -> None:
        """Add one sample."""
        self._samples.append((at_s, size_mb))

    @property
    def last_half_mb(self) -> float:
        """Growth over the last half of the run."""
        return self._since(0.5)

    @property
    def start_mb(self) -> float:
        """Size at the first sample: the target stands, nothing was fed."""
        return self._samples[0][1] if self._samples else 0.0

    @property
    def warm_mb(self) -> float:
        """Size after the first quarter of the run: caches are filled, libraries warmed up."""
        return self._samples[-1][1] - self._since(WARM_SHARE) if self._samples else 0.0

    @property
    def end_mb(self) -> float:
        """Size at the last sample."""
        return self._samples[-1][1] if self._samples else 0.0

    @property
    def slope_mb_per_min(self) -> float:
        """Growth of the last half for each minute."""
        if len(self._samples) < 2:
            return 0.0
        return self._since(0.5) / max(1e-9, (self._samples[-1][0] - self._samples[0][0]) / 2) * 60

    @property
    def is_growing(self) -> bool:
        """Whether the last half grew by more than the bound, and its second part still by a fair share of that."""
        if len(self._samples) < 8 or self._samples[-1][0] - self._samples[0][0] < LEAST_S:
            return False
        return self._since(0.5) > BOUND_MB and self._since(0.75) > BOUND_MB / 4

    def _since(self, share: float) -> float:
        if not self._samples:
            return 0.0
        first_s, last_s = self._samples[0][0], self._samples[-1][0]
        start_s = first_s + share * (last_s - first_s)
        before = next(size for at_s, size in self._samples if at_s >= start_s)
        return self._samples[-1][1] - before
