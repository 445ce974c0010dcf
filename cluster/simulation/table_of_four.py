"""Four replicas at a table, one step at a time: what each has got so far decides all that it does, so a replica is the list of that."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import product

from cluster.simulation.signatures import Keys
from consensus.block import batch_digest
from consensus.effects import BatchChecked, Broadcast, CheckBatch, Effect, Event, Execute, Propose, Received, Tick, Waiting
from consensus.messages import (
    Domain,
    Kind,
    Message,
    PrePrepareMessage,
    StatusBody,
    StatusMessage,
    ValidatorSet,
    Vote,
    VoteMessage,
    body_digest,
    sign_vote,
)
from consensus.recovery import Recovered
from consensus.replica import Replica
from consensus.state import ReplicaConfig

DOMAIN = Domain("four", "main", 0)
NAMES = ("a", "b", "c", "d")
BATCHES = (b"one batch", b"another batch", b"a third batch")
TIMEOUT_MS, START_MS, SOON_MS, LATE_MS = 1_000, 1_000, 1_300, 10_000
SEQUENCE = 1
Step = tuple[Event, int]


class Player:
    """One replica, as the list of what it got. A value: nothing changes it.

    Args:
        four: the table.
        seat: its place.
        steps: events and their times.
    """

    def __init__(self, four: Four, seat: int, steps: tuple[Step, ...] = ()) -> None:
        self._four = four
        self.seat = seat
        self._steps = steps

    @cached_property
    def _played(self) -> tuple[Replica, list[Effect]]:
        replica = Replica(self._four.config(self.seat), Recovered(epochs=(self._four.validators,)))
        effects = replica.start(START_MS)
        for event, now_ms in self._steps:
            fresh = replica.step(event, now_ms)
            while checks := [effect for effect in fresh if isinstance(effect, CheckBatch)]:
                effects += fresh
                fresh = [
                    effect
                    for check in checks
                    for effect in replica.step(BatchChecked(check.view, check.sequence, check.digest, accepted=True), now_ms)
                ]
            effects += fresh
        return replica, effects

    @property
    def effects(self) -> list[Effect]:
        """All that it ever did."""
        return self._played[1]

    @property
    def view(self) -> int:
        """Its view, or the one that it wants."""
        return self._played[0].view

    @property
    def can_propose(self) -> bool:
        """Whether it leads its view and may propose."""
        return self._played[0].can_propose

    @cached_property
    def decided(self) -> bytes | None:
        """The digest that it decided on."""
        executed = [effect.batch for effect in self.effects if isinstance(effect, Execute)]
        return batch_digest(executed[0]) if executed else None

    @cached_property
    def key(self) -> object:
        """What tells it from others at its seat; who exactly voted for what it prepared does not matter."""
        slot = self._played[0]._state.slots.get(SEQUENCE)
        if slot is None:
            return (self.view, self.decided)
        prepared = None if slot.prepared is None else (slot.prepared.pre_prepare.view, slot.prepared.pre_prepare.digest)
        accepted = None if slot.pre_prepare is None else slot.pre_prepare.digest
        return (self.view, accepted, slot.own_prepare is None, slot.own_commit is None, prepared, self.decided)

    def said(self, kind: type[Message]) -> list[Message]:
        """Return the messages of one type that it broadcast."""
        return [effect.message for effect in self.effects if isinstance(effect, Broadcast) and isinstance(effect.message, kind)]

    def votes(self, kind: Kind) -> list[Vote]:
        """Return the votes of one kind that it broadcast."""
        return [message.vote for message in self.said(VoteMessage) if isinstance(message, VoteMessage) and message.vote.kind == kind]

    def then(self, *steps: Step) -> Player:
        """Return it after more steps."""
        return Player(self._four, self.seat, (*self._steps, *steps)) if steps else self

    def gets(self, *messages: Message, now_ms: int = START_MS) -> Player:
        """Return it after messages (from whom does not matter: they are signed)."""
        return self.then(*((Received(NAMES[(self.seat + 1) % 4], message), now_ms) for message in messages))

    def proposes(self, batch: bytes, now_ms: int = START_MS) -> Player:
        """Return it after a proposal of its own."""
        return self.then((Propose(batch), now_ms))

    def loses_patience(self) -> Player:
        """Return it after the primary did nothing for too long."""
        greetings = [(Received(NAMES[seat], self._four.status(seat)), START_MS) for seat in range(4) if seat != self.seat]
        return self.then((Waiting(START_MS), START_MS), *greetings, (Tick(), SOON_MS), (Tick(), LATE_MS))


class Votes:
    """The votes of one phase: by sender, what can be delivered of his; the Byzantine replica has several to choose from.

    Args:
        by_sender: messages by seat.
    """

    def __init__(self, by_sender: dict[int, list[VoteMessage]]) -> None:
        self._by_sender = by_sender

    def choices(self, receiver: int) -> Iterator[tuple[VoteMessage, ...]]:
        """Yield every choice of what one replica gets: from each sender one of his messages, or nothing."""
        offers = [(None, *messages) for sender, messages in sorted(self._by_sender.items()) if sender != receiver]
        for chosen in product(*offers):
            yield tuple(message for message in chosen if message is not None)


class Four:
    """The table.

    Args:
        byzantine: seat of the Byzantine replica; None: all are honest.
    """

    def __init__(self, byzantine: int | None) -> None:
        self.byzantine = byzantine
        self._keys = Keys()
        self._signers = [self._keys.signer(name) for name in NAMES]
        keys = tuple(signer.public_key for signer in self._signers)
        self.validators = ValidatorSet(DOMAIN, 1, NAMES, keys, (b"",) * len(NAMES))

    def config(self, seat: int) -> ReplicaConfig:
        """Return the configuration of a replica."""
        return ReplicaConfig(NAMES[seat], (self._signers[seat],), window=4, view_timeout_ms=TIMEOUT_MS, check=self._keys.check)

    def fresh(self, seat: int) -> Player:
        """Return a replica at its start."""
        return Player(self, seat)

    def sign(self, kind: Kind, view: int, sequence: int, digest: bytes, seat: int) -> Vote:
        """Return a vote that a replica could sign."""
        return sign_vote(self._signers[seat], DOMAIN, kind, view, sequence, digest, seat)

    def status(self, seat: int) -> StatusMessage:
        """Return what a replica of view 0 says to show that it is there."""
        body = StatusBody(0, False, 0, 0, 1, None)
        return StatusMessage(self.sign(Kind.STATUS, 0, 0, body_digest(body), seat), body)

    def pre_prepare(self, primary: Player | None, batch: bytes) -> PrePrepareMessage:
        """Return the first primary's pre-prepare: what it said, or what the Byzantine one says."""
        if primary is None:
            return PrePrepareMessage(self.sign(Kind.PRE_PREPARE, 0, SEQUENCE, batch_digest(batch), 0), batch)
        said = primary.said(PrePrepareMessage)[0]
        return said if isinstance(said, PrePrepareMessage) else PrePrepareMessage(said.vote, batch)  # type: ignore[union-attr]

    def prepares(self, state: tuple[Player | None, ...]) -> Votes:
        """Return the prepares of view 0."""
        return self._votes(state, Kind.PREPARE)

    def commits(self, state: tuple[Player | None, ...]) -> Votes:
        """Return the commits of view 0."""
        return self._votes(state, Kind.COMMIT)

    def _votes(self, state: tuple[Player | None, ...], kind: Kind) -> Votes:
        found = {player.seat: [VoteMessage(vote) for vote in player.votes(kind)] for player in state if player is not None}
        if self.byzantine is not None and not (kind is Kind.PREPARE and self.byzantine == 0):
            digests = {vote.vote.digest: None for votes in found.values() for vote in votes}
            digests |= {batch_digest(batch): None for batch in BATCHES[: 2 if self.byzantine == 0 else 1]}
            found[self.byzantine] = [VoteMessage(self.sign(kind, 0, SEQUENCE, digest, self.byzantine)) for digest in digests]
        return Votes({seat: votes for seat, votes in found.items() if votes})
