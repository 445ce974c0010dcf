"""The clock file of a local cluster: held while nothing runs, released when all nodes are healthy."""

from __future__ import annotations

from pathlib import Path

from cluster.options import cannot_write
from cluster.topology import Topology
from node.block_store import ChannelStore
from node.clock import ReplayClock, ReplayTime, read_replay_time, wall_ms, write_replay_time
from node.config import read_config
from node.key_value import StoreDamagedError


def release_clock(topology: Topology) -> ReplayClock:
    """Let chain time run on from where it is held; return the clock.

    Raises:
        InputError: the clock file does not fit.
        RunError: it cannot be written.
    """
    held = read_replay_time(topology.clock_file)
    _write(topology, ReplayTime(held.chain_ms, wall_ms(), topology.speed, False))
    return ReplayClock(topology.clock_file)


def hold_clock(topology: Topology, chain_ms: int) -> None:
    """Let chain time stand still at ``chain_ms``.

    Raises:
        RunError: the clock file cannot be written.
    """
    _write(topology, ReplayTime(chain_ms, wall_ms(), topology.speed, True))


def _write(topology: Topology, replay: ReplayTime) -> None:
    try:
        write_replay_time(topology.clock_file, replay)
    except OSError as error:
        raise cannot_write(topology.clock_file, error) from error


def recover_clock(topology: Topology) -> None:
    """Hold the clock of a cluster that did not end cleanly at the time of the last block, so that downtime is no chain time.

    Raises:
        InputError: a file does not fit.
        StoreError: a store cannot be opened.
    """
    replay = read_replay_time(topology.clock_file)
    if replay.held:
        return
    heads_ms = [head_ms for node in topology.nodes if (head_ms := _head_ms(topology.path(node.folder), topology.channel)) is not None]
    hold_clock(topology, max([replay.chain_ms, *heads_ms]))


def _head_ms(home: Path, channel: str) -> int | None:
    """Return the time of a stopped node's last block, None if it has none or its store is damaged (the node will say so)."""
    folder = read_config(home).blocks_folder(channel)
    if not folder.exists():
        return None
    try:
        store = ChannelStore.open(folder)
    except StoreDamagedError:
        return None
    try:
        head = store.head()
        return head.time_ms if head is not None else None
    except StoreDamagedError:
        return None
    finally:
        store.close()
