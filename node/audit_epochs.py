"""The part of the audit that knows which validators certify which block.

Trust begins with the set of genesis. The next one counts if a header that the present one certified names it: the headers of the stored
chain do, and, for epochs whose last block is not stored any more, the proofs that the store keeps.
"""

from __future__ import annotations

from collections.abc import Iterable

from consensus.block import Header
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.messages import ValidatorSet
from consensus.validators import decode_epoch_change, follow, set_at
from node.audit_report import Findings
from node.key_value import Database
from node.store_layout import EPOCH_PREFIX, HEIGHT


class EpochTrail:
    """Follows the validator sets along the chain.

    Args:
        first: of genesis.
        findings: takes what is wrong.

    Attributes:
        present: certifies the block that is looked at.
    """

    def __init__(self, first: ValidatorSet, findings: Findings) -> None:
        self._findings = findings
        self._proven: tuple[ValidatorSet, ...] = (first,)
        self._named = {first.digest: first}
        self.present = first

    def read_proofs(self, database: Database) -> None:
        """Check the stored proofs of epochs, one after the other."""
        for key, raw in database.scan(EPOCH_PREFIX, fill_cache=False):
            epoch = int.from_bytes(key[len(EPOCH_PREFIX) :], "big")
            try:
                change = decode_epoch_change(raw)
                if len(key) != len(EPOCH_PREFIX) + HEIGHT.size or change.validators.epoch != epoch or encode(change) != raw:
                    raise DecodeError("epoch change", "stands at the wrong key, or is not encoded as it must be")
                self._proven = follow(self._proven, (raw,))
            except DecodeError as error:
                self._findings.add(None, "epoch", f"{epoch}: {error}")
                break
        self.add(self._proven)

    def add(self, sets: Iterable[ValidatorSet]) -> None:
        """Take sets that headers may name; being here they count for nothing yet."""
        for one in sets:
            self._named[one.digest] = one
        self._findings.epochs = tuple(sorted(self._named.values(), key=lambda one: one.epoch))

    @property
    def proven(self) -> tuple[ValidatorSet, ...]:
        """The sets that follow from genesis by proofs."""
        return self._proven

    def at(self, height: int) -> ValidatorSet:
        """Return the set that certifies a block, as far as the proofs tell."""
        return set_at(self._proven, height)

    def begin(self, height: int) -> None:
        """Begin with the block at ``height``."""
        self.present = self.at(height)

    def following(self, header: Header) -> bytes:
        """Return what ``header`` must name: the present set, or the next one if that is known and begins with the next block."""
        named = self._named.get(header.next_validators)
        if named is not None and (named.epoch, named.first_height) == (self.present.epoch + 1, header.height + 1):
            return named.digest
        return self.present.digest

    def passed(self, header: Header) -> None:
        """Go on to the block after this one."""
        if header.next_validators == self.following(header):
            self.present = self._named[header.next_validators]

    def finish(self, head: Header | None) -> None:
        """Look whether the store can prove the epoch of its last block to others."""
        if head is not None and self._proven[-1].epoch < head.epoch:
            self._findings.add(None, "epoch", f"{self._proven[-1].epoch + 1}: the proof of its validators is missing")
