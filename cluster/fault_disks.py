"""Faults of a node's disk: bytes that are not what was written, and no room for more."""

from __future__ import annotations

import asyncio
import resource
import time
from abc import abstractmethod
from pathlib import Path

from cluster.damage import flip_bytes, lengthen_record, newest_log
from cluster.faults import Fault, Scene
from cluster.options import RunError
from cluster.processes import EXIT_KEEP_DISK
from node.config import read_config

EXIT_FAILED = 1
LOG_ROOM = 256 * 1024
STOPPED_AT = 40
"""A node takes in nothing more if the others have so many blocks more."""


class Damage(Fault):
    """Signal 9, bytes changed in one of the node's databases, and a start.

    The node either comes up, since the bytes did not matter or will be found later, or it ends with exit status 3 and says why. Then its
    operator deletes its data, as the README says, and starts it again. One that came up is treated in the same way at the end of its
    round, so that what it has not noticed yet belongs to no later round.
    """

    def __init__(self) -> None:
        self._must_refuse = False

    async def strike(self, scene: Scene) -> float:
        """Kill the node and damage its files."""
        struck_s = time.monotonic()
        await asyncio.to_thread(scene.lab.kill, scene.victim)
        what, self._must_refuse = await asyncio.to_thread(self.damage, scene)
        scene.note(what)
        return struck_s

    @abstractmethod
    def folder(self, scene: Scene) -> Path:
        """Return the folder of the database."""

    def damage(self, scene: Scene) -> tuple[str, bool]:
        """Change some bytes anywhere, or a single bit where LevelDB does not notice.

        In the newest log every byte matters; an older one may be left over, and a table may not be read for long.

        Returns:
            what it is, and whether the node must notice it when it starts.
        """
        folder = self.folder(scene)
        newest = newest_log(folder)
        if scene.random.random() < 0.5 and newest is not None and lengthen_record(newest, scene.random):
            return f"one bit in {folder.name}/{newest.name}", True
        chosen = flip_bytes(folder, scene.random)
        return "damaged " + ", ".join(f"{folder.name}/{path.name}" for path in chosen), newest in chosen

    async def end(self, scene: Scene) -> None:
        """Start it, see what it says, delete its data, start it again."""
        scene.lab.start(scene.victim)
        status = await scene.stage.wait_level(may_end=scene.victim)
        if status is None:
            if self._must_refuse:
                raise RunError(f"{scene.name} came up, although what it lost matters ({', '.join(scene.notes)})")
            scene.note("came up")
            await asyncio.to_thread(scene.lab.kill, scene.victim)
        else:
            words = _one_line(scene, status)
            if status != EXIT_KEEP_DISK or "damaged" not in words:
                raise RunError(f"{scene.name} ended with status {status} instead of {EXIT_KEEP_DISK} after its disk was damaged: {words}")
            scene.note("refused to start")
        await scene.stage.wipe(scene.victim)
        scene.lab.start(scene.victim)


class DamagedBlocks(Damage):
    """Bytes changed in the block store: what was acknowledged, executed or certified must not be gone without a word."""

    def folder(self, scene: Scene) -> Path:
        """Return where the blocks are."""
        return read_config(scene.lab.node_folder(scene.victim)).blocks_folder(scene.lab.genesis.channel)


class DamagedVotes(Damage):
    """Bytes changed in the vote log: a node that has lost a part of it must not vote as if it had never signed anything."""

    def folder(self, scene: Scene) -> Path:
        """Return where the votes are."""
        return read_config(scene.lab.node_folder(scene.victim)).votes_folder(scene.lab.genesis.channel)


class DiskFull(Fault):
    """No file of the node's databases can grow any more.

    The node must refuse what it cannot keep, and may end with status 1 and one clear line. When there is room again it must go on, with
    all that it has promised. (A limit of the process stands for the disk's. Files that are shorter still grow, so that the log can tell.)
    """

    async def strike(self, scene: Scene) -> float:
        """Take the room away, and wait until the node has noticed: it ends, or takes in nothing more."""
        limit = _limit(scene)
        resource.prlimit(scene.lab.pid(scene.victim), resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        async def stopped() -> bool:
            if scene.lab.exit_status(scene.victim) is not None:
                return True
            heads = await scene.stage.heads()
            own, top = heads[scene.victim], max((head.certified for head in heads if head is not None), default=0)
            return own is not None and own.certified + STOPPED_AT < top

        await scene.stage.wait(stopped, f"{scene.name}, whose files cannot grow, did not stop")
        struck_s, status = time.monotonic(), scene.lab.exit_status(scene.victim)
        if status is None:
            scene.note("takes in nothing")
        else:
            words = _one_line(scene, status)
            if status != EXIT_FAILED:
                raise RunError(f"{scene.name} ended with status {status} instead of {EXIT_FAILED} when its disk was full: {words}")
            scene.note(f"ended: {words.rpartition(': ')[2]}")
        return struck_s

    async def end(self, scene: Scene) -> None:
        """Give it room, and start it again if it has ended."""
        if scene.lab.exit_status(scene.victim) is not None:
            scene.lab.start(scene.victim)
        else:
            resource.prlimit(scene.lab.pid(scene.victim), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _limit(scene: Scene) -> int:
    """Return a size that the log file of no database of the node may pass, above the size of the log file that people read."""
    config, channel = read_config(scene.lab.node_folder(scene.victim)), scene.lab.genesis.channel
    folders = (config.blocks_folder(channel), config.votes_folder(channel))
    sizes = [path.stat().st_size for folder in folders for path in folder.glob("*.log")]
    log = scene.lab.folder / "logs" / f"{scene.name}.log"
    return max(min(sizes), log.stat().st_size + LOG_ROOM)


def _one_line(scene: Scene, status: int) -> str:
    """Return the one line in which a node said why it ended.

    Raises:
        RunError: it said none, or it left a traceback.
    """
    lines = scene.lab.last_lines(scene.victim)
    if not lines or not lines[-1].startswith("gridpact: ") or any(line.startswith("Traceback") for line in lines):
        raise RunError(f"{scene.name} ended with status {status} and no clear line: {lines[-1] if lines else 'it said nothing'}")
    return lines[-1]
