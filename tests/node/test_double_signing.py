"""Whoever has the keys of a validator and signs two votes for one place is found out: kept, counted, shown, and written into the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from consensus.codec import encode
from consensus.messages import Kind, Vote, VoteMessage, sign_vote
from consensus.state import Turn
from node.audit import audit
from node.config import read_config
from node.framing import Frame, FrameKind
from node.keys import load_tls, read_signer
from node.transport import PeerAddress, PeerLinks
from node.vote_log import VoteLog
from tests.node.changing_cluster import ChangingCluster
from tests.node.link_nodes import until


class Impostor:
    """Links with the TLS key of a node that is stopped, and votes with its validator key."""

    def __init__(self, cluster: ChangingCluster, index: int) -> None:
        self.config = config = read_config(cluster.folder(index))
        self.index = index
        self._domain = cluster.genesis.validator_set.domain
        self._signer = read_signer(config.validator_keys[0])
        self.links = PeerLinks(
            name=config.name,
            listen=("127.0.0.1", 0),
            peers={name: PeerAddress(place.host, place.port) for name, place in config.peers.items()},
            tls=load_tls(config.tls.certificate, config.tls.key, config.tls.authority),
            on_frame=self._ignore,
        )

    async def _ignore(self, _peer: str, _frame: Frame) -> None:
        return

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[Impostor]:
        await self.links.start()
        try:
            await until(lambda: all(link.connected for link in self.links.status()))
            yield self
        finally:
            await self.links.stop()

    def say(self, kind: Kind, sequence: int, digest: bytes, view: int = 0) -> Vote:
        """Sign a vote and send it to all others."""
        vote = sign_vote(self._signer, self._domain, kind, view, sequence, digest, self.index)
        self.links.broadcast(Frame("main", int(FrameKind.CONSENSUS), encode(VoteMessage(vote))))
        return vote


async def evidence(cluster: ChangingCluster, index: int) -> list[dict[str, Any]]:
    return list((await cluster.get(index, "/v1/evidence"))["evidence"])


async def counted(cluster: ChangingCluster, index: int) -> float:
    async with aiohttp.ClientSession() as session, session.get(cluster.urls[index] + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("gridpact_evidence_total"))


async def seen(cluster: ChangingCluster, *counts: int) -> None:
    """Wait until nodes 0, 1, ... show so many double signings, all of them on the ledger."""
    async with asyncio.timeout(30):
        while True:
            shown = [await evidence(cluster, index) for index in range(len(counts))]
            if [len(found) for found in shown] == list(counts) and all(one["on_ledger"] for found in shown for one in found):
                return
            await asyncio.sleep(0.05)


async def test_a_double_vote_is_kept_counted_shown_and_recorded_once(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0, 1, 2) as client:
        await cluster.pay(client, 1, 3)
        certified = (await cluster.level(4))[0]["certified"]
        await cluster.stop(3)
        place = certified + 3
        async with Impostor(cluster, 3).linked() as impostor:
            first = impostor.say(Kind.PREPARE, place, b"\x01" * 32)
            second = impostor.say(Kind.PREPARE, place, b"\x02" * 32)
            impostor.say(Kind.PREPARE, place, b"\x03" * 32)
            await seen(cluster, 1, 1, 1)
            for index in range(3):
                (found,) = await evidence(cluster, index)
                assert (found["validator"], found["epoch"], found["kind"], found["view"], found["sequence"]) == (
                    "node-3",
                    0,
                    "prepare",
                    0,
                    place,
                )
                assert {found["first"], found["second"]} == {encode(first).hex(), encode(second).hex()}
                assert await counted(cluster, index) == 1
            impostor.say(Kind.CHECKPOINT, place, b"\x01" * 32)
            impostor.say(Kind.CHECKPOINT, place, b"\x02" * 32)
            await seen(cluster, 2, 2, 2)
        for index in range(3):
            await cluster.stop(index)
            cluster.start(index)
        cluster.start(3)
        await cluster.pay(client, 4, 3)
        await cluster.level(4)
        await seen(cluster, 2, 2, 2)
        record = await client.validator("node-3")
        assert record is not None
        assert (record.offences, len(record.proven)) == (2, 2)
        credit = await client.credit("fees-3")
        assert credit is not None and credit.double_signings == 2
    for index in range(4):
        report = audit(cluster.channel_folder(index), cluster.genesis)
        assert report.ok, report.faults


async def test_proof_that_a_node_kept_and_did_not_report_before_it_stopped_is_reported_later(tmp_path: Path) -> None:
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0, 1, 2) as client:
        await cluster.stop(0)
        signer, domain = read_signer(cluster.folder(3) / "validator.key"), cluster.genesis.validator_set.domain
        first, second = (sign_vote(signer, domain, Kind.PRE_PREPARE, 3, 40, bytes([number]) * 32, 3) for number in (1, 2))
        votes = VoteLog.open(cluster.channel_folder(0) / "votes")
        assert votes.add_evidence(first, second)
        votes.close()
        cluster.start(0)
        await cluster.until(lambda statuses: len(statuses) == 4)
        await seen(cluster, 1, 0, 0)
        record = await client.validator("node-3")
        assert record is not None
        assert [(one.kind, one.view, one.sequence, one.reporter) for one in record.proven] == [("pre-prepare", 3, 40, "node-0")]


async def test_a_validator_that_signs_its_checkpoints_for_a_view_spoils_no_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it signs differs from what a certificate's votes are checked against, so it must not be counted."""
    sign = Turn.sign

    def sign_for_a_view(self: Turn, kind: Kind, view: int, sequence: int, digest: bytes) -> Vote:
        return sign(self, kind, 7 if kind is Kind.CHECKPOINT and self.me == 3 else view, sequence, digest)

    monkeypatch.setattr(Turn, "sign", sign_for_a_view)
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0) as client:
        for nonce in range(1, 13):
            await cluster.pay(client, nonce)
        await cluster.level(4)
        assert await evidence(cluster, 0) == []
    for index in range(3):
        report = audit(cluster.channel_folder(index), cluster.genesis)
        assert report.ok, report.faults
