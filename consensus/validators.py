"""Validator sets: who votes in one epoch, and who follows whom.

Law.

1. The chain is cut into epochs. All blocks of an epoch are ordered and certified by one set of validators. Genesis names the set of
   epoch 0.
2. A block may announce the next set. It takes effect so many blocks later that no sequence number of its epoch can have been voted on
   before the announcement was executed (``first_height`` of the set is more than a window above the block that announces it).
3. Every header commits to the set that certifies the *next* block. So whoever knows one set can check the last header of its epoch,
   and in it the set that comes after: from genesis to the present without trusting anybody (:class:`EpochChange`).
4. Views start at 0 in every epoch; a vote names its epoch, so no vote of one epoch means anything in another.
5. A seat belongs to a key *and a vote log*. Whoever lost the log (a wiped disk) does not know what it signed, so it has no vote, and
   follows. It asks for a new epoch that names its new log, and votes from there: in that epoch it cannot have signed anything, and
   every block that it may have voted on lies in epochs before.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block import Certificate, decode_header
from consensus.codec import Decoder, Wire
from consensus.crypto import Verify, verify
from consensus.errors import DecodeError
from consensus.messages import Domain, ValidatorSet


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
decode_epoch_changes = Decoder(tuple[bytes, ...], "epoch changes", 64 * 1024 * 1024)
"""Of several, encoded one by one, by rising epoch."""


def set_at(epochs: Sequence[ValidatorSet], height: int) -> ValidatorSet:
    """Return the set that certifies the block at ``height``, out of all known ones by rising epoch."""
    for validators in reversed(epochs):
        if validators.first_height <= height:
            return validators
    return epochs[0]


def follow(epochs: tuple[ValidatorSet, ...], changes: Sequence[bytes], check: Verify = verify) -> tuple[ValidatorSet, ...]:
    """Return all validator sets that follow from the known ones by a chain of proofs.

    Proofs of known sets are checked as well: who takes them shows them to others, who know less.

    Args:
        epochs: known sets, by rising epoch.
        changes: encoded :class:`EpochChange` values by rising epoch; those before the first known set prove nothing and are skipped.
        check: how signatures are checked.

    Raises:
        DecodeError: a proof is malformed, not certified, or not the next one.
    """
    known = list(epochs)
    for raw in changes:
        change = decode_epoch_change(raw)
        epoch = change.validators.epoch
        if 1 <= epoch <= known[0].epoch:
            continue
        place = epoch - known[0].epoch
        if not 1 <= place <= len(known):
            raise DecodeError("epoch change: validators", f"are of epoch {epoch} after epoch {known[-1].epoch}")
        _check_change(known[place - 1], change, check)
        if place == len(known):
            known.append(change.validators)
        elif known[place] != change.validators:
            raise DecodeError("epoch change: validators", f"are not those that are known of epoch {epoch}")
    return tuple(known)


def _check_change(last: ValidatorSet, change: EpochChange, check: Verify) -> None:
    """Check that ``last`` hands over to the next set.

    Raises:
        DecodeError: says what does not fit.
    """
    header, certificate, following = decode_header(change.header), change.certificate, change.validators
    if (certificate.height, certificate.header_hash) != (header.height, header.hash) or not last.certifies(certificate, check):
        raise DecodeError("epoch change: certificate", f"does not show block {header.height} of epoch {last.epoch}")
    if following.digest != header.next_validators or following.first_height != header.height + 1:
        raise DecodeError("epoch change: validators", f"are not those that block {header.height} names")
    if following.domain != Domain(last.domain.chain_id, last.domain.channel, last.epoch + 1):
        raise DecodeError("epoch change: validators", f"are of epoch {following.epoch} after epoch {last.epoch}")
