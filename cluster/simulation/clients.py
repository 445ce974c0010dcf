"""Clients: they send each transaction again and again, to one node after the other, until it is in the chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.simulation.workload import MUST, NEVER, Sending, envelope
from consensus.transaction import decode_transaction

if TYPE_CHECKING:
    from cluster.simulation.simulation import Simulation

AGAIN_MS = 1_500
FORGETFUL, MOST_AGAIN = 3, 4
"""Every third client goes on to send for a while."""


class Clients:
    """All clients of a run.

    Args:
        simulation: the virtual world.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._awaited: list[Sending] = []
        self._asked_again: dict[Sending, int] = {}

    def begin(self, sendings: Sequence[Sending]) -> None:
        """Schedule the first sendings."""
        for sending in sendings:
            raw = envelope(self._simulation.world, sending)
            self._simulation.checker.sent[decode_transaction(raw).id] = (sending, raw)
            self._simulation.at(sending.at_ms, self._send, sending, raw, 0)
            if sending.kind in MUST or sending.kind == "rival":
                self._awaited.append(sending)

    def _send(self, sending: Sending, raw: bytes, attempt: int) -> None:
        simulation = self._simulation
        if simulation.checker.is_spent(sending.sender, sending.nonce) and not self._asks_again(sending):
            return
        node = simulation.nodes[(sending.node + attempt) % simulation.settings.nodes]
        simulation.note(node, f"gets {sending}")
        if node.traitor is None or not node.traitor.censors(raw):
            node.submit(raw)
        if sending.kind not in NEVER or attempt < 2:
            simulation.at(simulation.now_ms + AGAIN_MS, self._send, sending, raw, attempt + 1)

    def _asks_again(self, sending: Sending) -> bool:
        """Whether a client sends once more what is in the chain: the answer got lost on its way to him."""
        self._asked_again[sending] = times = self._asked_again.get(sending, 0) + 1
        return sending.number % FORGETFUL == 0 and times <= MOST_AGAIN

    def missing(self) -> list[Sending]:
        """Return what must commit and did not yet."""
        checker = self._simulation.checker
        self._awaited = [one for one in self._awaited if not checker.is_spent(one.sender, one.nonce)]
        return self._awaited
