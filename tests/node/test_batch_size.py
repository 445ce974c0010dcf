"""A primary whose event loop falls behind proposes less at a time, and more again when it keeps up."""

from pathlib import Path

from consensus.block import decode_batch
from node.batch_size import FEWEST, BatchSize
from node.intake import HTTP
from tests.node.test_channel_input import OneChannel, signed


def test_the_limit_halves_while_the_loop_is_late_and_comes_back() -> None:
    size = BatchSize(1_000, 500)
    size.note_lateness(500)
    assert size.limit == 1_000
    size.note_lateness(501)
    assert size.limit == 500
    for _ in range(20):
        size.note_lateness(5_000)
    assert size.limit == FEWEST
    steps = 0
    while size.limit < 1_000:
        before = size.limit
        size.note_lateness(0)
        assert size.limit > before
        steps += 1
    assert 10 < steps < 30
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
