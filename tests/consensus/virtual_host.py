"""One node of the virtual cluster: performs what its replica wants, on a virtual disk and network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from consensus.block import decode_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer, verify
from consensus.effects import (
    Adopt,
    AdoptionFailed,
    AdoptSnapshot,
    BatchChecked,
    Broadcast,
    Certified,
    CheckBatch,
    Diverged,
    Effect,
    EpochEntered,
    Event,
    Evidence,
    Execute,
    Executed,
    Fault,
    KeepProofs,
    Persist,
    Propose,
    Pruned,
    Send,
    ServeBlocks,
    ServeChunk,
    ServeSnapshot,
    SnapshotAdopted,
    SnapshotFailed,
    StageChunk,
    StageSnapshot,
    ViewEntered,
    Waiting,
)
from consensus.messages import BlocksMessage, ChunkMessage, Message, SnapshotMessage, ValidatorSet
from consensus.replica import Replica
from consensus.state import ReplicaConfig
from tests.consensus.plain_ledger import WINDOW, Seat, index_of, name, set_batch, signer
from tests.consensus.virtual_disk import Disk

if TYPE_CHECKING:
    from tests.consensus.virtual_cluster import VirtualCluster

ASK_AGAIN_MS = 3_000
check = lru_cache(maxsize=200_000)(verify)
"""Every replica checks every signature; here one check serves them all."""


class Host:
    """One node around one replica.

    Attributes:
        refuse: what it does not want to prepare.
        drives: whether it makes empty blocks when its replica wants one.
        keeps: how many blocks below its snapshot it keeps; None: all.
        takes: whether it can take a snapshot of this height.
    """

    def __init__(self, cluster: VirtualCluster, index: int) -> None:
        self.cluster, self.index, self.name = cluster, index, name(index)
        self.disk = Disk(cluster.genesis)
        self.signers: tuple[Ed25519Signer, ...] = (signer(index),)
        self.up, self.incarnation = False, 0
        self.replica: Replica
        self.pending: dict[bytes, int] = {}
        self.proposed: set[bytes] = set()
        self.faults: list[Fault] = []
        self.evidence: list[Evidence] = []
        self.entered: list[EpochEntered] = []
        self.refuse: Callable[[bytes], bool] = lambda batch: False
        self.takes: Callable[[int], bool] = lambda height: True
        self.drives = True
        self.keeps: int | None = None
        self.ask_ms = 0

    def config(self) -> ReplicaConfig:
        return ReplicaConfig(self.name, self.signers, window=WINDOW, max_in_flight=4, snapshot_gap=self.cluster.snapshot_gap, check=check)

    def start(self) -> None:
        self.replica = Replica(self.config(), self.disk.recovered())
        self.up = True
        self.incarnation += 1
        self.perform(self.replica.start(self.cluster.now_ms))
        self.after_step()

    def crash(self, lost_certificates: int = 0) -> None:
        self.up = False
        self.disk.lose(lost_certificates)

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        self.crash()
        self.disk = Disk(self.cluster.genesis, self.cluster.random.randbytes(16))
        self.proposed, self.ask_ms = set(), 0

    def submit(self, batch: bytes) -> None:
        if not self.disk.ledger.has(batch):
            self.pending.setdefault(batch, self.cluster.now_ms)

    def step(self, event: Event) -> None:
        if self.up:
            self.perform(self.replica.step(event, self.cluster.now_ms))
            self.after_step()

    def after_step(self) -> None:
        if not self.up:
            return
        since = min(self.pending.values(), default=None)
        self.perform(self.replica.step(Waiting(since), self.cluster.now_ms))
        if self.up and self.pending and self.replica.can_propose and self.replica.in_flight < 3:
            free = [batch for batch in self.pending if batch not in self.proposed]
            if free:
                self.proposed.add(free[0])
                self.perform(self.replica.step(Propose(free[0]), self.cluster.now_ms))
        if self.up and self.drives and self.replica.wants_block and not self.replica.in_flight:
            self.perform(self.replica.step(Propose(b"empty %d" % (self.disk.height + 1)), self.cluster.now_ms))
        if self.up and self.disk.log:
            self.ask_for_seat()

    def ask_for_seat(self) -> None:
        """Who lost the vote log asks for an epoch that names the new one, as soon as it has caught up."""
        last, now_ms = self.replica.epochs[-1], self.cluster.now_ms
        seat = Seat(self.name, self.signers[-1].public_key, self.disk.log)
        if now_ms < self.ask_ms or self.name not in last.names or last.logs[last.names.index(self.name)] == seat.log:
            return
        heights = sorted(self.replica.status(now_ms).peer_heights.values(), reverse=True)
        weak = last.quorums.weak
        if len(heights) >= weak and heights[weak - 1] <= self.disk.height:
            self.ask_ms = now_ms + ASK_AGAIN_MS
            self.cluster.submit(set_batch(seat, note=now_ms))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if not self.up:
                return
            match effect:
                case Persist(records):
                    if self.cluster.maybe_crash(self):
                        return
                    self.disk.persist(records)
                case Send(peer, message):
                    self.note(message)
                    self.cluster.send(self.index, index_of(peer), message)
                case Broadcast(message, everybody):
                    self.note(message)
                    self.broadcast(message, self.replica.committee.validators, everybody=everybody)
                case CheckBatch(view, sequence, digest, batch, _, _, fresh):
                    ok = not (fresh and self.refuse(batch))
                    self.cluster.later(self, 1, BatchChecked(view, sequence, digest, ok))
                case Execute(sequence, batch):
                    self.append(sequence, batch)
                case Adopt():
                    self.adopt(effect)
                case Certified():
                    self.certified(effect)
                case ServeBlocks() | ServeSnapshot() | ServeChunk():
                    self.serve(effect)
                case StageSnapshot() | StageChunk() | AdoptSnapshot():
                    self.take_snapshot(effect)
                case _:
                    self.hear(effect)

    def hear(self, effect: Effect) -> None:
        match effect:
            case Fault():
                self.faults.append(effect)
            case Evidence():
                self.evidence.append(effect)
            case Diverged():
                raise AssertionError(f"replica {self.index} diverged at {effect.sequence}")
            case ViewEntered():
                self.proposed = set()
            case EpochEntered():
                self.entered.append(effect)
            case KeepProofs(changes):
                self.disk.keep(changes)
            case _:
                raise AssertionError(f"nobody performs {effect}")

    def broadcast(self, message: Message, validators: ValidatorSet, *, everybody: bool) -> None:
        for host in self.cluster.hosts:
            if host is not self and (everybody or host.name in validators.names):
                self.cluster.send(self.index, host.index, message)

    def append(self, sequence: int, batch: bytes) -> None:
        if sequence != self.disk.height + 1:
            raise AssertionError(f"block {sequence} after {self.disk.height}")
        result = self.disk.ledger.finalize(batch)
        every = self.cluster.snapshot_every
        self.disk.append(result, batch, draft=bool(every) and sequence % every == 0)
        self.pending.pop(batch, None)
        self.cluster.check_epochs(result.announced)
        self.cluster.check_agreement(self.index, sequence)
        self.cluster.later(self, 1, Executed(sequence, result.header.hash, result.announced))

    def adopt(self, effect: Adopt) -> None:
        sequence, block = effect.sequence, effect.block
        if sequence <= self.disk.height:
            return  # executed meanwhile: the answer to that is on its way
        if self.disk.ledger.finalize(block.block).header.hash != block.certificate.header_hash:
            self.cluster.later(self, 1, AdoptionFailed(sequence, "hash"))
        else:
            self.append(sequence, block.block)

    def certified(self, effect: Certified) -> None:
        if effect.last_of_epoch and self.cluster.maybe_crash(self):
            return
        self.disk.certified(effect)
        self.cluster.check_certificate(effect.certificate)
        if self.keeps is not None and self.disk.snapshot is not None:
            first = decode_header(self.disk.snapshot.manifest.header).height - self.keeps + 1
            if first > self.disk.base + 1:
                self.disk.prune(first)
                self.cluster.later(self, 1, Pruned(first))

    def serve(self, effect: ServeBlocks | ServeSnapshot | ServeChunk) -> None:
        snapshot, answer = self.disk.snapshot, None
        height = decode_header(snapshot.manifest.header).height if snapshot is not None else 0
        if isinstance(effect, ServeBlocks):
            answer = BlocksMessage(self.disk.certified_blocks(effect.first, effect.last, effect.instead))
        elif snapshot is not None and isinstance(effect, ServeSnapshot) and effect.height <= height:
            answer = SnapshotMessage(encode(snapshot.manifest))
        elif (
            snapshot is not None
            and isinstance(effect, ServeChunk)
            and (effect.height, effect.index < len(snapshot.chunks)) == (height, True)
        ):
            answer = ChunkMessage(height, effect.index, encode(snapshot.chunks[effect.index]))
        if answer is not None:
            self.cluster.send(self.index, index_of(effect.peer), answer)

    def take_snapshot(self, effect: StageSnapshot | StageChunk | AdoptSnapshot) -> None:
        if isinstance(effect, StageSnapshot):
            self.disk.staged = []
        elif isinstance(effect, StageChunk):
            self.disk.staged.append(effect.chunk)
        elif not self.takes(effect.height):
            self.disk.staged = []
            self.cluster.later(self, 1, SnapshotFailed(effect.height, "not readable"))
        else:
            self.disk.adopt(effect.manifest, decode_header(effect.manifest.header))
            self.pending = {batch: since for batch, since in self.pending.items() if not self.disk.ledger.has(batch)}
            self.cluster.check_epochs(self.disk.ledger.epochs)
            self.cluster.check_agreement(self.index, effect.height)
            self.cluster.later(self, 1, SnapshotAdopted(effect.height, self.disk.ledger.epochs))

    def note(self, message: Message) -> None:
        """Look at everything that this node says (see ``checkers.Witness``)."""
        self.cluster.witness.note(self.name, self.disk.log, message)
