"""Events into the replica and effects out of it: the whole surface between the pure core and its host.

``effects = replica.step(event, now_ms)``. The host performs effects in order; :class:`Persist` is a barrier: nothing after
it happens before its records are durable. Results come back as events. Times are the host's monotonic milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.block import Certificate, CertifiedBlock
from consensus.codec import Wire
from consensus.errors import PeerFault
from consensus.messages import Message, ValidatorSet, Vote
from consensus.snapshot import Chunk, SnapshotManifest

# --------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message came over the link of the node ``peer`` (votes inside may be others': they carry their own signatures)."""

    peer: str
    message: Message


@dataclass(frozen=True, slots=True)
class Propose:
    """The host's proposal for the next sequence number; give one only while ``replica.can_propose``."""

    batch: bytes


@dataclass(frozen=True, slots=True)
class BatchChecked:
    """Answer to :class:`CheckBatch`: every body is at hand and, if asked for, the batch may be proposed."""

    view: int
    sequence: int
    digest: bytes
    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Executed:
    """Answer to :class:`Execute` or :class:`Adopt`: the block is durable.

    Attributes:
        announced: validator sets that the block announced, by rising epoch (their ``first_height`` is more than a window above it).
    """

    sequence: int
    header_hash: bytes
    announced: tuple[ValidatorSet, ...] = ()


@dataclass(frozen=True, slots=True)
class AdoptionFailed:
    """Answer to :class:`Adopt`: the block does not match its certificate; somebody sent rubbish."""

    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotAdopted:
    """Answer to :class:`AdoptSnapshot`: the state is durable, the store begins at its height.

    Attributes:
        epochs: all validator sets that this state knows, by rising epoch.
    """

    sequence: int
    epochs: tuple[ValidatorSet, ...]


@dataclass(frozen=True, slots=True)
class SnapshotFailed:
    """Answer to :class:`AdoptSnapshot`: the state cannot be taken (the application does not read it); look for another."""

    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the host is waiting for the primary to order.

    Attributes:
        since_ms: when the oldest request or due deadline that is not in a proposal came up; None if nothing waits.
        overtaken: a request waits although later ones were executed, for longer than the host's patience.
    """

    since_ms: int | None
    overtaken: bool = False


@dataclass(frozen=True, slots=True)
class Pruned:
    """The store lets go of all blocks below ``first``."""

    first: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed (``now_ms`` says how much); due at ``replica.next_deadline_ms`` at the latest."""


Event = Received | Propose | BatchChecked | Executed | AdoptionFailed | SnapshotAdopted | SnapshotFailed | Pruned | Waiting | Tick

# -------------------------------------------------------------------------------------------------------------- effects


class LogRecord(Wire, frozen=True):
    """One durable entry of the vote log; a later one with the same (sequence, epoch, view, kind) replaces it.

    Fields:
        sequence: sequence number, 0 for view-change and new-view.
        epoch, view: of the vote.
        kind: a :class:`consensus.messages.Kind`.
        data: the encoded message (for a commit: of the :class:`Prepared` record).
        batch_digest: digest of a batch whose transaction bodies must become durable with this record; else empty.
    """

    sequence: int
    epoch: int
    view: int
    kind: int
    data: bytes
    batch_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Persist:
    """Make the records durable (one synced write) before any later effect."""

    records: tuple[LogRecord, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one node. May get lost."""

    peer: str
    message: Message


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to all other validators of the epoch. May get lost.

    Attributes:
        everybody: also to nodes that follow without a vote, and to validators of announced epochs.
    """

    message: Message
    everybody: bool = False


@dataclass(frozen=True, slots=True)
class CheckBatch:
    """Get hold of the batch's transactions and answer with :class:`BatchChecked`.

    Attributes:
        proposer: index of the validator that proposes it in this view.
        peer: its name: whom to ask for missing bodies first.
        fresh: whether the rules of a new proposal apply (time, expiry, no spent nonce); a re-proposal after a view change
            is exempt from them and needs its bodies only.
    """

    view: int
    sequence: int
    digest: bytes
    batch: bytes
    proposer: int
    peer: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Execute:
    """Execute the batch as block ``sequence``, make it durable, answer with :class:`Executed`. Comes strictly in order."""

    sequence: int
    batch: bytes


@dataclass(frozen=True, slots=True)
class Adopt:
    """Execute a certified block that others made; check that it gives the certified header.

    Its height is always the next one. A batch that still waits at this height for its bodies is given up. If the block turns out bad,
    everything else that is queued is given up too: it comes again. One at or below
    the host's head is ignored: the answer for that height is on its way.
    """

    sequence: int
    block: CertifiedBlock


@dataclass(frozen=True, slots=True)
class Certified:
    """The block has its certificate: store it.

    Records of the vote log up to ``truncate`` may go, and those of views before (``epoch``, ``view``).

    Attributes:
        last_of_epoch: the certificate must be durable before anything later is said: votes of the next epoch rest on it.
    """

    certificate: Certificate
    truncate: int
    epoch: int
    view: int
    last_of_epoch: bool = False


@dataclass(frozen=True, slots=True)
class ServeBlocks:
    """A node asks for certified blocks ``first`` to at most ``last``: send what there is as a ``BlocksMessage``.

    Attributes:
        instead: what stands in place of the certificate of the one block that is asked for, which has none yet
            (:mod:`consensus.vouching`).
    """

    peer: str
    first: int
    last: int
    instead: Certificate | None = None


@dataclass(frozen=True, slots=True)
class ServeSnapshot:
    """A node asks for the newest snapshot, of ``height`` at least: send its manifest as a ``SnapshotMessage``, if there is one."""

    peer: str
    height: int


@dataclass(frozen=True, slots=True)
class ServeChunk:
    """A node asks for one chunk: send it as a ``ChunkMessage``, if there is one."""

    peer: str
    height: int
    index: int


@dataclass(frozen=True, slots=True)
class StageSnapshot:
    """A snapshot will come in: forget what was staged of another one."""

    height: int


@dataclass(frozen=True, slots=True)
class StageChunk:
    """Put a verified chunk beside the present state; nothing reads it before :class:`AdoptSnapshot`."""

    height: int
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class AdoptSnapshot:
    """All chunks are staged: make them the state, in one step, and answer with :class:`SnapshotAdopted`.

    Whatever waits to be executed is given up.
    """

    height: int
    manifest: SnapshotManifest


@dataclass(frozen=True, slots=True)
class KeepProofs:
    """Store the proofs of these epochs (encoded ``EpochChange`` values): the certificates that they need cannot be had any more."""

    changes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two signed votes of one validator that an honest one never signs both. Keep and publish them."""

    first: Vote
    second: Vote


@dataclass(frozen=True, slots=True)
class Fault:
    """A peer broke a rule: count it and log it."""

    fault: PeerFault


@dataclass(frozen=True, slots=True)
class ViewEntered:
    """The replica is in a (new) view with this primary; fresh proposals start after ``sequence``."""

    view: int
    primary: int
    sequence: int


@dataclass(frozen=True, slots=True)
class EpochEntered:
    """From now on these validators order blocks.

    Attributes:
        index: this node's seat among them, None if it follows without a vote.
    """

    validators: ValidatorSet
    index: int | None


@dataclass(frozen=True, slots=True)
class Diverged:
    """This replica's own result differs from a certified one: it votes no more. Keep the data, say so loudly."""

    sequence: int
    own: bytes
    certified: bytes


Effect = (
    Persist
    | Send
    | Broadcast
    | CheckBatch
    | Execute
    | Adopt
    | Certified
    | ServeBlocks
    | ServeSnapshot
    | ServeChunk
    | StageSnapshot
    | StageChunk
    | AdoptSnapshot
    | KeepProofs
    | Evidence
    | Fault
    | ViewEntered
    | EpochEntered
    | Diverged
)
