"""What nodes send to the ledger in their own name: the clerk of :mod:`node` on a simulated node, whose intake does not await anything."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, cast

from cluster.simulation.workload import Sending
from cluster.simulation.world import CHAIN_ID, CHANNEL
from consensus.effects import Evidence
from consensus.errors import InvariantViolation
from consensus.mempool import NONCE_IN_USE
from consensus.transaction import decode_transaction, sign_transaction
from contracts.calls import Call, RenewSeat, VoteOnValidators, decode_call
from node import clerk, vote_log
from node.channel_reports import LEVEL_BLOCKS
from node.intake import Submission
from node.opening import Identity

if TYPE_CHECKING:
    from cluster.simulation.process import Process

VALIDITY_MS = 60_000
MAX_TRIES = 8


class Clerk:
    """Sends what a node has to say to the ledger, and what its people want it to.

    Args:
        process: the software of the node that it belongs to.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        node, votes = process.node, cast(vote_log.VoteLog, process.votes)
        self._clerk = clerk.Clerk(Identity(node.name, node.replica_config.signers), votes, process.application, node.clock, self._submit)

    def report(self, evidence: Evidence) -> None:
        """Keep proof of double signing, and take it to the ledger."""
        if self._process.votes.add_evidence(evidence.first, evidence.second):
            self._clerk.report(evidence)

    def work(self) -> None:
        """Send what is due. Call it at intervals."""
        _finish(self._clerk.work(self._is_level()))

    def _is_level(self) -> bool:
        """Whether this node knows the present state, by the rule of :mod:`node.channel_reports`."""
        replica = self._process.replica
        status = replica.status(self._process.clock.monotonic_ms())
        members = replica.committee.validators.names
        heights = sorted((height for name, height in status.peer_heights.items() if name in members), reverse=True)
        weak = replica.committee.quorums.weak
        return len(heights) >= weak and status.executed + LEVEL_BLOCKS >= heights[weak - 1]

    def send(self, call: Call) -> None:
        """Sign a call in the node's name and submit it to this node, as the people do who run it."""
        process, node = self._process, self._process.node
        key = process.application.sender_key(node.name)
        signer = next((one for one in node.replica_config.signers if one.public_key == key), None)
        if signer is None:
            return
        first = process.application.view.next_nonce(node.name)
        valid_until_ms = process.clock.now_ms() + VALIDITY_MS
        for nonce in range(first, first + MAX_TRIES):
            raw = sign_transaction(
                signer, chain_id=CHAIN_ID, channel=CHANNEL, sender=node.name, nonce=nonce, valid_until_ms=valid_until_ms, call=call
            )
            if self._hand_in(raw) != NONCE_IN_USE:
                return

    async def _submit(self, raws: Sequence[bytes], _: str) -> list[Submission]:
        return [Submission("", self._hand_in(raw)) for raw in raws]

    def _hand_in(self, raw: bytes) -> str:
        """Submit a transaction of this node, and let the checkers know that it was sent."""
        node, transaction = self._process.node, decode_transaction(raw)
        body = transaction.body
        sending = Sending(node.simulation.now_ms, node.place, _kind(decode_call(bytes(body.call))), body.sender, body.nonce, 0)
        node.simulation.checker.sent[transaction.id] = (sending, raw)
        return self._process.intake.submit(raw)


def _kind(call: Call) -> str:
    if isinstance(call, VoteOnValidators):
        return f"vote to {call.action} {call.name}"
    return "seat renewal" if isinstance(call, RenewSeat) else "report"


def _finish(work: Coroutine[object, object, None]) -> None:
    """Run something to its end that never has to wait.

    Raises:
        InvariantViolation: it waits.
    """
    try:
        work.send(None)
    except StopIteration:
        return
    raise InvariantViolation("the clerk of a simulated node waits for something")
