"""The application of the virtual cluster: a hash chain over opaque batches, with a state of one entry per batch.

A batch that :func:`set_batch` makes announces the next validator set, to begin as early as the law allows (``consensus.validators``).
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.block import NO_PROPOSER, NULL_BATCH, VERSION, Header, batch_digest, genesis_header
from consensus.codec import Decoder, Wire, encode
from consensus.crypto import EMPTY_DIGEST, Ed25519Signer
from consensus.merkle import EMPTY_ROOT
from consensus.messages import Domain, ValidatorSet
from consensus.quorum import MIN_REPLICAS
from consensus.state_tree import StateTree
from consensus.validators import set_at

DOMAIN = Domain("test-chain", "main", 0)
WINDOW = 16
SET = b"set:"
BATCH_KEY, EPOCH_KEY = b"batch/", b"epoch/"


def signer(index: int) -> Ed25519Signer:
    return Ed25519Signer(bytes([index + 1]) * 32)


def name(index: int) -> str:
    return f"dc{index}"


def index_of(peer: str) -> int:
    return int(peer[2:])


def validator_set(n: int) -> ValidatorSet:
    return ValidatorSet(DOMAIN, 1, tuple(name(i) for i in range(n)), tuple(signer(i).public_key for i in range(n)), (b"",) * n)


class Seat(Wire, frozen=True):
    """Who votes, with which key and vote log."""

    name: str
    public_key: bytes
    log: bytes = b""


class SetChange(Wire, frozen=True):
    """What a ``set:`` batch changes of the last set known: seats are taken over, added or given up. ``note`` tells two of them apart."""

    seats: tuple[Seat, ...]
    removed: tuple[str, ...]
    note: int


decode_set_change = Decoder(SetChange, "set change")
decode_set = Decoder(ValidatorSet, "validator set")


def set_batch(*seats: Seat, removed: tuple[str, ...] = (), note: int = 0) -> bytes:
    return SET + encode(SetChange(seats, removed, note))


def seats_of(validators: ValidatorSet) -> dict[str, Seat]:
    rows = zip(validators.names, validators.public_keys, validators.logs, strict=True)
    return {name_: Seat(name_, key, log) for name_, key, log in rows}


def changed_set(last: ValidatorSet, change: SetChange, height: int) -> ValidatorSet:
    """Return the set that follows ``last`` if block ``height`` announces it."""
    seats = seats_of(last) | {seat.name: seat for seat in change.seats}
    kept = [seat for seat in seats.values() if seat.name not in change.removed]
    first_height = max(height + WINDOW, last.first_height) + 1
    domain = Domain(last.domain.chain_id, last.domain.channel, last.epoch + 1)
    rows = tuple(seat.name for seat in kept), tuple(seat.public_key for seat in kept), tuple(seat.log for seat in kept)
    return ValidatorSet(domain, first_height, *rows)


def _announced(last: ValidatorSet, change: SetChange, height: int) -> tuple[ValidatorSet, ...]:
    """Fewer than four validators cannot tolerate a fault: such a change has no effect."""
    following = changed_set(last, change, height)
    return (following,) if len(following.names) >= MIN_REPLICAS else ()


def batch_key(batch: bytes) -> bytes:
    return BATCH_KEY + batch


def epochs_in(state: dict[bytes, bytes]) -> tuple[ValidatorSet, ...]:
    """Return the validator sets that a state knows, by rising epoch."""
    return tuple(decode_set(value) for key, value in sorted(state.items()) if key.startswith(EPOCH_KEY))


@dataclass(frozen=True)
class Result:
    """What executing a batch gives."""

    header: Header
    writes: tuple[tuple[bytes, bytes], ...]
    tree: StateTree
    announced: tuple[ValidatorSet, ...]


class Ledger:
    """The committed state. ``head`` is the header of the last block."""

    def __init__(self, genesis: ValidatorSet) -> None:
        self.state = {EPOCH_KEY + b"%08d" % 0: encode(genesis)}
        self.tree = StateTree.of(self.state.items())
        self.epochs: tuple[ValidatorSet, ...] = (genesis,)
        self.head = genesis_header(DOMAIN.chain_id, DOMAIN.channel, 0, EMPTY_DIGEST, self.tree.root, genesis.digest)

    def has(self, batch: bytes) -> bool:
        return batch_key(batch) in self.state

    def finalize(self, batch: bytes) -> Result:
        """Execute a batch; :meth:`commit` makes it so. Like in a real application, one that was executed before has no effect."""
        height, writes, announced = self.head.height + 1, [], ()
        if batch != NULL_BATCH and not self.has(batch):
            writes.append((batch_key(batch), b"%d" % height))
            if batch.startswith(SET):
                announced = _announced(self.epochs[-1], decode_set_change(batch[len(SET) :]), height)
                writes += [(EPOCH_KEY + b"%08d" % one.epoch, encode(one)) for one in announced]
        tree, epochs = self.tree.apply(writes), (*self.epochs, *announced)
        header = Header(
            VERSION, DOMAIN.chain_id, DOMAIN.channel, set_at(epochs, height).epoch, height, self.head.hash, batch_digest(batch),
            EMPTY_ROOT, EMPTY_ROOT, tree.root, 0, 0, NO_PROPOSER, 0, 0, set_at(epochs, height + 1).digest,
        )  # fmt: skip
        return Result(header, tuple(writes), tree, announced)

    def commit(self, result: Result) -> None:
        self.state.update(result.writes)
        self.tree, self.head = result.tree, result.header
        self.epochs += result.announced

    def restore(self, header: Header, entries: dict[bytes, bytes]) -> None:
        """Go on from a snapshot."""
        tree = StateTree.of(entries.items())
        if tree.root != header.state_root:
            raise AssertionError(f"snapshot {header.height}: entries give another root")
        self.state, self.tree, self.head, self.epochs = dict(entries), tree, header, epochs_in(entries)
