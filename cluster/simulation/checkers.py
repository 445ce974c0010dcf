"""Checkers: what must never be, looked for after every step of every honest node.

They share no rule with the core: the quorum is computed here, signatures are counted here, and every vote ever sent is remembered here.

| checker | what it finds |
| --- | --- |
| agreement | two honest nodes with different blocks at one height |
| validity | a transaction in a block that nobody sent, that may never be there, or that is there twice; block time that runs back |
| certificate | a certificate without q distinct good signatures of its epoch's validators, or for another block than the agreed one |
| double-sign | two different votes of an honest node for one place, across all restarts |
| write-ahead | a vote that was sent before it was durable |
| mute | a vote of a node whose vote log is not the one that its seat belongs to |
| evidence | proof of double signing against an honest node |
| order | a block executed out of order |
| storm | a node that asks for the same again and again |
| memory | a table of the core that grows without bound |
| divergence, invariant | an honest node that found itself wrong |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.simulation.settings import Violation
from cluster.simulation.workload import NEVER, Sending
from cluster.simulation.world import WINDOW, World
from consensus.block import Block, Certificate, Header
from consensus.effects import Diverged, Evidence, LogRecord
from consensus.messages import (
    BlocksMessage,
    FetchBatch,
    FetchBlocks,
    FetchChunk,
    FetchSnapshot,
    Kind,
    NewViewMessage,
    PrePrepareMessage,
    StatusMessage,
    ValidatorSet,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    decode_new_view_body,
    signing_bytes,
)
from consensus.transaction import Transaction

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from consensus.replica import Replica

Place = tuple[int, int, int, int]
_VOTES = (VoteMessage, PrePrepareMessage, ViewChangeMessage, NewViewMessage)
MOST_SLOTS = 3 * WINDOW
MOST_FETCHED = 256
MOST_REQUESTS = 80
"""How often a node may ask for the same within one second, of all others together."""


def quorum_of(nodes: int) -> int:
    """Return how many of ``nodes`` validators make a quorum: any two of them share an honest one."""
    faulty = (nodes - 1) // 3
    return -(-(nodes + faulty + 1) // 2)


class Checker:
    """All safety checkers of one run.

    Args:
        world: of the run.

    Attributes:
        chain: agreed block hash by height.
        placed: height by transaction id.
        sets: validator set by epoch.
        violation: the first one that was found, None while all is well.
    """

    def __init__(self, world: World) -> None:
        self._keys = world.keys
        self.sets: dict[int, ValidatorSet] = {0: world.first_set}
        self.chain: dict[int, bytes] = {}
        self.placed: dict[bytes, int] = {}
        self.sent: dict[bytes, tuple[Sending, bytes]] = {}
        self._names_of_traitors: frozenset[str] = frozenset()
        self._times: dict[int, int] = {}
        self._nonces: dict[tuple[str, int], bytes] = {}
        self._certified: dict[int, bytes] = {}
        self._good: dict[Certificate, None] = {}
        self._votes: dict[str, dict[Place, bytes]] = {}
        self._second = 0
        self._requests: dict[tuple[str, object], int] = {}
        self._logged: dict[str, dict[Place, None]] = {}

    def trust(self, honest: Sequence[str], everybody: Sequence[str]) -> None:
        """Say who is honest."""
        self._names_of_traitors = frozenset(everybody) - frozenset(honest)
        for name in honest:
            self._votes.setdefault(name, {})
            self._logged.setdefault(name, {})

    @property
    def height(self) -> int:
        """Greatest height that an honest node executed."""
        return len(self.chain)

    # -------------------------------------------------------------------------------------------------------------- blocks

    def executed(self, node: Node, block: Block, transactions: Sequence[Transaction]) -> None:
        """A node made a block durable."""
        if not node.honest:
            return
        header = block.header
        known = self.chain.get(header.height)
        if known is None:
            if header.height != self.height + 1:
                raise Violation("order", f"{node.name} executed block {header.height} after block {self.height}")
            self.chain[header.height] = known = header.hash
            self._times[header.height] = header.time_ms
            self._validate(block, transactions)
        if known != header.hash:
            raise Violation("agreement", f"{node.name} has another block {header.height} than the others")
        if self._certified.get(header.height, known) != known:
            raise Violation("certificate", f"another block {header.height} was certified than {node.name} executed")

    def _validate(self, block: Block, transactions: Sequence[Transaction]) -> None:
        height, time_ms = block.header.height, block.header.time_ms
        if time_ms < self._times.get(height - 1, 0):
            raise Violation("validity", f"block {height} is of an earlier time than block {height - 1}")
        for one in transactions:
            sending, raw = self.sent.get(one.id, (None, b""))
            if sending is None or raw != one.raw:
                raise Violation("validity", f"block {height} holds a transaction that nobody sent")
            if sending.kind in NEVER:
                raise Violation("validity", f"block {height} holds {sending}")
            if one.id in self.placed:
                raise Violation("validity", f"block {height} holds {sending}, and so does block {self.placed[one.id]}")
            spent = (one.body.sender, one.body.nonce)
            if spent in self._nonces:
                raise Violation("validity", f"block {height} spends nonce {spent[1]} of {spent[0]} again")
            if one.body.valid_until_ms < time_ms:
                raise Violation("validity", f"block {height} holds {sending}, which was over")
            self.placed[one.id] = height
            self._nonces[spent] = one.id

    def adopted(self, node: Node, header: Header) -> None:
        """A node made a snapshot its state."""
        if node.honest and self.chain.get(header.height) != header.hash:
            raise Violation("certificate", f"{node.name} adopted a snapshot of another block {header.height} than the agreed one")

    def is_spent(self, sender: str, nonce: int) -> bool:
        """Tell whether a transaction with this nonce is in the chain."""
        return (sender, nonce) in self._nonces

    def announced(self, sets: Sequence[ValidatorSet]) -> None:
        """A block announced validator sets."""
        for validators in sets:
            self.sets.setdefault(validators.epoch, validators)

    @property
    def present_set(self) -> ValidatorSet:
        """The validators of the block after the greatest height."""
        return self._set_at(self.height + 1)

    def _set_at(self, height: int) -> ValidatorSet:
        fitting = [validators for validators in self.sets.values() if validators.first_height <= height]
        return max(fitting, key=lambda validators: validators.epoch)

    # -------------------------------------------------------------------------------------------------------- certificates

    def certified(self, node: Node, certificate: Certificate) -> None:
        """A node took a certificate."""
        if not node.honest or certificate in self._good:
            return
        height = certificate.height
        validators = self._set_at(height)
        if certificate.epoch != validators.epoch:
            raise Violation("certificate", f"{node.name} took one of epoch {certificate.epoch} for height {height}")
        signers = {vote.validator for vote in certificate.votes if self._signed(validators, certificate, vote.validator, vote.signature)}
        if len(signers) < quorum_of(len(validators.names)):
            raise Violation("certificate", f"{node.name} took one for height {height} with {len(signers)} good signatures")
        known = self._certified.setdefault(height, certificate.header_hash)
        if known != certificate.header_hash:
            raise Violation("certificate", f"two different blocks of height {height} are certified")
        if self.chain.get(height, known) != known:
            raise Violation("certificate", f"another block {height} was certified than honest nodes executed")
        self._good[certificate] = None

    def _signed(self, validators: ValidatorSet, certificate: Certificate, seat: int, signature: bytes) -> bool:
        if not 0 <= seat < len(validators.names):
            return False
        message = signing_bytes(validators.domain, Kind.CHECKPOINT, 0, certificate.height, certificate.header_hash, seat)
        return self._keys.check(1, validators.public_keys[seat], message, signature)

    # --------------------------------------------------------------------------------------------------------------- votes

    def persisted(self, node: Node, records: Sequence[LogRecord]) -> None:
        """A node made votes durable."""
        if node.honest:
            logged = self._logged[node.name]
            for record in records:
                logged[(record.epoch, record.kind, record.view, record.sequence)] = None

    def wiped(self, node: Node) -> None:
        """A node lost its disk."""
        if node.honest:
            self._logged[node.name].clear()

    def said(self, node: Node, message: object) -> None:
        """A node is about to send a message."""
        if not node.honest:
            return
        if isinstance(message, FetchBlocks | FetchSnapshot | FetchChunk | FetchBatch):
            self._asked(node, message)
            return
        if isinstance(message, _VOTES):
            self._own_vote(node, message.vote)
            if isinstance(message, NewViewMessage):
                for vote in decode_new_view_body(message.body).pre_prepares:
                    self._own_vote(node, vote, inside=message.vote)
        elif isinstance(message, StatusMessage):
            if message.body.certificate is not None:
                self.certified(node, message.body.certificate)
        elif isinstance(message, BlocksMessage):
            for block in message.blocks:
                self.certified(node, block.certificate)

    def _asked(self, node: Node, message: object) -> None:
        """Count what a node asks for: the same again and again within a second is a storm."""
        now_s = node.simulation.now_ms // 1_000
        if now_s != self._second:
            self._second = now_s
            self._requests.clear()
        times = self._requests.get((node.name, message), 0) + 1
        if times > MOST_REQUESTS:
            raise Violation("storm", f"{node.name} asks for the same {times} times in a second: {message}")
        self._requests[(node.name, message)] = times

    def _own_vote(self, node: Node, vote: Vote, inside: Vote | None = None) -> None:
        """Check a vote that a node sends, if it is its own."""
        validators = self.sets.get(vote.epoch)
        if validators is None or not 0 <= vote.sender < len(validators.names) or validators.names[vote.sender] != node.name:
            return
        place = (vote.epoch, vote.kind, vote.view, vote.sequence)
        votes = self._votes[node.name]
        known = votes.get(place)
        if known is None:
            if validators.logs[vote.sender] != node.log:
                raise Violation("mute", f"{node.name} signed {_words(vote)} although its seat belongs to another vote log")
            written = vote if inside is None else inside
            if (written.epoch, written.kind, written.view, written.sequence) not in self._logged[node.name]:
                raise Violation("write-ahead", f"{node.name} sent {_words(vote)} before it was durable")
            votes[place] = vote.digest
        elif known != vote.digest:
            raise Violation("double-sign", f"{node.name} signed two different votes: {_words(vote)}")

    def evidence(self, node: Node, effect: Evidence) -> None:
        """A node says that it saw two votes for one place."""
        vote = effect.first
        validators = self.sets.get(vote.epoch)
        if not node.honest or validators is None:
            return
        name = validators.names[vote.sender]
        if name not in self._names_of_traitors:
            raise Violation("evidence", f"{node.name} accuses {name}, which is honest, of two votes: {_words(vote)}")

    def diverged(self, node: Node, effect: Diverged) -> None:
        """A node says that its own block is not the certified one."""
        if node.honest:
            raise Violation("divergence", f"{node.name} has another block {effect.sequence} than the certified one")


def _words(vote: Vote) -> str:
    try:
        kind = Kind(vote.kind).name.lower()
    except ValueError:
        kind = f"kind {vote.kind}"
    return f"{kind} of epoch {vote.epoch}, view {vote.view}, sequence {vote.sequence}"


def check_memory(name: str, replica: Replica, nodes: int) -> None:
    """Check that no table of a replica grows beyond what the water marks allow.

    Raises:
        Violation: one does.
    """
    state = replica._state
    sizes = {
        "slots": (len(state.slots), MOST_SLOTS),
        "bodies": (len(state.bodies), 4 * MOST_SLOTS),
        "checkpoints": (len(state.checkpoints), MOST_SLOTS),
        "held": (len(state.held), MOST_SLOTS),
        "missing": (len(state.missing), MOST_SLOTS),
        "view_changes": (len(state.view_changes), nodes),
        "fetched": (len(state.fetched), MOST_FETCHED),
        "own_headers": (len(state.own_headers), MOST_SLOTS),
        "peers": (len(state.peers), nodes + 2),
        "later": (sum(len(slot.later) for slot in state.slots.values()), 2 * nodes * MOST_SLOTS),
    }
    for table, (size, most) in sizes.items():
        if size > most:
            raise Violation("memory", f"{name} keeps {size} {table}, at most {most} are of use")
