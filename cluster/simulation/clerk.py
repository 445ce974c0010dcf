"""What nodes send to the ledger in their own name: renewals of seats, reports of double signing (as :mod:`node.clerk`), votes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from cluster.simulation.workload import Sending
from cluster.simulation.world import CHAIN_ID, CHANNEL
from consensus.effects import Evidence
from consensus.transaction import decode_transaction, sign_transaction
from contracts.calls import Call, RenewSeat, ReportDoubleSigning, VoteOnValidators

if TYPE_CHECKING:
    from cluster.simulation.process import Process

VALIDITY_MS = 60_000
AGAIN_MS = 1_500
LEVEL_BLOCKS = 2
MOST_REPORTS = 20


class Clerk:
    """Sends what a node has to say to the ledger, one transaction at a time.

    Args:
        process: the software of the node that it belongs to.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._reports: deque[ReportDoubleSigning] = deque(maxlen=MOST_REPORTS)
        self._last_sent_ms: int | None = None

    def report(self, evidence: Evidence) -> None:
        """Take proof of double signing to the ledger."""
        self._reports.append(ReportDoubleSigning(evidence.first, evidence.second))

    def work(self) -> None:
        """Send what is due. Call it at intervals."""
        process = self._process
        now_ms = process.clock.monotonic_ms()
        if self._last_sent_ms is not None and now_ms < self._last_sent_ms + AGAIN_MS:
            return
        call = self._next_call()
        if call is not None and self._is_level():
            self._last_sent_ms = now_ms
            self.send(call)

    def _is_level(self) -> bool:
        """Whether this node knows the present state: it has what the others say they have."""
        replica = self._process.replica
        status = replica.status(self._process.clock.monotonic_ms())
        heights = status.peer_heights.values()
        return len(heights) >= replica.committee.quorums.weak and status.executed + LEVEL_BLOCKS >= max(heights)

    def _next_call(self) -> Call | None:
        node = self._process.node
        latest = self._process.epochs()[-1]
        if node.name in latest.names and latest.logs[latest.names.index(node.name)] != node.log:
            return RenewSeat(latest.epoch, node.log)
        while self._reports:
            call = self._reports.popleft()
            if self._process.replica.committee.index is not None:
                return call
        return None

    def send(self, call: Call) -> None:
        """Sign a call in the node's name and submit it to this node."""
        process, node = self._process, self._process.node
        key = process.application.sender_key(node.name)
        signer = next((one for one in node.replica_config.signers if one.public_key == key), None)
        if signer is None:
            return
        nonce = process.application.view.next_nonce(node.name)
        valid_until_ms = process.clock.now_ms() + VALIDITY_MS
        raw = sign_transaction(
            signer, chain_id=CHAIN_ID, channel=CHANNEL, sender=node.name, nonce=nonce, valid_until_ms=valid_until_ms, call=call
        )
        sending = Sending(node.simulation.now_ms, node.place, _kind(call), node.name, nonce, 0)
        node.simulation.checker.sent[decode_transaction(raw).id] = (sending, raw)
        process.intake.submit(raw)


def _kind(call: Call) -> str:
    if isinstance(call, VoteOnValidators):
        return f"vote to {call.action} {call.name}"
    return "seat renewal" if isinstance(call, RenewSeat) else "report"
