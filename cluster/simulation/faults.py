"""What faults do to the virtual world: how each begins and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.simulation.schedule import Fault

if TYPE_CHECKING:
    from cluster.simulation.node import Node
    from cluster.simulation.simulation import Simulation

WEATHER = ("loss", "duplication", "reordering", "delay", "partition", "one-way")
"""Faults of the network."""


def begin(simulation: Simulation, fault: Fault) -> None:
    """Let a fault strike."""
    simulation.note(None, f"fault begins: {fault}")
    if fault.name in WEATHER:
        simulation.strike(fault.name)
        simulation.active.append(fault)
        simulation.network.weather(simulation.active)
        return
    if fault.name == "membership":
        simulation.board.want(fault)
        return
    places = fault.nodes if fault.words != ("primary",) else _primary(simulation)
    for place in places:
        if place < len(simulation.nodes):
            _begin_on(simulation, fault, simulation.nodes[place])


def _primary(simulation: Simulation) -> tuple[int, ...]:
    """Return the place of the primary of the highest view that an honest node is in; nobody's, if that one is not honest."""
    running = [node.process.replica for node in simulation.nodes if node.honest and node.process is not None]
    if not running:
        return ()
    replica = max(running, key=lambda one: (one.committee.epoch, one.view))
    name = replica.committee.name(replica.committee.primary(replica.view))
    return tuple(node.place for node in simulation.nodes if node.name == name and node.honest and not node.dead)


def _begin_on(simulation: Simulation, fault: Fault, node: Node) -> None:
    match fault.name:
        case "crash" | "lag":
            if node.process is not None:
                simulation.strike(fault.name)
                node.power_cut()
                simulation.at(fault.until_ms + fault.amount, node.boot)
        case "torn":
            if node.process is not None:
                node.arm(fault.amount, fault.words[0], fault.until_ms)
        case "wipe":
            if _may_be_wiped(simulation, node):
                simulation.strike(fault.name)
                node.wipe(votes=fault.words[0] == "all")
                simulation.at(fault.until_ms, node.boot)
        case "dead":
            if node.honest:
                simulation.strike(fault.name)
                node.power_cut()
                node.dead = True
        case "slow-disk":
            simulation.strike(fault.name)
            node.disk_ms = fault.amount
        case "clock-skew" | "clock-jump":
            simulation.strike(fault.name)
            node.clock.set_wrong(fault.amount)
        case _:
            pass


def _may_be_wiped(simulation: Simulation, node: Node) -> bool:
    """Whether a wiped node more leaves at most f faulty in every epoch that still counts: Byzantine, dead, to die, or without a vote.

    An epoch counts until every honest node has the certificate of its last block.
    """
    if not node.honest or node.dead or not any(node.name in validators.names for validators in simulation.checker.sets.values()):
        return False  # a node that is yet to be added must bring the vote log that it was set up with
    coming = [fault for fault in simulation.schedule.faults if fault.name == "dead"]
    doomed = {place for fault in coming for place in fault.nodes}
    unnamed = sum(not fault.nodes for fault in coming)
    living = [one for one in simulation.nodes if one.honest and not one.dead and one.place not in doomed]
    certified = min(max(one.disk.chain.tables["certificates"], default=0) for one in living)
    oldest = simulation.checker.set_at(certified + 1).epoch
    for epoch, validators in simulation.checker.sets.items():
        voting = {one.name for one in living if one.has_seat(validators)} - {node.name}
        if epoch >= oldest and len(validators.names) - len(voting) + unnamed > (len(validators.names) - 1) // 3:
            return False
    return True


def end(simulation: Simulation, fault: Fault) -> None:
    """Let a fault pass."""
    if fault.name in WEATHER:
        if fault in simulation.active:
            simulation.active.remove(fault)
            simulation.network.weather(simulation.active)
        return
    for place in fault.nodes:
        if place < len(simulation.nodes):
            node = simulation.nodes[place]
            if fault.name == "slow-disk":
                node.disk_ms = 0
            elif fault.name in ("clock-skew", "clock-jump"):
                node.clock.set_wrong(0)
