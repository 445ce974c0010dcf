"""The PBFT replica: values in, values out.

``effects = replica.step(event, now_ms)``; see :mod:`consensus.effects` for both sides. One task owns a replica; it has no lock, clock,
socket or file. The rules are in:

| module | section of Castro and Liskov 1999 | rules |
| --- | --- | --- |
| :mod:`consensus.ordering` | 4.2 | pre-prepare, prepare, commit, execute in order |
| :mod:`consensus.checkpoint` | 4.3 | header signatures, certificates, water marks |
| :mod:`consensus.view_change` | 4.4 | view-change, new-view, re-proposals |
| :mod:`consensus.catch_up` | 5.2 (of the TOCS paper) | status, retransmission, fetching certified blocks |
| :mod:`consensus.state_transfer` | 5.3 (of the TOCS paper) | fetching a certified snapshot |
| :mod:`consensus.patience` | 4.5.2 (of the TOCS paper) | when to leave a view |
| :mod:`consensus.epochs` | | from one validator set to the next |
| :mod:`consensus.recovery` | | from the vote log back to the same votes |

A replica without a seat in the present epoch runs the same code, and follows: it fetches certified blocks and signs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus import catch_up, checkpoint, ordering, patience, recovery, state_transfer, view_change
from consensus.committee import Committee
from consensus.effects import (
    AdoptionFailed,
    BatchChecked,
    Effect,
    EpochEntered,
    Event,
    Executed,
    Propose,
    Pruned,
    Received,
    SnapshotAdopted,
    SnapshotFailed,
    Waiting,
)
from consensus.epochs import watch_boundary
from consensus.errors import PeerFault, Suspicion
from consensus.messages import (
    BatchMessage,
    BlocksMessage,
    ChunkMessage,
    FetchBatch,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    Message,
    NewViewMessage,
    PrePrepareMessage,
    SnapshotMessage,
    StatusMessage,
    ValidatorSet,
    ViewChangeMessage,
    VoteMessage,
)
from consensus.recovery import Recovered
from consensus.state import ReplicaConfig, Turn


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One sequence in flight, and who has voted on it."""

    sequence: int
    view: int | None
    ready: bool
    prepared_by: tuple[int, ...]
    committed_by: tuple[int, ...]
    decided: bool


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Where a replica stands, for people: who is missing, and why nothing commits.

    Attributes:
        epoch: number of the present validator set; members: its names by index; seat: this replica's place, None if it follows.
        wants_view: validators that asked for the view being entered (empty in normal operation).
        timer_left_ms: until this replica loses patience with the primary; None while nothing waits.
        peer_heights: what the others last said they had certified, by name.
        next_epoch_height: first height of an announced epoch, None if there is none.
        snapshot: height of the snapshot that is being fetched, its chunks at hand, and all; None if there is none.
    """

    epoch: int
    members: tuple[str, ...]
    seat: int | None
    view: int
    changing: bool
    primary: int
    executed: int
    certified: int
    in_flight: tuple[SlotStatus, ...]
    wants_view: tuple[int, ...]
    timer_left_ms: int | None
    peer_heights: dict[str, int]
    next_epoch_height: int | None
    snapshot: tuple[int, int, int] | None
    diverged: bool


class Replica:
    """One node's PBFT state machine on one channel.

    Args:
        config: name, keys and limits.
        found: what the host found on its disk.
    """

    def __init__(self, config: ReplicaConfig, found: Recovered) -> None:
        self._config = config
        self._state = recovery.recover(found, config)

    def start(self, now_ms: int) -> list[Effect]:
        """Return the first effects: tell where we stand, go on with what was begun before a stop."""
        turn = Turn(self._config, self._state, now_ms)
        self._state.last_progress_ms = now_ms
        turn.emit(EpochEntered(self._state.committee.validators, self._state.committee.index))
        watch_boundary(turn)
        checkpoint.sign_executed(turn)
        recovery.resume(turn)
        if self._state.changing and self._state.own_view_change is not None:
            turn.broadcast(self._state.own_view_change)
        catch_up.send_status(turn)
        return turn.effects

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """Take one event; return what the host must do, in this order.

        A message that breaks a rule changes nothing and gives a :class:`consensus.effects.Fault`.

        Raises:
            InvariantViolation: the host or this replica broke a rule: stop, keep the disk.
        """
        turn = Turn(self._config, self._state, now_ms)
        if self._state.diverged:
            return turn.effects
        if isinstance(event, Received):
            try:
                self._on_message(turn, event.peer, event.message)
            except PeerFault as fault:
                turn.fault(fault.peer, fault.code, fault.detail)
        elif isinstance(event, Propose):
            ordering.propose(turn, event.batch)
        elif isinstance(event, BatchChecked):
            ordering.on_batch_checked(turn, event.view, event.sequence, event.digest, event.accepted, event.reason)
        elif isinstance(event, Executed):
            checkpoint.on_executed(turn, event.sequence, event.header_hash, event.announced)
            _go_on(turn)
        elif isinstance(event, AdoptionFailed):
            catch_up.on_adoption_failed(turn, event.sequence, event.reason)
            _go_on(turn)
        elif isinstance(event, SnapshotAdopted):
            state_transfer.on_adopted(turn, event.sequence, event.epochs)
            _go_on(turn)
            catch_up.fetch_blocks(turn)
        elif isinstance(event, SnapshotFailed):
            state_transfer.on_refused(turn, event.sequence, event.reason)
            _go_on(turn)
        elif isinstance(event, Pruned):
            self._state.first = max(self._state.first, event.first)
        elif isinstance(event, Waiting):
            self._state.waiting_since_ms, self._state.overtaken = event.since_ms, event.overtaken
        self._check_timers(turn)
        return turn.effects

    def _on_message(self, turn: Turn, peer: str, message: Message) -> None:
        match message:
            case PrePrepareMessage():
                ordering.on_pre_prepare(turn, message)
            case VoteMessage(vote) if vote.kind in (Kind.PREPARE, Kind.COMMIT):
                ordering.on_vote(turn, vote)
            case VoteMessage(vote) if vote.kind == Kind.CHECKPOINT:
                checkpoint.on_checkpoint(turn, vote)
            case VoteMessage(vote):
                raise PeerFault(peer, Suspicion.WRONG_KIND, f"kind {vote.kind} as a plain vote")
            case ViewChangeMessage():
                view_change.on_view_change(turn, message)
            case NewViewMessage():
                view_change.on_new_view(turn, message)
            case StatusMessage():
                catch_up.on_status(turn, peer, message)
            case _:
                self._on_request(turn, peer, message)

    def _on_request(self, turn: Turn, peer: str, message: Message) -> None:
        """Take what is asked for or answered: it proves itself."""
        match message:
            case FetchBatch(digest):
                ordering.on_fetch_batch(turn, peer, digest)
            case BatchMessage(batch):
                ordering.on_batch(turn, batch)
            case FetchBlocks():
                catch_up.on_fetch_blocks(turn, peer, message)
            case BlocksMessage():
                catch_up.on_blocks(turn, peer, message)
            case FetchSnapshot():
                state_transfer.on_fetch_snapshot(turn, peer, message)
            case SnapshotMessage():
                state_transfer.on_snapshot(turn, peer, message)
            case FetchChunk():
                state_transfer.on_fetch_chunk(turn, peer, message)
            case ChunkMessage():
                state_transfer.on_chunk(turn, peer, message)

    def _check_timers(self, turn: Turn) -> None:
        deadline = patience.view_deadline_ms(turn)
        if deadline is not None and turn.now_ms >= deadline:
            view_change.start_view_change(turn, self._state.view + 1)
        if turn.now_ms >= self._state.next_status_ms:
            patience.look_around(turn)
            if patience.primary_is_silent(turn):
                view_change.start_view_change(turn, self._state.view + 1)
            catch_up.send_status(turn)
            _go_on(turn)

    @property
    def next_deadline_ms(self) -> int:
        """When a :class:`consensus.effects.Tick` is due at the latest."""
        deadline = patience.view_deadline_ms(Turn(self._config, self._state, 0))
        status = self._state.next_status_ms
        return status if deadline is None else min(deadline, status)

    @property
    def can_propose(self) -> bool:
        """Whether the host may give a :class:`consensus.effects.Propose` now."""
        state, config, turn = self._state, self._config, Turn(self._config, self._state, 0)
        if state.diverged or state.changing or not turn.is_primary or not turn.may_order(state.next_sequence):
            return False
        open_sequences = state.next_sequence - 1 - state.executed
        return open_sequences < config.max_in_flight and state.next_sequence <= state.certified + config.window

    @property
    def wants_block(self) -> bool:
        """Whether a block is wanted even if nothing waits: the chain must get to the epoch that was announced."""
        return self._state.boundary_since_ms is not None and self.can_propose

    @property
    def committee(self) -> Committee:
        """Who votes in the present epoch, and this replica's seat."""
        return self._state.committee

    @property
    def epochs(self) -> tuple[ValidatorSet, ...]:
        """All validator sets known so far, by rising epoch."""
        return tuple(self._state.epochs)

    @property
    def view(self) -> int:
        """The current view, or the one being entered."""
        return self._state.view

    @property
    def in_flight(self) -> int:
        """How many sequences are proposed and not executed."""
        return max(0, self._state.next_sequence - 1 - self._state.executed)

    def status(self, now_ms: int) -> ReplicaStatus:
        """Return where this replica stands."""
        state = self._state
        deadline = patience.view_deadline_ms(Turn(self._config, self._state, 0))
        slots = tuple(
            SlotStatus(
                slot.sequence,
                slot.pre_prepare.view if slot.pre_prepare is not None else None,
                slot.ready,
                tuple(sorted(slot.prepares)),
                tuple(sorted(slot.commits)),
                slot.decided is not None,
            )
            for _, slot in sorted(state.slots.items())
        )
        transfer, following = state.transfer, Turn(self._config, state, now_ms).next_set
        return ReplicaStatus(
            epoch=state.committee.epoch,
            members=state.committee.validators.names,
            seat=state.committee.index,
            view=state.view,
            changing=state.changing,
            primary=state.committee.primary(state.view),
            executed=state.executed,
            certified=state.certified,
            in_flight=slots,
            wants_view=tuple(sorted(peer for peer, entry in state.view_changes.items() if entry[0].vote.view == state.view)),
            timer_left_ms=None if deadline is None else max(0, deadline - now_ms),
            peer_heights={name: peer.certified for name, peer in sorted(state.peers.items())},
            next_epoch_height=None if following is None else following.first_height,
            snapshot=None if transfer is None else (transfer.height, len(transfer.staged), len(transfer.manifest.chunks)),
            diverged=state.diverged,
        )


def _go_on(turn: Turn) -> None:
    """Execute what is due; a block, or a snapshot that was given up, may have stood in its way."""
    catch_up.adopt_fetched(turn)
    ordering.execute_decided(turn)
