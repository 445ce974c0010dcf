"""The virtual network: links that delay, lose, double and reorder, and that partitions cut.

A link without faults is what TCP gives: in order and whole. What is under way is lost when either end goes down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from cluster.simulation.dice import Dice
from cluster.simulation.schedule import Fault
from consensus.messages import Kind, NewViewMessage, PrePrepareMessage, ViewChangeMessage, VoteMessage

PER_MILLE = 1_000
_VOTES: dict[int, str] = {Kind.PREPARE: "prepare", Kind.COMMIT: "commit", Kind.CHECKPOINT: "checkpoint"}


def kind_of(message: object) -> str:
    """Return the name of a vote's kind, as faults of the network have it; empty for anything else."""
    if isinstance(message, VoteMessage):
        return _VOTES.get(message.vote.kind, "")
    if isinstance(message, PrePrepareMessage):
        return "pre-prepare"
    if isinstance(message, ViewChangeMessage):
        return "view-change"
    return "new-view" if isinstance(message, NewViewMessage) else ""


class Endpoint(Protocol):
    """One end of all links of a node."""

    place: int
    name: str

    @property
    def session(self) -> object | None:
        """What changes with every start of the node; None while it is down."""

    def arrive(self, sender: str, message: object) -> None:
        """Take a message."""


class Network:
    """All links.

    Args:
        at: schedules an action for a virtual time.
        now_ms: tells the virtual time.
        chance: for delays and losses.
        base_delay_ms: usual way of a message.

    Attributes:
        delivered, lost: counts.
    """

    def __init__(self, at: Callable[..., None], now_ms: Callable[[], int], chance: Dice, base_delay_ms: int) -> None:
        self._at = at
        self._now_ms = now_ms
        self._chance = chance
        self._base_delay_ms = base_delay_ms
        self._by_name: dict[str, list[Endpoint]] = {}
        self._places = 0
        self._last: dict[tuple[int, int], int] = {}
        self._cut: frozenset[tuple[int, int]] = frozenset()
        self._slow: dict[int, int] = {}
        self._picky: list[Fault] = []
        self._loss = self._double = self._reorder_ms = 0
        self.delivered = self.lost = 0

    def join(self, endpoint: Endpoint) -> None:
        """Connect a node; a second one with the same name is its twin."""
        self._by_name.setdefault(endpoint.name, []).append(endpoint)
        self._places = max(self._places, endpoint.place + 1)

    def weather(self, faults: Iterable[Fault]) -> None:
        """Set what is wrong with the links: these faults, and nothing else."""
        self._loss = self._double = self._reorder_ms = 0
        self._slow, self._picky = {}, []
        cut: list[tuple[int, int]] = []
        everybody = range(self._places)
        for fault in faults:
            if fault.name == "loss" and fault.words:
                self._picky.append(fault)
            elif fault.name == "loss":
                self._loss = max(self._loss, fault.amount)
            elif fault.name == "duplication":
                self._double = max(self._double, fault.amount)
            elif fault.name == "reordering":
                self._reorder_ms = max(self._reorder_ms, fault.amount)
            elif fault.name == "delay":
                self._slow.update(dict.fromkeys(fault.nodes, fault.amount))
            elif fault.name == "partition":
                cut += [(a, b) for a in everybody for b in everybody if (a in fault.nodes) != (b in fault.nodes)]
            elif fault.name == "one-way":
                deaf = fault.words == ("deaf",)
                cut += [(other, node) if deaf else (node, other) for node in fault.nodes for other in everybody]
        self._cut = frozenset(cut)

    def send(self, sender: Endpoint, to: str, message: object) -> None:
        """Send one message; it may get lost."""
        for endpoint in self._by_name.get(to, ()):
            if len(self._by_name[to]) == 1 or self._talks_to(endpoint, sender):
                self._send(sender, endpoint, message)

    def _talks_to(self, twin: Endpoint, peer: Endpoint) -> bool:
        """Whether a peer talks to this one of two twins at present."""
        twins = self._by_name[twin.name]
        return twins[(self._now_ms() // 900 * 7 + peer.place * 5 >> 1) % 2] is twin

    def _send(self, sender: Endpoint, endpoint: Endpoint, message: object) -> None:
        if len(self._by_name[sender.name]) > 1 and not self._talks_to(sender, endpoint):
            return
        link = (sender.place, endpoint.place)
        if (
            link in self._cut
            or (self._loss and self._chance.randrange(PER_MILLE) < self._loss)
            or (self._picky and self._is_picked(message, *link))
        ):
            self.lost += 1
            return
        copies = 2 if self._double and self._chance.randrange(PER_MILLE) < self._double else 1
        for _ in range(copies):
            self._at(self._arrival_ms(link), self._deliver, sender, sender.session, endpoint, endpoint.session, message)

    def _is_picked(self, message: object, sender: int, receiver: int) -> bool:
        """Whether a message gets lost because of its kind, and of whom it comes from or goes to."""
        kind = kind_of(message)
        for fault in self._picky:
            is_aimed_at = not fault.nodes or (sender if "from" in fault.words else receiver) in fault.nodes
            if is_aimed_at and kind in fault.words and self._chance.randrange(PER_MILLE) < fault.amount:
                return True
        return False

    def _arrival_ms(self, link: tuple[int, int]) -> int:
        slow_ms = max(self._slow.get(link[0], 0), self._slow.get(link[1], 0)) if self._slow else 0
        arrival_ms = self._now_ms() + self._base_delay_ms + slow_ms
        if self._reorder_ms:
            return arrival_ms + self._chance.randrange(self._reorder_ms)
        arrival_ms += self._chance.getrandbits(1)
        self._last[link] = arrival_ms = max(arrival_ms, self._last.get(link, 0))
        return arrival_ms

    def _deliver(self, sender: Endpoint, from_session: object, to: Endpoint, to_session: object, message: object) -> None:
        if to_session is None or to.session is not to_session or sender.session is not from_session:
            self.lost += 1
            return
        self.delivered += 1
        to.arrive(sender.name, message)
