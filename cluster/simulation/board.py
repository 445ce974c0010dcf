"""The people behind the validators: they vote on changes of the set, again and again until the change is decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.simulation.schedule import Fault
from cluster.simulation.world import CENTRE, next_key_of
from consensus.messages import ValidatorSet
from contracts.calls import VoteOnValidators
from contracts.ledger import Ledger

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from cluster.simulation.simulation import Simulation

AGAIN_MS = 700
MIN_VALIDATORS = 4


class Board:
    """Wants changes of the validator set.

    Args:
        simulation: the virtual world.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._wanted: list[Fault] = []
        self._voting = False

    def want(self, fault: Fault) -> None:
        """Want one more change, if it leaves at most f faulty validators."""
        if fault in self._wanted or not self._may_change(fault):
            return
        self._simulation.strike("membership")
        self._wanted.append(fault)
        if not self._voting:
            self._voting = True
            self._vote()

    def _may_change(self, fault: Fault) -> bool:
        if any(other.nodes == fault.nodes for other in self._wanted):
            return False
        if fault.words != ("remove",):
            return True
        removed = sum(other.words == ("remove",) for other in self._wanted) + 1
        left = self._simulation.settings.nodes - removed
        return left >= MIN_VALIDATORS and self._simulation.settings.faulty <= (left - 1) // 3

    def open(self) -> list[Fault]:
        """Return the changes that are not in the latest set yet."""
        sets = self._simulation.checker.sets
        return [fault for fault in self._wanted if not self._is_done(fault, sets[max(sets)])]

    def _is_done(self, fault: Fault, latest: ValidatorSet) -> bool:
        name = self._name(fault)
        if fault.words == ("remove",):
            return name not in latest.names
        if fault.words == ("add",):
            return name in latest.names
        return name not in latest.names or latest.public_keys[latest.names.index(name)] == self._key(name)

    def _name(self, fault: Fault) -> str:
        world = self._simulation.world
        return world.spares[0] if fault.words == ("add",) else world.names[fault.nodes[0]]

    def _key(self, name: str) -> bytes:
        return next_key_of(self._simulation.world, name).public_key

    def _vote(self) -> None:
        simulation = self._simulation
        wanted = self.open()
        if wanted:
            for node in simulation.nodes:
                if node.honest and node.process is not None:
                    self._cast(node, wanted[0])
        simulation.at(simulation.now_ms + AGAIN_MS, self._vote)

    def _cast(self, node: Node, fault: Fault) -> None:
        """Let one node vote, if it is a member and has not yet."""
        process = node.process
        if process is None or node.name not in process.epochs()[-1].names:
            return
        name, validators = self._name(fault), process.application.view.validators
        if any(change.member.name == name and node.name in change.approvals for change in validators.open_changes()):
            return
        decided = Ledger(node.world.genesis, process.store.state, caching=False).latest_committed_epoch.decided
        match fault.words[0]:
            case "add":
                key = node.world.keys.signer(name).public_key
                call = VoteOnValidators(decided, "add", name, key, CENTRE, "host", 1)
            case "remove":
                call = VoteOnValidators(decided, "remove", name)
            case _:
                call = VoteOnValidators(decided, "replace", name, self._key(name))
        process.clerk.send(call)
