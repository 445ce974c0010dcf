"""What no honest replica ever does, watched from outside while the virtual cluster runs."""

from __future__ import annotations

from consensus.block import Certificate
from consensus.messages import Kind, Message, NewViewMessage, ValidatorSet, Vote, decode_new_view_body
from consensus.validators import set_at


class Witness:
    """Sees every statement that is sent, every block that is made, and every set that is announced.

    1. Nobody signs two different votes for one place, across all restarts and wipes.
    2. Nobody signs anything with a vote log that the set of the vote's epoch does not name.
    3. No vote lies outside its epoch: below its first height or above its last one, be that announced before or after the vote.
    4. All chains are one, and so are all announcements; certificates are of the epoch of their height.
    """

    def __init__(self, genesis: ValidatorSet) -> None:
        self.sets = [genesis]
        self.chain: dict[int, bytes] = {}
        self.sent: dict[tuple[str, int, int, int, int], bytes] = {}
        self.highest: dict[int, int] = {}

    def note(self, name: str, log: bytes, message: Message) -> None:
        vote: Vote | None = getattr(message, "vote", None)
        if vote is None or vote.epoch >= len(self.sets):
            return
        validators = self.sets[vote.epoch]
        if not 0 <= vote.sender < len(validators.names) or validators.names[vote.sender] != name:
            return  # passed on for somebody else
        if validators.logs[vote.sender] != log:
            raise AssertionError(f"{name} votes in epoch {vote.epoch} with another vote log")
        if vote.kind == Kind.STATUS:
            return
        for one in (vote, *(decode_new_view_body(message.body).pre_prepares if isinstance(message, NewViewMessage) else ())):
            self._note_vote(name, one, validators)

    def _note_vote(self, name: str, vote: Vote, validators: ValidatorSet) -> None:
        place = (name, vote.kind, vote.epoch, vote.view, vote.sequence)
        if self.sent.setdefault(place, vote.digest) != vote.digest:
            raise AssertionError(f"{name} signed two votes at {place[1:]}")
        if vote.sequence:
            self.highest[vote.epoch] = max(self.highest.get(vote.epoch, 0), vote.sequence)
            if vote.sequence < validators.first_height or set_at(self.sets, vote.sequence).epoch > vote.epoch:
                raise AssertionError(f"{name} votes on {vote.sequence} in epoch {vote.epoch}")

    def announced(self, validators: ValidatorSet) -> None:
        if validators.epoch < len(self.sets):
            if self.sets[validators.epoch] != validators:
                raise AssertionError(f"two sets for epoch {validators.epoch}")
            return
        self.sets.append(validators)
        highest = self.highest.get(validators.epoch - 1, 0)
        if highest >= validators.first_height:
            raise AssertionError(
                f"{highest} was voted on in epoch {validators.epoch - 1} before its end {validators.first_height - 1} was known"
            )

    def block(self, who: str, height: int, header_hash: bytes) -> None:
        if self.chain.setdefault(height, header_hash) != header_hash:
            raise AssertionError(f"fork at height {height}: {who} differs")

    def certificate(self, certificate: Certificate) -> None:
        epoch = set_at(self.sets, certificate.height).epoch
        if (certificate.epoch, certificate.header_hash) != (epoch, self.chain.get(certificate.height)):
            raise AssertionError(f"certificate {certificate.height} of epoch {certificate.epoch} is for another block or epoch")
