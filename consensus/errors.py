"""Every typed failure of the core, and every kind of misbehaviour with its number.

The tree::

    GridPactError
     +-- InputError            somebody gave us something wrong: names the field and the reason
     |    +-- DecodeError      bytes that are not a well-formed value
    |    +-- UnknownEpochError     a proof by validators that are not known here yet: learn of them, then try again
     +-- PeerFault             a replica broke the rules of the protocol (counted, maybe evidence; we go on)
     +-- InvariantViolation    *we* broke a rule that must hold (stop, keep the disk)

A rejected transaction is none of these: it is a result code (see :mod:`consensus.application`).
"""

from __future__ import annotations

from enum import IntEnum


class GridPactError(Exception):
    """Base of all errors that GridPact raises on purpose."""


class InputError(GridPactError):
    """Bad input of any kind.

    Args:
        field: which file, flag, key or part is wrong, in the user's words.
        reason: what is wrong with it, one short sentence without a full stop.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class DecodeError(InputError):
    """Bytes that do not decode into the value that they claim to be."""


class UnknownEpochError(InputError):
    """A certificate by validators that are not known here: it can be neither believed nor refused until their epoch is proven.

    Args:
        field: what carries the certificate.
        epoch: that it names.
        known: last epoch that is known here.
    """

    def __init__(self, field: str, epoch: int, known: int) -> None:
        super().__init__(field, f"is of epoch {epoch}, and only those up to {known} are known here")
        self.epoch = epoch
        self.known = known


class InvariantViolation(GridPactError):
    """A rule that must always hold does not: this process must stop voting and keep its disk."""


class Suspicion(IntEnum):
    """Numbered misbehaviour of a peer; the docstring of each value is the sentence shown to people."""

    MALFORMED = 1
    NOT_A_VALIDATOR = 2
    BAD_SIGNATURE = 3
    WRONG_KIND = 4
    NOT_PRIMARY = 5
    PRIMARY_PREPARED = 6
    DIGEST_MISMATCH = 7
    BAD_CERTIFICATE = 8
    BAD_PREPARED_PROOF = 9
    BAD_VIEW_CHANGE = 10
    BAD_NEW_VIEW = 11
    EQUIVOCATION = 12
    BAD_BLOCK = 13
    BAD_PROPOSAL = 14
    TOO_LARGE = 15
    BAD_SNAPSHOT = 16

    @property
    def sentence(self) -> str:
        """What the peer did, in words for logs and the API."""
        return _SENTENCES[self]


_SENTENCES = {
    Suspicion.MALFORMED: "sent bytes that are not a message",
    Suspicion.NOT_A_VALIDATOR: "sent a vote in the name of somebody who is not a validator of this epoch",
    Suspicion.BAD_SIGNATURE: "sent a vote whose signature does not check",
    Suspicion.WRONG_KIND: "sent a vote of one kind where another belongs",
    Suspicion.NOT_PRIMARY: "sent a pre-prepare or new-view for a view whose primary it is not",
    Suspicion.PRIMARY_PREPARED: "sent a prepare although it is the primary (its pre-prepare is its prepare)",
    Suspicion.DIGEST_MISMATCH: "sent a body that does not hash to the digest it signed",
    Suspicion.BAD_CERTIFICATE: "sent a certificate without a quorum of valid signatures",
    Suspicion.BAD_PREPARED_PROOF: "sent a prepared certificate that does not prove anything",
    Suspicion.BAD_VIEW_CHANGE: "sent a view-change that breaks the rules",
    Suspicion.BAD_NEW_VIEW: "sent a new-view that does not follow from its view-changes",
    Suspicion.EQUIVOCATION: "signed two different values for the same view and sequence number",
    Suspicion.BAD_BLOCK: "sent a block that does not match its certificate",
    Suspicion.BAD_PROPOSAL: "proposed a batch that may not be proposed",
    Suspicion.TOO_LARGE: "sent a message over the size limit",
    Suspicion.BAD_SNAPSHOT: "sent a part of a snapshot that does not lead to the certified state",
}


class PeerFault(GridPactError):
    """A peer broke the rules; the message is dropped, the fault counted, and the replica goes on.

    Args:
        peer: name of the node that is to blame.
        code: which rule it broke.
        detail: what exactly was seen.
    """

    def __init__(self, peer: str, code: Suspicion, detail: str = "") -> None:
        super().__init__(f"{peer} {code.sentence}" + (f" ({detail})" if detail else ""))
        self.peer = peer
        self.code = code
        self.detail = detail
