"""Checks every new-view that an honest node makes or accepts: what it proposes again is computed here once more, by other means."""

from __future__ import annotations

from cluster.simulation.settings import Violation
from consensus.block import NULL_DIGEST
from consensus.messages import (
    NewViewMessage,
    PreparedProof,
    ValidatorSet,
    ViewChangeBody,
    decode_message,
    decode_new_view_body,
    decode_view_change_body,
)


def check_new_view(name: str, validators: ValidatorSet, data: bytes, quorum: int) -> None:
    """Check a new-view that a node is about to act upon.

    Args:
        name: of the node.
        validators: of its epoch.
        data: the encoded message, as logged.
        quorum: of the epoch.

    Raises:
        Violation: it does not follow from q view-changes.
    """
    message = decode_message(data)
    if not isinstance(message, NewViewMessage):
        raise Violation("new-view", f"{name} logs another message as a new-view")
    body, view = decode_new_view_body(message.body), message.vote.view
    where = f"new-view {view} of epoch {message.vote.epoch}"
    senders = {change.vote.sender for change in body.view_changes if change.vote.view == view and change.vote.epoch == message.vote.epoch}
    if len(senders) < quorum or not senders <= set(range(len(validators.names))):
        raise Violation("new-view", f"{name} takes {where} on the word of {len(senders)} validators")
    bodies = [decode_view_change_body(change.body) for change in body.view_changes]
    wanted = _proposals(bodies)
    found = {vote.sequence: vote.digest for vote in body.pre_prepares}
    if found != wanted or len(found) != len(body.pre_prepares):
        numbers = sorted(sequence for sequence in found.keys() | wanted.keys() if found.get(sequence) != wanted.get(sequence))
        raise Violation("new-view", f"{name} takes {where}, which is wrong about {numbers}")


def _proposals(bodies: list[ViewChangeBody]) -> dict[int, bytes]:
    """Return what must be proposed again, by sequence: above the highest stable checkpoint, what was prepared in the highest view."""
    low = max([0, *(body.stable.height for body in bodies if body.stable is not None)])
    best: dict[int, PreparedProof] = {}
    for proof in sorted((proof for body in bodies for proof in body.prepared), key=lambda one: one.pre_prepare.view):
        best[proof.pre_prepare.sequence] = proof
    high = max([low, *best])
    return {sequence: best[sequence].pre_prepare.digest if sequence in best else NULL_DIGEST for sequence in range(low + 1, high + 1)}
