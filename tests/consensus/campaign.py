"""Random campaigns on the virtual cluster: everything that may go wrong at once, with at most f replicas dead or one of them Byzantine.

One number is one run. :func:`run` returns None, or what went wrong: a fork, conflicting votes, evidence against an honest replica,
unbounded memory, or a stall after the faults have stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from consensus.block import CertifiedBlock, batch_digest
from consensus.codec import encode
from consensus.effects import Effect, Event, Received
from consensus.errors import GridPactError
from consensus.messages import (
    BlocksMessage,
    Kind,
    Message,
    PrePrepareMessage,
    StatusBody,
    StatusMessage,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    sign_vote,
)
from tests.consensus.virtual_cluster import Host, VirtualCluster, name, signer

HABITS = ("replay", "silent", "equivocate", "double", "view-change", "blocks", "lie", "no-checkpoint")
CALM_MS = 400_000
MOST_KEPT = 600


class Byzantine:
    """Changes what one replica says, by habits chosen for the run."""

    def __init__(self, cluster: VirtualCluster, index: int, habits: list[str], mute: int) -> None:
        self.cluster, self.index, self.habits, self.mute = cluster, index, habits, mute
        self.random = random.Random(cluster.random.random())
        self.old: list[Message] = []

    def __call__(self, sender: int, to: int, message: Message) -> Message | None:
        if sender != self.index:
            return message
        if "replay" in self.habits:
            self._replay(to, message)
        if "silent" in self.habits and to % 2 == self.mute:
            return None
        if isinstance(message, PrePrepareMessage):
            return self._pre_prepare(to, message)
        if isinstance(message, VoteMessage):
            return self._vote(message)
        if isinstance(message, StatusMessage):
            return self._status(to, message)
        if isinstance(message, BlocksMessage) and "blocks" in self.habits:
            rubbish = tuple(CertifiedBlock(b"rubbish", block.certificate) for block in message.blocks)
            return BlocksMessage(() if self.random.random() < 0.5 else rubbish)
        return message

    def _replay(self, to: int, message: Message) -> None:
        if len(self.old) < 300:
            self.old.append(message)
        if self.random.random() < 0.1:
            old, host = self.random.choice(self.old), self.cluster.hosts[to]
            self.cluster.at(self.random.randrange(1, 50), lambda: host.step(Received(name(self.index), old)))

    def _pre_prepare(self, to: int, message: PrePrepareMessage) -> Message:
        vote = message.vote
        if "equivocate" not in self.habits or not self._is_own(vote) or to % 2 == 0:
            return message
        other = b"evil" + message.batch
        return PrePrepareMessage(self._sign(Kind.PRE_PREPARE, vote.view, vote.sequence, batch_digest(other)), other)

    def _vote(self, message: VoteMessage) -> Message | None:
        vote = message.vote
        if "double" in self.habits and self._is_own(vote) and self.random.random() < 0.3:
            return VoteMessage(self._sign(Kind(vote.kind), vote.view, vote.sequence, bytes([self.random.randrange(3)]) * 32))
        if "no-checkpoint" in self.habits and vote.kind == Kind.CHECKPOINT:
            return None
        return message

    def _status(self, to: int, message: StatusMessage) -> Message:
        host, body = self.cluster.hosts[to], message.body
        if "view-change" in self.habits and self.random.random() < 0.3:
            view = host.replica.view if host.up else 0
            forged = self._view_change(host, max(1, view + self.random.choice([0, 1, 1, 2, 5])))
            self.cluster.at(1, lambda: host.step(Received(name(self.index), forged)))
        if "lie" not in self.habits:
            return message
        lie = StatusBody(
            body.view, body.changing, body.executed, body.certified + self.random.choice([0, 5, 1000]), body.first, body.certificate
        )
        return StatusMessage(self._sign(Kind.STATUS, lie.view, 0, body_digest(lie)), lie)

    def _view_change(self, host: Host, new_view: int) -> ViewChangeMessage:
        """A view-change that brings nothing; in a later epoch than the first one that is a lie."""
        body = encode(ViewChangeBody(new_view, None, ()))
        return ViewChangeMessage(self._sign(Kind.VIEW_CHANGE, new_view, 0, body_digest(body), host), body)

    def _is_own(self, vote: Vote) -> bool:
        committee = self.cluster.hosts[self.index].replica.committee
        return vote.epoch == committee.epoch and committee.name(vote.sender) == name(self.index)

    def _sign(self, kind: Kind, view: int, sequence: int, digest: bytes, host: Host | None = None) -> Vote:
        """Sign as a member of the epoch that a host is in."""
        committee = (host if host is not None and host.up else self.cluster.hosts[self.index]).replica.committee
        seat = committee.index_of(name(self.index))
        return sign_vote(signer(self.index), committee.validators.domain, kind, view, sequence, digest, seat if seat is not None else 0)


def _let_it_fail(host: Host) -> None:
    """A Byzantine replica that breaks its own host is simply down."""
    perform, step = host.perform, host.step

    def guarded_perform(effects: list[Effect]) -> None:
        try:
            perform(effects)
        except (AssertionError, GridPactError, LookupError):
            host.up = False

    def guarded_step(event: Event) -> None:
        try:
            step(event)
        except (AssertionError, GridPactError, LookupError):
            host.up = False

    host.perform, host.step = guarded_perform, guarded_step  # type: ignore[method-assign]  # this one host misbehaves


def _where(host: Host) -> tuple[object, ...]:
    status = host.replica.status(0)
    return (
        host.index,
        host.up,
        status.epoch,
        status.seat,
        status.view,
        status.changing,
        host.disk.height,
        status.certified,
        status.snapshot,
    )


def _never(host: Host) -> None:
    host.crash()
    host.start = lambda: None  # type: ignore[method-assign]  # dead for good


class Campaign:
    """One run.

    Args:
        n: replicas.
        seed: decides everything.
        byzantine: whether one replica is Byzantine; else up to f die for good.
    """

    def __init__(self, n: int, seed: int, *, byzantine: bool) -> None:
        self.n, self.faulty = n, (n - 1) // 3
        self.cluster = VirtualCluster(n, seed, loss=0.15, duplicate=0.1, delay_ms=80)
        self.random = random.Random(seed * 7 + n)
        self.bad: int | None = None
        if byzantine:
            self._corrupt()
        self.honest = [host for host in self.cluster.hosts if host.index != self.bad]
        self.wanted: list[bytes] = []

    def _corrupt(self) -> None:
        self.bad = index = self.random.randrange(self.n)
        habits = self.random.sample(HABITS, self.random.randrange(1, 4))
        self.cluster.intercept = Byzantine(self.cluster, index, habits, self.random.randrange(2))
        host, check = self.cluster.hosts[index], self.cluster.check_agreement
        host.note = lambda message: None  # type: ignore[method-assign]  # its votes may conflict
        _let_it_fail(host)

        def check_others(who: int, sequence: int) -> None:
            if who != index:
                check(who, sequence)

        self.cluster.check_agreement = check_others  # type: ignore[method-assign]  # its blocks may differ

    def run(self) -> str | None:
        """Run faults, then calm; return what went wrong."""
        try:
            self._faults()
            self._calm()
        except (AssertionError, GridPactError) as error:
            return f"{type(error).__name__}: {error}"
        return self._check()

    def _faults(self) -> None:
        cluster, dice = self.cluster, self.random
        cluster.start()
        cluster.crash_chance = dice.choice([0, 0.01, 0.03])
        kill = dice.randrange(40) if self.bad is None and dice.random() < 0.7 else None
        for index in range(dice.randrange(5, 40)):
            self.wanted.append(f"r{index}".encode())
            cluster.submit(self.wanted[-1])
            cluster.run(dice.randrange(5, 1500))
            if kill is not None and index == kill:
                self._kill(dice.sample(cluster.hosts, self.faulty))
            self._cut()
            if dice.random() < 0.06:
                self._crash_some()
        self._killed = kill is not None

    def _kill(self, hosts: list[Host]) -> None:
        for host in hosts:
            _never(host)
            self.honest = [other for other in self.honest if other is not host]

    def _cut(self) -> None:
        dice, everybody = self.random, range(self.n)
        chance = dice.random()
        if chance < 0.2:
            side = {one for one in everybody if dice.random() < 0.5}
            self.cluster.cut = {(a, b) for a in everybody for b in everybody if (a in side) != (b in side) and dice.random() < 0.8}
        elif chance < 0.35:
            one = dice.randrange(self.n)
            self.cluster.cut = {(one, to) for to in everybody} if dice.random() < 0.5 else {(sender, one) for sender in everybody}
        elif chance < 0.45:
            self.cluster.cut = set()

    def _crash_some(self) -> None:
        dice = self.random
        up = [host for host in self.cluster.hosts if host.up]
        chosen = up if dice.random() < 0.4 else dice.sample(up, min(len(up), dice.randrange(1, 3)))
        for host in chosen:
            host.crash()
            self.cluster.at(dice.randrange(10, 6000), _start_if_down(host))

    def _calm(self) -> None:
        """Stop all faults; what is dead stays dead, up to f; everybody else comes back."""
        cluster, dice = self.cluster, self.random
        cluster.crash_chance, cluster.loss, cluster.cut = 0.0, 0.0, set()
        cluster.run(6500)
        for host in cluster.hosts:
            if not host.up and host.index != self.bad:
                host.start()
        if self.bad is not None and dice.random() < 0.5:
            _never(cluster.hosts[self.bad])
        if self.bad is None and not self._killed and dice.random() < 0.6:
            self._kill(dice.sample(cluster.hosts, self.faulty))

    def _check(self) -> str | None:
        try:
            if not self.cluster.run(CALM_MS, self._everybody_has_everything):
                return f"stalled: {[_where(host) for host in self.cluster.hosts]}"
        except (AssertionError, GridPactError) as error:
            return f"{type(error).__name__}: {error}"
        for host in self.honest:
            state = host.replica._state
            if max(len(table) for table in (state.slots, state.bodies, state.fetched, state.held)) > MOST_KEPT:
                return f"replica {host.index} keeps too much"
        sets = self.cluster.witness.sets
        accused = [pair.first for host in self.honest for pair in host.evidence]
        framed = {sets[vote.epoch].names[vote.sender] for vote in accused} - {name(index) for index in [self.bad] if index is not None}
        return f"evidence against honest {framed}" if framed else None

    def _everybody_has_everything(self) -> bool:
        return len({len(host.disk.blocks) for host in self.honest}) == 1 and all(
            host.up
            and set(self.wanted) <= {batch for _, batch in host.disk.blocks}
            and len(host.disk.certificates) == len(host.disk.blocks)
            for host in self.honest
        )


def _start_if_down(host: Host) -> Callable[[], None]:
    def start() -> None:
        if not host.up:
            host.start()

    return start


def run(n: int, seed: int, *, byzantine: bool) -> str | None:
    """Run one campaign; return None or what went wrong."""
    return Campaign(n, seed, byzantine=byzantine).run()
