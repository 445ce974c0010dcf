"""Campaigns in which the validators change as well: nodes come and go, keys are changed, disks wiped, power fails, blocks are pruned.

Beside what ``campaign.py`` does. One node at most is faulty at a time: one Byzantine one, or else one whose disk was wiped and that has
no seat yet; crashes that end are everybody's.
"""

from __future__ import annotations

from consensus.block import decode_header
from consensus.codec import encode
from consensus.messages import ChunkMessage, Message, SnapshotMessage
from consensus.snapshot import Chunk, SnapshotManifest, decode_chunk, decode_manifest
from tests.consensus.campaign import HABITS, Byzantine, Campaign, _let_it_fail
from tests.consensus.plain_ledger import SET, Seat, set_batch, signer
from tests.consensus.virtual_cluster import NEVER, Host, VirtualCluster

NODES = 7
LIES = ("manifest", "chunk", "no-chunk")
ROTATED = 100


class Liar(Byzantine):
    """A Byzantine node that also lies about snapshots."""

    def __call__(self, sender: int, to: int, message: Message) -> Message | None:
        if sender == self.index and isinstance(message, SnapshotMessage) and "manifest" in self.habits:
            return SnapshotMessage(self._forge(decode_manifest(message.manifest)))
        if sender == self.index and isinstance(message, ChunkMessage):
            if "no-chunk" in self.habits:
                return None
            if "chunk" in self.habits:
                entries = decode_chunk(message.chunk).entries
                return ChunkMessage(message.height, message.index, encode(Chunk(entries[1:])))
        return super().__call__(sender, to, message)

    def _forge(self, manifest: SnapshotManifest) -> bytes:
        header, certificate, depth, chunks, epochs = (getattr(manifest, name) for name in SnapshotManifest.__struct_fields__)
        match self.random.randrange(4):
            case 0:
                chunks = (*chunks[1:], chunks[0])
            case 1:
                epochs = epochs[1:]
            case 2:
                header = encode(decode_header(header).__class__(*range(16)))
            case _:
                depth += 1
        return encode(SnapshotManifest(header, certificate, depth, chunks, epochs))


class Upheaval(Campaign):
    """One run."""

    def __init__(self, n: int, seed: int, *, byzantine: bool) -> None:
        super().__init__(n, seed, byzantine=False)
        dice = self.random
        self.cluster = VirtualCluster(
            n, seed, loss=0.1, duplicate=0.1, delay_ms=60, extra=NODES - n,
            snapshot_every=dice.choice([0, 5, 10]), snapshot_gap=dice.choice([8, 20, NEVER]),
        )  # fmt: skip
        self.n = NODES
        keeps = dice.choice([None, 2, 40])
        for host in self.cluster.hosts:
            host.keeps = keeps
        if byzantine:
            self._corrupt()
        self.honest = [host for host in self.cluster.hosts if host.index != self.bad]
        self._killed = True  # nobody dies for good

    def _corrupt(self) -> None:
        self.bad = index = self.random.randrange(self.cluster.n)
        habits = self.random.sample(HABITS + LIES, self.random.randrange(1, 5))
        self.cluster.intercept = Liar(self.cluster, index, habits, self.random.randrange(2))
        host, witness = self.cluster.hosts[index], self.cluster.witness
        host.note = lambda message: None  # type: ignore[method-assign]  # its votes may conflict
        _let_it_fail(host)
        block = witness.block

        def block_of_others(who: str, height: int, header_hash: bytes) -> None:
            if who != host.name:
                block(who, height, header_hash)

        witness.block = block_of_others  # type: ignore[method-assign]  # its blocks may differ

    def _faults(self) -> None:
        cluster, dice = self.cluster, self.random
        cluster.start()
        cluster.crash_chance, cluster.lose_chance = dice.choice([0, 0.01, 0.02]), 0.5
        for index in range(dice.randrange(5, 30)):
            self.wanted.append(f"r{index}".encode())
            cluster.submit(self.wanted[-1])
            cluster.run(dice.randrange(5, 1500))
            self._cut()
            if dice.random() < 0.4:
                self._change_set()
            if dice.random() < 0.06:
                self._crash_some()
            if dice.random() < 0.15:
                self._wipe()

    def _change_set(self) -> None:
        """Let a node in or out, or change a key."""
        dice, last = self.random, self.cluster.witness.sets[-1]
        others = [host for host in self.honest if host.name not in last.names]
        members = [host for host in self.honest if host.name in last.names and self._votes(host)]
        choice = dice.random()
        if choice < 0.4 and others:
            self._submit_change(self._seat(dice.choice(others)))
        elif choice < 0.7 and len(last.names) > 4:
            self.cluster.submit(set_batch(removed=(dice.choice(members).name,), note=self.cluster.now_ms))
        else:
            host = dice.choice(members)
            host.signers = (*host.signers, signer(ROTATED + dice.randrange(100)))
            host.crash()
            self.cluster.at(dice.randrange(10, 2_000), lambda: None if host.up else host.start())
            self._submit_change(self._seat(host))

    def _submit_change(self, seat: Seat) -> None:
        self.cluster.submit(set_batch(seat, note=self.cluster.now_ms))

    def _seat(self, host: Host) -> Seat:
        return Seat(host.name, host.signers[-1].public_key, host.disk.log)

    def _wipe(self) -> None:
        """Wipe a disk, unless somebody else is faulty just now; who was wiped already may be wiped again."""
        dice = self.random
        out = [host for host in self.honest if not self._votes(host)]
        is_changing = any(batch.startswith(SET) for host in self.honest for batch in host.pending)
        if self.bad is not None or (is_changing and not out):
            return
        host = dice.choice(out or self.honest)
        host.wipe()
        self.cluster.at(dice.randrange(10, 3_000), lambda: None if host.up else host.start())

    def _votes(self, host: Host) -> bool:
        """Whether a node has the seat that the present epoch and those to come give it, if they give it one."""
        now = max((other.replica.committee.epoch for other in self.honest), default=0)
        later = self.cluster.witness.sets[now:]
        mine = [seats.logs[seats.names.index(host.name)] for seats in later if host.name in seats.names]
        return all(log == host.disk.log for log in mine)

    def _calm(self) -> None:
        cluster = self.cluster
        cluster.crash_chance, cluster.loss, cluster.cut = 0.0, 0.0, set()
        cluster.run(6_500)
        for host in self.honest:
            if not host.up:
                host.start()

    def _everybody_has_everything(self) -> bool:
        last = self.cluster.witness.sets[-1]
        return len({host.disk.height for host in self.honest}) == 1 and all(
            host.up
            and all(map(host.disk.ledger.has, self.wanted))
            and max(host.disk.certificates, default=0) == host.disk.height
            and host.replica.committee.validators == last
            and (host.replica.committee.index is not None) == (host.name in last.names)
            for host in self.honest
        )


def run(n: int, seed: int, *, byzantine: bool) -> str | None:
    """Run one campaign; return None or what went wrong."""
    return Upheaval(n, seed, byzantine=byzantine).run()
