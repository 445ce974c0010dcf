"""The target `messages`: what peers say, into a real replica that is a few blocks in.

One validator is faulty, and signs whatever the fuzzer likes; it is the primary of view 0, so it may do the most. The others are honest:
what they said in the rehearsal comes as it is, in any order. So nothing that is fed may bring down one replica: it must bear everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec

from cluster.fuzz.chain import SNAPSHOT_HEIGHT, make_replica
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.rehearsal import rehearsed
from cluster.fuzz.target import refused
from cluster.fuzz.world import VALIDATORS, signer_of
from consensus.block import CertifiedBlock, batch_digest
from consensus.codec import encode
from consensus.crypto import digest
from consensus.effects import (
    Adopt,
    AdoptionFailed,
    AdoptSnapshot,
    BatchChecked,
    CheckBatch,
    Diverged,
    Effect,
    Event,
    Execute,
    Executed,
    Fault,
    Received,
    Send,
    SnapshotAdopted,
    StageChunk,
    StageSnapshot,
    Tick,
    Waiting,
)
from consensus.errors import DecodeError
from consensus.messages import (
    BatchMessage,
    BlocksMessage,
    ChunkMessage,
    FetchBatch,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Message,
    NewViewBody,
    NewViewMessage,
    PrePrepareMessage,
    SnapshotMessage,
    StatusMessage,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    decode_message,
    decode_new_view_body,
    decode_view_change_body,
    sign_vote,
)

ME, FAULTY = 2, 0
"""The replica under test, and the validator whose key the fuzzer has."""
FROM_HEIGHT = 5
RENEW_AFTER = 2_000
STEP_MS = 2
MAX_TABLE = 1_024
"""Entries that a table of the replica may hold: far more than its water marks, stashes and fetches allow."""
MAX_EFFECTS = 2_000
_WAITS = 7
MAX_ANSWERS = 64
"""So many answers of the others to what the replica asks for wait to be fed."""
ANYBODYS = (BlocksMessage, FetchBlocks)
"""Messages that say the same to everybody."""


class MessagesTarget:
    """The first byte of an input is the link that it comes over, the rest is a message."""

    stateful = True
    renew_after = RENEW_AFTER

    def __init__(self, _folder: Path) -> None:
        self._rehearsal = play = rehearsed()
        self._domain = play.genesis.validator_set.domain
        self._replica = make_replica(play.genesis, ME)
        self._height = FROM_HEIGHT
        self._count = 0
        for event, now_ms in play.hosts[ME].heard[: play.marks[FROM_HEIGHT][ME]]:
            self._now_ms = now_ms
            if event is None:
                self._replica.start(now_ms)
            else:
                self._replica.step(event, now_ms)
        said = [bytes((one.sender,)) + encode(one.message) for one in play.said if one.to == ME or isinstance(one.message, ANYBODYS)]
        self._script = [bytes((one.sender,)) + encode(one.message) for one in play.said if one.to == ME and one.at_ms >= self._now_ms]
        self._played = -1
        known = [batch for made in play.chain.made if (batch := made.block.batch)]
        asked = [FetchBatch(batch_digest(known[FROM_HEIGHT])), BatchMessage(known[FROM_HEIGHT]), FetchBatch(batch_digest(known[0]))]
        about_snapshot = play.snapshot_messages()
        self._seeds = tuple(dict.fromkeys([*said, *(bytes((1,)) + encode(one) for one in (*asked, *about_snapshot))]))
        self._manifest, self._chunks = play.chain.snapshot(play.hosts[1].certificates)
        self._answers: deque[bytes] = deque(maxlen=MAX_ANSWERS)
        self._staged: list[int] = []

    def seeds(self) -> Sequence[bytes]:
        """Return everything that the replica heard in the rehearsal, and what only others heard."""
        return self._seeds

    def close(self) -> None:
        """Nothing is open."""

    def check(self) -> None:
        """Check that no table of the replica grows.

        Raises:
            LawBrokenError: one has more entries than its bounds allow.
        """
        for name, size in table_sizes(self._replica).items():
            if size > MAX_TABLE:
                raise LawBrokenError(f"the table {name} has {size} entries")

    # --------------------------------------------------------------------------------------------------------- changing

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return the next message of the rehearsal, or a message changed; often the faulty validator signs what came of it."""
        if mutator.chance(0.3):
            return self._next_honest()
        if self._answers and mutator.chance(0.3):
            data = self._answers.popleft()
            if mutator.chance(0.6):
                return data
        link, body = data[:1], data[1:]
        if mutator.chance(0.05):
            link = bytes((mutator.pick((0, 1, 3)),))
        changed = mutator.gentle(body) if mutator.chance(0.5) else mutator.change(body)
        if mutator.chance(0.2):
            return link + changed
        try:
            message = decode_message(changed)
        except DecodeError:
            return link + changed
        return link + _encoded(self._mended(message, mutator), changed)

    def _next_honest(self) -> bytes:
        self._played = (self._played + 1) % len(self._script)
        return self._script[self._played]

    def _mended(self, message: Message, mutator: Mutator) -> Message:
        """Return a message whose digests fit and that the faulty validator has signed, as far as it is its own."""
        mine = mutator.chance(0.5)
        match message:
            case PrePrepareMessage(vote, batch):
                return PrePrepareMessage(self._signed(vote, mine, batch_digest(batch)), batch)
            case VoteMessage(vote):
                return VoteMessage(self._signed(vote, mine))
            case ViewChangeMessage(vote, body):
                return self._mended_view_change(vote, body, mine)
            case NewViewMessage(vote, body):
                return self._mended_new_view(vote, body, mine)
            case StatusMessage(vote, status):
                return StatusMessage(self._signed(vote, mine, body_digest(status)), status)
            case _:
                return message

    def _mended_view_change(self, vote: Vote, body: bytes, mine: bool) -> ViewChangeMessage:
        try:
            decoded = decode_view_change_body(body)
            if mine:
                decoded = ViewChangeBody(vote.view, decoded.stable, decoded.prepared)
            body = encode(decoded)
        except (DecodeError, UnicodeEncodeError, OverflowError):
            return ViewChangeMessage(self._signed(vote, mine, body_digest(body)), body)
        return ViewChangeMessage(self._signed(vote, mine, body_digest(body)), body)

    def _mended_new_view(self, vote: Vote, body: bytes, mine: bool) -> NewViewMessage:
        try:
            decoded = decode_new_view_body(body)
        except DecodeError:
            return NewViewMessage(self._signed(vote, mine, body_digest(body)), body)
        changes = tuple(self._mended_view_change(one.vote, one.body, mine=False) for one in decoded.view_changes)
        body = encode(NewViewBody(changes, tuple(self._signed(one, mine) for one in decoded.pre_prepares)))
        return NewViewMessage(self._signed(vote, mine, body_digest(body)), body)

    def _signed(self, vote: Vote, mine: bool, digest_: bytes | None = None) -> Vote:
        """Return the vote signed by the faulty validator, if it names that one or shall (``mine``); another's stays as it is."""
        if vote.sender != FAULTY and not mine:
            return vote
        changed = msgspec.structs.replace(vote, sender=FAULTY, digest=vote.digest if digest_ is None else digest_)
        domain = msgspec.structs.replace(self._domain, epoch=changed.epoch)
        try:
            signed = sign_vote(
                signer_of(VALIDATORS[FAULTY]), domain, changed.kind, changed.view, changed.sequence, changed.digest, FAULTY  # type: ignore[arg-type]
            )  # fmt: skip
        except OverflowError:
            return vote
        return msgspec.structs.replace(changed, signature=signed.signature)

    # ---------------------------------------------------------------------------------------------------------- running

    def run(self, data: bytes) -> str:
        """Decode the message and step the replica with it, then with the answers of its host."""
        self._count += 1
        self._now_ms += STEP_MS
        link = data[0] % len(VALIDATORS) if data else FAULTY
        try:
            message = decode_message(data[1:])
        except DecodeError as error:
            return refused(error)
        if decode_message(encode(message)) != message:
            raise LawBrokenError("a message that was read is not read again when it is written")
        seen: list[str] = []
        self._step(Received(VALIDATORS[FAULTY if link == ME else link], message), seen)
        if self._count % _WAITS == 0:
            self._step(Waiting(self._now_ms if self._count % (2 * _WAITS) else None), seen)
        self._step(Tick(), seen)
        kind = type(message).__name__
        return f"{'refused' if any(one.startswith('Fault') for one in seen) else 'accepted'}: {kind} {', '.join(dict.fromkeys(seen))}"

    def _step(self, event: Event, seen: list[str]) -> None:
        """Step the replica with an event and all that follows from it; note what it does."""
        waiting = [event]
        steps = 0
        while waiting:
            steps += 1
            effects = self._replica.step(waiting.pop(0), self._now_ms)
            if steps > MAX_EFFECTS or len(effects) > MAX_EFFECTS:
                raise LawBrokenError("one message leads to more effects than any should")
            for effect in effects:
                seen.append(_shown(effect))
                answer = self._answer(effect)
                if answer is not None:
                    waiting.append(answer)

    def _answer(self, effect: Effect) -> Event | None:
        """Return what the host says to an effect: batches are all right, and blocks are those of the rehearsal."""
        match effect:
            case CheckBatch():
                return BatchChecked(effect.view, effect.sequence, effect.digest, accepted=True)
            case Execute(sequence, batch):
                self._height = sequence
                return self._executed(sequence, batch)
            case Adopt(sequence, certified) if sequence > self._height:
                return self._adopt(sequence, certified)
            case AdoptSnapshot() | StageSnapshot() | StageChunk():
                return self._take_snapshot(effect)
            case Send(peer, message):
                self._note_answer(VALIDATORS.index(peer), message)
                return None
            case Diverged():
                raise LawBrokenError(f"the replica holds its own block {effect.sequence} for wrong, with one faulty validator only")
            case _:
                return None

    def _executed(self, height: int, batch: bytes) -> Executed:
        """Return the block that a batch makes: that of the rehearsal, or one of its own for a batch that was not played."""
        made = self._rehearsal.chain.made
        if height <= len(made) and made[height - 1].block.batch == batch:
            return self._rehearsal.chain.executed(height)
        return Executed(height, digest(b"another block" + height.to_bytes(8, "big") + batch))

    def _adopt(self, sequence: int, certified: CertifiedBlock) -> Event:
        made = self._rehearsal.chain.made
        if sequence > len(made) or encode(made[sequence - 1].block) != certified.block:
            return AdoptionFailed(sequence, "does not give the certified header")
        self._height = sequence
        return self._rehearsal.chain.executed(sequence)

    def _take_snapshot(self, effect: AdoptSnapshot | StageSnapshot | StageChunk) -> Event | None:
        """Keep a chunk, or take the state that the chunks make: whatever peers sent, it must be the true one.

        Raises:
            LawBrokenError: the replica takes something else.
        """
        if effect.height != SNAPSHOT_HEIGHT:
            raise LawBrokenError(f"a snapshot of height {effect.height} is taken, which nobody could certify")
        if isinstance(effect, StageSnapshot):
            self._staged = []
        elif isinstance(effect, StageChunk):
            if effect.chunk not in self._chunks:
                raise LawBrokenError("a chunk is staged that is not of the state")
            self._staged.append(self._chunks.index(effect.chunk))
        elif sorted(self._staged) != list(range(len(self._chunks))) or effect.manifest.header != self._manifest.header:
            raise LawBrokenError(f"a snapshot is adopted of which the chunks {self._staged} are there")
        else:
            self._height = max(self._height, effect.height)
            return SnapshotAdopted(effect.height, self._rehearsal.chain.epochs(effect.height))
        return None

    def _note_answer(self, peer: int, message: Message) -> None:
        """Keep what an honest peer would say to a message."""
        made, certificates = self._rehearsal.chain.made, self._rehearsal.hosts[1].certificates
        answer: Message
        match message:
            case FetchSnapshot(height) if height <= SNAPSHOT_HEIGHT:
                answer = SnapshotMessage(encode(self._manifest))
            case FetchChunk(height, index) if height == SNAPSHOT_HEIGHT:
                answer = ChunkMessage(height, index, encode(self._chunks[index]))
            case FetchBlocks(first, last):
                held = [made[one - 1].block for one in range(first, min(last, len(made)) + 1) if one in certificates]
                answer = BlocksMessage(tuple(CertifiedBlock(encode(one), certificates[one.header.height]) for one in held))
            case _:
                return
        self._answers.append(bytes((peer,)) + encode(answer))


def _encoded(message: Message, otherwise: bytes) -> bytes:
    """Return a message's bytes; ``otherwise`` if it holds a number or text that has none."""
    try:
        return encode(message)
    except (OverflowError, UnicodeEncodeError):
        return otherwise


def _shown(effect: Effect) -> str:
    name = type(effect).__name__
    return f"{name} {effect.fault.code.name}" if isinstance(effect, Fault) else name


def table_sizes(root: object) -> dict[str, int]:
    """Return the number of entries of every table that ``root`` holds, by the names that lead to it (of several slots: the largest)."""
    sizes: dict[str, int] = {}
    _measure(root, "", sizes, set())
    return sizes


def _measure(value: Any, path: str, sizes: dict[str, int], seen: set[int]) -> None:  # noqa: ANN401 (looks into anything)
    if id(value) in seen or isinstance(value, str | bytes | int | msgspec.Struct | type):
        return
    seen.add(id(value))
    if isinstance(value, dict | list | set | frozenset | tuple) or hasattr(value, "popleft"):
        sizes[path] = max(sizes.get(path, 0), len(value))
        for part in value.values() if isinstance(value, dict) else value:
            _measure(part, f"{path}[]", sizes, seen)
        return
    names = [field.name for field in fields(value)] if is_dataclass(value) else list(getattr(value, "__dict__", {}))
    for name in names:
        _measure(getattr(value, name), f"{path}.{name}".lstrip("."), sizes, seen)
