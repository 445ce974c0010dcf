"""A chain of certified headers through several epochs, for tests of who believes what about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from consensus.block import Batch, Certificate, Header, genesis_header, make_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer, digest
from consensus.merkle import prove_inclusion
from consensus.messages import Domain, Kind, ValidatorSet, make_certificate, sign_vote
from consensus.proofs import EntryProof, TransactionProof
from consensus.state_tree import StateTree
from consensus.validators import EpochChange

TREE = StateTree.of([(b"balance/%d" % number, b"%d" % number) for number in range(5)])


def key(number: int) -> Ed25519Signer:
    return Ed25519Signer(number.to_bytes(32, "big"))


def validators(epoch: int, first_height: int, members: Sequence[int], chain_id: str = "demo") -> ValidatorSet:
    """Return a set whose members are told apart by numbers: name, key and vote log."""
    return ValidatorSet(
        Domain(chain_id, "main", epoch),
        first_height,
        tuple(f"dc{number}" for number in members),
        tuple(key(number).public_key for number in members),
        tuple(b"log %d" % number for number in members),
    )


def signed(validators_: ValidatorSet, members: Sequence[int], header: Header, senders: Sequence[int] | None = None) -> Certificate:
    """Return a certificate as these members make it, by default the first that are a quorum."""
    chosen = range(validators_.quorums.quorum) if senders is None else senders
    votes = [sign_vote(key(members[index]), validators_.domain, Kind.CHECKPOINT, 0, header.height, header.hash, index) for index in chosen]
    return make_certificate(tuple(votes))


@dataclass
class EpochChain:
    """Blocks of one transaction each: ``lengths[e]`` of them in epoch e, whose members are ``members[e]``."""

    members: Sequence[Sequence[int]]
    lengths: Sequence[int]
    chain_id: str = "demo"
    sets: list[ValidatorSet] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    certificates: dict[int, Certificate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = 1
        for epoch, (members, length) in enumerate(zip(self.members, self.lengths, strict=True)):
            self.sets.append(validators(epoch, first, members, self.chain_id))
            first += length
        self.headers.append(genesis_header(self.chain_id, "main", 0, bytes(32), TREE.root, self.sets[0].digest))
        for epoch, length in enumerate(self.lengths):
            for position in range(length):
                last = position == length - 1 and epoch + 1 < len(self.sets)
                self.extend(epoch, self.sets[epoch + 1] if last else self.sets[epoch])

    def extend(self, epoch: int, following: ValidatorSet) -> Header:
        """Append a block of an epoch that names the set of the next block."""
        height = len(self.headers)
        batch = encode(Batch(0, 0, height, (transaction_id(height),)))
        header = make_header(self.headers[-1], batch, [transaction_id(height)], receipts(height), TREE.root, epoch, following.digest)
        self.headers.append(header)
        self.certificates[height] = signed(self.sets[epoch], self.members[epoch], header)
        return header

    @property
    def height(self) -> int:
        return len(self.headers) - 1

    @property
    def changes(self) -> list[bytes]:
        """Proofs of epochs 1 and on."""
        return [encode(self.change(epoch)) for epoch in range(1, len(self.sets))]

    def change(self, epoch: int) -> EpochChange:
        last = self.sets[epoch].first_height - 1
        return EpochChange(encode(self.headers[last]), self.certificates[last], self.sets[epoch])

    def epoch_of(self, height: int) -> int:
        return self.headers[height].epoch

    def transaction_proof(self, height: int) -> TransactionProof:
        paths = prove_inclusion([transaction_id(height)], 0), prove_inclusion(receipts(height), 0)
        return TransactionProof(encode(self.headers[height]), self.certificates[height], receipts(height)[0], *paths)

    def entry_proof(self, height: int, entry: bytes = b"balance/3", value: bytes | None = b"3") -> EntryProof:
        return EntryProof(encode(self.headers[height]), self.certificates[height], entry, value, TREE.prove(entry))

    def fork(self, epoch: int, height: int, following: ValidatorSet) -> tuple[Header, Certificate]:
        """Return a header that the members of an epoch sign at a height although the chain has another one there, or none."""
        base = self.headers[min(height - 1, self.height)]
        other = msgspec.structs.replace(base, height=height - 1, state_root=digest(b"another"))
        header = make_header(other, b"", [], [], TREE.root, epoch, following.digest)
        return header, signed(self.sets[epoch], self.members[epoch], header)


def transaction_id(height: int) -> bytes:
    return digest(b"transaction %d" % height)


def receipts(height: int) -> list[bytes]:
    return [b"receipt %d" % height]
