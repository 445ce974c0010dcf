"""Events into the replica and effects out of it: the whole surface between the pure core and its host.

``effects = replica.step(event, now_ms)``. The host performs effects in order; :class:`Persist` is a barrier: nothing after
it happens before its records are durable. Results come back as events. Times are the host's monotonic milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.block import Certificate, CertifiedBlock
from consensus.codec import Wire
from consensus.errors import PeerFault
from consensus.messages import Message, Vote

# --------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message came from a validator's link (votes inside may be others': they carry their own signatures)."""

    peer: int
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
    """Answer to :class:`Execute` or :class:`Adopt`: the block is durable."""

    sequence: int
    header_hash: bytes


@dataclass(frozen=True, slots=True)
class AdoptionFailed:
    """Answer to :class:`Adopt`: the block does not match its certificate; somebody sent rubbish."""

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
class Tick:
    """Time passed (``now_ms`` says how much); due at ``replica.next_deadline_ms`` at the latest."""


Event = Received | Propose | BatchChecked | Executed | AdoptionFailed | Waiting | Tick

# -------------------------------------------------------------------------------------------------------------- effects


class LogRecord(Wire, frozen=True):
    """One durable entry of the vote log; a later one with the same (sequence, view, kind) replaces it.

    Fields:
        sequence: sequence number, 0 for view-change and new-view.
        view: view of the vote.
        kind: a :class:`consensus.messages.Kind`.
        data: the encoded message (for a commit: of the :class:`Prepared` record).
        batch_digest: digest of a batch whose transaction bodies must become durable with this record; else empty.
    """

    sequence: int
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
    """Send to one validator. May get lost."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to all other validators. May get lost."""

    message: Message


@dataclass(frozen=True, slots=True)
class CheckBatch:
    """Get hold of the batch's transactions and answer with :class:`BatchChecked`.

    Attributes:
        proposer: whom to ask for missing bodies first.
        fresh: whether the rules of a new proposal apply (time, expiry, no spent nonce); a re-proposal after a view change
            is exempt from them and needs its bodies only.
    """

    view: int
    sequence: int
    digest: bytes
    batch: bytes
    proposer: int
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
    """The block has its certificate: store it; records of the vote log up to ``truncate`` may go."""

    certificate: Certificate
    truncate: int
    view: int


@dataclass(frozen=True, slots=True)
class ServeBlocks:
    """A validator asks for certified blocks ``first`` to at most ``last``: send what there is as a ``BlocksMessage``."""

    peer: int
    first: int
    last: int


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
class Diverged:
    """This replica's own result differs from a certified one: it votes no more. Keep the data, say so loudly."""

    sequence: int
    own: bytes
    certified: bytes


Effect = Persist | Send | Broadcast | CheckBatch | Execute | Adopt | Certified | ServeBlocks | Evidence | Fault | ViewEntered | Diverged
