"""What a faulty member does with a message before it goes out: digests that fit, and its own signature under what it changed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from consensus.block import batch_digest
from consensus.codec import encode
from consensus.crypto import Signer
from consensus.errors import DecodeError
from consensus.messages import (
    Domain,
    Message,
    NewViewBody,
    NewViewMessage,
    PrePrepareMessage,
    StatusMessage,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    decode_new_view_body,
    decode_view_change_body,
    signing_bytes,
)


class Notary:
    """Signs for one faulty member, and for nobody else.

    Args:
        signer: its key.
        seat_of: tells its seat in an epoch (any number for an epoch that there is none of).
        domain: of any epoch.
    """

    def __init__(self, signer: Signer, seat_of: Callable[[int], int], domain: Domain) -> None:
        self._signer = signer
        self._seat_of = seat_of
        self._domain = domain

    def mended(self, message: Message, *, mine: bool) -> Message:
        """Return a message whose digests fit and that the faulty member has signed, as far as it is its own, or all of it (``mine``)."""
        match message:
            case PrePrepareMessage(vote, batch):
                return PrePrepareMessage(self.signed(vote, mine, batch_digest(batch)), batch)
            case VoteMessage(vote):
                return VoteMessage(self.signed(vote, mine))
            case ViewChangeMessage(vote, body):
                return self._view_change(vote, body, mine)
            case NewViewMessage(vote, body):
                return self._new_view(vote, body, mine)
            case StatusMessage(vote, status):
                return StatusMessage(self.signed(vote, mine, body_digest(status)), status)
            case _:
                return message

    def _view_change(self, vote: Vote, body: bytes, mine: bool) -> ViewChangeMessage:
        try:
            decoded = decode_view_change_body(body)
            if mine:
                decoded = ViewChangeBody(vote.view, decoded.stable, decoded.prepared)
            body = encode(decoded)
        except (DecodeError, UnicodeEncodeError, OverflowError):
            return ViewChangeMessage(self.signed(vote, mine, body_digest(body)), body)
        return ViewChangeMessage(self.signed(vote, mine, body_digest(body)), body)

    def _new_view(self, vote: Vote, body: bytes, mine: bool) -> NewViewMessage:
        try:
            decoded = decode_new_view_body(body)
        except DecodeError:
            return NewViewMessage(self.signed(vote, mine, body_digest(body)), body)
        changes = tuple(self._view_change(one.vote, one.body, mine=False) for one in decoded.view_changes)
        body = encode(NewViewBody(changes, tuple(self.signed(one, mine) for one in decoded.pre_prepares)))
        return NewViewMessage(self.signed(vote, mine, body_digest(body)), body)

    def signed(self, vote: Vote, mine: bool, digest_: bytes | None = None) -> Vote:
        """Return the vote signed by the faulty member, if it names that one or shall (``mine``); another's stays as it is."""
        seat = self._seat_of(vote.epoch)
        if vote.sender != seat and not mine:
            return vote
        changed = msgspec.structs.replace(vote, sender=seat, digest=vote.digest if digest_ is None else digest_)
        domain = msgspec.structs.replace(self._domain, epoch=changed.epoch)
        try:
            message = signing_bytes(domain, changed.kind, changed.view, changed.sequence, changed.digest, seat)
        except OverflowError:
            return vote
        return msgspec.structs.replace(changed, signature=self._signer.sign(message))


def encoded(message: Message, otherwise: bytes) -> bytes:
    """Return a message's bytes; ``otherwise`` if it holds a number or text that has none."""
    try:
        return encode(message)
    except (OverflowError, UnicodeEncodeError):
        return otherwise
