"""The calm after the faults: within a bounded time every good transaction commits at every honest node, all are level and vote again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.simulation.settings import Violation
from contracts.invariants import energy_is_balanced, money_micro
from contracts.ledger import Ledger

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from cluster.simulation.simulation import Simulation

LOOK_EVERY_MS = 50


class Calm:
    """Ends the faults, and looks whether all is well.

    Args:
        simulation: the virtual world.

    Attributes:
        reached: all is well: the run is over.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.reached = False

    def begin(self) -> None:
        """Stop all faults: links, clocks and disks are good, and who is not dead has power."""
        simulation = self._simulation
        simulation.note(None, "the faults stop")
        simulation.active.clear()
        simulation.network.weather(())
        for node in simulation.nodes:
            node.disk_ms = 0
            node.clock.set_wrong(0)
            node.disarm()
            node.boot()
        self._look()

    def _look(self) -> None:
        simulation = self._simulation
        if (
            simulation.clients.missing()
            or simulation.board.open()
            or any(self._lacks(node) for node in self._survivors())
            or self._too_many_wait()
        ):
            simulation.at(simulation.now_ms + LOOK_EVERY_MS, self._look)
            return
        self._audit()
        self.reached = True

    @property
    def waiting_alone(self) -> int:
        """How many nodes wait for a view that nobody else wants.

        PBFT has no way back from a view-change: whoever asked for a view votes in none below it. So a replica that lost patience alone
        follows without voting until the others change views, too, which they do as soon as nothing commits without it.
        """
        return sum(node.process.replica._state.changing for node in self._survivors() if node.process is not None)

    def _too_many_wait(self) -> bool:
        """Whether more wait for a higher view than may be faulty: together they could have it."""
        sets = self._simulation.checker.sets
        return self.waiting_alone > (len(sets[max(sets)].names) - 1) // 3

    def _survivors(self) -> list[Node]:
        return [node for node in self._simulation.nodes if node.honest and not node.dead]

    def _lacks(self, node: Node) -> str:
        """Say what a node lacks; nothing if it is level and certified and has its seat."""
        process, top = node.process, self._simulation.checker.height
        if process is None:
            return "is down"
        state = process.replica._state
        if (state.executed, state.certified) != (top, top):
            return f"has executed {state.executed} and certified {state.certified} of {top}"
        committee = process.replica.committee
        if committee.epoch != max(self._simulation.checker.sets):
            return f"is in epoch {committee.epoch}"
        if committee.index is None and node.name in committee.validators.names:
            return "has no seat"
        return ""

    def _audit(self) -> None:
        """Check money and energy in full, and that all states are the same.

        Raises:
            Violation: something does not balance.
        """
        simulation = self._simulation
        roots: dict[bytes, str] = {}
        for node in self._survivors():
            if node.process is not None:
                roots.setdefault(node.process.application.tree.root, node.name)
                ledger = Ledger(simulation.world.genesis, node.process.store.state, caching=False)
        if len(roots) != 1:
            raise Violation("agreement", f"level nodes have different states: {', '.join(roots.values())}")
        money = sum(participant.balance_micro for participant in simulation.world.genesis.participants)
        if money_micro(ledger) != money:
            raise Violation("validity", f"there are {money_micro(ledger)} micro in all accounts, {money} at the beginning")
        if not energy_is_balanced(ledger):
            raise Violation("validity", "energy and bills do not balance")

    def complaint(self) -> str:
        """Say what is not well."""
        found = [f"{sending} never committed" for sending in self._simulation.clients.missing()[:3]]
        found += [f"never decided: {fault}" for fault in self._simulation.board.open()]
        found += [f"{node.name} {lack}" for node in self._survivors() if (lack := self._lacks(node))]
        views = ", ".join(_where(node) for node in self._simulation.nodes if node.process is not None)
        return f"after {self._simulation.settings.calm_ms} ms of calm: {'; '.join(found)} ({views})"


def _where(node: Node) -> str:
    if node.process is None:
        return f"{node.name} is down"
    state = node.process.replica._state
    return f"{node.name} {'waits for' if state.changing else 'in'} view {state.view}"
