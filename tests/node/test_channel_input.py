"""What other validators and clients may throw at a running channel: it is counted, changes nothing, and the node keeps serving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.effects import Received
from consensus.messages import Kind, StatusBody, StatusMessage, body_digest, make_certificate, sign_vote
from consensus.transaction import decode_transaction, sign_transaction
from contracts.calls import Transfer
from node.block_store import ChannelStore
from node.channel import Channel
from node.clock import RealClock
from node.config import load_genesis, read_config
from node.framing import Frame, FrameKind
from node.keys import read_signer
from node.metrics import NodeMetrics
from node.opening import ChannelDisk, Identity
from node.snapshots import SnapshotShelf
from node.vote_log import VoteLog
from tests.node.running_cluster import HOUR_MS, RunningCluster, member


class OneChannel:
    """One node's channel without links: nothing is ordered, everything is taken in."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cluster = RunningCluster(home)
        config = read_config(home / "nodes" / "node-1")
        genesis = load_genesis(config)
        self.metrics = NodeMetrics()
        self.threads = ThreadPoolExecutor(2)
        self.store = ChannelStore.open(config.blocks_folder("main"))
        self.votes = VoteLog.open(config.votes_folder("main"))
        self.shelf = SnapshotShelf(config.snapshots_folder("main"))
        identity = Identity(config.name, [read_signer(path) for path in config.validator_keys])
        disk = ChannelDisk(self.store, self.votes, self.shelf)
        self.channel = Channel(genesis, identity, disk, RealClock(), self.threads, self.metrics.channel("main"))

    async def __aenter__(self) -> OneChannel:
        self.task = asyncio.create_task(self.channel._intake.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        self.close()

    def hear_statuses(self, height: int) -> None:
        """Two other validators say that they have certified this height."""
        domain = self.channel.genesis.validator_set.domain
        signers = {seat: read_signer(self.home / "nodes" / f"node-{seat}" / "validator.key") for seat in (0, 2, 3)}
        votes = tuple(sign_vote(signer, domain, Kind.CHECKPOINT, 0, height, bytes(32), seat) for seat, signer in signers.items())
        body = StatusBody(0, False, height, height, 1, make_certificate(votes) if height else None)
        for seat in (0, 2):
            vote = sign_vote(signers[seat], domain, Kind.STATUS, 0, 0, body_digest(body), seat)
            self.channel._replica.step(Received(f"node-{seat}", StatusMessage(vote, body)), RealClock().monotonic_ms())

    def close(self) -> None:
        self.shelf.close()
        self.threads.shutdown()
        self.votes.close()
        self.store.close()

    def count(self, name: str) -> float:
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"gridpact_{name}_total"
        )


def signed(nonce: int = 1, *, signer: Ed25519Signer | None = None, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "chain_id": "test-chain",
        "channel": "main",
        "sender": "alice",
        "nonce": nonce,
        "valid_until_ms": int(time.time() * 1000) + HOUR_MS,
        "call": Transfer("bob", 5),
    } | changes
    return sign_transaction(signer or member(3), **fields)  # type: ignore[arg-type]


async def test_every_kind_of_bad_transaction_gets_its_own_refusal(tmp_path: Path) -> None:
    async with OneChannel(tmp_path / "home") as one:
        good = signed()
        tampered = bytearray(good)
        tampered[-1] ^= 1
        one.hear_statuses(0)
        cases = {
            "BAD_TRANSACTION": b"garbage",
            "WRONG_CHAIN": signed(chain_id="other-chain"),
            "UNKNOWN_SENDER": signed(sender="nobody"),
            "WRONG_KEY": signed(signer=member(9)),
            "EXPIRED": signed(valid_until_ms=1),
            "VALID_TOO_LONG": signed(valid_until_ms=2**52),
            "NONCE_TOO_FAR": signed(2**40),
            "BAD_CALL": signed(call={"steal": "everything"}),
            "BAD_SIGNATURE": bytes(tampered),
        }
        for code, raw in cases.items():
            (answer,) = await one.channel.submit([raw], "http")
            assert answer.code == code, (code, answer)
            assert answer.detail
        assert one.count("transactions_refused") == len(cases)
        assert [answer.code for answer in await one.channel.submit([good], "http")] == ["OK"]


async def test_a_node_that_lags_refuses_nothing_for_good_that_a_later_block_may_allow(tmp_path: Path) -> None:
    passing = {"UNKNOWN_SENDER": signed(sender="nobody"), "WRONG_KEY": signed(signer=member(9)), "NONCE_TOO_FAR": signed(2**40)}
    lasting = {"WRONG_CHAIN": signed(chain_id="other-chain"), "EXPIRED": signed(valid_until_ms=1), "BAD_CALL": signed(call={"no": "call"})}
    async with OneChannel(tmp_path / "home") as one:
        for nonce, height in enumerate((None, 50), 1):
            if height is not None:
                one.hear_statuses(height)
            for code, raw in passing.items():
                (answer,) = await one.channel.submit([raw], "http")
                assert answer.code == "BEHIND"
                assert code in answer.detail
            assert [answer.code for answer in await one.channel.submit(list(lasting.values()), "http")] == list(lasting)
            assert [answer.code for answer in await one.channel.submit([signed(nonce)], "http")] == ["OK"]


async def test_an_accepted_transaction_is_on_disk_when_the_answer_comes(tmp_path: Path) -> None:
    async with OneChannel(tmp_path / "home") as one:
        raws = [signed(nonce) for nonce in range(1, 200)]
        answers = await asyncio.gather(*(one.channel.submit([raw], "http") for raw in raws))
        assert {answer[0].code for answer in answers} == {"OK"}
        assert dict(one.store.pending()) == {decode_transaction(raw).id: raw for raw in raws}


async def test_a_transaction_that_a_peer_shared_becomes_durable_when_a_client_sends_it_too(tmp_path: Path) -> None:
    async with OneChannel(tmp_path / "home") as one:
        raw = signed()
        await one.channel.door.on_frame("node-0", Frame("main", int(FrameKind.TRANSACTIONS), encode((raw,))))
        async with asyncio.timeout(10):
            while one.channel.find(decode_transaction(raw).id) is None:  # noqa: ASYNC110 - nobody tells when a peer's share is in
                await asyncio.sleep(0.01)
        assert not dict(one.store.pending())
        assert (await one.channel.submit([raw], "mqtt"))[0].code == "OK"
        assert dict(one.store.pending()) == {decode_transaction(raw).id: raw}


async def test_the_same_nonce_twice_is_refused_while_the_first_waits(tmp_path: Path) -> None:
    async with OneChannel(tmp_path / "home") as one:
        first, second = await one.channel.submit([signed(1), signed(1, call=Transfer("bob", 6))], "http")
        assert {first.code, second.code} == {"OK", "NONCE_IN_USE"}
        assert len(dict(one.store.pending())) == 1


@pytest.fixture(scope="module")
def quiet_channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneChannel]:
    one = OneChannel(tmp_path_factory.mktemp("channel") / "home")
    yield one
    one.close()


@settings(max_examples=80, deadline=None)
@given(kind=st.integers(-1, 6), body=st.binary(max_size=200), channel=st.sampled_from(["main", "other", ""]))
def test_garbage_frames_of_a_peer_are_counted_and_change_nothing(quiet_channel: OneChannel, kind: int, body: bytes, channel: str) -> None:
    one = quiet_channel
    faults = one.count("peer_faults")
    before = one.channel.status()
    asyncio.run(one.channel.door.on_frame("node-2", Frame(channel, kind, body)))
    after = one.channel.status()
    assert all(after[key] == before[key] for key in ("view", "height", "in_flight"))
    if channel != "main" or kind not in (1, 2, 3):
        assert one.count("peer_faults") == faults + 1
