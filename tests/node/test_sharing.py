"""What waits is shared again, but never so often that sharing is what keeps it waiting."""

from itertools import pairwise

from consensus.transaction import decode_transaction
from node.sharing import MAX_PAUSE_MS, Reminders
from tests.node.test_channel_input import signed


def test_each_is_shared_at_once_and_then_at_growing_intervals() -> None:
    first, second = (decode_transaction(signed(nonce)) for nonce in (1, 2))
    reminders, shared = Reminders(), []
    for now_ms in range(0, 120_000, 250):
        waiting = [first] if now_ms < 5_000 else [first, second]
        shared += [(now_ms, one) for one in reminders.due(waiting, now_ms)]
    times = [now_ms for now_ms, one in shared if one is first]
    assert times[:4] == [0, 1_000, 3_000, 7_000]
    assert {later - earlier for earlier, later in pairwise(times[3:])} == {MAX_PAUSE_MS}
    assert next(now_ms for now_ms, one in shared if one is second) == 5_000


def test_what_waits_no_more_is_forgotten() -> None:
    one = decode_transaction(signed())
    reminders = Reminders()
    assert reminders.due([one], 0) == [one]
    assert reminders.due([], 250) == []
    assert reminders.due([one], 500) == [one]
