"""From one epoch to the next (laws in :mod:`consensus.validators`).

A replica enters the next epoch when the last block of the present one has its certificate. There it starts afresh: view 0, no votes
(but those that its log holds, if it was there before and lost its blocks), that certificate as its stable checkpoint. No replica can have
voted above that block before: :meth:`consensus.state.Turn.may_order`.
"""

from __future__ import annotations

from consensus import recovery
from consensus.committee import committee_of
from consensus.effects import EpochEntered, ViewEntered
from consensus.messages import ValidatorSet
from consensus.state import Turn


def announce(turn: Turn, announced: tuple[ValidatorSet, ...]) -> None:
    """Note validator sets that an executed block announced."""
    state = turn.state
    for validators in announced:
        if validators.epoch > state.epochs[-1].epoch:
            state.epochs.append(validators)
            state.boundary_since_ms = turn.now_ms


def watch_boundary(turn: Turn) -> None:
    """See to it that the chain gets to the epoch that was announced, also after a restart or a snapshot."""
    if turn.next_set is None:
        turn.state.boundary_since_ms = None
    elif turn.state.boundary_since_ms is None:
        turn.state.boundary_since_ms = turn.now_ms


def enter_epoch(turn: Turn, validators: ValidatorSet) -> None:
    """Begin to work in an epoch whose predecessor is certified to its end."""
    config, state = turn.config, turn.state
    state.committee = committee = committee_of(validators, config.name, config.signers, state.log, config.channel_index)
    state.view, state.changing = 0, False
    state.view_start, state.view_stable = validators.first_height - 1, state.certificate
    state.view_changes, state.own_view_change, state.new_view = {}, None, None
    state.failed_views, state.view_change_deadline_ms = 0, None
    state.overtaken = False
    state.last_progress_ms = turn.now_ms
    state.next_sequence = max(state.executed, state.certified) + 1
    state.own_checkpoints, state.checkpoints = {}, {}
    state.missing = {}
    for sequence, slot in list(state.slots.items()):
        if sequence > state.certified and slot.decided is not None:
            slot.enter_view()
            slot.later, slot.prepared = {}, None
        else:
            del state.slots[sequence]
    if committee.index is not None:
        recovery.recall(state)
    watch_boundary(turn)
    for peer in state.peers.values():
        peer.heard_ms = turn.now_ms
    turn.emit(EpochEntered(validators, committee.index))
    turn.emit(ViewEntered(state.view, committee.primary(state.view), state.certified))
    recovery.resume(turn)
