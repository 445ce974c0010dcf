"""Memory of processes over time: is it flat?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec


class NodeMemory(msgspec.Struct, frozen=True):
    """Resident memory of one node, MB: after the first tenth of the time, at half of it, at its end; and the slope of the second half."""

    early_mb: float
    half_mb: float
    end_mb: float
    slope_mb_per_h: float


@dataclass(slots=True)
class Samples:
    """Memory of all nodes over time under load.

    Attributes:
        at_s: seconds of load before each sample. mb: one number per node.
    """

    at_s: list[float] = field(default_factory=list)
    mb: list[tuple[float, ...]] = field(default_factory=list)

    def note(self, at_s: float, mb: tuple[float, ...]) -> None:
        """Note one sample."""
        self.at_s.append(at_s)
        self.mb.append(mb)

    def of_node(self, index: int) -> NodeMemory:
        """Return what one node's memory did."""
        values, last_s = [sample[index] for sample in self.mb], self.at_s[-1]
        late = [(at_s, value) for at_s, value in zip(self.at_s, values, strict=True) if at_s >= last_s / 2]
        return NodeMemory(
            round(values[len(values) // 10], 1),
            round(late[0][1], 1),
            round(values[-1], 1),
            round(slope(late) * 3_600, 2),
        )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the straight line that fits best (least squares); 0 for fewer than two different places."""
    middle_x = sum(x for x, _ in points) / max(1, len(points))
    middle_y = sum(y for _, y in points) / max(1, len(points))
    width = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / width if width else 0.0
