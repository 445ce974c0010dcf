"""What a replica notes of another node: where it stands, what it was asked for, and how it kept its word."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.messages import FetchBlocks

FETCH_TIMEOUT_MS = 2_000
MAX_DOUBLINGS = 2


@dataclass(slots=True)
class Peer:
    """What another node last said about itself; trusted for nothing but deciding what to send and whom to ask.

    Attributes:
        heard_ms: when it last spoke; None if never.
        still: how often in a row it stood where it stood before.
        executed, certified: what it says it executed, and has certificates up to; is_proven: it has shown that.
        first: lowest height that it serves a block of.
        fetch_deadline_ms: until when its answer to a request for blocks is waited for before others are asked; None if nothing was asked.
        fetch_first, fetch_last: the blocks asked for. fetch_owed: no answer came yet; a late one is welcome.
        fetch_before: the blocks asked for before these.
        fetch_failures: requests that it did not answer, or badly, since a block of it was good.
        rest_until_ms: until when it is asked for no blocks, after it sent bad ones.
        offer_deadline_ms: until when its answer to a request for a snapshot is waited for; offer_owed: none came yet.
        offer_height: the lowest that will do. offer_rest_ms: until when it is not asked again.
        offer_failures: snapshots that it did not offer, or did not deliver.
    """

    view: int = 0
    changing: bool = False
    executed: int = 0
    certified: int = 0
    is_proven: bool = True
    first: int = 1
    heard_ms: int | None = None
    still: int = 0
    fetch_deadline_ms: int | None = None
    fetch_first: int = 0
    fetch_last: int = 0
    fetch_owed: bool = False
    fetch_before: tuple[int, int] = (0, 0)
    fetch_failures: int = 0
    rest_until_ms: int = 0
    offer_deadline_ms: int | None = None
    offer_owed: bool = False
    offer_height: int = 0
    offer_rest_ms: int = 0
    offer_failures: int = 0

    def was_asked_for(self, height: int) -> bool:
        """Tell whether one of the last two requests was for a block (the answer to the one before the last may be under way)."""
        return self.fetch_first <= height <= self.fetch_last or self.fetch_before[0] <= height <= self.fetch_before[1]

    def ask_for_blocks(self, first: int, last: int, now_ms: int) -> FetchBlocks:
        """Return the request for some blocks, and note it. Whoever was late before, or answered badly, gets more time, up to a bound."""
        self.fetch_before = (self.fetch_first, self.fetch_last)
        self.fetch_first, self.fetch_last, self.fetch_owed = first, last, True
        self.fetch_deadline_ms = now_ms + (FETCH_TIMEOUT_MS << min(self.fetch_failures, MAX_DOUBLINGS))
        return FetchBlocks(first, last)
