"""The committee: who votes in the present epoch, as one replica sees it from its own seat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consensus.crypto import Signer
from consensus.errors import InvariantViolation
from consensus.messages import Kind, ValidatorSet, Vote, sign_vote
from consensus.quorum import Quorums


@dataclass(frozen=True, slots=True)
class Committee:
    """The validators of one epoch; make it with :func:`committee_of`.

    Attributes:
        index: this replica's seat; None if it has none and follows without a vote.
        signer: the key of that seat.
        channel_index: shifts the primary, so that channels spread the load.
    """

    validators: ValidatorSet
    quorums: Quorums
    index: int | None
    signer: Signer | None
    channel_index: int

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self.validators.epoch

    def primary(self, view: int) -> int:
        """Return the index of the view's primary."""
        return (view + self.channel_index) % self.quorums.replicas

    def name(self, index: int) -> str:
        """Return the name of a validator; of a number that is none, the number."""
        names = self.validators.names
        return names[index] if 0 <= index < len(names) else f"validator {index}"

    def sign(self, kind: Kind, view: int, sequence: int, digest: bytes) -> Vote:
        """Return this replica's signed vote from its seat.

        Raises:
            InvariantViolation: it has none in this epoch.
        """
        if self.signer is None or self.index is None:
            raise InvariantViolation(f"{kind.name.lower()} for sequence {sequence} of view {view} without a seat in epoch {self.epoch}")
        return sign_vote(self.signer, self.validators.domain, kind, view, sequence, digest, self.index)

    def index_of(self, name: str) -> int | None:
        """Return the seat of a node, None if it has none."""
        names = self.validators.names
        return names.index(name) if name in names else None


def committee_of(validators: ValidatorSet, name: str, signers: Sequence[Signer], log: bytes, channel_index: int) -> Committee:
    """Return the committee of an epoch. This node has a seat in it if the set names it with a key and the vote log that it has.

    Args:
        name: of this node.
        signers: its keys: the one that the set names is used (a key is changed at an epoch boundary, until then both are needed).
        log: id of its vote log.
    """
    index = signer = None
    if name in validators.names:
        seat = validators.names.index(name)
        for one in signers:
            if one.public_key == validators.public_keys[seat] and log == validators.logs[seat]:
                index, signer = seat, one
    return Committee(validators, validators.quorums, index, signer, channel_index)
