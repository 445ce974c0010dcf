"""The clerk: what it must not give up, what must not stop it, and whose numbers it leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from consensus.effects import Evidence, Received
from consensus.messages import Kind, StatusBody, StatusMessage, Vote, body_digest, sign_vote
from consensus.transaction import Transaction, decode_transaction
from contracts.calls import RenewSeat, ReportDoubleSigning, decode_call
from node.block_store import ChannelStore
from node.channel import Channel
from node.clerk import AGAIN_MS, REACH, VALIDITY_MS, Clerk
from node.clock import RealClock
from node.config import load_genesis, read_config
from node.intake import Submission
from node.keys import read_signer
from node.metrics import NodeMetrics
from node.opening import ChannelDisk, Identity
from node.snapshots import SnapshotShelf
from node.vote_log import VoteLog
from tests.consensus.scenes import Chain, Lone
from tests.consensus.virtual_cluster import name
from tests.node.chain_support import LocalChannel, signer_of
from tests.node.test_channel_input import OneChannel

FAR, GUEST = 1_000_000, 9


def status_by(chain: Chain, sender: int, certified: int) -> StatusMessage:
    """A claim. A guest speaks in an epoch that does not exist, with a signature that is none."""
    body = StatusBody(0, False, certified, certified, 1, chain.disk.certificates.get(chain.height))
    if sender == GUEST:
        return StatusMessage(Vote(Kind.STATUS, 99, 0, 0, body_digest(body), 0, bytes(64)), body)
    validators = chain.epochs[-1]
    return StatusMessage(sign_vote(chain.signer(validators, sender), validators.domain, Kind.STATUS, 0, 0, body_digest(body), sender), body)


class Desk:
    """Takes transactions in like a node's intake; none is ever ordered (the chain stands, or the primary leaves them out)."""

    def __init__(self, channel: LocalChannel) -> None:
        self.channel = channel
        self.taken: list[Transaction] = []
        self.codes: list[str] = []
        self.now_ms = channel.clock.now_ms()
        self.used: set[int] = set()

    def clerk(self, log_id: bytes, *evidence: Evidence) -> Clerk:
        votes: Any = SimpleNamespace(id=log_id, evidence=lambda: [(one.first, one.second) for one in evidence])
        clock: Any = SimpleNamespace(now_ms=lambda: self.now_ms, monotonic_ms=lambda: self.now_ms)
        return Clerk(Identity("node0", [signer_of("node0")]), votes, self.channel.application, clock, self.submit)

    async def submit(self, raws: Sequence[bytes], _: str) -> list[Submission]:
        transaction = decode_transaction(raws[0])
        if transaction.body.nonce in self.used:
            return [Submission(transaction.id.hex(), "NONCE_IN_USE")]
        verdict = self.channel.application.check_transaction(transaction, self.now_ms)
        if verdict.ok:
            self.taken.append(transaction)
        self.codes.append(verdict.code)
        return [Submission(transaction.id.hex(), verdict.code, verdict.detail)]


def double_signing(channel: LocalChannel, sequence: int = 5, epoch: int = 0) -> Evidence:
    domain = msgspec.structs.replace(channel.epochs.all[0].domain, epoch=epoch)
    votes = [sign_vote(signer_of("node3"), domain, Kind.PREPARE, 0, sequence, bytes([number]) * 32, 3) for number in (1, 2)]
    return Evidence(votes[0], votes[1])


async def test_a_report_is_sent_again_until_it_has_its_effect(tmp_path: Path) -> None:
    """It may expire where it was taken in, or another one may spend its nonce."""
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
    """The proof is in the vote log, and ``add_evidence`` says "known" to it from then on."""
    before = OneChannel(tmp_path)
    domain = before.channel.epochs.latest.domain
    votes = [sign_vote(signer_of("any"), domain, Kind.PREPARE, 0, 5, bytes([number]) * 32, 3) for number in (1, 2)]
    before.channel._host.saw_evidence(Evidence(votes[0], votes[1]))
    assert isinstance(next(before.channel._clerk.open_calls()), ReportDoubleSigning)
    before.close()
    config = read_config(tmp_path / "nodes" / "node-1")
    store, log = ChannelStore.open(config.blocks_folder("main")), VoteLog.open(config.votes_folder("main"))
    shelf, threads = SnapshotShelf(config.snapshots_folder("main")), ThreadPoolExecutor(1)
    identity = Identity(config.name, [read_signer(path) for path in config.validator_keys])
    after = Channel(load_genesis(config), identity, ChannelDisk(store, log, shelf), RealClock(), threads, NodeMetrics().channel("main"))
    (found,) = after._clerk.open_calls()
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


async def test_a_report_that_the_ledger_refuses_holds_up_no_other(tmp_path: Path) -> None:
    channel = LocalChannel(tmp_path)
    desk = Desk(channel)
    unknown, forged, good = double_signing(channel, epoch=7), double_signing(channel, 6), double_signing(channel)
    forged = Evidence(msgspec.structs.replace(forged.first, signature=bytes(64)), forged.second)
    clerk = desk.clerk(b"", unknown, forged, good)
    for _ in range(3):
        await clerk.work(is_level=True)
    assert desk.codes == ["BAD_SIGNATURE", "OK"]
    assert [decode_call(bytes(one.body.call)) for one in desk.taken] == [ReportDoubleSigning(good.first, good.second)]
    channel.execute(desk.taken)
    for _ in range(3):
        desk.now_ms += VALIDITY_MS
        await clerk.work(is_level=True)
    channel.close()
    assert len(desk.taken) == 1


async def test_the_clerk_never_takes_the_number_of_a_vote_that_the_operator_may_be_sending(tmp_path: Path) -> None:
    """The operator counts on from the highest number at any time, and what a node took in stays possible whatever the clerk sends."""
    channel = LocalChannel(tmp_path)
    desk = Desk(channel)
    view = channel.application.view
    clerk = desk.clerk(b"", *(double_signing(channel, sequence) for sequence in range(1, 101)))
    asked = [view.next_nonce("node0")]
    for count in range(100):
        await clerk.work(is_level=True)
        assert len(desk.taken) == count + 1
        assert desk.taken[-1].body.nonce not in asked[-8:]
        channel.execute(desk.taken[-1:])
        asked.append(view.next_nonce("node0"))
        desk.now_ms += AGAIN_MS
    assert view.next_nonce("node0") <= 3 * REACH + 1
    assert view.validators.validator("node3").offences == 100  # type: ignore[union-attr]
    assert not view.validators.is_spent("node0", asked[-1])
    channel.close()


async def test_numbers_that_wait_on_this_node_are_passed_over(tmp_path: Path) -> None:
    channel = LocalChannel(tmp_path)
    desk = Desk(channel)
    clerk = desk.clerk(b"", double_signing(channel, 5), double_signing(channel, 6))
    await clerk.work(is_level=True)
    channel.execute(desk.taken)
    desk.used = {REACH - 1, REACH - 2}
    await clerk.work(is_level=True)
    channel.close()
    assert [one.body.nonce for one in desk.taken] == [REACH, REACH - 3]


def test_a_validator_that_signs_everything_twice_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.vote_log.MAX_EVIDENCE", 3)
    channel = LocalChannel(tmp_path / "chain")
    domain = channel.epochs.all[0].domain
    log = VoteLog.open(tmp_path / "votes")

    def add(sender: int, sequence: int) -> bool:
        first, second = (
            sign_vote(signer_of(f"node{sender}"), domain, Kind.PREPARE, 0, sequence, bytes([number]) * 32, sender) for number in (1, 2)
        )
        return log.add_evidence(first, second)

    assert [add(3, sequence) for sequence in range(5)] == [True, True, True, False, False]
    assert add(2, 0)
    assert [first.sender for first, _ in log.evidence()] == [2, 3, 3, 3]
    log.close()
    channel.close()


def test_nobody_but_f_plus_one_can_say_that_this_node_is_behind() -> None:
    """The clerk works only on a level node, and one claim makes it not level: a faulty validator (or a guest) stops all reports about it,
    and no wiped validator ever gets its seat back."""
    for liar in (0, GUEST):
        chain, lone = Chain(), Lone(3)
        chain.extend_to(20)
        lone.take(chain, peer=1)
        for peer, claim in ((1, 20), (2, 20), (liar, FAR)):
            lone.host.step(Received(name(peer), status_by(chain, peer, claim)))
        clock = SimpleNamespace(monotonic_ms=lambda lone=lone: lone.cluster.now_ms)
        node: Any = SimpleNamespace(_replica=lone.replica, clock=clock)
        assert Channel.is_level(node), f"{name(liar)} claims height {FAR}"
