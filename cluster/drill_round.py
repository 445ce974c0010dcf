"""One round of a drill: a fault happens, ends, and everything is as it was."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec

from cluster.fault_broker import Broker
from cluster.fault_disks import DamagedBlocks, DamagedVotes, DiskFull
from cluster.fault_links import OneWay, Partition
from cluster.fault_nodes import Certificate, Clock, Kill, Pause, Wipe
from cluster.faults import Fault, FaultName, Scene, Target, choose_victims
from cluster.stage import Stage

MAKERS: dict[FaultName, Callable[[], Fault]] = {
    "kill": Kill,
    "pause": Pause,
    "partition": Partition,
    "one-way": OneWay,
    "wipe": Wipe,
    "corrupt": DamagedBlocks,
    "corrupt-votes": DamagedVotes,
    "disk-full": DiskFull,
    "clock": Clock,
    "certificate": Certificate,
    "broker": Broker,
}


class Round(msgspec.Struct, frozen=True):
    """What happened in one round; ``view_changes`` counts those from before the fault until the node had caught up.

    Fields:
        node: who was hit (with commas between, if more than one); "broker" for the broker.
        recovery_s: from the fault until a transaction that was first sent after it was final; for the broker from its return until
            readings that were taken without it are confirmed.
        catch_up_s: from the end of the fault until all nodes are level.
        left_out: nodes that have all blocks in the end, but wait for another view than the others follow: they do not vote with them.
        note: what else there is to say.
    """

    fault: str
    target: str
    node: str
    recovery_s: float
    catch_up_s: float
    view_changes: int
    left_out: tuple[str, ...] = ()
    note: str = ""


def set_scene(stage: Stage, fault: FaultName, target: Target, primary: int, draw: random.Random) -> Scene:
    """Return the scene of a round, with its victims drawn."""
    return Scene(stage, target, choose_victims(fault, target, primary, len(stage.lab.names), draw), draw)


async def play_round(scene: Scene, name: FaultName, view: int) -> Round:
    """Let one fault happen and end, under load.

    Args:
        view: that the cluster was in before.

    Raises:
        RunError: the cluster does not recover, does not go on while the fault lasts, or the node does not catch up, in time.
    """
    stage, fault = scene.stage, MAKERS[name]()
    struck_s = await fault.strike(scene)
    final_s = await stage.wait_final(struck_s, "after it happened")
    await fault.hold(scene)
    await stage.wait_final(time.monotonic(), "while it lasted")
    ended_s = time.monotonic()
    await fault.end(scene)
    await stage.wait_level()
    level_s = time.monotonic()
    _, view_after = await stage.primary()
    aim, node = hit(scene, name)
    return Round(
        fault=name,
        target=aim,
        node=node,
        recovery_s=round(final_s - struck_s if scene.recovery_s is None else scene.recovery_s, 3),
        catch_up_s=round(level_s - ended_s, 3),
        view_changes=view_after - view,
        note=", ".join(scene.notes),
    )


def hit(scene: Scene, fault: FaultName) -> tuple[str, str]:
    """Return what a round was aimed at, and its name."""
    if fault == "broker":
        return "broker", "broker"
    return scene.target, ",".join(scene.lab.names[index] for index in scene.victims)
