"""What a run says beside its figures: no meter reaches the broker, the replay begins its data again."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cluster.display import chain_time
from cluster.snapshot import MeterCounts
from cluster.topology import Topology

_BROKER_LINE = re.compile(r": broker \S+: (?:\[(?:Errno |code:)-?\d+\] )?(.+)$")
"""A line of the meters' log about a connection that failed; see meters/link.py."""


def broker_trouble(url: str, counts: MeterCounts, fleet_log: Iterable[str]) -> str:
    """Return that no meter reaches the broker, and why; "" if one does.

    Args:
        url: of the broker.
        fleet_log: what the meters' process wrote.
    """
    if counts.connected:
        return ""
    reasons = [found[1] for line in fleet_log if (found := _BROKER_LINE.search(line))]
    return f"meters cannot reach {url}: {reasons[-1] if reasons else 'see gridpact logs fleet'}"


def laps(first_ms: int, end_ms: int, time_ms: int) -> int:
    """Return how often a replay of data from ``first_ms`` to ``end_ms`` has begun them again at ``time_ms`` (0 if it is not known)."""
    return max(0, (time_ms - first_ms) // (end_ms - first_ms)) if end_ms > first_ms else 0


def replay_laps(topology: Topology, chain_ms: int) -> int:
    """Return how often the replay of a cluster has begun its data again."""
    return laps(topology.data_start_ms, topology.data_end_ms, chain_ms - topology.offset_ms)


def lap_note(first_ms: int, end_ms: int) -> str:
    """Return what to say when the replay begins the data again."""
    first, last = (chain_time(time_ms, "%Y-%m-%d %H:%M") for time_ms in (first_ms, end_ms))
    return f"the data end at {last}: the replay goes through them again, from {first} on; chain time goes on"
