"""What the HTTP API needs of a channel, and nothing more; ``node.channel.Channel`` has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from consensus.block import Certificate, Header
from consensus.messages import ValidatorSet
from consensus.proofs import EntryProof, TransactionProof
from contracts.genesis import Genesis
from node.event_hub import EventHub

if TYPE_CHECKING:
    from contracts.queries import LedgerView


class Submitted(Protocol):
    """What became of one submitted transaction: ``code`` OK means that it is durable here."""

    @property
    def id(self) -> str:
        """Id in hex; empty if the bytes are no transaction."""

    @property
    def code(self) -> str:
        """OK, FULL or BEHIND (try again) or the code of the refusal."""

    @property
    def detail(self) -> str:
        """Why it was refused; empty when OK."""


class BlockReader(Protocol):
    """The stored chain."""

    @property
    def first_height(self) -> int:
        """Height of the first block that is stored in full: those before it are pruned (1: none is)."""

    def head(self) -> Header | None:
        """Return the last executed header."""

    def header(self, height: int, /) -> Header | None:
        """Return one header."""

    def receipts(self, height: int, /) -> Sequence[bytes] | None:
        """Return the encoded receipts of a block."""

    def certificate(self, height: int, /) -> Certificate | None:
        """Return the certificate of one block."""

    def locate(self, transaction_id: bytes, /) -> tuple[int, int] | None:
        """Return height and position of a transaction."""

    def transaction_ids(self, height: int, /) -> Sequence[bytes] | None:
        """Return the ids of a block's transactions, in order."""


class Ledger(Protocol):
    """What transactions mean."""

    @property
    def view(self) -> LedgerView:
        """Queries over the committed state."""


class Epochs(Protocol):
    """The validator sets that the node knows."""

    def at(self, height: int) -> ValidatorSet:
        """Return the set that certifies the block at ``height``."""

    def proposer(self, height: int, index: int) -> str:
        """Return the name of a block's proposer, "" if it has none."""


class ChainClock(Protocol):
    """Where chain time comes from."""

    def now_ms(self) -> int:
        """Return the chain time now, Unix milliseconds."""


class ChannelService(Protocol):
    """One channel of the node, as the API sees it."""

    @property
    def name(self) -> str:
        """Name of the channel."""

    @property
    def genesis(self) -> Genesis:
        """What the participants agreed on."""

    @property
    def application(self) -> Ledger:
        """The ledger."""

    @property
    def store(self) -> BlockReader:
        """The stored chain."""

    @property
    def epochs(self) -> Epochs:
        """The validator sets that the node knows."""

    @property
    def events(self) -> EventHub:
        """Where events are published."""

    @property
    def clock(self) -> ChainClock:
        """Chain time."""

    async def submit(self, raws: Sequence[bytes], source: str) -> Sequence[Submitted]:
        """Check and store transactions; one answer each, in order."""

    def find(self, transaction_id: bytes) -> str | None:
        """Return "pending" if the transaction waits to be ordered."""

    def transaction_proof(self, transaction_id: bytes) -> TransactionProof | None:
        """Return the proof of an executed transaction once its block is certified."""

    async def entry_proof(self, key: bytes, timeout_s: float = 2.0) -> EntryProof | None:
        """Return the proof of a state entry at the head; None if the head is not certified in time."""

    def status(self) -> dict[str, object]:
        """Return how the channel does, ready for JSON (:class:`node.http.views.StatusView`)."""

    def evidence(self) -> list[dict[str, object]]:
        """Return double signing that this node saw, ready for JSON: a :class:`node.http.views.DoubleVote` each, but for ``on_ledger``."""

    def epoch_changes(self) -> tuple[bytes, ...]:
        """Return the proofs of all epochs that the chain has reached, from epoch 1 on: encoded ``EpochChange`` values."""
