"""What survives a crash in the virtual cluster. A synced write is there for ever; certificates are written without waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.block import Certificate, CertifiedBlock, Header, batch_digest
from consensus.codec import encode
from consensus.effects import Certified, LogRecord
from consensus.messages import ValidatorSet
from consensus.recovery import Recovered
from consensus.snapshot import Chunk, SnapshotManifest, make_snapshot
from consensus.validators import EpochChange, set_at
from tests.consensus.plain_ledger import Ledger, Result

DEPTH = 2
"""Snapshots are cut into four chunks."""


@dataclass
class Snapshot:
    """One that can be served."""

    manifest: SnapshotManifest
    chunks: tuple[Chunk, ...]


@dataclass
class Disk:
    """Blocks, state, certificates, vote log and snapshot of one node.

    ``blocks`` are (hash, batch) from height ``base`` + 1 on. ``doubtful`` are the certificates that a crash may take, each with the
    votes that it replaced: they are on the disk until the certificate is for sure.
    """

    genesis: ValidatorSet
    log: bytes = b""
    records: dict[tuple[int, int, int, int], LogRecord] = field(default_factory=dict)
    blocks: list[tuple[bytes, bytes]] = field(default_factory=list)
    base: int = 0
    headers: dict[int, Header] = field(default_factory=dict)
    certificates: dict[int, Certificate] = field(default_factory=dict)
    doubtful: dict[int, list[LogRecord]] = field(default_factory=dict)
    changes: list[bytes] = field(default_factory=list)
    drafts: dict[int, tuple[tuple[bytes, bytes], ...]] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    staged: list[Chunk] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.genesis)

    @property
    def height(self) -> int:
        return self.base + len(self.blocks)

    def recovered(self) -> Recovered:
        """What a host finds at its start."""
        self.staged = []
        certified = max((height for height in self.certificates if height <= self.height), default=0)
        open_heights = range(certified + 1, self.height + 1)
        blocks = {height: self.blocks[height - self.base - 1] for height in open_heights}
        return Recovered(
            epochs=self.ledger.epochs,
            log=self.log,
            first=self.base + 1,
            executed=self.height,
            certificate=self.certificates.get(certified),
            headers={height: hash_ for height, (hash_, _) in blocks.items()},
            batches={height: batch_digest(batch) for height, (_, batch) in blocks.items()},
            records=tuple(record for _, record in sorted(self.records.items())),
        )

    def persist(self, records: tuple[LogRecord, ...]) -> None:
        for record in records:
            self.records[(record.sequence, record.epoch, record.view, record.kind)] = record

    def append(self, result: Result, batch: bytes, *, draft: bool) -> None:
        """Write a block, synced: all that was written before is safe as well."""
        self.ledger.commit(result)
        self.blocks.append((result.header.hash, batch))
        self.headers[self.height] = result.header
        self.doubtful.clear()
        if draft:
            self.drafts[self.height] = tuple(sorted(self.ledger.state.items()))

    def certified(self, effect: Certified) -> None:
        """Write a certificate; note the change of epoch that it proves, and finish a snapshot of its height."""
        height, gone = effect.certificate.height, []
        self.certificates[height] = effect.certificate
        for key in list(self.records):
            sequence, epoch, view, _ = key
            if 0 < sequence <= effect.truncate or (sequence == 0 and (epoch, view) < (effect.epoch, effect.view)):
                gone.append(self.records.pop(key))
        if effect.last_of_epoch:
            self.doubtful.clear()
        else:
            self.doubtful[height] = gone
        following = set_at(self.ledger.epochs, height + 1)
        if following.epoch > len(self.changes) and following.first_height == height + 1:
            self.changes.append(encode(EpochChange(encode(self.headers[height]), effect.certificate, following)))
        entries = self.drafts.pop(height, None)
        if entries is not None:
            made = make_snapshot(self.headers[height], effect.certificate, entries, tuple(self.changes), DEPTH)
            self.snapshot = Snapshot(*made)

    def lose(self, count: int) -> None:
        """Power fails: the last ``count`` certificates that were not synced are gone."""
        for height in sorted(self.doubtful)[len(self.doubtful) - count :]:
            del self.certificates[height]
            self.persist(tuple(self.doubtful[height]))
        self.doubtful.clear()

    def certified_blocks(self, first: int, last: int, instead: Certificate | None = None) -> tuple[CertifiedBlock, ...]:
        found: list[CertifiedBlock] = []
        for height in range(first, last + 1):
            certificate = self.certificates.get(height, instead)
            if height <= self.base or certificate is None:
                break
            found.append(CertifiedBlock(self.blocks[height - self.base - 1][1], certificate))
        return tuple(found)

    def prune(self, first: int) -> None:
        """Let go of all blocks below ``first``, synced."""
        self.doubtful.clear()
        if first > self.base + 1:
            self.blocks = self.blocks[first - self.base - 1 :]
            self.base = first - 1
            for table in (self.headers, self.certificates):
                for height in [height for height in table if height < self.base]:
                    del table[height]

    def keep(self, changes: tuple[bytes, ...]) -> None:
        """Keep proofs of epochs that are not here yet."""
        self.changes += changes[len(self.changes) :]

    def adopt(self, manifest: SnapshotManifest, header: Header) -> None:
        """Make the staged chunks the state, in one write."""
        entries = {key: value for chunk in self.staged for key, value in chunk.entries}
        self.ledger.restore(header, entries)
        self.blocks, self.base = [], header.height
        self.headers, self.certificates = {header.height: header}, {header.height: manifest.certificate}
        self.keep(manifest.epochs)
        self.staged, self.drafts, self.snapshot = [], {}, None
        self.doubtful.clear()
