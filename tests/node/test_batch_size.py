"""A primary whose event loop falls behind proposes less at a time, and more again when it keeps up."""

from pathlib import Path

from consensus.block import decode_batch
from node.batch_size import FEWEST, FIRST, BatchSize
from node.intake import HTTP
from tests.node.test_channel_input import OneChannel, signed


def grown(size: BatchSize, most: int) -> int:
    """Execute full blocks in time until the limit is the most; return how many it took."""
    steps = 0
    while size.limit < most:
        before = size.limit
        size.note_block(size.limit)
        size.note_lateness(0)
        assert size.limit > before
        steps += 1
    return steps


def test_the_limit_grows_with_blocks_in_time_and_falls_at_once_while_the_loop_is_late() -> None:
    size = BatchSize(1_000, 500)
    assert size.limit == FIRST
    for _ in range(10):
        size.note_block(20)
        size.note_lateness(500)
    assert size.limit == FIRST, "small blocks say nothing about large ones"
    assert grown(size, 1_000) < 10
    size.note_lateness(501)
    assert size.limit == 500
    size.note_block(500)
    size.note_lateness(5_000)
    assert size.limit == 50, "what takes ten times too long is cut to a tenth"
    for _ in range(20):
        size.note_lateness(5_000)
    assert size.limit == FEWEST
    assert grown(size, 1_000) < 25
    tiny = BatchSize(1, 500)
    tiny.note_lateness(5_000)
    assert tiny.limit == 1


async def test_a_proposal_keeps_to_the_limit(tmp_path: Path) -> None:
    async with OneChannel(tmp_path) as one:
        await one.channel.submit([signed(nonce) for nonce in range(1, 41)], HTTP)
        desk = one.channel._desk
        whole = desk.make_batch(0, 0, 0, False)
        for _ in range(10):
            desk.size.note_lateness(5_000)
        part = desk.make_batch(0, 0, 0, False)
        assert whole is not None and part is not None
        assert [len(decode_batch(batch).transaction_ids) for batch in (whole, part)] == [40, FEWEST]
