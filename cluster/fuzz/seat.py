"""One member of the group: a real replica, and a host that performs what it wants, on a disk in memory.

The host watches what no honest member may do: sign twice for one place, say what is not durable, execute another block than the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.toy import (
    FAULTY,
    NAMES,
    SNAPSHOT_EVERY,
    WINDOW,
    Snapshot,
    ToyChain,
    batch_is_good,
    check,
    fresh_batch,
    signer_of,
)
from consensus.block import Certificate, CertifiedBlock, decode_batch, decode_header
from consensus.codec import encode
from consensus.effects import (
    Adopt,
    AdoptionFailed,
    AdoptSnapshot,
    BatchChecked,
    Broadcast,
    Certified,
    CheckBatch,
    Diverged,
    Effect,
    Event,
    Evidence,
    Execute,
    Executed,
    Fault,
    LogRecord,
    Persist,
    Propose,
    Pruned,
    Send,
    ServeBlocks,
    ServeChunk,
    ServeSnapshot,
    SnapshotAdopted,
    StageChunk,
    StageSnapshot,
    Waiting,
)
from consensus.messages import (
    BlocksMessage,
    ChunkMessage,
    Kind,
    Message,
    NewViewMessage,
    PrePrepareMessage,
    SnapshotMessage,
    ValidatorSet,
    ViewChangeMessage,
    VoteMessage,
    body_digest,
)
from consensus.recovery import Recovered
from consensus.replica import Replica
from consensus.state import ReplicaConfig

MAX_EFFECTS = 2_000
KEPT_BLOCKS = 3
"""So many blocks below its snapshot a member keeps."""
SNAPSHOT_GAP = 5
MAX_PENDING = 6
_STATEMENTS = (PrePrepareMessage, VoteMessage, ViewChangeMessage, NewViewMessage)
Post = Callable[[str, str, Message], None]
"""Takes sender, receiver and a message."""


class Disk(NamedTuple):
    """What survives a restart, but for the heights.

    Attributes:
        records: the vote log, by place.
        certificates: by height.
        doubtful: records that the last certificates made needless: both may be lost with the power.
    """

    records: dict[tuple[int, int, int, int], LogRecord]
    certificates: dict[int, Certificate]
    doubtful: dict[int, list[LogRecord]]


class Seat:
    """One member.

    Args:
        name: of the member; only honest ones are watched.
        chain: the one that there must be.
        post: takes what it says.

    Attributes:
        inbox: answers of the host that the replica has yet to take.
        height: of its last block; base: of the block that its chain hangs on.
        pending: requests that wait, with the time since when.
        seen: names of what it did since this was last emptied.
    """

    def __init__(self, name: str, chain: ToyChain, post: Post) -> None:
        self.name, self._chain, self._post = name, chain, post
        self.is_honest = name != FAULTY
        self.disk = Disk({}, {}, {})
        self.height = self.base = 0
        self.inbox: deque[Event] = deque()
        self.pending: dict[bytes, int] = {}
        self.seen: list[str] = []
        self._signed: dict[tuple[int, int, int, int], bytes] = {}
        self._staged: list[int] = []
        self._snapshot: Snapshot | None = None
        self._refuses = 0
        self.start(0)

    def start(self, now_ms: int, lost: int = 0) -> None:
        """Start the replica from the disk; the last ``lost`` certificates that were not synced are gone.

        Raises:
            LawBrokenError: it did what no honest member may.
        """
        doubtful = sorted(self.disk.doubtful)
        for height in doubtful[len(doubtful) - lost :] if lost else ():
            del self.disk.certificates[height]
            self._persist(tuple(self.disk.doubtful[height]))
        self.disk.doubtful.clear()
        self.inbox.clear()
        self._staged = []
        config = ReplicaConfig(
            self.name,
            (signer_of(self.name),),
            window=WINDOW,
            max_view_timeout_ms=4_000,
            silence_ms=2_000,
            snapshot_gap=SNAPSHOT_GAP,
            check=check,
        )
        self.replica = Replica(config, self._recovered())
        self._perform(self.replica.start(now_ms))

    def _recovered(self) -> Recovered:
        certified = max((height for height in self.disk.certificates if height <= self.height), default=0)
        headers = {height: self._chain.headers[height] for height in range(certified + 1, self.height + 1)}
        return Recovered(
            epochs=self._chain.epochs(self.height),
            first=self.base + 1,
            executed=self.height,
            certificate=self.disk.certificates.get(certified),
            headers={height: header.hash for height, header in headers.items()},
            batches={height: header.batch_digest for height, header in headers.items()},
            records=tuple(record for _, record in sorted(self.disk.records.items())),
        )

    # -------------------------------------------------------------------------------------------------------- stepping

    def step(self, event: Event, now_ms: int) -> None:
        """Let the replica take an event, then tell it what waits and let it propose.

        Raises:
            LawBrokenError: it did what no honest member may.
        """
        replica = self.replica
        self._perform(replica.step(event, now_ms))
        self._perform(replica.step(Waiting(min(self.pending.values(), default=None)), now_ms))
        if replica.can_propose and replica.in_flight < 3 and (self.pending or (replica.wants_block and not replica.in_flight)):
            seat = replica.committee.index or 0
            batch = fresh_batch(replica.view, seat, self._chain.headers[self.height], tuple(list(self.pending)[: 1 + replica.in_flight]))
            self._perform(replica.step(Propose(batch), now_ms))

    @property
    def certified(self) -> int:
        """Height of the last block whose certificate is on the disk."""
        return max(self.disk.certificates, default=0)

    def submit(self, request: bytes, now_ms: int) -> None:
        """Take a request that the group shall order."""
        if len(self.pending) < MAX_PENDING:
            self.pending.setdefault(request, now_ms)

    def refuse_next(self, count: int) -> None:
        """Refuse the next fresh batches that it is shown."""
        self._refuses = count

    def _perform(self, effects: list[Effect]) -> None:
        if len(effects) > MAX_EFFECTS:
            raise LawBrokenError("one event leads to more effects than any should")
        for effect in effects:
            self.seen.append(f"{effect.fault.code.name}" if isinstance(effect, Fault) else type(effect).__name__)
            match effect:
                case Persist(records):
                    self._persist(records)
                case Send(peer, message):
                    self._say((peer,), message)
                case Broadcast(message, everybody):
                    self._say(NAMES if everybody else self.replica.committee.validators.names, message)
                case CheckBatch():
                    self._check(effect)
                case Execute(sequence, batch):
                    self._append(sequence, batch)
                case Adopt():
                    self._adopt(effect)
                case Certified():
                    self._certified(effect)
                case ServeBlocks() | ServeSnapshot() | ServeChunk():
                    self._serve(effect)
                case StageSnapshot() | StageChunk() | AdoptSnapshot():
                    self._take_snapshot(effect)
                case Evidence() | Diverged() if self.is_honest:
                    _judge(effect, self.replica.epochs)

    def _persist(self, records: tuple[LogRecord, ...]) -> None:
        self.disk.records.update({(one.sequence, one.epoch, one.view, one.kind): one for one in records})

    # --------------------------------------------------------------------------------------------------------- speaking

    def _say(self, to: tuple[str, ...], message: Message) -> None:
        if self.is_honest and isinstance(message, _STATEMENTS):
            self._watch(message)
        for name in to:
            if name != self.name:
                self._post(self.name, name, message)

    def _watch(self, message: PrePrepareMessage | VoteMessage | ViewChangeMessage | NewViewMessage) -> None:
        """Check that an own statement is on the disk, and the only one for its place."""
        vote, committee = message.vote, self.replica.committee
        if (vote.epoch, vote.sender) != (committee.epoch, committee.index):
            return
        place = (vote.sequence, vote.epoch, vote.view, vote.kind)
        if self._signed.setdefault(place, vote.digest) != vote.digest:
            raise LawBrokenError(f"an honest member signs twice: {Kind(vote.kind).name} at {place}")
        in_new_view = vote.kind == Kind.PRE_PREPARE and (0, vote.epoch, vote.view, Kind.NEW_VIEW) in self.disk.records
        if place not in self.disk.records and not in_new_view:
            raise LawBrokenError(f"an honest member says what is not on its disk: {Kind(vote.kind).name} at {place}")
        if isinstance(message, ViewChangeMessage | NewViewMessage) and body_digest(message.body) != vote.digest:
            raise LawBrokenError(f"an honest member signs another body: {Kind(vote.kind).name} at {place}")

    def _serve(self, effect: ServeBlocks | ServeSnapshot | ServeChunk) -> None:
        answer: Message | None = None
        snapshot = self._snapshot
        if isinstance(effect, ServeBlocks):
            answer = BlocksMessage(self._blocks(effect))
        elif snapshot is not None:
            height = decode_header(snapshot[0].header).height
            if isinstance(effect, ServeSnapshot):
                answer = SnapshotMessage(encode(snapshot[0])) if effect.height <= height else None
            elif effect.height == height and effect.index < len(snapshot[1]):
                answer = ChunkMessage(height, effect.index, encode(snapshot[1][effect.index]))
        if answer is not None:
            self._post(self.name, effect.peer, answer)

    def _blocks(self, effect: ServeBlocks) -> tuple[CertifiedBlock, ...]:
        found: list[CertifiedBlock] = []
        for height in range(effect.first, min(effect.last, self.height) + 1):
            certificate = self.disk.certificates.get(height, effect.instead)
            if height <= self.base or certificate is None:
                break
            found.append(CertifiedBlock(self._chain.blocks[height - 1], certificate))
        return tuple(found)

    # -------------------------------------------------------------------------------------------------------- executing

    def _check(self, effect: CheckBatch) -> None:
        is_good = not effect.fresh or (batch_is_good(effect.batch) and not self._refuses)
        self._refuses -= self._refuses > 0 and effect.fresh
        self.inbox.append(BatchChecked(effect.view, effect.sequence, effect.digest, is_good, "" if is_good else "is not liked"))

    def _append(self, sequence: int, batch: bytes) -> None:
        if sequence != self.height + 1:
            raise LawBrokenError(f"block {sequence} is executed after block {self.height}")
        header = self._chain.execute(sequence, batch)
        self.height = sequence
        self.disk.doubtful.clear()
        for one in decode_batch(batch).transaction_ids if batch else ():
            self.pending.pop(one, None)
        self.inbox.append(Executed(sequence, header.hash, self._chain.announced(sequence)))

    def _adopt(self, effect: Adopt) -> None:
        sequence, block = effect.sequence, effect.block
        if sequence <= self.height:
            return
        batch = self._chain.adoptable(sequence, block.block)
        if batch is None or self._chain.height < sequence:
            # Nobody honest has this block: then a certificate for it is worth nothing, whoever signed it.
            self.inbox.append(AdoptionFailed(sequence, "does not give the certified header"))
        else:
            self._append(sequence, batch)

    def _certified(self, effect: Certified) -> None:
        certificate, gone = effect.certificate, []
        height = certificate.height
        if self.is_honest:
            self._chain.certify(certificate)
        self.disk.certificates[height] = certificate
        for place in list(self.disk.records):
            sequence, epoch, view, _ = place
            if 0 < sequence <= effect.truncate or (sequence == 0 and (epoch, view) < (effect.epoch, effect.view)):
                gone.append(self.disk.records.pop(place))
        if effect.last_of_epoch:
            self.disk.doubtful.clear()
        else:
            self.disk.doubtful[height] = gone
        self._signed = {place: said for place, said in self._signed.items() if place[1] + 1 >= effect.epoch}
        if height % SNAPSHOT_EVERY == 0:
            self._keep_snapshot(height)

    def _keep_snapshot(self, height: int) -> None:
        """Make the snapshot of a height the one that is served, and prune what lies far below."""
        self._snapshot = self._chain.snapshot(height) or self._snapshot
        first = height - KEPT_BLOCKS + 1
        if first > self.base + 1:
            self.base = first - 1
            for old in [one for one in self.disk.certificates if one < self.base]:
                del self.disk.certificates[old]
            self.inbox.append(Pruned(first))

    def _take_snapshot(self, effect: StageSnapshot | StageChunk | AdoptSnapshot) -> None:
        """Stage and adopt a snapshot; whatever peers sent, it must be the true one.

        Raises:
            LawBrokenError: it is not.
        """
        true = self._chain.snapshot(effect.height)
        if true is None:
            raise LawBrokenError(f"a snapshot of height {effect.height} is taken, which nobody could certify")
        manifest, chunks = true
        if isinstance(effect, StageSnapshot):
            self._staged = []
        elif isinstance(effect, StageChunk):
            if effect.chunk not in chunks:
                raise LawBrokenError("a chunk is staged that is not of the state")
            self._staged.append(chunks.index(effect.chunk))
        elif [chunks[at] for at in sorted(set(self._staged))] != list(dict.fromkeys(chunks)) or effect.manifest.header != manifest.header:
            raise LawBrokenError(f"a snapshot is adopted of which the chunks {self._staged} are there")
        else:
            self._adopt_snapshot(effect)

    def _adopt_snapshot(self, effect: AdoptSnapshot) -> None:
        height = effect.height
        self.inbox = deque(one for one in self.inbox if not isinstance(one, Executed | AdoptionFailed))
        self.height = self.base = height
        self.disk.certificates.clear()
        self.disk.certificates[height] = effect.manifest.certificate
        self.disk.doubtful.clear()
        self.pending.clear()
        if self.is_honest:
            self._chain.certify(effect.manifest.certificate)
        self._snapshot = self._chain.snapshot(height)
        self.inbox.append(SnapshotAdopted(height, self._chain.epochs(height)))


def _judge(effect: Evidence | Diverged, epochs: Sequence[ValidatorSet]) -> None:
    """Raise what may never come up at an honest member while one member only is faulty."""
    if isinstance(effect, Diverged):
        raise LawBrokenError(f"an honest member holds its own block {effect.sequence} for wrong")
    validators = next((one for one in epochs if one.epoch == effect.first.epoch), None)
    if validators is None or validators.names[effect.first.sender] != FAULTY:
        raise LawBrokenError(f"an honest member is accused of double signing: {effect.first}, {effect.second}")
