"""Snapshots of a simulated node: made at fixed heights, served in chunks, staged and adopted; and old blocks let go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.simulation.disk import Write
from cluster.simulation.settings import Violation
from cluster.simulation.store import HEAD
from cluster.simulation.world import SNAPSHOT_EVERY, WINDOW
from consensus.block import Header, decode_header
from consensus.codec import encode
from consensus.effects import (
    AdoptSnapshot,
    Event,
    Pruned,
    ServeChunk,
    ServeSnapshot,
    SnapshotAdopted,
    SnapshotFailed,
    StageChunk,
    StageSnapshot,
)
from consensus.messages import ChunkMessage, SnapshotMessage, ValidatorSet
from consensus.snapshot import make_snapshot
from consensus.state_tree import StateTree
from consensus.validators import EpochChange
from node.pruning import prune_target

if TYPE_CHECKING:
    from cluster.simulation.process import Process

DEPTH = 2
"""Four chunks: a state this small would be one, and nothing would be tried."""


class Snapshots:
    """Makes, serves and adopts snapshots.

    Args:
        process: the software of the node that it belongs to.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._database = process.node.disk.chain
        self._tables = self._database.tables
        self._pinned: dict[int, list[tuple[bytes, bytes]]] = {}

    # -------------------------------------------------------------------------------------------------------------- making

    def executed(self, height: int) -> None:
        """Hold on to the state after this block, if a snapshot is made of it."""
        if height % SNAPSHOT_EVERY == 0:
            self._pinned = {height: list(self._tables["state"].items())}

    def certified(self, height: int) -> None:
        """A block is final: shelve its snapshot, let old blocks go."""
        entries = self._pinned.pop(height, None)
        header, certificate = self._process.store.header(height), self._process.store.certificate(height)
        if entries is not None and header is not None and certificate is not None:
            manifest, chunks = make_snapshot(header, certificate, entries, self.proofs(), DEPTH)
            old: list[Write] = [("snapshots", one, None) for one in self._tables["snapshots"]]
            shelved = (encode(manifest), tuple(encode(chunk) for chunk in chunks))
            self._database.write([*old, ("snapshots", height, shelved)], sync=False)
        self._prune(height)

    def epoch_entered(self, validators: ValidatorSet) -> None:
        """Keep the proof of an epoch that began, if the last block before it is here and certified."""
        last, store = validators.first_height - 1, self._process.store
        header, certificate = store.header(last), store.certificate(last)
        if validators.epoch and header is not None and certificate is not None:
            proof = encode(EpochChange(encode(header), certificate, validators))
            self._database.write([("proofs", validators.epoch, proof)], sync=True)

    def keep_proofs(self, changes: Sequence[bytes]) -> None:
        """Keep proofs that came with a snapshot: the certificates that they need cannot be had any more."""
        known = self._tables["proofs"]
        self._database.write([("proofs", epoch, proof) for epoch, proof in enumerate(changes, 1) if epoch not in known], sync=True)

    def proofs(self) -> tuple[bytes, ...]:
        """Return the proofs of all epochs so far, by rising epoch."""
        return tuple(proof for _, proof in sorted(self._tables["proofs"].items()))

    def _prune(self, certified: int) -> None:
        """Let go of what a snapshot of this node and the water marks cover."""
        retain = self._process.node.simulation.schedule.retain_blocks
        newest = max(self._tables["snapshots"], default=0)
        first = prune_target(self._process.store.height, certified, retain, newest, WINDOW)
        if retain and first > self._process.store.first_height and self._process.store.certificate(first - 1) is not None:
            self._process.post(Pruned(first))
            self._process.store.prune(first)

    # ------------------------------------------------------------------------------------------------------------- serving

    def perform(self, effect: ServeSnapshot | ServeChunk | StageSnapshot | StageChunk) -> None:
        """Serve a peer, or stage what came from one."""
        node = self._process.node
        match effect:
            case ServeSnapshot(peer, height):
                newest = max(self._tables["snapshots"], default=0)
                if newest >= height:
                    node.say(peer, SnapshotMessage(self._tables["snapshots"][newest][0]))
            case ServeChunk(peer, height, index):
                chunks = self._tables["snapshots"].get(height, (b"", ()))[1]
                if index < len(chunks):
                    node.say(peer, ChunkMessage(height, index, chunks[index]))
            case StageSnapshot():
                self._database.write([("staged", key, None) for key in self._tables["staged"]], sync=False)
            case StageChunk(_, chunk):
                self._database.write([("staged", key, value) for key, value in chunk.entries], sync=False)

    # ------------------------------------------------------------------------------------------------------------ adopting

    def adopt(self, effect: AdoptSnapshot) -> Event | None:
        """Make a staged snapshot the state; None if the power failed."""
        process, header = self._process, decode_header(effect.manifest.header)
        if effect.height <= process.store.height:
            return SnapshotFailed(effect.height, f"block {process.store.height} is here already")
        tree = StateTree.of(self._tables["staged"].items())
        if tree.root != header.state_root:
            return SnapshotFailed(effect.height, "what was staged does not hash to the certified state")

        def write() -> None:
            self._database.write(self._replacement(effect, header), sync=True)
            process.node.simulation.checker.adopted(process.node, header)

        process.node.simulation.strike("snapshot")
        if not process.node.synced(write):
            return None
        self._pinned = {}
        process.replaced(effect.height, tree)
        return SnapshotAdopted(effect.height, process.epochs())

    def _replacement(self, effect: AdoptSnapshot, header: Header) -> list[Write]:
        """Return what makes the staged state the only one."""
        height, staged = header.height, self._tables["staged"]
        if effect.height != height:
            raise Violation("order", f"snapshot {height} is to be adopted as {effect.height}")
        writes: list[Write] = [("state", key, None) for key in self._tables["state"] if key not in staged]
        writes += [("state", key, value) for key, value in staged.items()]
        writes += [("staged", key, None) for key in staged]
        writes += [(table, one, None) for table in ("blocks", "places") for one in self._tables[table]]
        writes += [("headers", one, None) for one in self._tables["headers"] if one]
        writes += [("headers", height, header), ("meta", HEAD, height), ("certificates", height, effect.manifest.certificate)]
        known = len(self._tables["proofs"])
        writes += [("proofs", known + 1 + place, proof) for place, proof in enumerate(effect.manifest.epochs[known:])]
        return writes
