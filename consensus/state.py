"""What one replica knows: configuration, slots, views and peers, and the turn in which rules change them.

The rules stand in :mod:`consensus.ordering`, :mod:`consensus.checkpoint`, :mod:`consensus.view_change` and
:mod:`consensus.catch_up`, one function per rule; each works on a :class:`Turn`. Only :class:`consensus.replica.Replica` makes turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.block import Certificate, CertifiedBlock
from consensus.codec import encode
from consensus.crypto import Signer
from consensus.effects import Broadcast, Effect, Evidence, Fault, LogRecord, Persist, Send
from consensus.errors import PeerFault, Suspicion
from consensus.messages import (
    Kind,
    Message,
    NewViewMessage,
    ValidatorSet,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    sign_vote,
)
from consensus.messages import PreparedProof as Proof
from consensus.quorum import Quorums


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What does not change while the replica runs.

    Attributes:
        index: this validator's place in the set.
        validators: keys and domain of the epoch.
        quorums: thresholds for their number.
        signer: this validator's key.
        window: sequences between the water marks.
        max_in_flight: sequences that a primary may have open at once.
        view_timeout_ms, max_view_timeout_ms: patience with a primary, first and doubled at most up to.
        status_interval_ms: how often replicas tell where they stand.
        channel_index: shifts the primary, so that channels spread the load.
    """

    index: int
    validators: ValidatorSet
    quorums: Quorums
    signer: Signer
    window: int = 64
    max_in_flight: int = 4
    view_timeout_ms: int = 1_000
    max_view_timeout_ms: int = 60_000
    status_interval_ms: int = 250
    channel_index: int = 0

    def primary(self, view: int) -> int:
        """Return the index of the view's primary."""
        return (view + self.channel_index) % self.quorums.replicas


@dataclass(slots=True)
class Slot:
    """One sequence number above the last certificate.

    The first group of fields belongs to the current view and is cleared when a new one is entered; ``prepared`` and ``decided``
    outlive views: dropping them is how live chains forked.

    Attributes:
        pre_prepare: the one accepted in this view.
        accepted_ms: when that was.
        ready: the batch was checked and all bodies are at hand.
        prepares, commits: by sender.
        later: stashed votes of later views, at most one per kind and sender.
        prepared: prepared certificate of the highest view so far.
        decided: digest that q commits decided on, or that this replica executed before a restart.
    """

    sequence: int
    pre_prepare: Vote | None = None
    accepted_ms: int = 0
    ready: bool = False
    own_prepare: Vote | None = None
    own_commit: Vote | None = None
    prepares: dict[int, Vote] = field(default_factory=dict)
    commits: dict[int, Vote] = field(default_factory=dict)
    later: dict[tuple[int, int], Vote] = field(default_factory=dict)
    prepared: Proof | None = None
    decided: bytes | None = None

    def enter_view(self) -> None:
        """Forget what belongs to the view that was left."""
        self.pre_prepare = self.own_prepare = self.own_commit = None
        self.ready = False
        self.prepares.clear()
        self.commits.clear()


@dataclass(slots=True)
class Peer:
    """What another replica last said about itself; trusted for nothing but deciding what to send and whom to ask.

    Attributes:
        heard_ms: when it last spoke; None if never.
        still: how often in a row it stood where it stood before.
        fetch_deadline_ms: until when its answer to a request for blocks is awaited; None if nothing was asked.
        fetch_first, fetch_last: the blocks asked for.
        fetch_failures: requests that it did not answer, or badly.
    """

    view: int = 0
    changing: bool = False
    executed: int = 0
    certified: int = 0
    heard_ms: int | None = None
    still: int = 0
    fetch_deadline_ms: int | None = None
    fetch_first: int = 0
    fetch_last: int = 0
    fetch_failures: int = 0


@dataclass(slots=True)
class ReplicaState:
    """Everything that changes.

    Attributes:
        view: current view, or the one that is being entered while ``changing``.
        view_start: last sequence that the new-view of this view starts from.
        view_stable: the certificate that shows it, None at genesis.
        next_sequence: what this replica would propose next as primary.
        submitted: last sequence handed to the host for execution.
        executed, certified: last executed, last with a certificate.
        own_headers: own block hashes, from ``certified`` + 1 to ``executed``.
        bodies: batches by digest, of all slots.
        missing: digests of re-proposed batches that nobody has sent yet, with their sequence.
        checkpoints: checkpoint votes above ``certified``, by sequence and sender.
        held: certificates for blocks that this replica has yet to execute.
        view_changes: the latest valid view-change of each replica.
        failed_views: view changes since the last progress.
        fetched: certified blocks waiting for their turn, with the peer that sent them.
        adopting: the one that the host executes now; nothing else executes meanwhile.
        stuck_at: executed and certified at the last status.
    """

    view: int = 0
    changing: bool = False
    view_start: int = 0
    view_stable: Certificate | None = None
    next_sequence: int = 1
    submitted: int = 0
    executed: int = 0
    certified: int = 0
    certificate: Certificate | None = None
    own_headers: dict[int, bytes] = field(default_factory=dict)
    slots: dict[int, Slot] = field(default_factory=dict)
    bodies: dict[bytes, bytes] = field(default_factory=dict)
    missing: dict[bytes, int] = field(default_factory=dict)
    checkpoints: dict[int, dict[int, Vote]] = field(default_factory=dict)
    own_checkpoints: dict[int, Vote] = field(default_factory=dict)
    held: dict[int, Certificate] = field(default_factory=dict)
    view_changes: dict[int, tuple[ViewChangeMessage, ViewChangeBody]] = field(default_factory=dict)
    own_view_change: ViewChangeMessage | None = None
    new_view: NewViewMessage | None = None
    failed_views: int = 0
    view_change_deadline_ms: int | None = None
    last_progress_ms: int = 0
    waiting_since_ms: int | None = None
    overtaken: bool = False
    next_status_ms: int = 0
    fetched: dict[int, tuple[CertifiedBlock, int]] = field(default_factory=dict)
    adopting: tuple[CertifiedBlock, int] | None = None
    stuck_at: tuple[int, int] = (-1, -1)
    peers: dict[int, Peer] = field(default_factory=dict)
    diverged: bool = False

    def slot(self, sequence: int) -> Slot:
        """Return the slot of a sequence number, made if need be (callers check the water marks first)."""
        found = self.slots.get(sequence)
        if found is None:
            found = self.slots[sequence] = Slot(sequence)
        return found

    def open_since_ms(self) -> int | None:
        """When the oldest proposal of this view whose block has no certificate yet was accepted; None if there is none."""
        times = [slot.accepted_ms for slot in self.slots.values() if slot.pre_prepare is not None]
        return min(times, default=None)


class Turn:
    """One step of the replica: state, the caller's time, and the effects so far.

    Args:
        config: of the replica.
        state: of the replica; rules change it in place.
        now_ms: the host's monotonic time.
    """

    __slots__ = ("config", "effects", "now_ms", "state")

    def __init__(self, config: ReplicaConfig, state: ReplicaState, now_ms: int) -> None:
        self.config = config
        self.state = state
        self.now_ms = now_ms
        self.effects: list[Effect] = []

    @property
    def me(self) -> int:
        """This replica's index."""
        return self.config.index

    @property
    def is_primary(self) -> bool:
        """Whether this replica leads the current view."""
        return self.config.primary(self.state.view) == self.me

    def emit(self, effect: Effect) -> None:
        """Add one effect."""
        self.effects.append(effect)

    def send(self, peer: int, message: Message) -> None:
        """Send to one replica."""
        self.effects.append(Send(peer, message))

    def broadcast(self, message: Message) -> None:
        """Send to all others."""
        self.effects.append(Broadcast(message))

    def persist(self, kind: Kind, sequence: int, view: int, message: object, batch_digest: bytes = b"") -> None:
        """Make an own statement durable before anything that follows."""
        self.effects.append(Persist((LogRecord(sequence, view, int(kind), encode(message), batch_digest),)))

    def fault(self, peer: int, code: Suspicion, detail: str = "") -> None:
        """Count a broken rule and go on."""
        self.effects.append(Fault(PeerFault(peer, code, detail)))

    def sign(self, kind: Kind, view: int, sequence: int, digest: bytes) -> Vote:
        """Return this replica's signed vote (persist it before it is sent)."""
        return sign_vote(self.config.signer, self.config.validators.domain, kind, view, sequence, digest, self.me)

    def require(self, vote: Vote, kind: Kind) -> None:
        """Check a vote before it touches any state.

        Raises:
            PeerFault: wrong kind, unknown sender or bad signature.
        """
        if vote.kind != kind:
            raise PeerFault(vote.sender, Suspicion.WRONG_KIND, f"kind {vote.kind} instead of {int(kind)}")
        if not 0 <= vote.sender < self.config.quorums.replicas:
            raise PeerFault(vote.sender, Suspicion.NOT_A_VALIDATOR)
        if not self.config.validators.checks(vote):
            raise PeerFault(vote.sender, Suspicion.BAD_SIGNATURE, kind.name.lower())

    def may_order(self, sequence: int) -> bool:
        """Whether a sequence number lies between the water marks of this view (nothing below its start is ordered again)."""
        low = max(self.state.certified, self.state.view_start)
        return low < sequence <= low + self.config.window

    def may_certify(self, sequence: int) -> bool:
        """Whether a checkpoint vote for this height is still of use, and near enough to be kept."""
        low = self.state.certified
        return low < sequence <= max(low, self.state.view_start) + self.config.window

    def conflict(self, known: Vote | None, vote: Vote) -> bool:
        """Tell whether ``vote`` is not new; reports two different signed votes for the same place as evidence."""
        if known is None:
            return False
        if known.digest != vote.digest:
            self.effects.append(Evidence(known, vote))
            self.fault(vote.sender, Suspicion.EQUIVOCATION, f"view {vote.view}, sequence {vote.sequence}")
        return True
