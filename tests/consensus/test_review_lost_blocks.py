"""Review: the block store is lost or older than the vote log (moved away as its error message says, or restored), the vote log is not.

The log has the id that the set names, so the replica has its seat; then it must honour what the log says about *every* epoch.
"""

from __future__ import annotations

import pytest

from consensus.block import batch_digest
from consensus.messages import Kind, PrePrepareMessage, Vote
from tests.consensus.plain_ledger import WINDOW, Seat, name, set_batch, signer
from tests.consensus.scenes import Chain, Lone
from tests.consensus.virtual_disk import Disk

END = WINDOW + 1
"""Block 1 announces epoch 1, so this is the last one of epoch 0."""


def chain_to(height: int, snapshot_every: int = 0) -> Chain:
    chain = Chain(snapshot_every=snapshot_every)
    if height:
        chain.extend(set_batch(Seat(name(4), signer(4).public_key)))
    chain.extend_to(height)
    return chain


def propose(lone: Lone, chain: Chain, sequence: int, batch: bytes) -> None:
    lone.hear(0, PrePrepareMessage(chain.vote(Kind.PRE_PREPARE, 0, sequence, batch_digest(batch), 0), batch))


def prepares(lone: Lone, sequence: int) -> list[Vote]:
    return [vote for vote in lone.votes() if (vote.kind, vote.sequence) == (Kind.PREPARE, sequence)]


@pytest.mark.parametrize(("height", "way"), [(0, "blocks"), (END, "blocks"), (END + 3, "blocks"), (END, "snapshot"), (END + 3, "snapshot")])
def test_a_vote_in_the_log_binds_also_if_the_blocks_were_lost(height: int, way: str) -> None:
    """At height 0 (in epoch 0) it does; in every later epoch ``enter_epoch`` begins with no votes whatever the log holds."""
    chain = chain_to(height, snapshot_every=height if way == "snapshot" else 0)
    before = Lone(index=3)
    before.take(chain)
    propose(before, chain, height + 1, b"A")
    assert [vote.digest for vote in prepares(before, height + 1)] == [batch_digest(b"A")]

    disk = Disk(before.cluster.genesis, log=before.host.disk.log)
    disk.records = dict(before.host.disk.records)
    after = Lone(index=3, disk=disk, gap=4 if way == "snapshot" else 1_000_000)
    after.take(chain)
    propose(after, chain, height + 1, b"B")
    signed = {vote.digest for vote in (*prepares(before, height + 1), *prepares(after, height + 1))}
    assert signed == {batch_digest(b"A")}, "two different prepares of one honest replica at one place"
