"""Checkers: what must never be, looked for after every step of every honest node.

They share no rule with the core: quorums are computed and signatures counted here, and every vote ever sent is remembered.

| checker | what it finds |
| --- | --- |
| agreement | two honest nodes with different blocks at one height |
| validity | a transaction in a block that nobody sent, that may never be there, or that is there twice; block time that is wrong |
| certificate | a certificate (of a block, or a prepared one) without q distinct good signatures, or for another block than the agreed one |
| decision | a batch that is executed although no quorum can have committed to it |
| new-view | a new-view that does not follow from q view-changes, and is taken |
| view-change | a view-change that does not tell what its sender prepared |
| double-sign | two different votes of an honest node for one place, across all restarts |
| separation | a signature that is good in another place, too: as another kind, in another epoch, view or channel |
| write-ahead | a vote that was sent before it was durable |
| mute | a vote of a node whose vote log is not the one that its seat belongs to |
| join | a replica that stays in its view although f + 1 honest others left it |
| patience | a timer that does not fall back after progress, or has no cap |
| evidence | proof of double signing against an honest node |
| order | a block executed out of order |
| memory | a table of the core that grows without bound |
| storm | a node that asks for the same again and again |
| invariant | an honest node that finds a broken rule in itself, or breaks down |
| liveness | after the faults have stopped: something good that never commits, or a node that does not get level and vote again |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.simulation.join_checker import JoinChecker
from cluster.simulation.patience_checker import PatienceChecker
from cluster.simulation.settings import Violation
from cluster.simulation.vote_checker import SCHEME, VoteChecker, quorum_of
from cluster.simulation.workload import NEVER, Sending
from cluster.simulation.world import GENESIS_MS, MAX_DRIFT_MS, World
from consensus.block import Block, Certificate, Header
from consensus.effects import Diverged, Effect, Event, Received
from consensus.messages import Kind, ValidatorSet, ViewChangeMessage, signing_bytes
from consensus.transaction import Transaction

if TYPE_CHECKING:
    from cluster.simulation.node import Node


class Checker:
    """All safety checkers of one run.

    Args:
        world: of the run.

    Attributes:
        votes: those for votes.
        chain: agreed block hash by height.
        placed: height by transaction id.
        sent: what was sent, by transaction id.
        sets: validator set by epoch.
    """

    def __init__(self, world: World) -> None:
        self._keys = world.keys
        self.sets: dict[int, ValidatorSet] = {0: world.first_set}
        self.votes = VoteChecker(world.keys, self.sets, self.certified)
        self._joins = JoinChecker()
        self._patience = PatienceChecker()
        self.chain: dict[int, bytes] = {}
        self.placed: dict[bytes, int] = {}
        self.sent: dict[bytes, tuple[Sending, bytes]] = {}
        self._times: dict[int, int] = {}
        self._nonces: dict[tuple[str, int], bytes] = {}
        self._certified: dict[int, bytes] = {}
        self._good: dict[Certificate, None] = {}

    @property
    def height(self) -> int:
        """Greatest height that an honest node executed."""
        return len(self.chain)

    def stepped(self, node: Node, event: Event, effects: Sequence[Effect]) -> None:
        """A replica took an event."""
        if node.honest:
            self._patience.stepped(node, effects)
        if isinstance(event, Received) and isinstance(event.message, ViewChangeMessage):
            self._joins.stepped(node, event.message, is_honest=self.votes.is_own_view_change(event.message))

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
            self._check_time(node, header)
            self._validate(block, transactions)
        if known != header.hash:
            raise Violation("agreement", f"{node.name} has another block {header.height} than the others")
        if self._certified.get(header.height, known) != known:
            raise Violation("certificate", f"another block {header.height} was certified than {node.name} executed")

    def _check_time(self, node: Node, header: Header) -> None:
        """Check that block time does not run back, and is not ahead of the clocks of all honest nodes that a quorum cannot do without."""
        before_ms = self._times.get(header.height - 1, 0)
        if header.time_ms < before_ms:
            raise Violation("validity", f"block {header.height} is of an earlier time than block {header.height - 1}")
        names, simulation = self.set_at(header.height).names, node.simulation
        skews = sorted((one.clock.most_skew_ms for one in simulation.nodes if one.honest and one.name in names), reverse=True)
        needed = quorum_of(len(names)) - sum(self.votes.is_traitor(name) for name in names)
        latest_ms = GENESIS_MS + simulation.now_ms + skews[min(needed, len(skews)) - 1] + MAX_DRIFT_MS
        if before_ms < header.time_ms and latest_ms < header.time_ms:
            raise Violation("validity", f"block {header.height} is {header.time_ms - latest_ms} ms ahead of {needed} honest clocks")

    def _validate(self, block: Block, transactions: Sequence[Transaction]) -> None:
        height, time_ms = block.header.height, block.header.time_ms
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

    def diverged(self, node: Node, effect: Diverged) -> None:
        """A node says that its own block is not the certified one."""
        if node.honest:
            raise Violation("invariant", f"{node.name} has another block {effect.sequence} than the certified one")

    # -------------------------------------------------------------------------------------------------------------- epochs

    def announced(self, node: Node, sets: Sequence[ValidatorSet]) -> None:
        """A block of an honest node announced validator sets."""
        if node.honest:
            for validators in sets:
                self.sets.setdefault(validators.epoch, validators)

    def set_at(self, height: int) -> ValidatorSet:
        """Return the validators of a height."""
        fitting = [validators for validators in self.sets.values() if validators.first_height <= height]
        return max(fitting, key=lambda validators: validators.epoch)

    # -------------------------------------------------------------------------------------------------------- certificates

    def certified(self, node: Node, certificate: Certificate) -> None:
        """A node took a certificate, or sends it."""
        if not node.honest or certificate in self._good:
            return
        height = certificate.height
        validators = self.set_at(height)
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
        return self._keys.check(SCHEME, validators.public_keys[seat], message, signature)
