"""The clerk: transactions that a node sends in its own name.

Law. A validator that lost its vote log asks for a new epoch that names its new one, once it knows the present state; proof of double
signing goes to the ledger. Both are ordinary transactions, signed with the validator's key; one is under way at a time, and is sent
again until it has its effect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from consensus.application import OK
from consensus.crypto import Signer
from consensus.effects import Evidence
from consensus.messages import ValidatorSet, Vote
from consensus.transaction import sign_transaction
from contracts.application import LedgerApplication
from contracts.calls import Call, RenewSeat, ReportDoubleSigning
from node.clock import Clock
from node.intake import HTTP, Submission
from node.opening import Identity

log = structlog.get_logger("gridpact.clerk")
VALIDITY_MS = 60_000
AGAIN_MS = 5_000
MAX_REPORTS = 1_000


class Clerk:
    """Sends what a node has to say to the ledger.

    Args:
        identity: name and keys of this node.
        log_id: id of its vote log.
        application, clock: of the channel.
        submit: hands transactions in.
    """

    def __init__(
        self,
        identity: Identity,
        log_id: bytes,
        application: LedgerApplication,
        clock: Clock,
        submit: Callable[[Sequence[bytes], str], Awaitable[list[Submission]]],
    ) -> None:
        self._name = identity.name
        self._signers = identity.signers
        self._log_id = log_id
        self._application = application
        self._clock = clock
        self._submit = submit
        self._reports: deque[ReportDoubleSigning] = deque(maxlen=MAX_REPORTS)
        self._sent: Call | None = None
        self._sent_ms = 0

    def report(self, evidence: Evidence) -> None:
        """Take proof of double signing to the ledger."""
        self._reports.append(ReportDoubleSigning(evidence.first, evidence.second))

    async def work(self, is_level: bool) -> None:
        """Send what is due. Call it at intervals.

        Args:
            is_level: whether this node has caught up with the others.
        """
        call, now_ms = self._next_call(), self._clock.monotonic_ms()
        signer = self._signer()
        if call is None or signer is None or not is_level or (call == self._sent and now_ms < self._sent_ms + AGAIN_MS):
            return
        self._sent, self._sent_ms = call, now_ms
        answer = (await self._submit([self._signed(signer, call)], HTTP))[0]
        if isinstance(call, ReportDoubleSigning) and self._reports and self._reports[0] == call and not _may_be_accepted(answer.code):
            self._reports.popleft()
        log.info("sent a transaction in the name of this node", call=type(call).__name__, code=answer.code, detail=answer.detail)

    def _next_call(self) -> Call | None:
        """Return what is to be said now; what the ledger knows already is not."""
        latest = self._application.epochs()[-1]
        if self._lost_its_seat(latest):
            return RenewSeat(latest.epoch, self._log_id)
        while self._reports and self._is_recorded(self._reports[0].first):
            self._reports.popleft()
        return self._reports[0] if self._reports else None

    def _is_recorded(self, vote: Vote) -> bool:
        """Whether the ledger has the double signing at the place of this vote."""
        validators = next((one for one in self._application.epochs() if one.epoch == vote.epoch), None)
        if validators is None or not 0 <= vote.sender < len(validators.names):
            return False
        name = validators.names[vote.sender]
        return self._application.view.validators.has_offence(name, vote.epoch, vote.kind, vote.view, vote.sequence)

    def _lost_its_seat(self, latest: ValidatorSet) -> bool:
        """Whether the latest set names this node and its key, but another vote log."""
        if self._name not in latest.names:
            return False
        seat = latest.names.index(self._name)
        has_key = any(signer.public_key == latest.public_keys[seat] for signer in self._signers)
        return has_key and latest.logs[seat] != self._log_id

    def _signer(self) -> Signer | None:
        key = self._application.sender_key(self._name)
        return next((signer for signer in self._signers if signer.public_key == key), None)

    def _signed(self, signer: Signer, call: Call) -> bytes:
        genesis = self._application.genesis
        nonce = self._application.view.next_nonce(self._name)
        valid_until_ms = self._clock.now_ms() + min(VALIDITY_MS, genesis.consensus.max_validity_ms)
        return sign_transaction(
            signer,
            chain_id=genesis.chain_id,
            channel=genesis.channel,
            sender=self._name,
            nonce=nonce,
            valid_until_ms=valid_until_ms,
            call=call,
        )


def _may_be_accepted(code: str) -> bool:
    """Whether the report is under way, or may be accepted later."""
    return code in (OK, "FULL", "NONCE_IN_USE", "NONCE_SPENT", "NONCE_TOO_FAR", "NO_SUCH_EPOCH")
