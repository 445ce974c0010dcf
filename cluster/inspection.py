"""What is checked after every round of a drill, while nothing is under way: only what is new since the round before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence

from cluster.chain_book import ChainBook, Violation
from cluster.collect import Head, count_evidence, read_balances, read_blocks, read_hashes, wait_equal_heads
from cluster.history import Payment
from cluster.options import RunError
from cluster.stage import Stage

AGREE_TIMEOUT_S = 60.0
SAMPLE = 30


async def inspect(stage: Stage, book: ChainBook, suspects: Sequence[int]) -> list[Violation]:
    """Hold what the nodes have stored since the last call against what their clients were promised.

    Call it while the stage is quiet. The new blocks are read in full, with their results, from the node that was hit; of the others
    every hash. A node that got its blocks from the others again is asked for some old ones too.

    Args:
        suspects: indices of the nodes that were hit, at least one.

    Raises:
        RunError: a node does not answer.
    """
    promised = _promised_readings(stage)
    if not await wait_equal_heads(stage.session, stage.lab.urls, AGREE_TIMEOUT_S):
        return [
            Violation("failed", f"the nodes did not come to one height within {AGREE_TIMEOUT_S:g} s: {_heads(stage, await stage.heads())}")
        ]
    heads = await stage.heads()
    if len({(head.height, head.head_hash, head.state_root) if head is not None else None for head in heads}) > 1:
        return [Violation("fork", f"the heads differ: {_heads(stage, heads)}")]
    top = max(head.height for head in heads if head is not None)
    firsts = [head.first_height for head in heads if head is not None]
    found = await enter_blocks(stage, book, suspects[0], range(book.height + 1, top + 1), firsts)
    acknowledged = [(stage.history.ids[one], stage.lab.names[stage.history.taken_by[one]]) for one in stage.history.take_news()]
    found += book.missing(acknowledged)
    balances = await read_balances(stage.session, stage.lab.names[suspects[0]], stage.lab.urls[suspects[0]], list(book.balances))
    found += book.wrong_balances(stage.lab.names[suspects[0]], balances)
    return found + _meters(stage, book, promised) + await _evidence(stage)


async def _evidence(stage: Stage) -> list[Violation]:
    """Return who has proof that a validator signed two different votes for one place: none of ours may, whatever happens to its disk."""
    counts = await asyncio.gather(
        *(count_evidence(stage.session, name, url) for name, url in zip(stage.lab.names, stage.lab.urls, strict=True))
    )
    return [
        Violation("equivocation", f"{name} has proof of {count} pairs of different votes by one validator", node=name)
        for name, count in zip(stage.lab.names, counts, strict=True)
        if count
    ]


async def enter_blocks(stage: Stage, book: ChainBook, source: int, heights: range, firsts: Sequence[int]) -> list[Violation]:
    """Enter the new blocks as one node has them, and compare the others' with them.

    A node that got everything from the others may have begun with a snapshot: what is below its first block is read from another one.

    Args:
        source: index of the node to read.
        firsts: first block that each node keeps.

    Raises:
        RunError: a node does not answer, or lacks a block that it must have.
    """
    names, urls, session = stage.lab.names, stage.lab.urls, stage.session
    kept = [first if index in stage.refilled else heights.start for index, first in enumerate(firsts)]
    begin = [max(heights.start, min(first, heights.stop)) for first in kept]
    donor = min(range(len(names)), key=lambda index: begin[index])
    found: list[Violation] = []
    for index, part in ((donor, range(heights.start, begin[source])), (source, range(begin[source], heights.stop))):
        found += book.enter(names[index], await read_blocks(session, names[index], urls[index], part, receipts=True))
        if found and book.height < part.stop - 1:
            return found
    for index, (name, url) in enumerate(zip(names, urls, strict=True)):
        own = range(begin[index], heights.stop)
        found += book.compare(name, await read_hashes(session, name, url, own), own)
        if index in stage.refilled:
            found += await _compare_old(stage, book, index)
    return found


async def _compare_old(stage: Stage, book: ChainBook, index: int) -> list[Violation]:
    """Compare some old blocks of a node that got everything from the others; those before a snapshot it may lack."""
    name, url = stage.lab.names[index], stage.lab.urls[index]
    chance = random.SystemRandom()
    heights = sorted(chance.sample(range(1, book.height + 1), min(SAMPLE, book.height)))
    found = await asyncio.gather(*(read_hashes(stage.session, name, url, range(height, height + 1)) for height in heights))
    hashes = {height: value for part in found for height, value in part.items()}
    first = min(hashes, default=book.height)
    return book.compare(name, hashes, [height for height in heights if height >= first])


def _promised_readings(stage: Stage) -> dict[str, Collection[int]]:
    """Return the readings that the chain must hold by now: those taken or confirmed. A meter may take another while blocks are read."""
    if stage.meters is None:
        return {}
    taken = {meter: range(1, count + 1) for meter, count in stage.meters.taken.items()}
    confirmed = stage.meters.confirmed
    return {meter: frozenset(taken.get(meter, ())) | frozenset(confirmed.get(meter, ())) for meter in (*taken, *confirmed)}


def _meters(stage: Stage, book: ChainBook, promised: Mapping[str, Collection[int]]) -> list[Violation]:
    """Return what is wrong with the meters' readings: a block must have accepted each that was promised."""
    if stage.meters is None:
        return []
    refused = [Violation("lost", f"reading {sequence} of {meter} was refused by the chain") for meter, sequence in stage.meters.refused()]
    return refused + book.missing_readings(promised)


def _heads(stage: Stage, heads: Sequence[Head | None]) -> str:
    """Say where every node stands."""
    return "; ".join(
        f"{name} " + (f"{head.height} {head.head_hash[:12]} (state {head.state_root[:12]})" if head is not None else "does not answer")
        for name, head in zip(stage.lab.names, heads, strict=True)
    )


async def open_book(stage: Stage, opening_balances: dict[str, int]) -> ChainBook:
    """Return the empty book of a lab's chain.

    Raises:
        RunError: the first node does not show its genesis block.
    """
    hashes = await read_hashes(stage.session, stage.lab.names[0], stage.lab.urls[0], range(1))
    if 0 not in hashes:
        raise RunError(f"{stage.lab.names[0]} lacks block 0")
    history, meters = stage.history, stage.meters

    def was_sent(transaction_id: bytes) -> bool:
        return history.was_sent(transaction_id) or (meters is not None and meters.was_signed(transaction_id))

    def payment_of(transaction_id: bytes) -> Payment | None:
        position = history.position_of.get(transaction_id)
        return None if position is None else history.payments[position]

    return ChainBook(hashes[0], opening_balances, payment_of, was_sent)
