"""Collects what every node stored, for the checkers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import aiohttp
import msgspec

from cluster.checkers import StoredBlock, StoredChain
from cluster.load import BlockPart, read_block, read_block_page
from cluster.options import RunError

AGREE_POLL_S = 0.1
READ_AHEAD = 8
TIMEOUT_S = 10.0
TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_S)

VALIDATOR_EVENTS = ("seat-renewed", "validator-voted", "double-signing-recorded")
VALIDATOR_CODES = ("STALE_EPOCH", "NO_SUCH_EPOCH", "NOTHING_CHANGES", "TOO_MANY_RENEWALS", "ALREADY_REPORTED", "ENOUGH_OFFENCES")
"""What only transactions of validators in their own name end in."""


class Peer(msgspec.Struct, frozen=True):
    """What is read of a node's link to another."""

    name: str
    connected: bool


class Head(msgspec.Struct, frozen=True):
    """What a node says of its chain and its view of the cluster; one that does not say whether it votes does, and keeps all blocks if
    it names no first one.
    """

    height: int
    certified: int
    head_hash: str
    state_root: str
    primary: str
    view: int
    changing: bool
    diverged: bool
    peers: tuple[Peer, ...]
    voting: bool = True
    first_height: int = 1
    clock_ms: int = 0

    @property
    def linked(self) -> bool:
        """Whether the node is connected with all others."""
        return all(peer.connected for peer in self.peers)


class Evidence(msgspec.Struct, frozen=True):
    """What is read of the misbehaviour that a node has recorded."""

    evidence: tuple[msgspec.Raw, ...]


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


async def count_evidence(session: aiohttp.ClientSession, name: str, url: str) -> int:
    """Return how many pairs of different votes, both signed by one validator for one place, a node has kept (a page at most).

    Raises:
        RunError: the node does not answer.
    """
    with _readable(name):
        async with session.get(url + "/v1/evidence", timeout=TIMEOUT) as response:
            return len(msgspec.json.decode(await response.read(), type=Evidence).evidence)


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
    """Read all blocks that a node keeps, and the balances of some accounts.

    Raises:
        RunError: the node does not answer, or lacks a block between the first that it keeps and its head.
    """
    head = await read_head(session, url)
    if head is None:
        raise RunError(f"{name} does not answer")
    blocks = await read_blocks(session, name, url, range(head.first_height, head.height + 1), receipts=receipts)
    return StoredChain(name, tuple(blocks), await read_balances(session, name, url, accounts))


async def read_blocks(session: aiohttp.ClientSession, name: str, url: str, heights: range, *, receipts: bool) -> list[StoredBlock]:
    """Read some blocks of a node.

    Raises:
        RunError: the node does not answer, or lacks one of them.
    """
    blocks: list[StoredBlock] = []
    with _readable(name):
        for first in range(heights.start, heights.stop, READ_AHEAD):
            part = range(first, min(first + READ_AHEAD, heights.stop))
            found = await asyncio.gather(*(read_block(session, url, height, receipts=receipts) for height in part))
            blocks.extend(_stored(block, name, height) for block, height in zip(found, part, strict=True))
    return blocks


async def read_balances(session: aiohttp.ClientSession, name: str, url: str, accounts: Sequence[str]) -> dict[str, int]:
    """Read the balances of some accounts (micro, free plus locked) from a node.

    Raises:
        RunError: the node does not answer.
    """
    with _readable(name):
        found = await asyncio.gather(*(_balance(session, url, account) for account in accounts))
    return dict(zip(accounts, found, strict=True))


async def read_hashes(session: aiohttp.ClientSession, name: str, url: str, heights: range) -> dict[int, str]:
    """Read the hashes of a node's blocks at these heights, as far as it has them.

    Raises:
        RunError: the node does not answer.
    """
    hashes: dict[int, str] = {}
    before = heights.stop
    with _readable(name):
        while before > heights.start and (page := await read_block_page(session, url, before)):
            hashes.update((line.height, line.hash) for line in page if line.height >= heights.start)
            before = page[-1].height
    return hashes


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn what goes wrong while a node is read into one line.

    Raises:
        RunError: names the node.
    """
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
        raise RunError(f"{name} cannot be read: {error or type(error).__name__}") from error


def _stored(part: BlockPart | None, name: str, height: int) -> StoredBlock:
    if part is None:
        raise RunError(f"{name} lacks block {height}")
    ids = tuple(bytes.fromhex(transaction) for transaction in part.transactions)
    codes = {receipt.transaction_id: receipt.code for receipt in part.receipts}
    found = tuple(codes[transaction] for transaction in part.transactions) if codes else ()
    readings = tuple(
        (event.meter, event.sequence) for receipt in part.receipts for event in receipt.events if event.event == "reading-accepted"
    )
    own = frozenset(
        bytes.fromhex(receipt.transaction_id)
        for receipt in part.receipts
        if receipt.code in VALIDATOR_CODES or any(event.event in VALIDATOR_EVENTS for event in receipt.events)
    )
    header = part.header
    return StoredBlock(header.height, header.hash, header.previous_hash, header.state_root, ids, found, readings, own)


async def _balance(session: aiohttp.ClientSession, url: str, account: str) -> int:
    async with session.get(f"{url}/v1/accounts/{account}", timeout=TIMEOUT) as response:
        content = await response.read()
        if response.status != 200:
            return 0
        found = msgspec.json.decode(content, type=Account)
        return found.balance_micro + found.locked_micro
