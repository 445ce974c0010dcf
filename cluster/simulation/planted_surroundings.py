"""Planted bugs: what comes from others, state, and what is kept."""

from __future__ import annotations

from cluster.simulation.planted import ROUGH, TREASON, Bug, Edit

BUGS = (
    Bug(
        "snapshot-on-trust",
        "a snapshot is adopted without checking its certificate",
        (
            Edit(
                "consensus.proofs",
                "if not validators.certifies(certificate, check):",
                "if not validators.names:",
            ),
        ),
        4,
        (*TREASON, "lag"),
        200,
        habits=("forge-snapshot",),
    ),
    Bug(
        "block-on-trust",
        "a block is adopted without checking its certificate",
        (
            Edit(
                "consensus.catch_up",
                "if not turn.certifies(block.certificate):",
                "if not block.block:",
            ),
        ),
        4,
        (*TREASON, "lag"),
        100,
        habits=("forge-blocks", "lie"),
    ),
    Bug(
        "dedupe-outside-state",
        "which nonces are spent is remembered beside the state, not in it",
        (
            Edit(
                "contracts.application",
                "    ledger.state.accounts.put(sender.key, Account(account.balance_micro, account.locked_micro, "
                "spend(account.nonces, nonce)))\n"
                "    return True",
                "    spent = ledger.__dict__.setdefault('spent', {})\n"
                "    if (sender.key, nonce) in spent:\n"
                "        return False\n"
                "    spent[(sender.key, nonce)] = None\n"
                "    return True",
            ),
        ),
        4,
        (*ROUGH, "wipe", "lag", "byzantine"),
        150,
    ),
    Bug(
        "batch-not-fetched",
        "the body of a re-proposed batch that is missing is never fetched",
        (
            Edit(
                "consensus.ordering",
                "        turn.state.missing[vote.digest] = vote.sequence\n        turn.broadcast(FetchBatch(vote.digest))",
                "        pass",
            ),
        ),
        4,
        TREASON,
        300,
    ),
    Bug(
        "bad-batch-prepared",
        "a backup prepares whatever the primary proposes",
        (
            Edit(
                "node.proposals",
                "reason = self._objection_to_batch(effect, batch) if effect.fresh else None",
                "reason = None",
            ),
        ),
        4,
        ("byzantine",),
        300,
        habits=("bad-proposal",),
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
        20,
        habits=("flood",),
    ),
)
"""See :mod:`cluster.simulation.bugs`."""
