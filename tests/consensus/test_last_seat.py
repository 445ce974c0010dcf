"""Who leaves still tells what it alone has, also after a restart; and falls silent when that is of no more use."""

from __future__ import annotations

import pytest

from consensus.messages import Kind, Message, StatusMessage, VoteMessage
from tests.consensus.plain_ledger import set_batch
from tests.consensus.scenes import Chain, Lone
from tests.consensus.virtual_cluster import VirtualCluster, name


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_the_one_that_left_is_restarted_before_the_others_have_its_certificates(seed: int) -> None:
    cluster, leaver, silent, rest = VirtualCluster(5, seed=seed), 0, 1, (2, 3, 4)
    cluster.start()

    def lose(sender: int, to: int, message: Message) -> Message | None:
        height = cluster.hosts[leaver].disk.height
        is_checkpoint = isinstance(message, VoteMessage) and message.vote.kind == Kind.CHECKPOINT
        if to in rest and sender in (leaver, silent) and height > 2 and (is_checkpoint or isinstance(message, StatusMessage)):
            return None
        return message

    cluster.intercept = lose
    cluster.submit(set_batch(removed=(name(leaver),)), rest)
    assert cluster.run(60_000, lambda: cluster.hosts[leaver].replica.committee.epoch == 1)
    assert all(cluster.hosts[one].replica.committee.epoch == 0 for one in rest)
    cluster.hosts[leaver].crash()
    cluster.run(2_000)
    cluster.hosts[leaver].start()
    cluster.intercept = lambda sender, to, message: None if sender == silent else message
    cluster.submit(b"after", rest)
    assert cluster.run(60_000, lambda: all(cluster.hosts[one].disk.ledger.has(b"after") for one in rest))


def test_a_follower_that_never_had_a_seat_and_a_leaver_past_the_first_block_say_nothing() -> None:
    chain = Chain(5)
    chain.extend(set_batch(removed=(name(4),)))
    chain.extend_to(20)
    end = chain.epochs[1].first_height - 1
    for index, silent_from in ((4, end + 1), (7, 0)):
        lone = Lone(index, 5)
        lone.take(chain, end)
        since = len(lone.said)
        lone.wait(1_000)
        spoke = lone.say(StatusMessage, since)
        assert bool(spoke) == (silent_from > 0)
        assert all(message.vote.epoch == 0 for _, message in spoke)
        lone.take(chain, end + 1)
        since = len(lone.said)
        lone.wait(1_000)
        assert not lone.say(StatusMessage, since)
        assert not [vote for vote in lone.votes() if vote.sequence > end]
