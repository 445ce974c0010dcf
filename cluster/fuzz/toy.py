"""A small chain for fuzzing a whole group of replicas: keys that are quick, blocks that are quick, and epochs and snapshots none the less.

Signatures are those of the simulator, keyed hashes that cost a fiftieth of Ed25519. The faulty member is given its own signer only.
"""

from __future__ import annotations

from cluster.fuzz.law import LawBrokenError
from cluster.simulation.signatures import Keys
from consensus.block import (
    NULL_BATCH,
    Batch,
    Block,
    Certificate,
    Header,
    block_time_ms,
    decode_batch,
    decode_block,
    genesis_header,
    make_header,
)
from consensus.codec import encode
from consensus.crypto import Signer, digest
from consensus.errors import DecodeError
from consensus.messages import Domain, ValidatorSet
from consensus.snapshot import Chunk, SnapshotManifest, make_snapshot
from consensus.state_tree import StateTree
from consensus.validators import EpochChange, set_at

NAMES = ("n0", "n1", "n2", "n3", "n4")
FAULTY = "n1"
HONEST = tuple(name for name in NAMES if name != FAULTY)
WINDOW = 8
EPOCH_BLOCKS = 14
"""An epoch has so many blocks; the next one is announced in its fourth."""
ANNOUNCED_IN = 4
SNAPSHOT_EVERY, SNAPSHOT_DEPTH = 8, 2
KEYS = 24
"""Entries of the state: every batch changes one."""
MAX_IDS = 4
Snapshot = tuple[SnapshotManifest, tuple[Chunk, ...]]


_KEYS = Keys()
_SIGNERS = {name: _KEYS.signer(name) for name in NAMES}
check = _KEYS.check
"""Checks any signature."""


def signer_of(name: str) -> Signer:
    """Return the signer of a member."""
    return _SIGNERS[name]


def members_of(epoch: int) -> tuple[str, ...]:
    """Return who has a seat: everybody, and in every second epoch all but one honest member; the seats go round."""
    away = HONEST[epoch // 2 % len(HONEST)] if epoch % 2 else ""
    first = epoch % len(NAMES)
    return tuple(name for name in NAMES[first:] + NAMES[:first] if name != away)


def set_of(epoch: int) -> ValidatorSet:
    """Return the validators of an epoch."""
    names = members_of(epoch)
    first = 1 if epoch == 0 else (epoch - 1) * EPOCH_BLOCKS + ANNOUNCED_IN + WINDOW + 1
    keys = tuple(signer_of(name).public_key for name in names)
    return ValidatorSet(Domain("toy", "main", epoch), first, names, keys, (b"",) * len(names))


def batch_is_good(batch: bytes) -> bool:
    """Tell whether a host accepts a fresh batch."""
    try:
        ids = decode_batch(batch).transaction_ids
    except DecodeError:
        return False
    return len(ids) <= MAX_IDS and all(len(one) == 32 for one in ids)


class ToyChain:
    """The one chain that there must be: every member's blocks are compared with it, and each is made once.

    Attributes:
        headers: from block 0 on.
        batches, blocks: those of block n at n - 1.
        certificates: that honest members took, by height.
        snapshots: that can be had, by height.
    """

    def __init__(self) -> None:
        self._tree = StateTree()
        self._state: dict[bytes, bytes] = {}
        self._states: dict[int, list[tuple[bytes, bytes]]] = {}
        self._sets = [set_of(0)]
        zero = genesis_header("toy", "main", 1_000, digest(b"toy"), self._tree.root, self._sets[0].digest)
        self.headers: list[Header] = [zero]
        self.batches: list[bytes] = []
        self.blocks: list[bytes] = []
        self.certificates: dict[int, Certificate] = {}
        self.snapshots: dict[int, Snapshot] = {}

    @property
    def height(self) -> int:
        """Height of the last block that anybody honest has."""
        return len(self.batches)

    def epochs(self, height: int) -> tuple[ValidatorSet, ...]:
        """Return all sets that are known after the block at ``height``."""
        return tuple(self._set(epoch) for epoch in range(self._announced(height) + 1))

    def announced(self, height: int) -> tuple[ValidatorSet, ...]:
        """Return the sets that the block at ``height`` announces."""
        return tuple(self._set(epoch) for epoch in range(self._announced(height - 1) + 1, self._announced(height) + 1))

    def execute(self, height: int, batch: bytes) -> Header:
        """Return the header of the block that ``batch`` makes at ``height``.

        Raises:
            LawBrokenError: another batch was executed there by somebody honest, or the block before was not.
        """
        if height > self.height + 1:
            raise LawBrokenError(f"block {height} is executed before block {self.height + 1}")
        if height == self.height + 1:
            self._append(batch)
        elif self.batches[height - 1] != batch:
            raise LawBrokenError(f"a fork: two honest members execute different batches at height {height}")
        return self.headers[height]

    def adoptable(self, height: int, block: bytes) -> bytes | None:
        """Return the batch of an encoded block if executing it gives this block at ``height``, else None."""
        if height <= self.height:
            return self.batches[height - 1] if self.blocks[height - 1] == block else None
        if height > self.height + 1:
            return None
        try:
            batch = _decode_batch_of(block)
        except DecodeError:
            return None
        header, _, _ = self._made(batch)
        return batch if encode(Block(header, batch, (), ())) == block else None

    def certify(self, certificate: Certificate) -> None:
        """Note a certificate that an honest member takes.

        Raises:
            LawBrokenError: it is of another block, or not enough validators signed it.
        """
        height = certificate.height
        if not 1 <= height <= self.height or self.headers[height].hash != certificate.header_hash:
            raise LawBrokenError(f"a certificate of another block is taken at height {height}")
        known = self.certificates.get(height)
        if known != certificate and not set_at(self.epochs(height), height).certifies(certificate, check):
            raise LawBrokenError(f"a certificate that proves nothing is taken at height {height}")
        self.certificates[height] = certificate

    def snapshot(self, height: int) -> Snapshot | None:
        """Return the snapshot of a height, None if there is none."""
        if height not in self.snapshots and height in self._states and height in self.certificates:
            proofs = self.proofs(height)
            if proofs is not None:
                certificate = self.certificates[height]
                self.snapshots[height] = make_snapshot(self.headers[height], certificate, self._states[height], proofs, SNAPSHOT_DEPTH)
        return self.snapshots.get(height)

    def proofs(self, height: int) -> tuple[bytes, ...] | None:
        """Return the proofs of all sets that took effect up to ``height``; None if a certificate for one is not known."""
        sets = [one for one in self.epochs(height)[1:] if one.first_height <= height]
        if any(one.first_height - 1 not in self.certificates for one in sets):
            return None
        pairs = ((self.headers[one.first_height - 1], self.certificates[one.first_height - 1], one) for one in sets)
        return tuple(encode(EpochChange(encode(header), certificate, one)) for header, certificate, one in pairs)

    def _set(self, epoch: int) -> ValidatorSet:
        while epoch >= len(self._sets):
            self._sets.append(set_of(len(self._sets)))
        return self._sets[epoch]

    @staticmethod
    def _announced(height: int) -> int:
        """Return the last epoch that is announced up to a height."""
        return (height - ANNOUNCED_IN) // EPOCH_BLOCKS + 1 if height >= ANNOUNCED_IN else 0

    def _made(self, batch: bytes) -> tuple[Header, StateTree, list[tuple[bytes, bytes]]]:
        """Return what a batch makes after the last block: header, state and what it changes."""
        previous, height = self.headers[-1], self.height + 1
        ids = () if batch == NULL_BATCH else decode_batch(batch).transaction_ids
        writes = [(b"key/%d" % (one[0] % KEYS if one else 0), one + height.to_bytes(4, "big")) for one in ids]
        tree = self._tree.apply(sorted(dict(writes).items()))
        sets = self.epochs(height)
        header = make_header(previous, batch, (), (), tree.root, set_at(sets, height).epoch, set_at(sets, height + 1).digest)
        return header, tree, sorted(dict(writes).items())

    def _append(self, batch: bytes) -> None:
        header, self._tree, writes = self._made(batch)
        self._state.update(writes)
        self.headers.append(header)
        self.batches.append(batch)
        self.blocks.append(encode(Block(header, batch, (), ())))
        if header.height % SNAPSHOT_EVERY == 0:
            self._states[header.height] = sorted(self._state.items())


def fresh_batch(view: int, proposer: int, head: Header, ids: tuple[bytes, ...]) -> bytes:
    """Return a batch that a host accepts."""
    return encode(Batch(view, proposer, block_time_ms(head, NULL_BATCH) + 10, ids))


def _decode_batch_of(block: bytes) -> bytes:
    batch = decode_block(block).batch
    if batch != NULL_BATCH:
        decode_batch(batch)
    return batch
