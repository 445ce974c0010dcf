"""Patience: when a replica stops to wait for its primary, or for a new view.

Law.

1. A replica waits for something only while somebody waits for it: a request, an open proposal, an announced epoch. Or the primary is silent
   although the others speak.
2. A replica that does not hear enough others to make a quorum keeps its view: it could not bring about another one, and having left its
   view alone it votes in none.
3. A replica that is behind catches up first: then it is not the primary that is slow.
"""

from __future__ import annotations

from consensus.peer import Peer
from consensus.state import Turn
from consensus.view_change import timeout_ms

TOUCH_INTERVALS = 4
"""A colleague that was heard within so many status intervals is in touch."""


def view_deadline_ms(turn: Turn) -> int | None:
    """Return when patience ends: with the primary while something waits, or with the view change while it lacks its new-view."""
    state = turn.state
    if not turn.may_vote:
        return None
    if state.changing:
        return state.view_change_deadline_ms
    if not state.in_touch:
        return None
    times = [since for since in (state.waiting_since_ms, state.boundary_since_ms, state.open_since_ms()) if since is not None]
    if not (times or state.overtaken) or _is_behind(turn):
        return None
    if state.overtaken:
        return state.last_progress_ms
    return max(min(times), state.last_progress_ms) + timeout_ms(turn)


def look_around(turn: Turn) -> None:
    """Note whether this replica hears enough others. Due with every status.

    Whoever was heard since the last look counts, however long ago that was: a host that is slow hears everybody at once, after the look.
    """
    state = turn.state
    since_ms = min(turn.now_ms - TOUCH_INTERVALS * turn.config.status_interval_ms, state.looked_ms)
    state.in_touch, state.looked_ms = turn.may_vote and 1 + _heard(turn, since_ms) >= turn.quorums.quorum, turn.now_ms


def primary_is_silent(turn: Turn) -> bool:
    """Tell whether the primary says nothing although enough others do."""
    state, committee = turn.state, turn.committee
    if not turn.may_vote or turn.is_primary or state.changing or not state.in_touch:
        return False
    peer = state.peers.get(committee.name(committee.primary(state.view)))
    heard_ms = peer.heard_ms if peer is not None and peer.heard_ms is not None else 0
    return max(heard_ms, state.last_progress_ms) <= turn.now_ms - turn.config.silence_ms


def _colleagues(turn: Turn) -> list[Peer]:
    """Return what the other validators of the epoch last said."""
    committee, peers = turn.committee, turn.state.peers
    return [peers[name] for index, name in enumerate(committee.validators.names) if index != committee.index and name in peers]


def _heard(turn: Turn, since_ms: int) -> int:
    return sum(peer.heard_ms is not None and peer.heard_ms >= since_ms for peer in _colleagues(turn))


def _is_behind(turn: Turn) -> bool:
    """Whether at least one honest replica is ahead."""
    heights = sorted((turn.state.reach(peer, 1) for peer in _colleagues(turn)), reverse=True)
    weak = turn.quorums.weak
    return len(heights) >= weak and heights[weak - 1] > turn.state.executed
