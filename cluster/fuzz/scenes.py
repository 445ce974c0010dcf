"""Where one replica may stand when messages come: at the beginning, in the middle, behind, after a restart.

Each scene begins with what is on the replica's disk and what it has heard in the rehearsal; then only the fuzzer speaks to it.
"""

from __future__ import annotations

from typing import NamedTuple

from cluster.fuzz.chain import SNAPSHOT_HEIGHT, make_replica, replica_config
from cluster.fuzz.rehearsal import IN_VIEW_0, MISSED, PREPARED, START_MS, Rehearsal
from consensus.recovery import Recovered
from consensus.replica import Replica


class Scene(NamedTuple):
    """A replica at work.

    Attributes:
        replica: that has taken the first events.
        height: of its last block.
        now_ms: its clock.
    """

    replica: Replica
    height: int
    now_ms: int


HEARD_UP_TO = (5, 0, 1, MISSED.stop, IN_VIEW_0, IN_VIEW_0 + PREPARED + 1, IN_VIEW_0 + PREPARED + 2)
"""Scenes in which the replica took part up to a height; the first is where every target begins. From height 0 it is so far behind that
it takes the snapshot."""
SAME_LOG, OTHER_LOG = b"", bytes(range(1, 17))
RESTARTS = ((0, SAME_LOG), (3, SAME_LOG), (4, OTHER_LOG))
"""Scenes after a restart: so many of the last certificates are gone, and which vote log it has; with another one than the epoch names it
only follows."""
SCENES = len(HEARD_UP_TO) + len(RESTARTS)
BEHIND_THE_PRUNED = (2, SCENES - 2)
"""Scenes in which nobody has the blocks any more that the replica lacks: only a snapshot will do."""


def open_scene(play: Rehearsal, number: int, me: int) -> Scene:
    """Return one of the scenes; every number names one."""
    number %= SCENES
    if number < len(HEARD_UP_TO):
        return _heard(play, HEARD_UP_TO[number], me)
    return _restarted(play, *RESTARTS[number - len(HEARD_UP_TO)], me)


def _heard(play: Rehearsal, height: int, me: int) -> Scene:
    replica = make_replica(play.genesis, me)
    now_ms = START_MS
    for event, at_ms in play.hosts[me].heard[: play.marks[height][me] if height else 1]:
        now_ms = at_ms
        if event is None:
            replica.start(now_ms)
        else:
            replica.step(event, now_ms)
    return Scene(replica, height, now_ms)


def _restarted(play: Rehearsal, lost: int, log: bytes, me: int) -> Scene:
    """Return the replica that starts again from its disk after :data:`SNAPSHOT_HEIGHT` blocks."""
    chain, host, height = play.chain, play.hosts[me], SNAPSHOT_HEIGHT
    certified = height - lost
    above = [header for header in chain.headers if certified < header.height <= height]
    found = Recovered(
        epochs=chain.epochs(height),
        log=log,
        executed=height,
        certificate=host.certificates[certified],
        headers={header.height: header.hash for header in above},
        batches={header.height: header.batch_digest for header in above},
        records=tuple(one for one in host.records if one.sequence <= height) if log == SAME_LOG else (),
    )
    replica = Replica(replica_config(play.genesis, me), found)
    replica.start(START_MS)
    return Scene(replica, height, START_MS)
