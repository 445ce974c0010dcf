"""Performs the effects of a replica on its simulated node, strictly in order: what comes after a write waits until that is durable."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from consensus.block import CertifiedBlock
from consensus.effects import (
    Adopt,
    AdoptSnapshot,
    Broadcast,
    Certified,
    CheckBatch,
    Diverged,
    Effect,
    EpochEntered,
    Evidence,
    Execute,
    Fault,
    KeepProofs,
    LogRecord,
    Persist,
    Send,
    ServeBlocks,
    ServeChunk,
    ServeSnapshot,
    StageChunk,
    StageSnapshot,
    ViewEntered,
)
from consensus.errors import InvariantViolation
from consensus.messages import BlocksMessage

if TYPE_CHECKING:
    from cluster.simulation.process import Process


class Performer:
    """Performs effects.

    Args:
        process: the software of the node that it belongs to.

    Attributes:
        writing: its disk is at work; the replica is not stepped meanwhile.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._node = process.node
        self._effects: deque[Effect] = deque()
        self._going = False
        self.writing = False

    def perform(self, effects: Sequence[Effect]) -> None:
        """Perform effects, after all that came before."""
        self._effects.extend(effects)
        self._go_on()

    def _go_on(self) -> None:
        if self._going:
            return
        self._going = True
        while self._effects and self._process.alive and not self.writing:
            effect = self._effects.popleft()
            if isinstance(effect, Persist):
                self._persist(effect.records)
            else:
                self._perform(effect)
        self._going = False

    def _persist(self, records: tuple[LogRecord, ...]) -> None:
        """Make records durable: at once, or when the slow disk is done."""
        disk_ms = self._node.disk_ms
        if disk_ms:
            self.writing = True
            self._process.later(disk_ms, self._written, records)
        else:
            self._write(records)

    def _written(self, records: tuple[LogRecord, ...]) -> None:
        self._write(records)
        self.writing = False
        if self._process.alive:
            self._go_on()
            self._process.pump()

    def _write(self, records: tuple[LogRecord, ...]) -> None:
        process = self._process
        writes = process.votes.writes(records, self._bodies_of(records))

        def write() -> None:
            process.votes.database.write(writes, sync=True)
            self._node.simulation.checker.votes.persisted(self._node, records)

        self._node.synced(write)

    def _bodies_of(self, records: tuple[LogRecord, ...]) -> list[tuple[int, bytes, tuple[bytes, ...]]]:
        """Return the transactions that must become durable with these records; none are needed up to the head.

        Raises:
            InvariantViolation: those of a later batch are not here any more.
        """
        found = []
        for record in records:
            raws = self._process.bodies.raws_of(record.batch_digest) if record.batch_digest else None
            if raws is not None:
                found.append((record.sequence, record.batch_digest, raws))
            elif record.batch_digest and record.sequence > self._process.store.height:
                raise InvariantViolation(f"the transactions of the batch at {record.sequence} were given up before its block")
        return found

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Broadcast(message, everybody):
                self._broadcast(message, everybody=everybody)
            case Send(peer, message):
                self._node.simulation.checker.votes.said(self._node, message)
                self._node.say(peer, message)
            case CheckBatch():
                self._process.desk.check(effect)
            case Execute(sequence, batch):
                checker = self._node.simulation.checker
                checker.votes.decided(self._node, checker.set_at(sequence).epoch, sequence, batch)
                self._process.executor.put(effect)
            case Adopt() | AdoptSnapshot():
                self._process.executor.put(effect)
            case Certified():
                self._certified(effect)
            case ServeBlocks():
                self._serve_blocks(effect)
            case ServeSnapshot() | ServeChunk() | StageSnapshot() | StageChunk():
                self._process.snapshots.perform(effect)
            case _:
                self._note(effect)

    def _note(self, effect: Effect) -> None:
        """Take note of what is no work for others."""
        match effect:
            case KeepProofs(changes):
                self._process.snapshots.keep_proofs(changes)
            case ViewEntered():
                self._process.desk.view_entered()
                self._process.proposer.view_entered(effect.sequence)
                self._node.simulation.note_view(effect.view)
            case EpochEntered():
                self._node.simulation.note(self._node, f"sits at {effect.index} in epoch {effect.validators.epoch}")
                self._process.snapshots.epoch_entered(effect.validators)
            case Fault():
                self._node.blamed += 1
            case Evidence():
                self._node.simulation.checker.votes.evidence(self._node, effect)
                self._process.clerk.report(effect)
            case Diverged():
                self._node.simulation.checker.diverged(self._node, effect)

    def _broadcast(self, message: object, *, everybody: bool) -> None:
        node = self._node
        node.simulation.checker.votes.said(node, message)
        members = self._process.replica.committee.validators.names
        for name in node.others if everybody else members:
            if name != node.name:
                node.say(name, message)

    def _certified(self, effect: Certified) -> None:
        """Store a certificate. Votes go only when a certificate that replaces them is on the disk for sure."""
        process, certificate = self._process, effect.certificate
        self._node.simulation.checker.certified(self._node, certificate)

        if not effect.last_of_epoch:
            process.store.put_certificate(certificate, sync=False)
        elif not self._node.synced(lambda: process.store.put_certificate(certificate, sync=True)):
            return
        process.votes.truncate(min(effect.truncate, process.store.durable_certificate), effect.epoch, effect.view)
        process.desk.certified(certificate.height)
        process.snapshots.certified(certificate.height)

    def _serve_blocks(self, effect: ServeBlocks) -> None:
        store, blocks = self._process.store, []
        for height in range(effect.first, effect.last + 1):
            raw, certificate = store.encoded_block(height), store.certificate(height) or effect.instead
            if raw is None or certificate is None:
                break
            blocks.append(CertifiedBlock(raw, certificate))
        if blocks:
            message = BlocksMessage(tuple(blocks))
            self._node.simulation.checker.votes.said(self._node, message)
            self._node.say(effect.peer, message)
