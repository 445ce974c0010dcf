"""Forged view-changes and new-views: true, telling less, or claiming what they cannot prove."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cluster.fuzz.choices import Choices
from cluster.fuzz.toy import WINDOW
from consensus.block import Certificate
from consensus.codec import encode
from consensus.crypto import digest
from consensus.messages import (
    Kind,
    NewViewBody,
    NewViewMessage,
    PreparedProof,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    body_digest,
    decode_view_change_body,
)
from consensus.validators import set_at
from consensus.view_change import reproposals

FAR = 1_000
"""A new-view over more sequences than that is not made up."""


class ForgedViews:
    """Makes up what changes views.

    Args:
        choices: what it is made of.
    """

    def __init__(self, choices: Choices) -> None:
        self._choices = choices

    def view_change(self) -> ViewChangeMessage:
        """Return a view-change that tells the truth, less of it, or what it cannot prove."""
        view = self._choices.view + 1 if self._choices.chance(0.6) else self._choices.near(self._choices.view + 1)
        body = encode(
            ViewChangeBody(
                view if self._choices.chance(0.97) else view + 1, stable := self._choices.certificate(), self._prepared(view, stable)
            )
        )
        return ViewChangeMessage(self._choices.own(Kind.VIEW_CHANGE, view, 0, body_digest(body)), body)

    def poor_view_change(self) -> ViewChangeMessage:
        """Return a view-change that is true as far as it goes: a certificate, and some prepared certificates above it or none."""
        choices = self._choices
        known = choices.chain.certificates
        sets = choices.chain.epochs(choices.chain.height)
        first = sets[min(choices.epoch, len(sets) - 1)].first_height
        heights = [height for height in sorted(known) if height >= first - 1]
        stable = known[choices.pick(heights[-3:])] if heights else None
        low = stable.height if stable is not None else 0
        best = {one.pre_prepare.sequence: one for one in choices.memory.proofs if low < one.pre_prepare.sequence <= low + 2 * WINDOW}
        proofs = tuple(
            best[sequence] for sequence in sorted(best) if choices.chance(0.4) and best[sequence].pre_prepare.view < choices.view
        )
        body = encode(ViewChangeBody(choices.view, stable, proofs))
        return ViewChangeMessage(choices.own(Kind.VIEW_CHANGE, choices.view, 0, body_digest(body)), body)

    def _prepared(self, new_view: int, stable: Certificate | None) -> tuple[PreparedProof, ...]:
        low = stable.height if stable is not None else 0
        best: dict[int, PreparedProof] = {}
        for proof in self._choices.memory.proofs:
            sequence = proof.pre_prepare.sequence
            if sequence > low and (sequence not in best or self._choices.chance(0.5)):
                best[sequence] = proof
        proofs = [proof for _, proof in sorted(best.items())]
        if self._choices.chance(0.35):
            made_up = self._made_up_proof(low, new_view)
            proofs = sorted((*(one for one in proofs if one.pre_prepare.sequence != made_up.pre_prepare.sequence), made_up), key=_place_of)
        if proofs and self._choices.chance(0.25):
            place = int(self._choices.random.random() * len(proofs))
            proofs[place : place + 1] = self._choices.pick(([], [proofs[place]] * 2, [self._thinner(proofs[place])]))
        return tuple(proofs)

    def _made_up_proof(self, low: int, new_view: int) -> PreparedProof:
        """Return a proof that it signed alone, of a view as late as may be."""
        sequence = low + self._choices.pick((1, 1, 2, 3, WINDOW, 2 * WINDOW, 2 * WINDOW + 1))
        digest_, view = self._choices.digest(sequence), self._choices.pick((new_view - 1, new_view - 1, new_view, self._choices.view, 0))
        first = self._choices.own(Kind.PRE_PREPARE, view, sequence, digest_)
        return PreparedProof(first, (self._choices.own(Kind.PREPARE, view, sequence, digest_),) * self._choices.pick((0, 1, 2, 3)))

    def _thinner(self, proof: PreparedProof) -> PreparedProof:
        first, prepares = proof.pre_prepare, proof.prepares
        own = self._choices.own(Kind.PREPARE, first.view, first.sequence, first.digest)
        return self._choices.pick(
            (
                PreparedProof(first, prepares[:-1]),
                PreparedProof(first, prepares[:1] * len(prepares)),
                PreparedProof(first, tuple(sorted((*prepares[:-1], own), key=lambda vote: vote.sender))),
                PreparedProof(self._choices.own(Kind.PRE_PREPARE, first.view, first.sequence, digest(b"other")), prepares),
                PreparedProof(msgspec.structs.replace(first, view=first.view + 1), prepares),
            )
        )

    def new_view(self) -> NewViewMessage:
        """Return a new-view from the view-changes there are and its own; its pre-prepares follow from them, or nearly."""
        known = self._choices.memory.view_changes
        views = sorted({view for epoch, view, _ in known if epoch == self._choices.epoch})
        view = self._choices.pick(views[-3:]) if views and self._choices.chance(0.9) else self._choices.near(self._choices.view + 1)
        own = self.view_change()
        own = ViewChangeMessage(self._choices.own(Kind.VIEW_CHANGE, view, 0, own.vote.digest), own.body)
        by_sender = {sender: message for (epoch, at, sender), message in known.items() if (epoch, at) == (self._choices.epoch, view)}
        by_sender.setdefault(own.vote.sender, own)
        quorum = set_at(self._choices.chain.epochs(self._choices.chain.height), self._choices.chain.height + 1).quorums.quorum
        changes = [by_sender[sender] for sender in sorted(by_sender)]
        if len(changes) > quorum and self._choices.chance(0.8):
            del changes[int(self._choices.random.random() * len(changes))]
        if changes and self._choices.chance(0.1):
            changes[int(self._choices.random.random() * len(changes))] = self._choices.pick(changes)
        votes = self._proposals(view, changes)
        body = encode(NewViewBody(tuple(changes), tuple(votes)))
        return NewViewMessage(self._choices.own(Kind.NEW_VIEW, view, 0, body_digest(body)), body)

    def _proposals(self, view: int, changes: Sequence[ViewChangeMessage]) -> list[Vote]:
        bodies = [decode_view_change_body(change.body) for change in changes]
        places = [proof.pre_prepare.sequence for body in bodies for proof in body.prepared]
        places += [body.stable.height for body in bodies if body.stable is not None]
        if not places or max(places) - min(places) > FAR:
            return []
        _, proposals = reproposals(bodies)
        votes = [self._choices.own(Kind.PRE_PREPARE, view, sequence, digest_) for sequence, digest_ in proposals[: 4 * WINDOW]]
        if votes and self._choices.chance(0.3):
            place = int(self._choices.random.random() * len(votes))
            other = self._choices.own(Kind.PRE_PREPARE, view, votes[place].sequence, self._choices.digest(votes[place].sequence))
            votes[place : place + 1] = self._choices.pick(([], [votes[place]] * 2, [other], votes[::-1]))
        return votes


def _place_of(proof: PreparedProof) -> int:
    return proof.pre_prepare.sequence
