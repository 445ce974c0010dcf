"""A replica whose event loop turns slowly (a disk that takes a second to sync, a flood of requests) loses patience like any other."""

from __future__ import annotations

import pytest

from consensus.effects import Received, Waiting
from consensus.messages import ViewChangeMessage
from tests.consensus.scenes import Chain, Lone
from tests.consensus.virtual_cluster import name


@pytest.mark.parametrize("turn_ms", [500, 1_100, 2_000])
def test_a_silent_primary_is_replaced_also_by_replicas_that_turn_slowly(turn_ms: int) -> None:
    """The driver steps all events of a turn at one time. The first one looks around, before the statuses behind it are heard: those of the
    turn before are older than a second, so the replica takes itself for cut off, at every turn, although nobody's status was lost."""
    chain, lone = Chain(), Lone(3)
    chain.extend_to(5)
    lone.take(chain, peer=1)
    since_ms = now_ms = lone.cluster.now_ms
    asked = False
    for _ in range(60_000 // turn_ms):
        now_ms += turn_ms
        effects = []
        for peer in (1, 2) * max(1, turn_ms // 250):
            effects += lone.replica.step(Received(name(peer), chain.status(peer)), now_ms)
        effects += lone.replica.step(Waiting(since_ms), now_ms)
        asked = asked or any(isinstance(getattr(effect, "message", None), ViewChangeMessage) for effect in effects)
    assert asked, "a minute without the primary, with everybody else heard in every turn"
