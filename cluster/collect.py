"""Collects what every node stored, for the checkers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp
import msgspec

from cluster.checkers import StoredBlock, StoredChain
from cluster.load import BlockPart, read_block
from cluster.options import RunError

AGREE_POLL_S = 0.1
READ_AHEAD = 8
TIMEOUT_S = 10.0
TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_S)


class Peer(msgspec.Struct, frozen=True):
    """What is read of a node's link to another."""

    connected: bool


class Head(msgspec.Struct, frozen=True):
    """What a node says of its chain and its view of the cluster."""

    height: int
    certified: int
    head_hash: str
    state_root: str
    primary: str
    view: int
    diverged: bool
    peers: tuple[Peer, ...]

    @property
    def linked(self) -> bool:
        """Whether the node is connected with all others."""
        return all(peer.connected for peer in self.peers)


class Account(msgspec.Struct, frozen=True):
    """What is read of an account."""

    balance_micro: int
    locked_micro: int


async def read_head(session: aiohttp.ClientSession, url: str, timeout_s: float = TIMEOUT_S) -> Head | None:
    """Return what a node says of itself; None if it does not answer."""
    try:
        async with session.get(url + "/v1/status", timeout=aiohttp.ClientTimeout(total=timeout_s)) as response:
            content = await response.read()
            return msgspec.json.decode(content, type=Head) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
        return None


async def wait_equal_heads(session: aiohttp.ClientSession, urls: Sequence[str], timeout_s: float) -> bool:
    """Wait until all nodes are at the same height with everything certified; tell False if they are not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        heads = await asyncio.gather(*(read_head(session, url) for url in urls))
        places = {(head.height, head.certified) if head is not None else None for head in heads}
        if len(places) == 1 and all(head is not None and head.height == head.certified for head in heads):
            return True
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(AGREE_POLL_S)


async def read_chain(session: aiohttp.ClientSession, name: str, url: str, accounts: Sequence[str], *, receipts: bool) -> StoredChain:
    """Read all blocks of a node, and the balances of some accounts.

    Raises:
        RunError: the node does not answer, or lacks a block below its head.
    """
    head = await read_head(session, url)
    if head is None:
        raise RunError(f"{name} does not answer")
    blocks: list[StoredBlock] = []
    try:
        for first in range(1, head.height + 1, READ_AHEAD):
            heights = range(first, min(first + READ_AHEAD, head.height + 1))
            parts = await asyncio.gather(*(read_block(session, url, height, receipts=receipts) for height in heights))
            blocks.extend(_stored(part, name, height) for part, height in zip(parts, heights, strict=True))
        balances = {account: await _balance(session, url, account) for account in accounts}
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
        raise RunError(f"{name} cannot be read: {error or type(error).__name__}") from error
    return StoredChain(name, tuple(blocks), balances)


def _stored(part: BlockPart | None, name: str, height: int) -> StoredBlock:
    if part is None:
        raise RunError(f"{name} lacks block {height}")
    ids = tuple(bytes.fromhex(transaction) for transaction in part.transactions)
    codes = {receipt.transaction_id: receipt.code for receipt in part.receipts}
    found = tuple(codes[transaction] for transaction in part.transactions) if codes else ()
    header = part.header
    return StoredBlock(header.height, header.hash, header.previous_hash, header.state_root, ids, found)


async def _balance(session: aiohttp.ClientSession, url: str, account: str) -> int:
    async with session.get(f"{url}/v1/accounts/{account}", timeout=TIMEOUT) as response:
        content = await response.read()
        if response.status != 200:
            return 0
        found = msgspec.json.decode(content, type=Account)
        return found.balance_micro + found.locked_micro
