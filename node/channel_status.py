"""How a channel does, ready for JSON: who is missing, and why nothing commits."""

from __future__ import annotations

from typing import Protocol

from consensus.block import Header
from consensus.mempool import Mempool
from consensus.replica import ReplicaStatus
from node.peers import PeerDoor


class Reporting(Protocol):
    """What the report is made of."""

    name: str
    node: str
    stopped_because: str | None


def status_of(
    channel: Reporting,
    chain_id: str,
    status: ReplicaStatus,
    head: Header | None,
    mempool: Mempool,
    door: PeerDoor,
    clock_ms: int,
    first: int,
    log: bytes,
) -> dict[str, object]:
    """Return the report.

    Args:
        head: header of the last executed block.
        clock_ms: chain time.
        first: lowest height that is stored.
        log: id of the vote log.
    """
    return {
        "chain_id": chain_id,
        "channel": channel.name,
        "node": channel.node,
        "index": status.seat,
        "voting": status.seat is not None,
        "vote_log": log.hex(),
        "epoch": status.epoch,
        "members": list(status.members),
        "next_epoch_height": status.next_epoch_height,
        "view": status.view,
        "next_view": status.view if status.changing else status.view + 1,
        "primary": status.members[status.primary],
        "changing": status.changing,
        "wants_view": [status.members[index] for index in status.wants_view],
        "timer_left_ms": status.timer_left_ms,
        "height": status.executed,
        "certified": status.certified,
        "first_height": first,
        "snapshot": None if status.snapshot is None else dict(zip(("height", "chunks", "of_chunks"), status.snapshot, strict=True)),
        "head_hash": head.hash.hex() if head is not None else "",
        "state_root": head.state_root.hex() if head is not None else "",
        "time_ms": head.time_ms if head is not None else 0,
        "clock_ms": clock_ms,
        "in_flight": _in_flight(status),
        "mempool": {"transactions": len(mempool), "bytes": mempool.size_bytes},
        "peers": _peers(door, status.peer_heights),
        "diverged": status.diverged or channel.stopped_because is not None,
    }


def _in_flight(status: ReplicaStatus) -> list[dict[str, object]]:
    """Return what is proposed and not decided, and who has voted on it."""
    return [
        {
            "sequence": slot.sequence,
            "view": status.view if slot.view is None else slot.view,
            "prepared_by": list(slot.prepared_by),
            "committed_by": list(slot.committed_by),
        }
        for slot in status.in_flight
        if not slot.decided
    ]


def _peers(door: PeerDoor, heights: dict[str, int]) -> list[dict[str, object]]:
    links = door.links.status() if door.links is not None else []
    return [
        {
            "name": link.name,
            "guest": link.guest,
            "connected": link.connected,
            "height": heights.get(link.name),
            "last_seen_ms": link.last_seen_ms,
            "last_error": link.last_error,
        }
        for link in links
    ]
