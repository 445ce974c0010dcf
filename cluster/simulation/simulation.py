"""One run: the virtual world with its clock and queue, from the first start of the nodes to the end of the calm."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from cluster.simulation import faults
from cluster.simulation.board import Board
from cluster.simulation.calm import Calm
from cluster.simulation.checkers import Checker
from cluster.simulation.clients import Clients
from cluster.simulation.dice import dice
from cluster.simulation.memory import check_memory
from cluster.simulation.network import Network
from cluster.simulation.node import Node
from cluster.simulation.schedule import Fault, Schedule, make_schedule
from cluster.simulation.settings import Outcome, Settings, Violation
from cluster.simulation.trace import Trace
from cluster.simulation.traitor import Traitor
from cluster.simulation.world import make_world
from consensus.effects import Effect, Event
from consensus.errors import GridPactError

MEMORY_EVERY = 16
MOST_EVENTS = 200_000
"""Steps of a run: far more than any good one takes."""
MASK = (1 << 61) - 1
BREAKAGES = (GridPactError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


class Simulation:
    """One run.

    Args:
        settings: how it is made.
        schedule: what happens in it.
        trace: takes every step in words; None: nobody listens.

    Attributes:
        now_ms: virtual time.
        nodes: by place: validators of epoch 0, followers, twins.
        active: faults of the network at present.
    """

    def __init__(self, settings: Settings, schedule: Schedule, trace: Trace | None = None) -> None:
        self.settings = settings
        self.schedule = schedule
        self.trace = trace
        self.now_ms = 0
        self.events = 0
        self.fingerprint = 0
        self.struck: dict[str, int] = {}
        self.active: list[Fault] = []
        self.highest_view = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._pushed = 0
        self._steps = 0
        self.world = make_world(settings.nodes, schedule.spares, real=settings.real_signatures)
        self.network = Network(self.at, lambda: self.now_ms, dice(schedule.seed, "network"), schedule.base_delay_ms)
        self.checker = Checker(self.world)
        self.nodes: list[Node] = []
        self._make_nodes()
        self.clients = Clients(self)
        self.board = Board(self)
        self.calm = Calm(self)

    def _make_nodes(self) -> None:
        seed, names = self.schedule.seed, self.world.names
        twins = [place for fault in self.schedule.faults if fault.name == "twins" for place in fault.nodes]
        for place, name in enumerate([*names, *(names[twin] for twin in twins)]):
            self.nodes.append(Node(self, place, name, dice(seed, f"node {place}")))
            self.network.join(self.nodes[-1])
        for fault in self.schedule.faults:
            if fault.name == "byzantine":
                for place in fault.nodes:
                    self.nodes[place].honest = False
                    self.nodes[place].traitor = Traitor(self.nodes[place], fault.words, dice(seed, f"traitor {place}"))
                    self.strike("byzantine")
        for twin in twins:
            self.strike("twins")
            for node in self.nodes:
                if node.name == names[twin]:
                    node.honest = False
        self.checker.votes.trust([node.name for node in self.nodes if node.honest], names)

    @property
    def validators(self) -> Sequence[Node]:
        """The nodes that are validators of epoch 0."""
        return self.nodes[: self.settings.nodes]

    def at(self, when_ms: int, action: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401  # passed on
        """Schedule an action; those of one moment happen in the order in which they were scheduled."""
        self._pushed += 1
        heapq.heappush(self._queue, (max(when_ms, self.now_ms), self._pushed, action, arguments))

    # ------------------------------------------------------------------------------------------------------------- running

    def run(self) -> Outcome:
        """Run to the end of the calm, or to the first violation."""
        safety = liveness = checker = ""
        try:
            liveness = self._run()
            checker = "liveness" if liveness else ""
        except Violation as violation:
            safety, checker = str(violation), violation.checker
        if self.trace is not None:
            self.trace.end(self.now_ms, safety or liveness)
        return self._outcome(safety, liveness, checker)

    def _run(self) -> str:
        schedule = self.schedule
        for node in self.nodes:
            self.at(0, node.boot)
        for fault in schedule.faults:
            self.at(fault.at_ms, faults.begin, self, fault)
            self.at(fault.until_ms, faults.end, self, fault)
        self.clients.begin(schedule.sendings)
        self.at(schedule.calm_from_ms, self.calm.begin)
        deadline_ms = schedule.calm_from_ms + self.settings.calm_ms
        queue = self._queue
        while queue and not self.calm.reached:
            when_ms, _, action, arguments = heapq.heappop(queue)
            if when_ms > deadline_ms:
                return self.calm.complaint()
            self.now_ms = when_ms
            self.events += 1
            if self.events > MOST_EVENTS:
                raise Violation("storm", f"more than {MOST_EVENTS} steps in {self.now_ms} ms")
            try:
                action(*arguments)
            except BREAKAGES as error:
                raise Violation("invariant", f"{type(error).__name__}: {error}") from error
        return ""

    def _outcome(self, safety: str, liveness: str, checker: str) -> Outcome:
        return Outcome(
            nodes=self.settings.nodes,
            seed=self.schedule.seed,
            safety=safety,
            liveness=liveness,
            checker=checker,
            events=self.events,
            virtual_ms=self.now_ms,
            faults=self.struck,
            fingerprint=self.fingerprint,
            blocks=self.checker.height,
            transactions=len(self.checker.placed),
            views=self.highest_view,
        )

    # -------------------------------------------------------------------------------------------------------------- noting

    def note_step(self, node: Node, event: Event, effects: Sequence[Effect]) -> None:
        """A replica took an event."""
        self.checker.stepped(node, event, effects)
        self.fingerprint = (self.fingerprint * 1_000_003 ^ self.now_ms << 16 ^ node.place << 8 ^ len(effects)) & MASK
        self._steps += 1
        if self._steps % MEMORY_EVERY == 0 and node.honest and node.process is not None:
            check_memory(node.name, node.process.replica, len(self.world.names))
        if self.trace is not None:
            self.trace.step(self.now_ms, node.name, event, effects)

    def note(self, node: Node | None, text: str) -> None:
        """Something happened that is no step of a replica."""
        if self.trace is not None:
            self.trace.line(self.now_ms, node.name if node is not None else "world", text)

    def note_view(self, view: int) -> None:
        """A replica entered a view."""
        self.highest_view = max(self.highest_view, view)

    def strike(self, fault: str) -> None:
        """A fault struck."""
        self.struck[fault] = self.struck.get(fault, 0) + 1


def run_seed(settings: Settings, seed: int, trace: Trace | None = None) -> Outcome:
    """Run one seed."""
    return Simulation(settings, make_schedule(settings, seed), trace).run()
