"""One simulated machine: disk, clocks, keys, a link to the network, and the software while the power is on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cluster.simulation.clock import NodeClock
from cluster.simulation.dice import Dice
from cluster.simulation.process import Process
from cluster.simulation.store import Disk, VoteLog
from cluster.simulation.world import MAX_VIEW_TIMEOUT_MS, SNAPSHOT_EVERY, VIEW_TIMEOUT_MS, WINDOW, World, next_key_of
from consensus.crypto import Signer, digest
from consensus.messages import ValidatorSet
from consensus.state import ReplicaConfig
from node.opening import SILENCE_FACTOR
from node.vote_log import ID_BYTES

if TYPE_CHECKING:
    from cluster.simulation.simulation import Simulation
    from cluster.simulation.traitor import Traitor

BREAKDOWNS = (Exception,)
"""What may happen to a node that breaks the rules of its own software: it is down then."""


class Node:
    """One machine.

    Args:
        simulation: the virtual world.
        place: its number in the network.
        name: of the node; twins share one.
        chance: for its clocks and disk.

    Attributes:
        honest: neither Byzantine nor a twin.
        dead: never to be started again.
        process: the software; None while it is down.
        traitor: changes what it says, if it is Byzantine.
        disk_ms: how long its disk takes for a synced write.
        blamed: how many broken rules of others it counted.
    """

    def __init__(self, simulation: Simulation, place: int, name: str, chance: Dice) -> None:
        self.simulation = simulation
        self.world: World = simulation.world
        self.place = place
        self.name = name
        self.others = tuple(other for other in self.world.names if other != name)
        self.disk = Disk()
        self.clock = NodeClock(lambda: simulation.now_ms, chance.randrange(1, 1_000_000), chance.randint(-300, 300))
        self.chance = chance
        self.honest = True
        self.dead = False
        self.process: Process | None = None
        self.traitor: Traitor | None = None
        self.disk_ms = 0
        self.blamed = 0
        self._logs = 0
        self._is_unsure = False
        self._armed: tuple[int, str, int] | None = None
        self.replica_config = ReplicaConfig(
            name=name,
            signers=(self.world.keys.signer(name), next_key_of(self.world, name)),
            window=WINDOW,
            max_in_flight=self.world.genesis.consensus.max_in_flight,
            view_timeout_ms=VIEW_TIMEOUT_MS,
            max_view_timeout_ms=MAX_VIEW_TIMEOUT_MS,
            silence_ms=SILENCE_FACTOR * VIEW_TIMEOUT_MS,
            snapshot_gap=max(SNAPSHOT_EVERY, WINDOW),
            check=self.world.keys.check,
        )

    # --------------------------------------------------------------------------------------------------------------- power

    @property
    def log(self) -> bytes:
        """Id of the vote log on the disk: empty for the first one."""
        return VoteLog(self.disk.votes).id

    def has_seat(self, validators: ValidatorSet) -> bool:
        """Tell whether a validator set names this node and the vote log that it has (one that lost its blocks will see)."""
        return not self._is_unsure and self.name in validators.names and validators.logs[validators.names.index(self.name)] == self.log

    def boot(self) -> None:
        """Start the software, if it is not running."""
        if self.process is None and not self.dead:
            self.simulation.note(self, "starts")
            self.guarded(self._boot)

    def _boot(self) -> None:
        certificates = self.disk.chain.tables["certificates"]
        if not VoteLog(self.disk.votes).is_whole_above(max(certificates, default=0)):
            self.simulation.note(self, "begins its vote log anew: the store lost blocks")
            self._begin_votes_anew()
        self._is_unsure = False
        self.process = Process(self)
        self.process.start()

    def _begin_votes_anew(self) -> None:
        """Forget all votes, and let the checkers forget them, too."""
        self._logs += 1
        self.simulation.checker.votes.wiped(self)
        VoteLog(self.disk.votes).begin_anew(digest(f"{self.name} {self._logs}".encode())[:ID_BYTES])

    def power_cut(self) -> None:
        """Everything in memory is gone, and what the disk had not synced, or the later part of it."""
        process, self.process, self._armed = self.process, None, None
        if process is not None:
            process.alive = False
            self.simulation.note(self, "loses power")
        votes, chain = self.disk.votes, self.disk.chain
        drawn = self.chance.random()
        if drawn < 0.6:
            self.disk.lose()
        elif drawn < 0.8:
            self.disk.lose(self.chance.randint(0, votes.unsynced), self.chance.randint(0, chain.unsynced))
        else:
            self.disk.lose(votes.unsynced, chain.unsynced)

    def wipe(self, *, votes: bool) -> None:
        """Lose power and blocks, and the votes as well: then the vote log gets a new id."""
        self.power_cut()
        self.disk.chain.clear()
        self._is_unsure = True
        if votes:
            self.disk.votes.clear()
            self._begin_votes_anew()

    def arm(self, writes: int, when: str, back_ms: int) -> None:
        """Let the power fail at one of the next synced writes: ``before`` it is on the disk, or ``after``; it is back at ``back_ms``."""
        self._armed = (max(1, writes), when, back_ms)

    def disarm(self) -> None:
        """No power cut is planned any more."""
        self._armed = None

    def synced(self, write: Callable[[], None]) -> bool:
        """Perform a synced write; False if the power failed."""
        if self._armed is None:
            write()
            return True
        left, when, back_ms = self._armed
        if left > 1:
            self._armed = (left - 1, when, back_ms)
            write()
            return True
        if when == "after":
            write()
        self.simulation.strike("torn")
        self.power_cut()
        self.simulation.at(max(back_ms, self.simulation.now_ms + 1), self.boot)
        return False

    def guarded(self, action: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401  # passed on
        """Do something; a node that is not honest may break down on the way."""
        if self.honest:
            action(*arguments)
            return
        try:
            action(*arguments)
        except BREAKDOWNS as error:
            self.simulation.note(self, f"broke down: {type(error).__name__}: {error}")
            self.power_cut()
            self.dead = True

    def seat_signer(self, epoch: int) -> Signer:
        """Return the signer of the key that this node has in an epoch; its first one if it has none there."""
        validators = self.simulation.checker.sets.get(epoch)
        if validators is not None and self.name in validators.names:
            key = validators.public_keys[validators.names.index(self.name)]
            return next((one for one in self.replica_config.signers if one.public_key == key), self.replica_config.signers[0])
        return self.replica_config.signers[0]

    # --------------------------------------------------------------------------------------------------------------- links

    @property
    def session(self) -> object | None:
        """What changes with every start; None while it is down."""
        return self.process

    def arrive(self, sender: str, message: object) -> None:
        """Take a message from the network."""
        if self.process is None:
            return
        if self.traitor is not None:
            self.guarded(self.traitor.heard, sender, message)
        if self.process is not None:
            self.guarded(self.process.receive, sender, message)

    def say(self, to: str, message: object) -> None:
        """Send a message; a traitor sends what he likes."""
        if self.traitor is None:
            self.simulation.network.send(self, to, message)
            return
        for altered in self.traitor.altered(to, message):
            self.simulation.network.send(self, to, altered)

    def submit(self, raw: bytes) -> None:
        """Take a client's transaction."""
        if self.process is not None:
            self.guarded(self._submit, raw)

    def _submit(self, raw: bytes) -> None:
        if self.process is not None:
            self.process.intake.submit(raw)
