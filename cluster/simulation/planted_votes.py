"""Planted bugs: counting, signing and keeping votes; epochs."""

from __future__ import annotations

from cluster.simulation.planted import ROUGH, TREASON, Bug, Edit

BUGS = (
    Bug(
        "quorum-2f+1-of-5",
        "quorum of 2f + 1 although n is not 3f + 1: n = 5",
        (
            Edit(
                "consensus.quorum",
                "(replicas + faulty + 2) // 2)",
                "2 * faulty + 1)",
            ),
        ),
        5,
        TREASON,
        20,
    ),
    Bug(
        "quorum-2f+1-of-6",
        "quorum of 2f + 1 although n is not 3f + 1: n = 6",
        (
            Edit(
                "consensus.quorum",
                "(replicas + faulty + 2) // 2)",
                "2 * faulty + 1)",
            ),
        ),
        6,
        TREASON,
        20,
    ),
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
        60,
        habits=("equivocate",),
    ),
    Bug(
        "votes-counted-twice",
        "votes are counted without looking who sent them",
        (
            Edit(
                "consensus.ordering",
                "        votes[vote.sender] = vote\n        advance",
                "        votes[len(votes) + 99] = vote\n        advance",
            ),
        ),
        4,
        (*ROUGH, "duplication"),
        60,
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
        20,
        habits=("relabel", "equivocate"),
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
        150,
        habits=("forge-blocks", "lie"),
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
        (
            Edit(
                "consensus.recovery",
                "        if record.sequence > state.certified:\n",
                "        if record.sequence > 10**9:\n",
            ),
        ),
        4,
        (*ROUGH, "torn"),
        80,
    ),
    Bug(
        "wiped-votes-at-once",
        "a validator that lost its vote log votes at once",
        (
            Edit(
                "consensus.committee",
                " and log == validators.logs[seat]",
                "",
            ),
        ),
        4,
        ("wipe", "loss"),
        20,
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
        40,
    ),
    Bug(
        "epoch-not-signed",
        "the epoch is not in what a vote signs, so votes of one epoch count in another",
        (
            Edit(
                "consensus.messages",
                "encode((domain.chain_id, domain.channel, domain.epoch, int(kind)",
                "encode((domain.chain_id, domain.channel, int(kind)",
            ),
        ),
        4,
        (*TREASON, "membership"),
        20,
        habits=("relabel",),
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
        200,
    ),
    Bug(
        "set-never-changes",
        "votes and certificates of removed validators go on counting",
        (
            Edit(
                "consensus.epochs",
                "state.committee = committee = committee_of(validators,",
                "state.committee = committee = committee_of(state.epochs[0],",
            ),
        ),
        5,
        (*ROUGH, "membership"),
        60,
    ),
)
"""See :mod:`cluster.simulation.bugs`."""
