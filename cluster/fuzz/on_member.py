"""The target `member`: one member of the group is faulty, has its seat and its key, and speaks the protocol wrongly.

Every input is one move of the adversary, who is the network as well: a forged message to somebody, or something that the network or the
machines do. What a move means depends on what came before: forgeries are made of what the faulty member has seen. After every move
must hold: no honest replica fails, forks, signs twice or says what is not on its disk, nobody honest can be accused, no table grows; and
now and then, when all is calm, the honest ones must go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from cluster.fuzz.group import Group
from cluster.fuzz.mutation import NUMBERS, Mutator
from cluster.fuzz.target import refused
from cluster.fuzz.toy import FAULTY, HONEST, NAMES
from cluster.fuzz.traitor import Traitor
from consensus.codec import Decoder, Wire, encode
from consensus.errors import DecodeError
from consensus.messages import Kind

RENEW_AFTER = 2_500
CALM_EVERY = 250
CHECK_EVERY = 32
DELIVERED = 5
"""Messages that the network delivers after every move."""
MOODS, SILENT = 4, 2
PLOTTED = 40
DEAF_TO = (Kind.COMMIT, Kind.CHECKPOINT, Kind.PREPARE)


class Move(Wire, frozen=True):
    """One input.

    Fields:
        kind: what is done; to: to whom; number: how, how often or how long.
        seed: of all other choices.
    """

    kind: int
    to: int
    number: int
    seed: int


_decode_move = Decoder(Move, "move")
FORGE, DELIVER, PASS, SUBMIT, MOOD, LOSE, CUT, RESTART, REFUSE, PLOT = range(10)
_LIKELY = (FORGE,) * 11 + (DELIVER,) * 6 + (PASS,) * 2 + (SUBMIT,) * 3 + (MOOD, LOSE, CUT, RESTART, REFUSE, PLOT)
_NAMES = ("forge", "deliver", "pass", "submit", "mood", "lose", "cut", "restart", "refuse", "plot")


class MemberTarget:
    """One group and one faulty member; see the module."""

    stateful = True
    renew_after = RENEW_AFTER

    def __init__(self, _folder: Path) -> None:
        self._group = Group()
        self._traitor = Traitor(self._group.chain)
        self._mood = 0
        self._count = 0

    def seeds(self) -> Sequence[bytes]:
        """Return moves of every kind, and every forgery."""
        forgeries = [Move(FORGE, number, number, number) for number in range(len(self._traitor.forgeries))]
        return tuple(encode(move) for move in (*forgeries, *(Move(kind, 1, 8, kind) for kind in range(len(_NAMES)))))

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return a move changed, or another one."""
        if mutator.chance(0.3):
            return mutator.gentle(data)
        random = mutator.random
        kind = mutator.pick(_LIKELY)
        number = mutator.pick(NUMBERS) if mutator.chance(0.02) else int(random.random() * 40)
        return encode(Move(kind, int(random.random() * 64), number, int(random.random() * 2**32)))

    def check(self) -> None:
        """Check that no table grows.

        Raises:
            LawBrokenError: one does.
        """
        self._group.check_sizes()

    def close(self) -> None:
        """Nothing is open."""

    def run(self, data: bytes) -> str:
        """Make the move, let the network deliver something, check what must hold.

        Raises:
            LawBrokenError: it does not.
        """
        try:
            move = _decode_move(data)
        except DecodeError as error:
            return refused(error)
        group = self._group
        self._count += 1
        random = Random(move.seed)  # noqa: S311  no secret
        for seat in group.seats.values():
            seat.seen.clear()
        kind = move.kind % len(_NAMES)
        shown = self._forge(move, random) if kind == FORGE else self._disturb(kind, move, random)
        told = [word for seat in group.honest for word in seat.seen]
        group.deliver(random, DELIVERED)
        group.now_ms += 1
        self._listen()
        if self._count % CALM_EVERY == 0:
            group.calm_down(random)
        elif self._count % CHECK_EVERY == 0:
            group.check_sizes()
        words = dict.fromkeys(word for word in told if word != "Persist")
        return f"{'refused' if any(word.isupper() for word in words) else 'accepted'}: {shown} {', '.join(list(words)[:6])}"

    def _forge(self, move: Move, random: Random) -> str:
        """Let the faulty member say something made up, to one member, to half of them or to all."""
        group = self._group
        names = (HONEST, HONEST[:2], HONEST[2:], *((name,) for name in HONEST))[move.to % 7]
        status = group.seats[names[0]].replica
        message = self._traitor.forge(move.number, random, status.committee.epoch, status.view)
        for name in (self._traitor.addressee,) if self._traitor.addressee else names:
            group.tell(name, message)
        return type(message).__name__

    def _disturb(self, kind: int, move: Move, random: Random) -> str:
        """Do something that is no message."""
        group, number = self._group, abs(move.number)
        name = NAMES[move.to % len(NAMES)]
        if kind == DELIVER:
            group.deliver(random, number % 40)
        elif kind == PASS:
            group.pass_time(number % 40 * (move.to % 8 + 1) ** 2)
        elif kind == SUBMIT:
            group.submit(HONEST if move.to % 2 else (HONEST[number % len(HONEST)],))
        elif kind == MOOD:
            self._mood = number % MOODS
        elif kind == LOSE:
            group.lose(random, number % 20)
        elif kind == CUT:
            self._cut_off(move.to, name)
        elif kind == PLOT:
            self._plot(move, random)
        elif kind == RESTART:
            group.restart(name, number % 3)
        elif name != FAULTY:
            group.seats[name].refuse_next(number % 3)
        return _NAMES[kind]

    def _cut_off(self, number: int, name: str) -> None:
        """Cut somebody off, make some deaf to votes of one kind, or end that."""
        group = self._group
        if number % 4 == 0:
            group.cut, group.deaf = frozenset(), frozenset()
        elif number % 4 == 1:
            group.cut = frozenset((name,))
        else:
            group.deaf = frozenset((one, DEAF_TO[number // 4 % 3]) for one in NAMES[: 1 + number // 12 % 3])

    def _plot(self, move: Move, random: Random) -> None:
        """Try to make one honest member decide alone, and the others forget it: what forks a group whose view change has a hole.

        One hears commits, the others do not; then it is cut off, they change views, and the faulty member, silent before, tells them less
        than it knows; at last it votes with them.
        """
        group, number = self._group, abs(move.number)
        victim = HONEST[move.to % len(HONEST)]
        others = tuple(name for name in NAMES if name != victim)
        unheard = (Kind.COMMIT, Kind.CHECKPOINT) if number % 2 else (Kind.COMMIT,)
        group.cut, group.deaf = frozenset(), frozenset((name, kind) for name in others for kind in unheard)
        group.submit(HONEST)
        for _ in range(4):
            group.deliver(random, PLOTTED)
            group.pass_time(2)
            self._listen()
        self._mood = SILENT
        group.cut, group.deaf = frozenset((victim,)), frozenset((name, Kind.PREPARE) for name in others[: number % 3])
        for turn in range(2 + number % 4):
            group.pass_time(1_200)
            for name in others if self._forges_views(number, turn) else ():
                if name != FAULTY:
                    seat = group.seats[name].replica
                    group.tell(name, self._traitor.forge_view(random, seat.committee.epoch, seat.view))
            group.deliver(random, PLOTTED)
            self._listen()
        self._mood, group.deaf = 0, frozenset()
        group.deliver(random, PLOTTED)

    @staticmethod
    def _forges_views(number: int, turn: int) -> bool:
        return bool(number >> 4 + turn & 1)

    def _listen(self) -> None:
        """Hear what was said to the faulty member; send what its honest software would say, as far as its mood allows."""
        group = self._group
        while group.said:
            sender, to, message = group.said.popleft()
            self._traitor.hear(sender, message)
            if sender == FAULTY and (self._mood == 0 or (self._mood == 1 and HONEST.index(to) % 2)):
                group.send(to, message)
