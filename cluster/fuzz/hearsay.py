"""What a faulty member remembers of what it was sent."""

from __future__ import annotations

from collections import deque

from cluster.fuzz.toy import FAULTY
from consensus.messages import (
    FetchBatch,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    Message,
    PreparedProof,
    PrePrepareMessage,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    decode_view_change_body,
)

REMEMBERED = 200
Place = tuple[int, int, int, bytes]


class Memory:
    """What the faulty member was sent.

    Attributes:
        messages: the last of all kinds, with the first ones of a long time ago among them.
        batches: the last proposals. proofs: prepared certificates that can be made of votes, or were shown.
        view_changes: by epoch, view and sender.
        asked: the last questions to it, and who asked.
    """

    def __init__(self) -> None:
        self.messages: deque[Message] = deque(maxlen=REMEMBERED)
        self.old: list[Message] = []
        self.batches: deque[bytes] = deque(maxlen=40)
        self.proofs: deque[PreparedProof] = deque(maxlen=40)
        self.view_changes: dict[tuple[int, int, int], ViewChangeMessage] = {}
        self.asked: deque[tuple[str, Message]] = deque(maxlen=8)
        self._proposals: dict[Place, Vote] = {}
        self._prepares: dict[Place, dict[int, Vote]] = {}
        self._count = 0

    def hear(self, sender: str, message: Message, needed: int) -> None:
        """Remember a message.

        Args:
            needed: prepares that make a prepared certificate.
        """
        self._count += 1
        self.messages.append(message)
        if self._count % 16 == 0 and len(self.old) < REMEMBERED:
            self.old.append(message)
        match message:
            case PrePrepareMessage(vote, batch):
                self.batches.append(batch)
                self._note(self._proposals, vote)
            case VoteMessage(vote) if vote.kind == Kind.PREPARE:
                self._prepare(vote, needed)
            case ViewChangeMessage(vote, body):
                self._note_view_change(message, body)
            case FetchBatch() | FetchBlocks() | FetchSnapshot() | FetchChunk() if sender != FAULTY:
                self.asked.append((sender, message))
            case _:
                pass

    @staticmethod
    def _note(table: dict[Place, Vote], vote: Vote) -> None:
        table[vote.epoch, vote.view, vote.sequence, vote.digest] = vote
        if len(table) > REMEMBERED:
            del table[next(iter(table))]

    def _prepare(self, vote: Vote, needed: int) -> None:
        place = (vote.epoch, vote.view, vote.sequence, vote.digest)
        votes = self._prepares.setdefault(place, {})
        votes[vote.sender] = vote
        if len(self._prepares) > REMEMBERED:
            del self._prepares[next(iter(self._prepares))]
        proposal = self._proposals.get(place)
        if proposal is not None and len(votes) >= needed:
            self.proofs.append(PreparedProof(proposal, tuple(votes[sender] for sender in sorted(votes))[:needed]))

    def _note_view_change(self, message: ViewChangeMessage, body: bytes) -> None:
        vote = message.vote
        self.view_changes[vote.epoch, vote.view, vote.sender] = message
        if len(self.view_changes) > REMEMBERED:
            del self.view_changes[next(iter(self.view_changes))]
        self.proofs.extend(decode_view_change_body(body).prepared)
