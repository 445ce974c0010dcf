"""The target `messages`: what peers say, into a real replica that is a few blocks in.

One validator is faulty, and signs whatever the fuzzer likes; it is the primary of view 0, so it may do the most. The others are honest:
what they said in the rehearsal comes as it is, in any order. So nothing that is fed may bring down one replica: it must bear everything.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from cluster.fuzz.chain import SNAPSHOT_HEIGHT
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.notary import Notary, encoded
from cluster.fuzz.rehearsal import rehearsed
from cluster.fuzz.scenes import BEHIND_THE_PRUNED, SCENES, open_scene
from cluster.fuzz.sizes import table_sizes
from cluster.fuzz.target import refused
from cluster.fuzz.world import VALIDATORS, signer_of
from consensus.block import Batch, CertifiedBlock, batch_digest
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
    Propose,
    Pruned,
    Received,
    Send,
    SnapshotAdopted,
    SnapshotFailed,
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
    SnapshotMessage,
    decode_message,
)

ME, FAULTY, HONEST = 2, 0, (1, 3)
"""The replica under test, the validator whose key the fuzzer has, and the others."""
RENEW_AFTER = 2_000
STEP_MS = 2
MAX_TABLE = 1_024
"""Entries that a table of the replica may hold: far more than its water marks, stashes and fetches allow."""
MAX_EFFECTS = 2_000
_WAITS = 7
LATER_MS = 200
"""Time that may pass before a message, times 0 to 63."""
SCENE = b"\xff"
SCENE_EVERY = 300
REFUSED_OF, PRUNED_OF, PROPOSED_OF = 16, 64, 4
"""The host refuses one batch in so many, prunes after so many inputs, proposes at every so many when it may."""
MAX_ANSWERS = 64
"""So many answers of the others to what the replica asks for wait to be fed."""
ANYBODYS = (BlocksMessage, FetchBlocks)
"""Messages that say the same to everybody."""


class MessagesTarget:
    """The first byte of an input says how, the rest is a message.

    Two of its bits are the link, the others let time pass before. An input that begins with :data:`SCENE` is no message: the replica
    begins anew elsewhere.
    """

    stateful = True
    renew_after = RENEW_AFTER

    def __init__(self, _folder: Path) -> None:
        self._rehearsal = play = rehearsed()
        self._notary = Notary(signer_of(VALIDATORS[FAULTY]), lambda _epoch: FAULTY, play.genesis.validator_set.domain)
        self._count = 0
        self._manifest, self._chunks = play.chain.snapshot(play.hosts[1].certificates)
        said = [bytes((one.sender,)) + encode(one.message) for one in play.said if one.to == ME or isinstance(one.message, ANYBODYS)]
        known = [batch for made in play.chain.made if (batch := made.block.batch)]
        asked = [FetchBatch(batch_digest(known[0])), *(BatchMessage(batch) for batch in known)]
        about_snapshot = play.snapshot_messages()
        scenes = [SCENE + bytes((number,)) for number in range(SCENES)]
        others = [bytes((1,)) + encode(one) for one in (*asked, *about_snapshot)]
        pruned = [bytes((one.vote.sender,)) + encode(one) for one in play.pruned_statuses(HONEST)]
        self._seeds = tuple(dict.fromkeys([*scenes, *said, *others, *pruned]))
        self._begin(0)

    def _begin(self, scene: int) -> None:
        """Put the replica where a scene begins."""
        play = self._rehearsal
        self._replica, self._height, self._now_ms = open_scene(play, scene, ME)
        self._script = [bytes((one.sender,)) + encode(one.message) for one in play.said if one.to == ME and one.at_ms >= self._now_ms]
        if scene % SCENES in BEHIND_THE_PRUNED:
            self._script = [bytes((one.vote.sender,)) + encode(one) for one in play.pruned_statuses(HONEST)]
        self._played = -1
        self._answers: deque[bytes] = deque(maxlen=MAX_ANSWERS)
        self._staged: list[int] = []

    def seeds(self) -> Sequence[bytes]:
        """Return everything that the replica heard in the rehearsal, what only others heard, and all scenes."""
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
        if mutator.chance(1 / SCENE_EVERY):
            return SCENE + bytes((mutator.pick(range(SCENES)),))
        later = bytes((mutator.pick(range(1, 63)) << 2,)) if mutator.chance(0.02) else b"\x00"
        changed = self._changed(data, mutator)
        return bytes((changed[0] & 3 | later[0],)) + changed[1:] if changed[:1] not in (b"", SCENE) else changed

    def _changed(self, data: bytes, mutator: Mutator) -> bytes:
        if mutator.chance(0.3) or data[:1] == SCENE:
            return self._next_honest()
        if self._answers and mutator.chance(0.5):
            data = self._answers.popleft()
            if mutator.chance(0.75):
                return data
        link, body = data[:1], data[1:]
        if mutator.chance(0.05):
            link = bytes((mutator.pick((FAULTY, *HONEST)),))
        changed = mutator.gentle(body) if mutator.chance(0.5) else mutator.change(body)
        if mutator.chance(0.2):
            return link + changed
        try:
            message = decode_message(changed)
        except DecodeError:
            return link + changed
        return link + encoded(self._notary.mended(message, mine=mutator.chance(0.5)), changed)

    def _next_honest(self) -> bytes:
        self._played = (self._played + 1) % len(self._script)
        return self._script[self._played]

    # ---------------------------------------------------------------------------------------------------------- running

    def run(self, data: bytes) -> str:
        """Decode the message and step the replica with it, then with the answers of its host."""
        if data[:1] == SCENE:
            self._begin(data[1] if len(data) > 1 else 0)
            return "accepted: another scene"
        self._count += 1
        self._mood = zlib.crc32(data)
        link, passed = (data[0] % len(VALIDATORS), data[0] >> 2) if data else (FAULTY, 0)
        self._now_ms += STEP_MS + (passed * LATER_MS)
        try:
            message = decode_message(data[1:])
        except DecodeError as error:
            return refused(error)
        if decode_message(encode(message)) != message:
            raise LawBrokenError("a message that was read is not read again when it is written")
        seen: list[str] = []
        self._step(Received(VALIDATORS[FAULTY if link == ME else link], message), seen)
        self._live_on(seen)
        kind = type(message).__name__
        return f"{'refused' if any(one.startswith('Fault') for one in seen) else 'accepted'}: {kind} {', '.join(dict.fromkeys(seen))}"

    def _live_on(self, seen: list[str]) -> None:
        """Let the host do what it does beside: say what waits, prune, propose, let time pass."""
        if self._count % _WAITS == 0:
            waits = self._count % (2 * _WAITS) != 0
            self._step(Waiting(self._now_ms if waits else None, overtaken=waits and self._mood % 8 == 0), seen)
        if self._mood % PRUNED_OF == 0:
            self._step(Pruned(max(1, self._height - self._mood % 5)), seen)
        if self._replica.can_propose and self._mood % PROPOSED_OF == 0:
            batch = Batch(self._replica.view, ME, self._now_ms, (digest(b"%d" % self._count),))
            self._step(Propose(encode(batch)), seen)
        self._step(Tick(), seen)

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
                is_good = self._mood % REFUSED_OF != 1
                return BatchChecked(effect.view, effect.sequence, effect.digest, accepted=is_good, reason="" if is_good else "is not liked")
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
            if self._mood % 4 == 1:
                return SnapshotFailed(effect.height, "is not liked")
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


def _shown(effect: Effect) -> str:
    name = type(effect).__name__
    return f"{name} {effect.fault.code.name}" if isinstance(effect, Fault) else name
