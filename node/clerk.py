"""The clerk: transactions that a node sends in its own name.

Law.

1. A validator that lost its vote log asks for a new epoch that names its new one, once it knows the present state. Proof of double signing
   goes to the ledger. Both are ordinary transactions, signed with the validator's key.
2. What is to be said follows from the disk: the evidence in the vote log that the chain has not recorded. No restart, and no transaction
   that expires or is refused, changes anything. One is under way at a time, and none that is refused holds up the others.
3. Others sign in the same name (the operator votes) and count on from the highest nonce. The clerk takes nonces from a reach beyond,
   then the gap that this leaves, so that it never takes the number of a vote that somebody is about to send.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice

import structlog

from consensus.application import OK
from consensus.crypto import Signer
from consensus.effects import Evidence
from consensus.messages import ValidatorSet, Vote
from consensus.transaction import sign_transaction
from contracts.application import LedgerApplication
from contracts.calls import Call, RenewSeat, ReportDoubleSigning
from contracts.evidence import MAX_OFFENCES
from node.clock import Clock
from node.intake import HTTP, Submission
from node.opening import Identity
from node.vote_log import VoteLog

log = structlog.get_logger("gridpact.clerk")
VALIDITY_MS = 60_000
PATIENCE_MS = 10_000
"""After so long without effect it is said again: with a clock that is behind, it was over for the others before they saw it."""
AGAIN_MS = 5_000
REFUSED_MS = 600_000
"""So long a report rests that the ledger refuses."""
REACH = 64
"""The clerk's nonces are so far from those of others at most."""
MAX_TRIES = 8
_PASSING = ("FULL", "BEHIND", "NONCE_IN_USE", "NONCE_SPENT", "NONCE_TOO_FAR", "VALID_TOO_LONG")


class Clerk:
    """Sends what a node has to say to the ledger.

    Args:
        identity: name and keys of this node.
        votes: its vote log.
        application, clock: of the channel.
        submit: hands transactions in.
    """

    def __init__(
        self,
        identity: Identity,
        votes: VoteLog,
        application: LedgerApplication,
        clock: Clock,
        submit: Callable[[Sequence[bytes], str], Awaitable[list[Submission]]],
    ) -> None:
        self._name = identity.name
        self._signers = identity.signers
        self._log_id = votes.id
        self._application = application
        self._clock = clock
        self._submit = submit
        self._reports = [ReportDoubleSigning(first, second) for first, second in votes.evidence()]
        self._rests: dict[Call, int] = {}
        self._under_way: Call | None = None
        self._nonce = 0
        self._until_ms = 0

    def report(self, evidence: Evidence) -> None:
        """Take proof of double signing, which the vote log has now, to the ledger."""
        self._reports.append(ReportDoubleSigning(evidence.first, evidence.second))

    async def work(self, is_level: bool) -> None:
        """Send what is due. Call it at intervals.

        Args:
            is_level: whether this node has caught up with the others.
        """
        signer, now_ms = self._signer(), self._clock.monotonic_ms()
        if signer is None or not is_level or self._is_under_way(now_ms):
            return
        self._rests = {call: until_ms for call, until_ms in self._rests.items() if until_ms > now_ms}
        call = next((one for one in self.open_calls() if one not in self._rests), None)
        if call is None:
            return
        answer = await self._send(signer, call)
        if answer.code == OK:
            self._under_way, self._until_ms = call, now_ms + PATIENCE_MS
        is_passing = answer.code in (OK, *_PASSING) or isinstance(call, RenewSeat)
        self._rests[call] = now_ms + (AGAIN_MS if is_passing else REFUSED_MS)
        log.info("sent a transaction in the name of this node", call=type(call).__name__, code=answer.code, detail=answer.detail)

    def open_calls(self) -> Iterator[Call]:
        """Yield what the ledger is still to be told, the most urgent first."""
        latest = self._application.epochs()[-1]
        if self._lost_its_seat(latest):
            yield RenewSeat(latest.epoch, self._log_id)
        self._reports = [report for report in self._reports if not self._is_settled(report.first)]
        yield from (report for report in self._reports if self._offender(report.first) is not None)

    def _is_under_way(self, now_ms: int) -> bool:
        """Whether the last transaction may still have its effect."""
        if self._under_way is not None:
            is_spent = self._application.view.validators.is_spent(self._name, self._nonce)
            if now_ms >= self._until_ms or is_spent or self._under_way not in self.open_calls():
                self._under_way = None
        return self._under_way is not None

    def _is_settled(self, vote: Vote) -> bool:
        """Whether the ledger needs no report about the place of this vote: it has one, or as many of this validator as it keeps."""
        name, view = self._offender(vote), self._application.view.validators
        if name is None:
            return False
        record = view.validator(name)
        is_full = record is not None and record.offences >= MAX_OFFENCES
        return is_full or view.has_offence(name, vote.epoch, vote.kind, vote.view, vote.sequence)

    def _offender(self, vote: Vote) -> str | None:
        """Return who signed a vote, None if the ledger cannot tell (yet)."""
        validators = next((one for one in self._application.epochs() if one.epoch == vote.epoch), None)
        if validators is None or not 0 <= vote.sender < len(validators.names):
            return None
        return validators.names[vote.sender]

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

    async def _send(self, signer: Signer, call: Call) -> Submission:
        answer = Submission("", "NONCE_IN_USE")
        for nonce in self._nonces():
            self._nonce = nonce
            (answer,) = await self._submit([self._signed(signer, call, nonce)], HTTP)
            if answer.code != "NONCE_IN_USE":
                break
        return answer

    def _nonces(self) -> Iterator[int]:
        """Yield numbers to try: the latest that were left out, then some beyond the reach of others."""
        view = self._application.view
        highest = view.next_nonce(self._name) - 1
        gaps = range(highest - 1, max(0, highest - REACH), -1)
        yield from islice((one for one in gaps if not view.validators.is_spent(self._name, one)), MAX_TRIES)
        yield from range(highest + REACH, highest + REACH - MAX_TRIES, -1)

    def _signed(self, signer: Signer, call: Call, nonce: int) -> bytes:
        genesis = self._application.genesis
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
