"""What a node lets all meters know: the proofs of the validators, as retained messages under its own name.

A meter that was off for a year finds them when it comes back. They prove themselves, so it does not matter which node's it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiomqtt

from contracts.topics import epochs_pages, epochs_topic


class EpochNotices:
    """The pages of one node on one channel.

    Args:
        channel, node: their names.

    Raises:
        InputError: one is not a name.
    """

    def __init__(self, channel: str, node: str) -> None:
        self._channel, self._node = channel, node
        epochs_topic(channel, node, 0)
        self._pages: tuple[bytes, ...] = ()
        self._fresh = asyncio.Event()

    def put(self, changes: Sequence[bytes]) -> None:
        """Show these from now on.

        Args:
            changes: encoded ``EpochChange`` values by rising epoch, from 1 on.
        """
        self._pages = epochs_pages(changes)
        self._fresh.set()

    async def send(self, client: aiomqtt.Client) -> None:
        """Publish all pages on a new connection (the broker may have forgotten them), then those that change, for ever."""
        sent: dict[int, bytes] = {}
        while True:
            self._fresh.clear()
            for number, page in enumerate(self._pages):
                if sent.get(number) != page:
                    await client.publish(epochs_topic(self._channel, self._node, number), page, qos=1, retain=True)
                    sent[number] = page
            await self._fresh.wait()
