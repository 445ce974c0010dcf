"""A new primary whose node lacks what the view before had prepared: the batch, and a transaction that it names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

from consensus.block import Batch, batch_digest, decode_batch
from consensus.codec import encode
from consensus.messages import (
    BatchMessage,
    FetchBatch,
    Kind,
    Message,
    NewViewMessage,
    PreparedProof,
    PrePrepareMessage,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    decode_message,
    sign_vote,
)
from consensus.transaction import decode_transaction
from node.clock import wall_ms
from node.framing import Frame, FrameKind
from node.intake import HTTP
from node.keys import read_signer
from tests.node.test_channel_input import OneChannel, signed

OWN = 1
"""Seat of the one node that runs; the test plays the others."""


class Links:
    """Keeps what the node says to the others."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.peers = ("node-0", "node-2", "node-3")

    def broadcast(self, frame: Frame, _: Collection[str] | None = None) -> None:
        if frame.kind == FrameKind.CONSENSUS:
            self.said.append(decode_message(frame.body))

    def send(self, _: str, frame: Frame) -> None:
        self.broadcast(frame)


class NewPrimary:
    """The node, its driver and its intake at work, and the votes of the others."""

    def __init__(self, home: Path) -> None:
        self.one = OneChannel(home)
        self.links = Links()
        self.one.channel.door.open(self.links)  # type: ignore[arg-type]
        self.committee = self.one.channel._replica.committee
        self.view = next(view for view in range(1, 5) if self.committee.primary(view) == OWN)
        self.signers = [read_signer(home / "nodes" / f"node-{seat}" / "validator.key") for seat in range(4)]

    async def __aenter__(self) -> NewPrimary:
        await self.one.__aenter__()
        self.driver = asyncio.create_task(self.one.channel._driver.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.driver.cancel()
        await asyncio.wait([self.driver])
        await self.one.__aexit__()

    def vote(self, kind: Kind, view: int, sequence: int, digest: bytes, sender: int) -> Vote:
        return sign_vote(self.signers[sender], self.committee.validators.domain, kind, view, sequence, digest, sender)

    async def hear(self, sender: int, message: Message) -> None:
        await self.one.channel.take_message(f"node-{sender}", message)

    async def change_view(self, prepared: bytes | None) -> None:
        """The others want the next view; they have prepared the batch of this digest at sequence 1 in view 0, or nothing."""
        primary, proofs = self.committee.primary(0), ()
        if prepared is not None:
            backups = [seat for seat in range(4) if seat != primary][:2]
            votes = tuple(self.vote(Kind.PREPARE, 0, 1, prepared, seat) for seat in backups)
            proofs = (PreparedProof(self.vote(Kind.PRE_PREPARE, 0, 1, prepared, primary), votes),)
        body = encode(ViewChangeBody(self.view, None, proofs))
        for sender in (0, 2, 3):
            await self.hear(sender, ViewChangeMessage(self.vote(Kind.VIEW_CHANGE, self.view, 0, body_digest(body), sender), body))
        await self.until(lambda: any(isinstance(one, NewViewMessage) for one in self.links.said))

    def voted(self, kind: Kind, digest: bytes) -> bool:
        return any(isinstance(one, VoteMessage) and (one.vote.kind, one.vote.digest) == (kind, digest) for one in self.links.said)

    async def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Let the driver look whether there is something to propose, with everything that waits done."""
        for _ in range(3):
            self.one.channel._driver.wake()
            await asyncio.sleep(0.03)

    def proposals(self) -> list[tuple[int, Batch]]:
        said = [one for one in self.links.said if isinstance(one, PrePrepareMessage)]
        return [(one.vote.sequence, decode_batch(one.batch)) for one in said]


async def test_a_new_primary_names_nothing_that_is_proposed_again_once_more(tmp_path: Path) -> None:
    here, missing, other = (signed(nonce) for nonce in (1, 2, 3))
    ids = [decode_transaction(raw).id for raw in (here, missing, other)]
    batch = encode(Batch(0, 0, wall_ms(), (ids[0], ids[1])))
    async with NewPrimary(tmp_path) as node:
        await node.one.channel.submit([here, other], HTTP)
        await node.change_view(batch_digest(batch))
        await node.settle()
        assert FetchBatch(batch_digest(batch)) in node.links.said
        assert node.proposals() == [], "nobody knows yet what the batch at 1 names"
        await node.hear(2, BatchMessage(batch))
        await node.settle()
        assert node.proposals() == [], "a transaction that it names is not here"
        await node.one.channel.take_transactions([missing])
        await node.until(lambda: bool(node.proposals()))
        ((sequence, proposal),) = node.proposals()
        assert (sequence, proposal.transaction_ids) == (2, (ids[2],))
        assert proposal.time_ms > decode_batch(batch).time_ms


async def test_a_batch_that_is_not_proposed_again_holds_the_next_view_to_no_time(tmp_path: Path) -> None:
    async with NewPrimary(tmp_path) as node:
        primary = node.committee.primary(0)
        late = Batch(0, primary, wall_ms() + 4_000, ())
        digest = batch_digest(encode(late))
        await node.hear(primary, PrePrepareMessage(node.vote(Kind.PRE_PREPARE, 0, 1, digest, primary), encode(late)))
        await node.until(lambda: node.voted(Kind.PREPARE, digest))
        await node.change_view(None)
        await node.one.channel.submit([signed(1)], HTTP)
        await node.until(lambda: bool(node.proposals()))
        ((sequence, proposal),) = node.proposals()
        assert sequence == 1
        assert proposal.time_ms < late.time_ms
