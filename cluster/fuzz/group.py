"""The group that the faulty member speaks to: the honest members, the network between them, and what must hold of them.

The network delivers in any order, loses what it likes, cuts members off; all chance comes from the caller. When it is calm for a while,
with the faulty member silent, the honest ones must order new requests, whatever was said before.
"""

from __future__ import annotations

from collections import deque
from random import Random

from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.seat import Seat
from cluster.fuzz.sizes import table_sizes
from cluster.fuzz.toy import FAULTY, HONEST, NAMES, ToyChain
from consensus.crypto import digest
from consensus.effects import Received, Tick
from consensus.errors import InvariantViolation
from consensus.messages import Message, VoteMessage

MAX_MAIL = 120
"""Messages on their way to one member; the oldest are lost."""
MAX_TABLE = 300
"""Entries that a table of a replica may hold: the most is :data:`consensus.catch_up.MAX_FETCHED`."""
CALM_STEP_MS, CALM_MS, CALM_ROUNDS = 50, 90_000, 60
CALM_BLOCKS = 2
DELIVERED_FIRST = 0.75
"""Share of deliveries that take the oldest message of a member; the others take any."""


class Group:
    """All members and their mail.

    Attributes:
        chain: the one that there must be.
        seats: by name; that of the faulty member says what an honest one would say in its place.
        said: what the faulty member was sent, and what its seat would say to whom, since this was last emptied.
        now_ms: the clock of all.
        cut: who is cut off; deaf: who hears no votes of which kind.
    """

    def __init__(self) -> None:
        self.chain = ToyChain()
        self.said: deque[tuple[str, str, Message]] = deque(maxlen=MAX_MAIL)
        self.now_ms = 1_000
        self.cut: frozenset[str] = frozenset()
        self.deaf: frozenset[tuple[str, int]] = frozenset()
        self._mail: dict[str, deque[tuple[str, Message]]] = {name: deque(maxlen=MAX_MAIL) for name in NAMES}
        self._requests = 0
        self.seats = {name: Seat(name, self.chain, self._post) for name in NAMES}

    @property
    def honest(self) -> list[Seat]:
        """The honest members."""
        return [self.seats[name] for name in HONEST]

    def _post(self, sender: str, to: str, message: Message) -> None:
        if sender in self.cut or to in self.cut:
            return
        if isinstance(message, VoteMessage) and (to, message.vote.kind) in self.deaf:
            return
        if FAULTY in (sender, to):
            self.said.append((sender, to, message))
        if sender != FAULTY:
            self._mail[to].append((sender, message))

    def send(self, to: str, message: Message) -> None:
        """Put what the faulty member says to somebody on its way."""
        if to != FAULTY and to not in self.cut:
            self._mail[to].append((FAULTY, message))

    def tell(self, to: str, message: Message) -> None:
        """Let an honest member hear at once what the faulty one says."""
        self._step(self.seats[to], Received(FAULTY, message))

    # ---------------------------------------------------------------------------------------------------------- working

    def _step(self, seat: Seat, event: object) -> None:
        """Step a member.

        Raises:
            LawBrokenError: an honest one did what it may not.
        """
        if seat.is_honest:
            seat.step(event, self.now_ms)  # type: ignore[arg-type]
            return
        try:
            seat.step(event, self.now_ms)  # type: ignore[arg-type]
        except (InvariantViolation, LawBrokenError):
            # Votes were signed with its key of which its software knows nothing; that it stumbles over them is nobody's fault.
            self.seats[seat.name] = Seat(seat.name, self.chain, self._post)

    def deliver(self, random: Random, count: int) -> None:
        """Deliver some messages and answers of hosts, in an order that ``random`` gives."""
        for _ in range(count):
            busy = [seat for seat in self.seats.values() if seat.inbox or self._mail[seat.name]]
            if not busy:
                return
            seat = busy[int(random.random() * len(busy))]
            mail = self._mail[seat.name]
            if seat.inbox and (not mail or random.random() < 0.5):
                self._step(seat, seat.inbox.popleft())
                continue
            place = 0 if random.random() < DELIVERED_FIRST else int(random.random() * len(mail))
            sender, message = mail[place]
            del mail[place]
            self._step(seat, Received(sender, message))

    def lose(self, random: Random, count: int) -> None:
        """Lose some messages."""
        for _ in range(count):
            mail = self._mail[NAMES[int(random.random() * len(NAMES))]]
            if mail:
                del mail[int(random.random() * len(mail))]

    def pass_time(self, ms: int) -> None:
        """Let time pass; everybody notices."""
        self.now_ms += ms
        for seat in list(self.seats.values()):
            self._step(seat, Tick())

    def submit(self, names: tuple[str, ...]) -> None:
        """Give a new request to some members."""
        self._requests += 1
        for name in names:
            self.seats[name].submit(digest(b"request %d" % self._requests), self.now_ms)

    def restart(self, name: str, lost: int) -> None:
        """Stop a member and start it from its disk, with some of its last certificates lost."""
        try:
            self.seats[name].start(self.now_ms, lost)
        except (InvariantViolation, LawBrokenError):
            if name != FAULTY:
                raise
            self.seats[name] = Seat(name, self.chain, self._post)

    # --------------------------------------------------------------------------------------------------------- checking

    def check_sizes(self) -> None:
        """Check that no table of an honest replica grows.

        Raises:
            LawBrokenError: one has more entries than its bounds allow.
        """
        for seat in self.honest:
            for name, size in table_sizes(seat.replica).items():
                if size > MAX_TABLE and "epochs" not in name:
                    raise LawBrokenError(f"the table {name} of {seat.name} has {size} entries")

    def calm_down(self, random: Random) -> None:
        """Let the faulty member be silent and the network good, until the honest ones have ordered and certified new blocks.

        Raises:
            LawBrokenError: they do not, however long it takes.
        """
        self.cut, self.deaf = frozenset((FAULTY,)), frozenset()
        self._mail[FAULTY].clear()
        goal, end_ms = self.chain.height + CALM_BLOCKS, self.now_ms + CALM_MS
        while any(seat.certified < goal for seat in self.honest):
            if self.now_ms >= end_ms:
                raise LawBrokenError(f"the honest ones do not go on, though all is calm: {self._standing(goal)}")
            for _ in range(CALM_ROUNDS):
                if not any(seat.inbox or self._mail[seat.name] for seat in self.honest):
                    break
                self.deliver(random, len(NAMES))
            if not any(seat.pending for seat in self.honest):
                self.submit(HONEST)
            self.pass_time(CALM_STEP_MS)
        self.cut = frozenset()

    def _standing(self, goal: int) -> str:
        told = []
        for seat in self.honest:
            status = seat.replica.status(self.now_ms)
            told.append(f"{seat.name} epoch {status.epoch} view {status.view}{'?' if status.changing else ''} at {status.certified}")
        return f"{', '.join(told)}, wanted {goal}"
