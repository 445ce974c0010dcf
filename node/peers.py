"""The door between one channel and the other nodes, by name: frames in, frames out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from consensus.errors import DecodeError, Suspicion
from consensus.messages import Message, decode_message
from consensus.transaction import Transaction
from node.framing import Frame, FrameKind, decode_items, items_frame
from node.key_value import StoreError
from node.transport import PeerLinks

MAX_SERVED_TRANSACTIONS = 1_000


class PeerUser(Protocol):
    """Who uses the door."""

    async def take_message(self, peer: str, message: Message) -> None:
        """Take a consensus message of a validator or a guest; waits while there is no room."""

    async def take_transactions(self, raws: Sequence[bytes]) -> None:
        """Take shared transactions; waits while there is no room."""

    def find_transaction(self, transaction_id: bytes) -> Transaction | None:
        """Return a transaction that a peer asks for."""

    def peer_fault(self, peer: str, code: Suspicion, detail: str) -> None:
        """Count a broken rule of a node."""


class PeerDoor:
    """Sends and takes the frames of one channel.

    Args:
        channel: its name.
        user: who gets what comes in.
    """

    def __init__(self, channel: str, user: PeerUser) -> None:
        self._channel = channel
        self._user = user
        self._links: PeerLinks | None = None
        self._broken: asyncio.Queue[StoreError] = asyncio.Queue()

    async def run(self) -> None:
        """Wait until the own store fails while a frame is handled: that ends the channel, not the link of the node that sent the frame.

        Raises:
            StoreError: what failed.
        """
        raise await self._broken.get()

    def open(self, links: PeerLinks) -> None:
        """Start to send over these links; before that, everything said is lost (as any message may be)."""
        self._links = links

    @property
    def links(self) -> PeerLinks | None:
        """The links, once opened."""
        return self._links

    async def on_frame(self, peer: str, frame: Frame) -> None:
        """Take one frame from the link of a node; a bad one is counted and changes nothing. What the own store refuses ends :meth:`run`."""
        take: dict[int, Callable[[str, bytes], Awaitable[None]]] = {
            FrameKind.CONSENSUS: self._on_message,
            FrameKind.TRANSACTIONS: self._on_transactions,
            FrameKind.FETCH_TRANSACTIONS: self._on_fetch,
        }
        try:
            if frame.channel != self._channel or frame.kind not in take:
                raise DecodeError("frame", f"kind {frame.kind} for channel {frame.channel}")
            await take[frame.kind](peer, frame.body)
        except DecodeError as error:
            self._user.peer_fault(peer, Suspicion.MALFORMED, str(error))
        except StoreError as error:
            self._broken.put_nowait(error)

    async def _on_message(self, peer: str, body: bytes) -> None:
        await self._user.take_message(peer, decode_message(body))

    async def _on_transactions(self, _: str, body: bytes) -> None:
        await self._user.take_transactions(decode_items(body))

    async def _on_fetch(self, peer: str, body: bytes) -> None:
        wanted = decode_items(body)[:MAX_SERVED_TRANSACTIONS]
        found = [transaction.raw for one in wanted if (transaction := self._user.find_transaction(one)) is not None]
        if found:
            self._send(peer, items_frame(self._channel, FrameKind.TRANSACTIONS, found))

    def send_message(self, peer: str, body: bytes) -> None:
        """Send an encoded consensus message to one node."""
        self._send(peer, Frame(self._channel, int(FrameKind.CONSENSUS), body))

    def broadcast_message(self, body: bytes, to: Collection[str] | None = None) -> None:
        """Send an encoded consensus message to these nodes (None: to all peers and guests)."""
        if self._links is not None:
            self._links.broadcast(Frame(self._channel, int(FrameKind.CONSENSUS), body), to)

    def share(self, raws: Sequence[bytes]) -> None:
        """Give raw transactions to all peers. Guests get none: they order nothing."""
        if raws:
            self._send(None, items_frame(self._channel, FrameKind.TRANSACTIONS, raws))

    def ask(self, peer: str | None, ids: Sequence[bytes]) -> None:
        """Ask one node (None: all peers) for transactions."""
        if ids:
            self._send(peer, items_frame(self._channel, FrameKind.FETCH_TRANSACTIONS, ids))

    def _send(self, peer: str | None, frame: Frame) -> None:
        if self._links is None:
            return
        if peer is None:
            self._links.broadcast(frame, self._links.peers)
        else:
            self._links.send(peer, frame)
