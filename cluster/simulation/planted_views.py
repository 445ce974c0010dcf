"""Planted bugs: view changes and their timers."""

from __future__ import annotations

from cluster.simulation.planted import ROUGH, TREASON, Bug, Edit

BUGS = (
    Bug(
        "o-not-recomputed",
        "a new-view is taken without computing its re-proposals again",
        (
            Edit(
                "consensus.view_change",
                "if [(proposal.sequence, proposal.digest) for proposal in body.pre_prepares] != proposals:",
                "if not isinstance(proposals, list):",
            ),
        ),
        4,
        TREASON,
        60,
        habits=("altered-new-view",),
    ),
    Bug(
        "o-loses-last",
        "the last sequence of the re-proposals is lost to an off-by-one",
        (
            Edit(
                "consensus.view_change",
                "for sequence in range(start + 1, last + 1)]",
                "for sequence in range(start + 1, last)]",
            ),
        ),
        4,
        ROUGH,
        60,
    ),
    Bug(
        "lower-view-p",
        "of two prepared certificates the one of the lower view is re-proposed",
        (
            Edit(
                "consensus.view_change",
                "highest[vote.sequence][0] < vote.view",
                "highest[vote.sequence][0] > vote.view",
            ),
        ),
        4,
        ("loss", "byzantine"),
        200,
        habits=("stale-view-change",),
    ),
    Bug(
        "no-null-request",
        "gaps between re-proposals stay empty",
        (
            Edit(
                "consensus.view_change",
                "for sequence in range(start + 1, last + 1)]",
                "for sequence in sorted(highest)]",
            ),
        ),
        4,
        ROUGH,
        200,
    ),
    Bug(
        "prepared-dropped",
        "what was prepared is forgotten when a view is entered",
        (
            Edit(
                "consensus.state",
                "        self.ready = False\n        self.prepares.clear()",
                "        self.ready = False\n        self.prepared = None\n        self.prepares.clear()",
            ),
        ),
        4,
        TREASON,
        100,
    ),
    Bug(
        "no-new-view-needed",
        "a pre-prepare of a view is accepted before its new-view",
        (
            Edit(
                "consensus.ordering",
                "or state.changing or vote.view != state.view or not turn.may_order(vote.sequence):",
                "or vote.view != state.view or not turn.may_order(vote.sequence):",
            ),
        ),
        4,
        TREASON,
        300,
    ),
    Bug(
        "own-water-mark",
        "a new view starts at the lowest known checkpoint instead of the highest in V",
        (
            Edit(
                "consensus.view_change",
                "start = max((body.stable.height for body in bodies if body.stable is not None), default=0)",
                "start = min((body.stable.height if body.stable is not None else 0 for body in bodies), default=0)",
            ),
        ),
        4,
        ROUGH,
        60,
    ),
    Bug(
        "reproposal-too-old",
        "a re-proposed batch is judged by the rules of a new one, and refused",
        (
            Edit(
                "consensus.ordering",
                "        turn.emit(CheckBatch(vote.view, vote.sequence, vote.digest, batch, vote.sender, "
                "turn.committee.name(vote.sender), fresh=False))",
                "        turn.emit(CheckBatch(vote.view, vote.sequence, vote.digest, batch, vote.sender, "
                "turn.committee.name(vote.sender), fresh=True))",
            ),
        ),
        4,
        ROUGH,
        60,
    ),
    Bug(
        "no-join-rule",
        "a replica does not join a view change that f + 1 others ask for",
        (
            Edit(
                "consensus.view_change",
                "if len(higher) >= turn.quorums.weak:",
                "if len(higher) >= 99:",
            ),
        ),
        7,
        ("partition", "one-way", "loss"),
        20,
    ),
    Bug(
        "view-change-not-resent",
        "a view-change is sent once, and views never meet when it is lost",
        (
            Edit(
                "consensus.catch_up",
                "    if state.changing and state.own_view_change is not None:\n        turn.send(peer, state.own_view_change)\n    elif",
                "    if",
            ),
        ),
        4,
        (*ROUGH, "dead"),
        60,
    ),
    Bug(
        "timer-never-falls-back",
        "patience doubles with every view change and never falls back after progress, without a cap",
        (
            Edit(
                "consensus.checkpoint",
                "state.last_progress_ms, state.failed_views = turn.now_ms, 0",
                "state.last_progress_ms = turn.now_ms",
            ),
            Edit(
                "consensus.view_change",
                "return min(config.view_timeout_ms << doublings, config.max_view_timeout_ms)",
                "return config.view_timeout_ms << doublings",
            ),
        ),
        4,
        ROUGH,
        60,
    ),
    Bug(
        "timer-too-early",
        "the timer of a view starts at one's own view-change, not at q of them",
        (
            Edit(
                "consensus.view_change",
                "if state.view_change_deadline_ms is None and at_least >= turn.quorums.quorum:",
                "if state.view_change_deadline_ms is None:",
            ),
        ),
        4,
        (*ROUGH, "dead"),
        200,
        calm_ms=8_000,
    ),
    Bug(
        "one-bad-view-change",
        "one bad view-change makes all others be ignored",
        (
            Edit(
                "consensus.view_change",
                "    body = verified_view_change(turn, message)\n    if known is not None",
                "    try:\n"
                "        body = verified_view_change(turn, message)\n"
                "    except PeerFault:\n"
                "        state.view_changes.clear()\n"
                "        raise\n"
                "    if known is not None",
            ),
        ),
        4,
        TREASON,
        40,
        habits=("forged-view-change", "silent"),
        calm_ms=8_000,
    ),
)
"""See :mod:`cluster.simulation.bugs`."""
