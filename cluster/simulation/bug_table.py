"""The table of planted bugs: each is a known trap of PBFT and its surroundings, and each must be caught within a stated number of seeds."""

from __future__ import annotations

from typing import NamedTuple

ROUGH = ("loss", "partition", "one-way", "crash", "delay", "slow-disk")
TREASON = (*ROUGH, "byzantine")


class Edit(NamedTuple):
    """One snippet of a module, and what stands in its place."""

    module: str
    old: str
    new: str


class Bug(NamedTuple):
    """One planted bug.

    Attributes:
        name: for ``--plant``.
        trap: what went wrong in real systems.
        edits: what is changed.
        nodes, faults: of the runs that look for it.
        seeds: within how many it must be caught.
        byzantine: exactly so many Byzantine nodes; None: as the seed says.
        calm_ms: bound of the calm.
    """

    name: str
    trap: str
    edits: tuple[Edit, ...]
    nodes: int
    faults: tuple[str, ...]
    seeds: int
    byzantine: int | None = None
    calm_ms: int = 40_000


_QUORUM = Edit("consensus.quorum", "(replicas + faulty + 2) // 2)", "2 * faulty + 1)")

BUGS = (
    Bug("quorum-2f+1-of-5", "quorum of 2f + 1 although n is not 3f + 1: n = 5", (_QUORUM,), 5, TREASON, 200),
    Bug("quorum-2f+1-of-6", "quorum of 2f + 1 although n is not 3f + 1: n = 6", (_QUORUM,), 6, TREASON, 200),
    Bug(
        "primary-prepares",
        "the primary's prepare is counted beside its pre-prepare",
        (
            Edit(
                "consensus.ordering",
                "if kind is Kind.PREPARE and vote.sender == turn.committee.primary(vote.view):",
                "if kind is Kind.PREPARE and vote.sender < 0:",
            ),
        ),
        4,
        TREASON,
        300,
        1,
    ),
    Bug(
        "votes-counted-twice",
        "votes are counted without looking who sent them",
        (Edit("consensus.ordering", "        votes[vote.sender] = vote\n        advance", "        votes[len(votes) + 99] = vote\n        advance"),),
        4,
        (*ROUGH, "duplication"),
        200,
    ),
    Bug(
        "same-bytes",
        "prepare and commit sign the same bytes",
        (
            Edit(
                "consensus.messages",
                "encode((domain.chain_id, domain.channel, domain.epoch, int(kind), view",
                "encode((domain.chain_id, domain.channel, domain.epoch, 2 if kind == 3 else int(kind), view",
            ),
        ),
        4,
        TREASON,
        400,
        1,
    ),
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
        400,
        1,
    ),
    Bug(
        "o-loses-last",
        "the last sequence of the re-proposals is lost to an off-by-one",
        (Edit("consensus.view_change", "for sequence in range(start + 1, last + 1)]", "for sequence in range(start + 1, last)]"),),
        4,
        ROUGH,
        200,
    ),
    Bug(
        "lower-view-p",
        "of two prepared certificates the one of the lower view is re-proposed",
        (Edit("consensus.view_change", "highest[vote.sequence][0] < vote.view", "highest[vote.sequence][0] > vote.view"),),
        4,
        TREASON,
        800,
        1,
    ),
    Bug(
        "no-null-request",
        "gaps between re-proposals stay empty",
        (Edit("consensus.view_change", "for sequence in range(start + 1, last + 1)]", "for sequence in sorted(highest)]"),),
        4,
        ROUGH,
        600,
    ),
    Bug(
        "sent-before-synced",
        "a prepare is sent before it is durable",
        (
            Edit(
                "consensus.ordering",
                "        turn.persist(Kind.PREPARE, slot.sequence, state.view, VoteMessage(slot.own_prepare))\n"
                "        turn.broadcast(VoteMessage(slot.own_prepare))",
                "        turn.broadcast(VoteMessage(slot.own_prepare))\n"
                "        turn.persist(Kind.PREPARE, slot.sequence, state.view, VoteMessage(slot.own_prepare))",
            ),
        ),
        4,
        ROUGH,
        20,
    ),
    Bug(
        "vote-log-ignored",
        "after a restart the votes of the log are forgotten",
        (Edit("consensus.recovery", "        if record.sequence > state.certified:\n", "        if record.sequence > 10**9:\n"),),
        4,
        (*ROUGH, "torn"),
        300,
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
        100,
    ),
    Bug(
        "no-join-rule",
        "a replica does not join a view change that f + 1 others ask for",
        (Edit("consensus.view_change", "if len(higher) >= turn.quorums.weak:", "if len(higher) >= 99:"),),
        4,
        (*ROUGH, "dead"),
        400,
    ),
    Bug(
        "snapshot-on-trust",
        "a snapshot is adopted without checking its certificate",
        (
            Edit(
                "consensus.state_transfer",
                "if not set_at(epochs, header.height).certifies(certificate, turn.config.check):",
                "if not epochs:",
            ),
        ),
        4,
        (*TREASON, "lag"),
        400,
        1,
    ),
    Bug(
        "dedupe-outside-state",
        "which nonces are spent is remembered beside the state, not in it",
        (
            Edit(
                "contracts.application",
                "    ledger.state.accounts.put(sender.key, Account(account.balance_micro, account.locked_micro, "
                "spend(account.nonces, nonce)))\n    return True",
                "    spent = ledger.__dict__.setdefault('spent', {})\n"
                "    if (sender.key, nonce) in spent:\n        return False\n"
                "    spent[(sender.key, nonce)] = None\n    return True",
            ),
        ),
        4,
        (*ROUGH, "wipe", "lag", "byzantine"),
        200,
    ),
    Bug(
        "prepared-dropped",
        "what was prepared is forgotten when a view is entered",
        (Edit("consensus.state", "        self.ready = False\n        self.prepares.clear()", "        self.ready = False\n        self.prepared = None\n        self.prepares.clear()"),),
        4,
        TREASON,
        800,
    ),
    Bug(
        "no-new-view-needed",
        "a pre-prepare of a view is accepted before its new-view",
        (Edit("consensus.ordering", "or state.changing or vote.view != state.view or not turn.may_order(vote.sequence):", "or vote.view != state.view or not turn.may_order(vote.sequence):"),),
        4,
        TREASON,
        300,
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
        200,
    ),
    Bug(
        "timer-never-falls-back",
        "patience doubles with every view change and never falls back after progress, without a cap",
        (
            Edit("consensus.checkpoint", "state.last_progress_ms, state.failed_views = turn.now_ms, 0", "state.last_progress_ms = turn.now_ms"),
            Edit(
                "consensus.view_change",
                "return min(config.view_timeout_ms << doublings, config.max_view_timeout_ms)",
                "return config.view_timeout_ms << doublings",
            ),
        ),
        4,
        (*ROUGH, "dead"),
        400,
    ),
    Bug(
        "wiped-votes-at-once",
        "a validator that lost its vote log votes at once",
        (Edit("consensus.committee", " and log == validators.logs[seat]", ""),),
        4,
        ("wipe", "loss"),
        40,
    ),
    Bug(
        "block-on-trust",
        "a block is adopted without checking its certificate",
        (Edit("consensus.catch_up", "if not turn.certifies(block.certificate):", "if not block.block:"),),
        4,
        (*TREASON, "lag"),
        300,
        1,
    ),
    Bug(
        "certificate-not-distinct",
        "the same signature is counted several times in a certificate",
        (
            Edit(
                "consensus.messages",
                "if len(senders) < self.quorums.quorum or senders != sorted(set(senders)):",
                "if len(senders) < self.quorums.quorum:",
            ),
        ),
        4,
        (*TREASON, "lag"),
        400,
        1,
    ),
    Bug(
        "one-bad-view-change",
        "one bad view-change makes all others be ignored",
        (
            Edit(
                "consensus.view_change",
                "    body = verified_view_change(turn, message)\n    if known is not None",
                "    try:\n        body = verified_view_change(turn, message)\n    except PeerFault:\n"
                "        state.view_changes.clear()\n        raise\n    if known is not None",
            ),
        ),
        4,
        TREASON,
        400,
        1,
    ),
    Bug(
        "epoch-not-signed",
        "the epoch is not in what a vote signs, so votes of one epoch count in another",
        (
            Edit("consensus.messages", "encode((domain.chain_id, domain.channel, domain.epoch, int(kind)", "encode((domain.chain_id, domain.channel, int(kind)"),
        ),
        4,
        (*TREASON, "membership"),
        400,
        1,
    ),
    Bug(
        "old-epoch-goes-on",
        "the old validators order beyond the end of their epoch",
        (
            Edit(
                "consensus.state",
                "return self.state.executed + self.config.window if following is None else following.first_height - 1",
                "return self.state.executed + self.config.window",
            ),
        ),
        4,
        (*ROUGH, "membership"),
        300,
    ),
    Bug(
        "any-epoch-certifies",
        "blocks are certified by validators of another epoch than theirs",
        (
            Edit(
                "consensus.checkpoint",
                "    if not turn.may_vote or sequence > turn.end_of_epoch:\n        return",
                "    if not turn.may_vote:\n        return",
            ),
            Edit(
                "consensus.checkpoint",
                "if vote.epoch != turn.committee.epoch or not turn.may_certify(vote.sequence):",
                "if not turn.may_certify(vote.sequence):",
            ),
        ),
        4,
        (*ROUGH, "membership"),
        400,
    ),
    Bug(
        "out-of-order",
        "decided batches are executed as they come",
        (
            Edit(
                "consensus.ordering",
                "        slot = state.slots.get(state.submitted + 1)\n",
                "        slot = next((one for one in state.slots.values() if one.decided and one.sequence > state.submitted), None)\n",
            ),
        ),
        4,
        (*ROUGH, "reordering"),
        100,
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
        200,
    ),
    Bug(
        "unbounded-stash",
        "votes for any sequence number are kept",
        (
            Edit(
                "consensus.state",
                "return low < sequence <= min(low + self.config.window, self.end_of_epoch)",
                "return low < sequence",
            ),
        ),
        4,
        ("byzantine", "partition"),
        200,
        1,
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
        400,
    ),
    Bug(
        "batch-not-fetched",
        "the body of a re-proposed batch that is missing is never fetched",
        (
            Edit("consensus.ordering", "        turn.state.missing[vote.digest] = vote.sequence\n        turn.broadcast(FetchBatch(vote.digest))", "        turn.state.missing[vote.digest] = vote.sequence"),
            Edit("consensus.catch_up", "    for digest in state.missing:\n        turn.broadcast(FetchBatch(digest))\n", ""),
        ),
        4,
        TREASON,
        400,
    ),
    Bug(
        "bad-batch-prepared",
        "a backup prepares whatever the primary proposes",
        (Edit("node.proposals", "reason = self._objection_to_batch(effect, batch) if effect.fresh else None", "reason = None"),),
        4,
        ("byzantine",),
        200,
        1,
    ),
)  # fmt: skip
"""All of them."""
