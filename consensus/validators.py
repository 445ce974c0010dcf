"""Validator sets: who votes in one epoch, and who follows whom.

Law.

1. The chain is cut into epochs. All blocks of an epoch are ordered and certified by one set of validators. Genesis names the set of epoch 0.
2. A block may announce the next set. It takes effect so many blocks later that no sequence number of its epoch can have been voted on before
   the announcement was certified (``first_height`` of the set is more than a window above the block that announces it).
3. Every header commits to the set that certifies the *next* block. So whoever knows one set can check the last header of its epoch, and
   in it the set that comes after: from genesis to the present without trusting anybody (:class:`EpochChange`).
4. Views start at 0 in every epoch; a vote names its epoch, so no vote of one epoch means anything in another.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block import Certificate
from consensus.codec import Decoder, Wire
from consensus.messages import ValidatorSet


class EpochChange(Wire, frozen=True):
    """Proof of the next validator set for somebody who knows the present one.

    Fields:
        header: encoded header of the last block of the present epoch.
        certificate: of that block, by the present validators.
        validators: the next set, which the header names.
    """

    header: bytes
    certificate: Certificate
    validators: ValidatorSet


decode_epoch_change = Decoder(EpochChange, "epoch change", 256 * 1024)


def set_at(epochs: Sequence[ValidatorSet], height: int) -> ValidatorSet:
    """Return the set that certifies the block at ``height``, out of all known ones by rising epoch."""
    for validators in reversed(epochs):
        if validators.first_height <= height:
            return validators
    return epochs[0]
