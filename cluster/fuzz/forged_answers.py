"""Forged statuses, blocks, manifests and chunks: what a replica that is behind is told."""

from __future__ import annotations

import msgspec

from cluster.fuzz.choices import Choices
from consensus.block import CertifiedBlock
from consensus.codec import encode
from consensus.messages import (
    BatchMessage,
    BlocksMessage,
    ChunkMessage,
    Kind,
    Message,
    SnapshotMessage,
    StatusBody,
    StatusMessage,
    body_digest,
)
from consensus.snapshot import Chunk


class ForgedAnswers:
    """Makes up where it stands, and what it has.

    Args:
        choices: what it is made of.
    """

    def __init__(self, choices: Choices) -> None:
        self._choices = choices

    def status(self) -> Message:
        """Return a status that claims more, less, or what it cannot show."""
        certificate = self._choices.certificate()
        certified = certificate.height if certificate is not None and self._choices.chance(0.7) else self._choices.sequence()
        view = self._choices.view if self._choices.chance(0.7) else self._choices.near(self._choices.view)
        body = StatusBody(
            view,
            self._choices.chance(0.3),
            self._choices.near(certified),
            certified,
            self._choices.pick((1, 1, certified, self._choices.near(1))),
            certificate,
        )
        return StatusMessage(self._choices.own(Kind.STATUS, view if self._choices.chance(0.97) else view + 1, 0, body_digest(body)), body)

    def blocks(self, first: int = 0, last: int = 0) -> Message:
        """Return blocks with their certificates, or with wrong ones, or wrong blocks with true ones; by default the last."""
        chain = self._choices.chain
        if not first:
            first = self._choices.near(chain.height - self._choices.pick((0, 1, 4)))
            last = first + self._choices.pick((0, 1, 8, 40))
        found = []
        for height in range(max(1, first), min(last, chain.height + 1) + 1):
            block = chain.blocks[height - 1] if height <= chain.height else chain.blocks[-1] if chain.blocks else b""
            certificate = chain.certificates.get(height) or self._choices.certificate()
            if self._choices.chance(0.15):
                block, certificate = self._choices.pick(((self._choices.bent(block), certificate), (block, self._choices.certificate())))
            if certificate is not None:
                found.append(CertifiedBlock(block, certificate))
        return BlocksMessage(tuple(found))

    def batch(self) -> Message:
        """Return a batch that somebody may miss."""
        return BatchMessage(self._choices.batch())

    def manifest(self) -> Message:
        """Return the manifest of a snapshot, or one with a part of it wrong."""
        snapshots = self._choices.chain.snapshots
        if not snapshots:
            return SnapshotMessage(self._choices.batch())
        manifest, _ = snapshots[max(snapshots)] if self._choices.chance(0.7) else self._choices.pick(list(snapshots.values()))
        if self._choices.chance(0.4):
            return SnapshotMessage(encode(manifest))
        certificate = self._choices.certificate() or manifest.certificate
        changed = self._choices.pick(
            (
                msgspec.structs.replace(manifest, certificate=certificate),
                msgspec.structs.replace(manifest, depth=self._choices.near(manifest.depth)),
                msgspec.structs.replace(manifest, chunks=manifest.chunks[::-1]),
                msgspec.structs.replace(manifest, epochs=manifest.epochs[: self._choices.pick((0, -1))]),
                msgspec.structs.replace(manifest, epochs=(*manifest.epochs, *manifest.epochs[-1:])),
                msgspec.structs.replace(manifest, header=encode(self._choices.pick(self._choices.chain.headers))),
            )
        )
        return SnapshotMessage(encode(changed) if self._choices.chance(0.7) else self._choices.bent(encode(manifest)))

    def chunk(self, height: int = 0, index: int = 0) -> Message:
        """Return a chunk, or one with entries left out, added, changed or in another order; by default any."""
        snapshots = self._choices.chain.snapshots
        if not snapshots:
            return ChunkMessage(self._choices.sequence(), 0, b"")
        if not height:
            height = max(snapshots) if self._choices.chance(0.8) else self._choices.pick(list(snapshots))
            index = int(self._choices.random.random() * len(snapshots[height][1]))
        chunks = snapshots[height][1]
        entries = chunks[index].entries
        if self._choices.chance(0.4):
            return ChunkMessage(height, index, encode(chunks[index]))
        changed = self._choices.pick((entries[:-1], entries[::-1], entries * 2, (*entries, (b"key/x", b"rich")), chunks[index - 1].entries))
        data = encode(Chunk(changed)) if self._choices.chance(0.7) else self._choices.bent(encode(chunks[index]))
        return ChunkMessage(height, index if self._choices.chance(0.9) else self._choices.near(index), data)
