"""What a faulty member can say: every kind of message, well signed with its own key, true in most parts and wrong in one.

It knows all that it was ever sent, every block, certificate and snapshot there is, and where the others stand. It cannot sign for anybody
else.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from cluster.fuzz.choices import Choices, in_range
from cluster.fuzz.forged_answers import ForgedAnswers
from cluster.fuzz.forged_views import ForgedViews
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.toy import ToyChain
from consensus.block import batch_digest
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.messages import (
    FetchBatch,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    Message,
    PrePrepareMessage,
    VoteMessage,
    decode_message,
)
from consensus.validators import set_at

Forge = Callable[[], Message]


class Traitor:
    """Makes up messages.

    Args:
        chain: all blocks, certificates and snapshots.

    Attributes:
        forgeries: of every kind, as often as they shall come.
        addressee: who must get the last forgery, since it is an answer; empty: anybody.
    """

    def __init__(self, chain: ToyChain) -> None:
        self._choices = choices = Choices(chain)
        self._answers = answers = ForgedAnswers(choices)
        self._views = views = ForgedViews(choices)
        self.addressee = ""
        self._plain: tuple[Forge, ...] = (
            self._pre_prepare, self._pre_prepare, self._vote, self._vote, self._vote, views.view_change, views.view_change, views.new_view,
            views.new_view, answers.status, answers.status, answers.blocks, answers.batch, answers.manifest, answers.chunk, self._fetch,
        )  # fmt: skip
        self.forgeries: tuple[Forge, ...] = (
            *self._plain, self._replay, self._answer, self._answer, self._answer, self._mutated, self._mutated, self._elsewhere
        )  # fmt: skip

    def hear(self, sender: str, message: Message) -> None:
        """Remember what it was sent."""
        chain = self._choices.chain
        needed = set_at(chain.epochs(chain.height), chain.height + 1).quorums.prepares
        self._choices.memory.hear(sender, message, needed)

    def forge(self, number: int, random: Random, epoch: int, view: int) -> Message:
        """Return a forged message.

        Args:
            number: of the kind of forgery.
            random: where all choices come from.
            epoch, view: of those whom it is for.
        """
        choices = self._choices
        choices.random, choices.epoch, choices.view, self.addressee = random, in_range(epoch), in_range(view), ""
        return self.forgeries[number % len(self.forgeries)]()

    def forge_view(self, random: Random, epoch: int, view: int) -> Message:
        """Return a view-change for the view that somebody is in or wants (``view``) that proves itself and tells less than it could."""
        choices = self._choices
        choices.random, choices.epoch, choices.view = random, in_range(epoch), in_range(view)
        return self._views.poor_view_change()

    # -------------------------------------------------------------------------------------------------------- forgeries

    def _pre_prepare(self) -> Message:
        batch, sequence = self._choices.batch(), self._choices.near(self._choices.chain.height + 1)
        digest_ = batch_digest(batch) if self._choices.chance(0.9) else self._choices.digest(sequence)
        view = self._choices.view if self._choices.chance(0.8) else self._choices.near(self._choices.view)
        return PrePrepareMessage(self._choices.own(Kind.PRE_PREPARE, view, sequence, digest_), batch)

    def _vote(self) -> Message:
        """Return a vote of its own, or in the name of somebody else: then the signature is not that of the name."""
        choices = self._choices
        kind = choices.pick((Kind.PREPARE, Kind.COMMIT, Kind.CHECKPOINT)) if choices.chance(0.95) else choices.random.randrange(9)
        sequence, view = choices.sequence(), choices.view if choices.chance(0.7) else choices.near(choices.view)
        if kind == Kind.CHECKPOINT and choices.chance(0.9):
            view = 0
        vote = choices.own(kind, view, sequence, choices.digest(sequence))
        if choices.chance(0.15):
            vote = msgspec.structs.replace(vote, sender=choices.pick((0, 1, 2, 3, 4, 5, -1)))
        return VoteMessage(vote)

    def _fetch(self) -> Message:
        choices, snapshots = self._choices, self._choices.chain.snapshots
        first = choices.sequence() - choices.pick((0, 3, 20))
        asked: tuple[Message, ...] = (
            FetchBlocks(first, choices.near(first + 3)),
            FetchBatch(choices.digest(first)),
            FetchSnapshot(first),
            FetchChunk(choices.pick(list(snapshots)) if snapshots else first, choices.near(0)),
        )
        return choices.pick(asked)

    def _answer(self) -> Message:
        """Answer one of the last questions, well or badly."""
        if not self._choices.memory.asked:
            return self._vote()
        self.addressee, asked = (
            self._choices.memory.asked.pop() if self._choices.chance(0.7) else self._choices.pick(self._choices.memory.asked)
        )
        match asked:
            case FetchBlocks(first, last):
                return self._answers.blocks(first, last)
            case FetchSnapshot():
                return self._answers.manifest()
            case FetchChunk(height, index) if height in self._choices.chain.snapshots:
                return self._answers.chunk(height, index)
            case _:
                return self._answers.batch()

    def _replay(self) -> Message:
        """Return what somebody said before, long ago or lately."""
        kept = self._choices.memory.old if self._choices.chance(0.4) and self._choices.memory.old else self._choices.memory.messages
        return self._choices.pick(kept) if kept else self._vote()

    def _mutated(self) -> Message:
        """Return a message with a value in it changed; what is its own in it, or all, it signs anew."""
        before = self._replay() if self._choices.chance(0.6) else self._choices.pick(self._plain)()
        data = encode(before)
        changed = Mutator(self._choices.random, lambda: data).gentle(data)
        try:
            return self._choices.notary.mended(decode_message(changed), mine=self._choices.chance(0.5))
        except (DecodeError, OverflowError, UnicodeEncodeError):
            return before

    def _elsewhere(self) -> Message:
        """Return a forgery of another epoch."""
        self._choices.epoch += self._choices.pick((-1, 1, 1, 5))
        return self._choices.pick(self._plain)()
