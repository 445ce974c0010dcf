"""Review: what the clerk must not give up, and what must not stop it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from consensus.effects import Evidence, Received
from consensus.messages import Kind, sign_vote
from consensus.transaction import Transaction, decode_transaction
from contracts.calls import RenewSeat, ReportDoubleSigning
from node.block_store import ChannelStore
from node.channel import Channel
from node.clerk import AGAIN_MS, VALIDITY_MS, Clerk
from node.clock import RealClock
from node.config import load_genesis, read_config
from node.intake import Submission
from node.keys import read_signer
from node.metrics import NodeMetrics
from node.opening import ChannelDisk, Identity
from node.snapshots import SnapshotShelf
from node.vote_log import VoteLog
from tests.consensus.scenes import Chain, Lone
from tests.consensus.test_review_claims import FAR, GUEST, status_by
from tests.consensus.virtual_cluster import name
from tests.node.chain_support import LocalChannel, signer_of
from tests.node.test_channel_input import OneChannel


class Desk:
    """Takes transactions in like a node's intake; none is ever ordered (the chain stands, or the primary leaves them out)."""

    def __init__(self, channel: LocalChannel) -> None:
        self.channel = channel
        self.taken: list[Transaction] = []
        self.codes: list[str] = []
        self.now_ms = channel.clock.now_ms()

    def clerk(self, log_id: bytes) -> Clerk:
        clock = SimpleNamespace(now_ms=lambda: self.now_ms, monotonic_ms=lambda: self.now_ms)
        return Clerk(Identity("node0", [signer_of("node0")]), log_id, self.channel.application, clock, self.submit)

    async def submit(self, raws: object, _: str) -> list[Submission]:
        transaction = decode_transaction(raws[0])  # type: ignore[index]
        verdict = self.channel.application.check_transaction(transaction, self.now_ms)
        if verdict.ok:
            self.taken.append(transaction)
        self.codes.append(verdict.code)
        return [Submission(transaction.id.hex(), verdict.code, verdict.detail)]


def double_signing(channel: LocalChannel) -> Evidence:
    domain = channel.epochs.all[0].domain
    votes = [sign_vote(signer_of("node3"), domain, Kind.PREPARE, 0, 5, bytes([number]) * 32, 3) for number in (1, 2)]
    return Evidence(votes[0], votes[1])


async def test_a_report_is_sent_again_until_it_has_its_effect(tmp_path: Path) -> None:
    """So says the clerk's law. It lets go of it as soon as its own node took it in; there it expires, or another one spends its nonce."""
    channel = LocalChannel(tmp_path)
    desk = Desk(channel)
    clerk = desk.clerk(b"")
    clerk.report(double_signing(channel))
    await clerk.work(is_level=True)
    assert len(desk.taken) == 1
    for _ in range(20):
        desk.now_ms += VALIDITY_MS
        await clerk.work(is_level=True)
    channel.close()
    assert len(desk.taken) > 1, "after twenty minutes the report is neither on the chain nor under way"


async def test_a_report_survives_a_restart(tmp_path: Path) -> None:
    """The proof is in the vote log, and ``add_evidence`` says "known" to it from then on; nobody gives it to the next clerk."""
    before = OneChannel(tmp_path)
    domain = before.channel.epochs.latest.domain
    votes = [sign_vote(signer_of("any"), domain, Kind.PREPARE, 0, 5, bytes([number]) * 32, 3) for number in (1, 2)]
    before.channel._host.saw_evidence(Evidence(votes[0], votes[1]))
    assert isinstance(before.channel._clerk._next_call(), ReportDoubleSigning)
    before.close()
    config = read_config(tmp_path / "nodes" / "node-1")
    store, log = ChannelStore.open(config.blocks_folder("main")), VoteLog.open(config.votes_folder("main"))
    shelf, threads = SnapshotShelf(config.snapshots_folder("main")), ThreadPoolExecutor(1)
    identity = Identity(config.name, [read_signer(path) for path in config.validator_keys])
    after = Channel(load_genesis(config), identity, ChannelDisk(store, log, shelf), RealClock(), threads, NodeMetrics().channel("main"))
    found = after._clerk._next_call()
    assert list(log.evidence())
    shelf.close()
    threads.shutdown()
    log.close()
    store.close()
    assert isinstance(found, ReportDoubleSigning)


async def test_a_node_with_a_fresh_folder_gets_the_seat_of_a_validator_that_was_renewed_once(tmp_path: Path) -> None:
    """Wiped and renewed (log X), later its key is replaced and a new folder made: its log has the empty id, which RenewSeat refuses."""
    channel = LocalChannel(tmp_path)
    channel.execute([decode_transaction(channel.signed(RenewSeat(0, b"X" * 16), sender="node0"))])
    assert channel.epochs.latest.logs[0] == b"X" * 16
    channel.enter_latest_epoch()
    desk = Desk(channel)
    clerk = desk.clerk(b"")
    for _ in range(5):
        desk.now_ms += AGAIN_MS
        await clerk.work(is_level=True)
    channel.close()
    assert desk.taken, f"it asks for ever, and is always refused: {desk.codes}"


def test_nobody_but_f_plus_one_can_say_that_this_node_is_behind() -> None:
    """The clerk works only on a level node, and one claim makes it not level: a faulty validator (or a guest) stops all reports about it,
    and no wiped validator ever gets its seat back."""
    for liar in (0, GUEST):
        chain, lone = Chain(), Lone(3)
        chain.extend_to(20)
        lone.take(chain, peer=1)
        for peer, claim in ((1, 20), (2, 20), (liar, FAR)):
            lone.host.step(Received(name(peer), status_by(chain, peer, claim, 1)))
        clock = SimpleNamespace(monotonic_ms=lambda lone=lone: lone.cluster.now_ms)
        node = SimpleNamespace(_driver=SimpleNamespace(replica=lone.replica), clock=clock)
        assert Channel._is_level(node), f"{name(liar)} claims height {FAR}"  # type: ignore[arg-type]
