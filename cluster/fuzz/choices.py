"""What forgeries are made of: numbers, batches, digests and certificates that are true, nearly true or made up; and own votes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

import msgspec

from cluster.fuzz.hearsay import Memory
from cluster.fuzz.mutation import NUMBERS, Mutator
from cluster.fuzz.notary import Notary
from cluster.fuzz.toy import FAULTY, MAX_IDS, WINDOW, ToyChain, fresh_batch, members_of, signer_of
from consensus.block import NULL_BATCH, Certificate, CertificateVote, batch_digest
from consensus.crypto import digest
from consensus.messages import Kind, Vote

T = TypeVar("T")


class Choices:
    """Chooses for one forgery after the other.

    Args:
        chain: all blocks, certificates and snapshots.

    Attributes:
        memory: what the faulty member was sent.
        notary: signs for it.
        random: where all choices come from; epoch, view: of those whom the next forgery is for.
    """

    def __init__(self, chain: ToyChain) -> None:
        self.chain = chain
        self.memory = Memory()
        self.notary = Notary(signer_of(FAULTY), seat_of, chain.epochs(0)[0].domain)
        self.random = Random(0)  # noqa: S311  no secret
        self.epoch = self.view = 0
        self._made = 0

    def pick(self, values: Sequence[T]) -> T:
        """Return one of ``values``."""
        return values[int(self.random.random() * len(values))]

    def chance(self, share: float) -> bool:
        """Tell True in this share of cases."""
        return self.random.random() < share

    def near(self, number: int) -> int:
        """Return a number near another, or at a bound of some type."""
        if self.chance(0.03):
            return self.pick(NUMBERS)
        return in_range(number + self.pick((0, 0, 0, 0, 1, 1, 1, 2, 3, -1, -2, WINDOW, WINDOW + 1, 2 * WINDOW, 300)))

    def sequence(self) -> int:
        """Return a sequence number near the last one."""
        return self.near(self.chain.height)

    def batch(self) -> bytes:
        """Return a new batch, one that was proposed, or what is none."""
        way = self.random.random()
        if way < 0.5:
            self._made += 1
            count = self.pick((0, 1, 1, 2, MAX_IDS, MAX_IDS + 1))
            ids = tuple(digest(b"made up %d %d" % (self._made, place)) for place in range(count))
            return fresh_batch(max(0, self.view), seat_of(self.epoch), self.chain.headers[-1], ids)
        if way < 0.85 and self.memory.batches:
            return self.pick(self.memory.batches)
        return self.pick((NULL_BATCH, b"\xc1", b"rubbish", self.chain.batches[-1] if self.chain.batches else NULL_BATCH))

    def digest(self, sequence: int) -> bytes:
        """Return a digest that somebody may vote on at a place."""
        headers = self.chain.headers
        return self.pick(
            (
                batch_digest(self.batch()),
                batch_digest(self.chain.batches[sequence - 1]) if 1 <= sequence <= self.chain.height else bytes(32),
                headers[sequence].hash if 0 <= sequence < len(headers) else digest(b"no header"),
                digest(b"%d" % sequence),
            )
        )

    def certificate(self) -> Certificate | None:
        """Return a true certificate, or one with a part of it wrong; None if there is none, and sometimes."""
        known = self.chain.certificates
        if not known or self.chance(0.1):
            return None
        certificate = known[max(known)] if self.chance(0.5) else self.pick(list(known.values()))
        if self.chance(0.6):
            return certificate
        own = self.own(Kind.CHECKPOINT, 0, certificate.height, certificate.header_hash, certificate.epoch)
        votes = certificate.votes
        higher = self.near(certificate.height)
        return self.pick(
            (
                msgspec.structs.replace(certificate, height=higher),
                msgspec.structs.replace(certificate, epoch=certificate.epoch + self.pick((-1, 1))),
                msgspec.structs.replace(certificate, votes=votes[:-1]),
                msgspec.structs.replace(certificate, votes=votes[::-1]),
                msgspec.structs.replace(certificate, votes=(*votes, votes[-1])),
                msgspec.structs.replace(certificate, header_hash=digest(b"another header")),
                msgspec.structs.replace(certificate, votes=(CertificateVote(own.sender, own.signature),) * self.pick((1, 4, 300))),
                self.signed_alone(higher),
                self.signed_alone(self.chain.height + 1),
                self.signed_alone(self.chain.height),
                self.signed_alone(max(known) + 1),
            )
        )

    def signed_alone(self, height: int) -> Certificate:
        """Return a certificate that only the faulty member signed, once or for everybody."""
        digest_ = self.digest(height)
        own = self.own(Kind.CHECKPOINT, 0, height, digest_)
        seats = self.pick(((own.sender,), (own.sender,) * 4, (own.sender,) * 4, (0, 1, 2, 3)))
        return Certificate(self.epoch, height, digest_, tuple(CertificateVote(seat, own.signature) for seat in seats))

    def own(self, kind: int, view: int, sequence: int, digest_: bytes, epoch: int | None = None) -> Vote:
        """Return an own vote, by default of the epoch of those whom it is for."""
        number = self.epoch if epoch is None else epoch
        place = in_range(number), in_range(view), in_range(sequence)
        return self.notary.signed(Vote(kind, *place, digest_, seat_of(number), bytes(64)), mine=True)

    def bent(self, data: bytes) -> bytes:
        """Return bytes with one of them changed, or as a value changed."""
        if not data:
            return b"\x00"
        place = int(self.random.random() * len(data))
        if self.chance(0.5):
            return data[:place] + bytes((data[place] ^ 1 << int(self.random.random() * 8),)) + data[place + 1 :]
        return Mutator(self.random, lambda: data).gentle(data)


def in_range(number: int) -> int:
    """Return the nearest number that can be encoded, with room for one more on either side."""
    return max(1 - 2**63, min(number, 2**64 - 2))


def seat_of(epoch: int) -> int:
    """Return the seat of the faulty member; any number for an epoch that there is none of."""
    return members_of(epoch).index(FAULTY) if 0 <= epoch < 2**20 else 0
