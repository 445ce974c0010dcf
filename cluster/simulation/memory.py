"""Bounds of what a replica keeps in memory."""

from __future__ import annotations

from cluster.simulation.settings import Violation
from cluster.simulation.world import WINDOW
from consensus.replica import Replica

MOST_SLOTS = 3 * WINDOW
MOST_GAP = 8 * WINDOW
MOST_FETCHED = 256


def check_memory(name: str, replica: Replica, nodes: int) -> None:
    """Check that no table of a replica grows beyond what the water marks allow.

    Raises:
        Violation: one does.
    """
    state = replica._state
    most = MOST_SLOTS + min(max(0, state.view_start - state.certified), MOST_GAP)
    sizes = {
        "slots": (len(state.slots), most),
        "bodies": (len(state.bodies), 4 * most),
        "checkpoints": (len(state.checkpoints), most),
        "held": (len(state.held), most),
        "missing": (len(state.missing), most),
        "view_changes": (len(state.view_changes), nodes),
        "fetched": (len(state.fetched), MOST_FETCHED),
        "own_headers": (len(state.own_headers), most),
        "peers": (len(state.peers), nodes + 2),
        "later": (sum(len(slot.later) for slot in state.slots.values()), 2 * nodes * most),
    }
    for table, (size, bound) in sizes.items():
        if size > bound:
            raise Violation("memory", f"{name} keeps {size} {table}, at most {bound} are of use")
