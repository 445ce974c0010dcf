"""The second view of an exhaustive exploration: every choice of view-changes, the new-view, and view 1 to its end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from cluster.simulation.table_of_four import BATCHES, LATE_MS, SEQUENCE, Four, Player
from consensus.block import NULL_DIGEST, batch_digest
from consensus.codec import encode
from consensus.effects import Broadcast, Send
from consensus.messages import (
    BatchMessage,
    FetchBatch,
    Kind,
    Message,
    NewViewBody,
    NewViewMessage,
    PreparedProof,
    PrePrepareMessage,
    StatusMessage,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    decode_new_view_body,
    decode_view_change_body,
)

PRIMARY, QUORUM, MOST_ROUNDS = 1, 3, 12
_ORDERING = (PrePrepareMessage, VoteMessage, NewViewMessage, FetchBatch, BatchMessage)


class Finish(NamedTuple):
    """How view 1 ended.

    Attributes:
        was_decided: somebody had decided in view 0.
        contradiction: what does not hold; empty if all does.
        is_stuck: nobody decided in view 1, although something was proposed there as it should be.
    """

    was_decided: bool
    contradiction: str
    is_stuck: bool


class SecondView:
    """Runs view changes.

    Args:
        four: the table.

    Attributes:
        count: how many were run.
    """

    def __init__(self, four: Four) -> None:
        self._four = four
        self.count = 0

    def finishes(self, state: tuple[Player | None, ...]) -> Iterator[Finish]:
        """Yield how every view change from one state after view 0 ends."""
        waiting = {player.seat: player.loses_patience() for player in state if player is not None}
        changes = {seat: player.said(ViewChangeMessage)[-1] for seat, player in waiting.items()}
        honest = [change for _, change in sorted(changes.items()) if isinstance(change, ViewChangeMessage)]
        offers = [*honest, *self._byzantine_changes(state)]
        for chosen in combinations(offers, QUORUM):
            senders = [change.vote.sender for change in chosen]
            if len(set(senders)) < QUORUM:
                continue
            ordered = tuple(sorted(chosen, key=lambda change: change.vote.sender))
            if self._four.byzantine == PRIMARY:
                for new_view, must_end in self._forged_new_views(ordered):
                    yield self._finish({seat: player.gets(new_view, now_ms=LATE_MS) for seat, player in waiting.items()}, state, must_end)
            elif PRIMARY in senders:
                others = [change for change in ordered if change.vote.sender != PRIMARY]
                players = dict(waiting)
                players[PRIMARY] = players[PRIMARY].gets(*others, now_ms=LATE_MS)
                yield self._finish(players, state, must_end=True)

    # -------------------------------------------------------------------------------------------------- the Byzantine one

    def _byzantine_changes(self, state: tuple[Player | None, ...]) -> list[ViewChangeMessage]:
        """Return all view-changes that the Byzantine replica can make: without a prepared certificate, and with each that it can prove."""
        four, seat = self._four, self._four.byzantine
        if seat is None:
            return []
        found = [self._change(())]
        for batch in BATCHES[:2]:
            digest = batch_digest(batch)
            votes = [vote for player in state if player is not None for vote in player.votes(Kind.PREPARE) if vote.digest == digest]
            if seat != 0:
                votes.append(four.sign(Kind.PREPARE, 0, SEQUENCE, digest, seat))
            first = self._first_pre_prepare(state, batch)
            if first is not None and len(votes) >= QUORUM - 1:
                ordered = sorted(votes, key=lambda vote: vote.sender)[: QUORUM - 1]
                found.append(self._change((PreparedProof(first, tuple(ordered)),)))
        return found

    def _first_pre_prepare(self, state: tuple[Player | None, ...], batch: bytes) -> Vote | None:
        primary = state[0]
        if primary is None:
            return self._four.pre_prepare(None, batch).vote
        vote = self._four.pre_prepare(primary, batch).vote
        return vote if vote.digest == batch_digest(batch) else None

    def _change(self, prepared: tuple[PreparedProof, ...]) -> ViewChangeMessage:
        encoded = encode(ViewChangeBody(1, None, prepared))
        return ViewChangeMessage(self._four.sign(Kind.VIEW_CHANGE, 1, 0, body_digest(encoded), self._four.byzantine or 0), encoded)

    def _forged_new_views(self, chosen: tuple[ViewChangeMessage, ...]) -> Iterator[tuple[NewViewMessage, bool]]:
        """Yield the new-view that follows from the view-changes, and others that do not; and whether something must be decided then."""
        right = proposals_of(chosen)
        wrong = [(), ((SEQUENCE, NULL_DIGEST),), *(((SEQUENCE, batch_digest(batch)),) for batch in BATCHES[:2])]
        for proposals in (right, *(one for one in wrong if one != right)):
            votes = tuple(self._four.sign(Kind.PRE_PREPARE, 1, sequence, digest, PRIMARY) for sequence, digest in proposals)
            encoded = encode(NewViewBody(chosen, votes))
            yield NewViewMessage(self._four.sign(Kind.NEW_VIEW, 1, 0, body_digest(encoded), PRIMARY), encoded), proposals == right != ()

    # ------------------------------------------------------------------------------------------------------------ to the end

    def _finish(self, players: dict[int, Player], before: tuple[Player | None, ...], must_end: bool) -> Finish:
        """Run view 1 to its end, everything delivered, and compare."""
        self.count += 1
        decided = {player.decided for player in before if player is not None and player.decided is not None}
        players = self._propose_if_empty(players)
        heard = dict.fromkeys(players, 0)
        for _ in range(MOST_ROUNDS):
            post = {seat: self._post(player, heard[seat]) for seat, player in players.items()}
            heard = {seat: len(player.effects) for seat, player in players.items()}
            post[-1] = self._byzantine_votes([message for messages in post.values() for message in messages])
            if not any(post.values()):
                break
            players = {
                seat: player.gets(*(one for other, messages in post.items() if other != seat for one in messages), now_ms=LATE_MS)
                for seat, player in players.items()
            }
        ends = {player.decided for player in players.values() if player.decided is not None}
        contradiction = "" if len(ends | decided) <= 1 else f"decided {_short(decided)} in view 0 and {_short(ends)} in the end"
        return Finish(bool(decided), contradiction, must_end and not ends)

    def _propose_if_empty(self, players: dict[int, Player]) -> dict[int, Player]:
        """Let the honest primary of view 1 propose something new, if nothing is proposed again."""
        primary = players.get(PRIMARY)
        if primary is not None and primary.can_propose and not _proposes(primary.said(NewViewMessage)):
            return players | {PRIMARY: primary.proposes(BATCHES[2], LATE_MS)}
        return players

    def _post(self, player: Player, since: int) -> list[Message]:
        """Return what a replica said since then, about view 1."""
        found = [effect.message for effect in player.effects[since:] if isinstance(effect, Broadcast | Send)]
        return [
            message for message in found if isinstance(message, _ORDERING) and not isinstance(message, StatusMessage) and _is_new(message)
        ]

    def _byzantine_votes(self, messages: list[Message]) -> list[Message]:
        """Return the votes of the Byzantine replica for all that is proposed in view 1, and the batches that others ask for."""
        seat = self._four.byzantine
        if seat is None:
            return []
        found: list[Message] = []
        digests = {
            message.vote.digest: None for message in messages if isinstance(message, VoteMessage) and message.vote.kind == Kind.PREPARE
        }
        digests |= {message.vote.digest: None for message in messages if isinstance(message, PrePrepareMessage)}
        for digest in digests:
            kinds = (Kind.COMMIT,) if seat == PRIMARY else (Kind.PREPARE, Kind.COMMIT)
            found += [VoteMessage(self._four.sign(kind, 1, SEQUENCE, digest, seat)) for kind in kinds]
        if any(isinstance(message, FetchBatch) for message in messages):
            found += [BatchMessage(batch) for batch in BATCHES[:2]]
        return found


def _is_new(message: Message) -> bool:
    vote = getattr(message, "vote", None)
    return vote is None or vote.view == 1


def _short(digests: set[bytes]) -> str:
    return ", ".join(sorted(digest.hex()[:8] for digest in digests)) or "nothing"


def _proposes(made: list[Message]) -> bool:
    """Tell whether a new-view proposes something again."""
    return any(isinstance(message, NewViewMessage) and bool(decode_new_view_body(message.body).pre_prepares) for message in made)


def proposals_of(changes: tuple[ViewChangeMessage, ...]) -> tuple[tuple[int, bytes], ...]:
    """Return what a new view must propose again, computed here: the prepared certificate of the highest view wins."""
    proofs = [proof.pre_prepare for change in changes for proof in decode_view_change_body(change.body).prepared]
    if not proofs:
        return ()
    best = max(proofs, key=lambda vote: vote.view)
    return ((SEQUENCE, best.digest),)
