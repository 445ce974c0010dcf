"""What one replica knows: configuration, slots, views and peers, and the turn in which rules change them.

The rules stand in :mod:`consensus.ordering`, :mod:`consensus.checkpoint`, :mod:`consensus.view_change` and
:mod:`consensus.catch_up`, one function per rule; each works on a :class:`Turn`. Only :class:`consensus.replica.Replica` makes turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.block import Certificate, CertifiedBlock
from consensus.codec import encode
from consensus.committee import Committee
from consensus.crypto import Signer, Verify, verify
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
)
from consensus.messages import PreparedProof as Proof
from consensus.peer import Peer
from consensus.quorum import Quorums
from consensus.snapshot import SnapshotManifest


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What does not change while the replica runs.

    Attributes:
        name: of this node; the validator sets say in which epochs it has a seat.
        signers: its keys; empty for a node that only follows.
        window: sequences between the water marks; the same on all replicas.
        max_in_flight: sequences that a primary may have open at once.
        view_timeout_ms, max_view_timeout_ms: patience with a primary, first and doubled at most up to.
        status_interval_ms: how often replicas tell where they stand.
        silence_ms: a primary that says nothing for so long is replaced, even if nobody waits for it.
        snapshot_gap: a replica that is so many blocks behind asks for a snapshot instead of blocks; None: it takes blocks only.
        channel_index: shifts the primary, so that channels spread the load.
        check: how signatures are checked.
    """

    name: str
    signers: tuple[Signer, ...]
    window: int = 64
    max_in_flight: int = 4
    view_timeout_ms: int = 1_000
    max_view_timeout_ms: int = 60_000
    status_interval_ms: int = 250
    silence_ms: int = 4_000
    snapshot_gap: int | None = 1_024
    channel_index: int = 0
    check: Verify = verify


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


@dataclass(frozen=True, slots=True)
class Adoption:
    """A block of others that the host executes now.

    Attributes:
        peer: who sent it.
        is_certified: its certificate was checked; else it is vouched for only (:mod:`consensus.vouching`).
    """

    block: CertifiedBlock
    peer: str
    is_certified: bool = True


@dataclass(slots=True)
class Transfer:
    """A snapshot that is being fetched (:mod:`consensus.state_transfer`).

    Attributes:
        height: of the snapshot.
        holders: the nodes that offered it.
        deadline_ms: until when it must be here.
        staged: chunks that checked and went to the host.
        asked: chunk by the node that was asked for it, with the deadline.
        adopting: every chunk is staged, the host makes them the state.
    """

    height: int
    manifest: SnapshotManifest
    holders: list[str]
    epochs: tuple[ValidatorSet, ...]
    deadline_ms: int
    staged: set[int] = field(default_factory=set)
    asked: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    adopting: bool = False


@dataclass(slots=True)
class ReplicaState:
    """Everything that changes.

    Attributes:
        epochs: all validator sets known so far, by rising epoch; the last ones may lie in the future.
        committee: of the present epoch, that of block ``certified`` + 1.
        first: lowest height that the host can serve a block of.
        log: id of this replica's vote log: it has a seat only in epochs that name it.
        logged: votes of later epochs that the log held at the start.
        transfer: the snapshot that is being fetched.
        refused_snapshots: heights of the last ones that the host could not take.
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
        stuck_at: certified at the last status. vouch_wanted: the block that was vouched for, and missing, when that was last looked at.
        in_touch: enough others were heard lately to make a quorum with this replica; looked_ms: when that was looked at last.
        boundary_since_ms: when the last announced epoch came up, while the chain has not reached it.
    """

    epochs: list[ValidatorSet]
    committee: Committee
    log: bytes = b""
    logged: list[LogRecord] = field(default_factory=list)
    first: int = 1
    transfer: Transfer | None = None
    refused_snapshots: list[int] = field(default_factory=list)
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
    fetched: dict[int, tuple[CertifiedBlock, str]] = field(default_factory=dict)
    adopting: Adoption | None = None
    stuck_at: int = -1
    vouch_wanted: int = 0
    in_touch: bool = False
    looked_ms: int = 0
    peers: dict[str, Peer] = field(default_factory=dict)
    boundary_since_ms: int | None = None
    diverged: bool = False

    def slot(self, sequence: int) -> Slot:
        """Return the slot of a sequence number, made if need be (callers check the water marks first)."""
        found = self.slots.get(sequence)
        if found is None:
            found = self.slots[sequence] = Slot(sequence)
        return found

    def reach(self, peer: Peer, window: int) -> int:
        """Return up to which height a peer is believed to have blocks: as far as it has shown it, else some more than are here."""
        return peer.certified if peer.is_proven else min(peer.certified, self.executed + window)

    @property
    def is_replaced(self) -> bool:
        """Whether a snapshot takes the place of this replica's state now: nothing executes meanwhile."""
        return self.transfer is not None and self.transfer.adopting

    def knows_epoch(self, epoch: int) -> bool:
        """Tell whether the validators of an epoch are known."""
        return epoch <= self.epochs[-1].epoch

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
    def committee(self) -> Committee:
        """Who votes in the present epoch."""
        return self.state.committee

    @property
    def quorums(self) -> Quorums:
        """The thresholds of the present epoch."""
        return self.state.committee.quorums

    @property
    def me(self) -> int | None:
        """This replica's seat, None if it has none in this epoch."""
        return self.state.committee.index

    @property
    def may_vote(self) -> bool:
        """Whether this replica signs anything: it has a seat in this epoch."""
        return self.state.committee.index is not None

    @property
    def is_primary(self) -> bool:
        """Whether this replica leads the current view."""
        return self.committee.primary(self.state.view) == self.me

    def emit(self, effect: Effect) -> None:
        """Add one effect."""
        self.effects.append(effect)

    def send(self, peer: str, message: Message) -> None:
        """Send to one node."""
        self.effects.append(Send(peer, message))

    def broadcast(self, message: Message, *, everybody: bool = False) -> None:
        """Send to all other validators, or to everybody who follows as well."""
        self.effects.append(Broadcast(message, everybody))

    def persist(self, kind: Kind, sequence: int, view: int, message: object, batch_digest: bytes = b"") -> None:
        """Make an own statement durable before anything that follows."""
        record = LogRecord(sequence, self.committee.epoch, view, int(kind), encode(message), batch_digest)
        self.effects.append(Persist((record,)))

    def fault(self, peer: str, code: Suspicion, detail: str = "") -> None:
        """Count a broken rule and go on."""
        self.effects.append(Fault(PeerFault(peer, code, detail)))

    def sign(self, kind: Kind, view: int, sequence: int, digest: bytes) -> Vote:
        """Return this replica's signed vote (persist it before it is sent).

        Raises:
            InvariantViolation: it has no seat in this epoch.
        """
        return self.committee.sign(kind, view, sequence, digest)

    def checks(self, vote: Vote) -> bool:
        """Tell whether a vote is of the present epoch and signed by the validator that it names."""
        return self.committee.validators.checks(vote, self.config.check)

    def certifies(self, certificate: Certificate) -> bool:
        """Tell whether the validators of the certificate's epoch signed it; False also if that epoch is not known here (yet)."""
        epochs, following = self.state.epochs, certificate.epoch + 1
        if any(one.epoch == following and certificate.height >= one.first_height for one in epochs):
            return False
        return any(one.epoch == certificate.epoch and one.certifies(certificate, self.config.check) for one in epochs)

    def require(self, vote: Vote, kind: Kind) -> None:
        """Check a vote before it touches any state.

        Raises:
            PeerFault: wrong kind, unknown sender or bad signature.
        """
        name = self.committee.name(vote.sender)
        if vote.kind != kind:
            raise PeerFault(name, Suspicion.WRONG_KIND, f"kind {vote.kind} instead of {int(kind)}")
        if not 0 <= vote.sender < self.quorums.replicas:
            raise PeerFault(name, Suspicion.NOT_A_VALIDATOR)
        if not self.checks(vote):
            raise PeerFault(name, Suspicion.BAD_SIGNATURE, kind.name.lower())

    @property
    def next_set(self) -> ValidatorSet | None:
        """The validators of the next epoch, once they are announced."""
        following = self.committee.epoch + 1
        return next((one for one in self.state.epochs if one.epoch == following), None)

    @property
    def end_of_epoch(self) -> int:
        """Up to which height this epoch orders for certain: an end announced by a block not executed yet lies above it."""
        following = self.next_set
        return self.state.executed + self.config.window if following is None else following.first_height - 1

    def may_order(self, sequence: int) -> bool:
        """Whether a sequence number lies between the water marks of this view (nothing below its start is ordered again), in this epoch."""
        low = max(self.state.certified, self.state.view_start)
        return low < sequence <= min(low + self.config.window, self.end_of_epoch)

    def conflict(self, known: Vote | None, vote: Vote) -> bool:
        """Tell whether ``vote`` is not new; reports two different signed votes for the same place as evidence."""
        if known is None:
            return False
        if known.digest != vote.digest:
            self.effects.append(Evidence(known, vote))
            self.fault(self.committee.name(vote.sender), Suspicion.EQUIVOCATION, f"view {vote.view}, sequence {vote.sequence}")
        return True
