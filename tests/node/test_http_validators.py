"""Validators over HTTP: proofs of epochs, sets, votes, offences, and a node that follows, or has forgotten its first blocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
import pytest_asyncio

from consensus.codec import encode
from consensus.light_client import LightClient
from consensus.messages import Kind, Vote, sign_vote
from consensus.transaction import decode_transaction
from contracts.calls import ReportDoubleSigning
from node.http.call import Limits
from node.http_api import HttpApi
from node.metrics import NodeMetrics
from tests.node.chain_support import LocalChannel, key_of, signer_of
from tests.node.test_http_server import Site

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    channel = LocalChannel(tmp_path / "store")
    api = HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0, version="0.1.0", limits=Limits(max_page=3))
    await api.start()
    async with aiohttp.ClientSession() as session:
        yield Site(channel, api, session)
    await api.stop()
    channel.close()


async def fits_the_document(site: Site, path: str, answer: Any) -> None:
    _, document = await site.get("/openapi.json")
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(answer, {**schema, "components": document["components"]}, cls=jsonschema.Draft202012Validator)


def pass_epochs(channel: LocalChannel, count: int) -> None:
    """Let the chain go through so many epochs: one more validator each."""
    for number in range(4, 4 + count):
        channel.decide("add", f"node{number}")
        channel.enter_latest_epoch()


async def test_there_is_no_epoch_to_prove_at_first(site: Site) -> None:
    assert await site.get("/v1/epochs") == (200, {"epochs": [], "next_after": 0})
    assert (await site.get("/v1/epochs?after=7"))[1] == {"epochs": [], "next_after": 0}
    assert (await site.get("/v1/epochs?after=x"))[0] == 400


async def test_epochs_come_in_pages_and_prove_themselves(site: Site) -> None:
    pass_epochs(site.channel, 4)
    light = LightClient(site.channel.genesis.validator_set)
    pages = []
    after = 0
    while True:
        _, page = await site.get(f"/v1/epochs?limit=3&after={after}")
        await fits_the_document(site, "/v1/epochs", page)
        light.learn([bytes.fromhex(one["change"]) for one in page["epochs"]])
        pages.append([one["epoch"] for one in page["epochs"]])
        if not (after := page["next_after"]):
            break
    assert pages == [[1, 2, 3], [4]]
    assert light.epochs == tuple(site.channel.epochs.all)
    shown = page["epochs"][0]
    assert shown["first_height"] == light.epochs[4].first_height
    assert shown["validators"][-1] == {"name": "node7", "public_key": key_of("node7")}
    assert len(shown["validators"]) == 8
    assert (await site.get("/v1/epochs?after=3&limit=1"))[1]["next_after"] == 0


async def test_an_announced_epoch_cannot_be_proven_before_it_begins(site: Site) -> None:
    site.channel.decide("add", "node4")
    assert (await site.get("/v1/epochs"))[1]["epochs"] == []
    site.channel.enter_latest_epoch()
    assert [one["epoch"] for one in (await site.get("/v1/epochs"))[1]["epochs"]] == [1]


async def test_status_tells_the_epoch_and_the_next_one(site: Site) -> None:
    _, status = await site.get("/v1/status")
    assert (status["epoch"], status["members"], status["next_epoch_height"]) == (0, ["node0", "node1", "node2", "node3"], None)
    assert (status["index"], status["voting"], status["first_height"]) == (0, True, 1)
    site.channel.decide("add", "node4")
    _, status = await site.get("/v1/status")
    await fits_the_document(site, "/v1/status", status)
    assert (status["epoch"], status["next_epoch_height"]) == (0, site.channel.epochs.latest.first_height)
    site.channel.enter_latest_epoch()
    _, status = await site.get("/v1/status")
    assert (status["epoch"], status["next_epoch_height"], len(status["members"])) == (1, None, 5)


async def test_a_node_without_a_vote_is_fit_while_it_hears_of_one_validator(site: Site) -> None:
    site.channel.node = "visitor"
    _, status = await site.get("/v1/status")
    await fits_the_document(site, "/v1/status", status)
    assert (status["index"], status["voting"]) == (None, False)
    site.channel.connected = 1
    assert (await site.get("/healthz"))[0] == 200
    site.channel.connected = 0
    status, body = await site.get("/healthz")
    assert (status, body["reasons"]) == (503, ["channel main: 0 other nodes connected, 1 needed to follow the chain"])


async def test_links_to_nodes_without_a_vote_make_no_quorum(site: Site) -> None:
    """Five validators need four: of the three links, one is to a node that was voted out."""
    pass_epochs(site.channel, 2)
    site.channel.decide("remove", "node3")
    site.channel.enter_latest_epoch()
    assert (await site.get("/v1/status"))[1]["members"] == ["node0", "node1", "node2", "node4", "node5"]
    status, body = await site.get("/healthz")
    assert (status, body["reasons"]) == (503, ["channel main: 2 other nodes connected, 3 needed for a quorum"])


async def test_validators_show_present_and_announced_sets_votes_and_former_members(site: Site) -> None:
    channel = site.channel
    _, first = await site.get("/v1/validators")
    await fits_the_document(site, "/v1/validators", first)
    assert first["present"]["number"] == 0
    assert [member["account"] for member in first["present"]["members"]] == ["dc0", "dc1", "dc2", "dc3"]
    assert (first["announced"], first["changes"], first["next_after"]) == ([], [], "node2")
    assert [one["validator"] for one in (await site.get("/v1/validators?after=node2"))[1]["validators"]] == ["node3"]
    channel.decide("add", "node4", host="10.0.0.4", port=9004)
    channel.vote("node1", "remove", "node0")
    _, shown = await site.get("/v1/validators?after=node3")
    await fits_the_document(site, "/v1/validators", shown)
    (announced,) = shown["announced"]
    assert (announced["number"], announced["state"], announced["first_height"]) == (1, "announced", channel.epochs.latest.first_height)
    (change,) = shown["changes"]
    assert (change["action"], change["member"]["name"], change["approvals"]) == ("remove", "node0", ["node1"])
    (newcomer,) = shown["validators"]
    assert (newcomer["host"], newcomer["port"], newcomer["is_voting"], newcomer["is_member"]) == ("10.0.0.4", 9004, False, True)
    channel.enter_latest_epoch()
    channel.decide("remove", "node0")
    channel.enter_latest_epoch()
    _, gone = await site.get("/v1/validators/node0")
    await fits_the_document(site, "/v1/validators/{validator}", gone)
    assert (gone["is_voting"], gone["is_member"], gone["proven"]) == (False, False, [])
    assert (await site.get("/v1/validators/anna"))[0] == 404
    assert (await site.get("/v1/validators/a%2fb"))[0] == 400


def double_votes(channel: LocalChannel, sequence: int) -> tuple[Vote, Vote]:
    """Return two commits of node2 for one place."""
    domain = channel.epochs.at(1).domain
    first, second = (sign_vote(signer_of("node2"), domain, Kind.COMMIT, 0, sequence, bytes([number]) * 32, 2) for number in (1, 2))
    return first, second


def seen(channel: LocalChannel, sequence: int) -> dict[str, object]:
    """Return what the channel itself says of double signing (see ``Channel.evidence``)."""
    first, second = (encode(vote).hex() for vote in double_votes(channel, sequence))
    place = {"epoch": 0, "kind": "commit", "view": 0, "sequence": sequence}
    return {"validator": "node2", **place, "first": first, "second": second}


async def test_offences_are_on_the_ledger_or_not_yet(site: Site) -> None:
    channel = site.channel
    assert (await site.get("/v1/evidence"))[1] == {"evidence": []}
    channel.seen = [seen(channel, sequence) for sequence in range(1, 6)]
    for sequence in (2, 3, 4, 5):
        call = ReportDoubleSigning(*double_votes(channel, sequence))
        channel.execute([decode_transaction(channel.signed(call, sender="node0"))])
    _, page = await site.get("/v1/evidence")
    await fits_the_document(site, "/v1/evidence", page)
    assert [(one["sequence"], one["on_ledger"]) for one in page["evidence"]] == [(1, False), (2, True), (3, True)]
    assert [one["sequence"] for one in (await site.get("/v1/evidence?offset=4"))[1]["evidence"]] == [5]
    _, shown = await site.get("/v1/validators")
    assert [(one["validator"], one["sequence"]) for one in shown["offences"]] == [("node2", 2), ("node2", 3), ("node2", 4)]
    _, one = await site.get("/v1/validators/node2?offset=3")
    assert (one["offences"], [offence["sequence"] for offence in one["proven"]]) == (4, [5])
    assert one["proven"][0]["reporter"] == "node0"


async def test_blocks_of_every_epoch_name_their_own_validators(site: Site) -> None:
    channel = site.channel
    pass_epochs(channel, 1)
    channel.decide("remove", "node0")
    channel.enter_latest_epoch()
    outcome = (await channel.submit([channel.transfer()], "http"))[0]
    _, block = await site.get("/v1/blocks/latest")
    assert block["header"]["epoch"] == 2
    assert [vote["name"] for vote in block["certificate"]["votes"]] == ["node1", "node3", "node4"]
    assert block["proposer_name"] == channel.epochs.latest.names[block["header"]["proposer"]]
    assert block["header"]["next_validators"] == channel.epochs.latest.digest.hex()
    _, old = await site.get("/v1/blocks/1")
    assert (old["header"]["epoch"], old["proposer_name"]) == (0, "node1")
    _, proven = await site.get(f"/v1/transactions/{outcome.id}")
    assert [vote["name"] for vote in proven["proof"]["certificate"]["votes"]] == ["node1", "node3", "node4"]
    assert (await site.get("/v1/blocks?limit=1"))[1]["blocks"][0]["proposer_name"] == block["proposer_name"]


async def test_a_pruned_block_is_told_from_one_that_never_was(site: Site) -> None:
    channel = site.channel
    pass_epochs(channel, 1)
    outcome = (await channel.submit([channel.transfer(1)], "http"))[0]
    gone = (await site.get("/v1/blocks/latest?receipts=0"))[1]["header"]["height"]
    for amount in range(2, 6):
        await channel.submit([channel.transfer(amount)], "http")
    first = gone + 2
    channel.store.prune(first, kept=[channel.epochs.latest.first_height - 1])
    for height in (1, channel.epochs.latest.first_height - 1, gone, gone + 1):
        status, body = await site.get(f"/v1/blocks/{height}")
        assert (status, body["error"], body["first_height"]) == (404, "PRUNED", first)
        assert f"block {height} is no longer stored here" in body["detail"]
    status, body = await site.get(f"/v1/blocks/{channel.head.height + 1}")
    assert (status, body["error"], "first_height" in body) == (404, "NOT_FOUND", False)
    assert (await site.get(f"/v1/blocks/{first}"))[1]["header"]["height"] == first
    assert (await site.get("/v1/blocks/0"))[1]["header"]["height"] == 0
    assert (await site.get("/v1/status"))[1]["first_height"] == first
    assert (await site.get(f"/v1/transactions/{outcome.id}"))[1]["status"] == "unknown"
    heights: list[int] = []
    before = 2**53
    while before:
        _, page = await site.get(f"/v1/blocks?limit=2&before={before}")
        assert page["first_height"] == first
        heights += [block["height"] for block in page["blocks"]]
        before = page["next_before"]
    assert heights == list(range(channel.head.height, first - 1, -1))
    assert (await site.get("/v1/blocks?before=2"))[1]["blocks"] == []
    assert [one["epoch"] for one in (await site.get("/v1/epochs"))[1]["epochs"]] == [1], "proofs of epochs stay"


async def test_a_block_that_is_pruned_while_it_is_read_is_not_shown_in_halves(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = site.channel
    for amount in range(1, 5):
        await channel.submit([channel.transfer(amount)], "http")
    header = channel.store.header

    def header_then_prune(height: int) -> object:
        found = header(height)
        monkeypatch.undo()
        channel.store.prune(4)
        return found

    monkeypatch.setattr(channel.store, "header", header_then_prune)
    status, body = await site.get("/v1/blocks/2")
    assert (status, body["error"], body["first_height"]) == (404, "PRUNED", 4)


async def test_many_askers_at_once_get_the_same_proofs(site: Site) -> None:
    pass_epochs(site.channel, 2)
    answers = await asyncio.gather(*(site.get("/v1/epochs") for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert [one["epoch"] for one in answers[0][1]["epochs"]] == [1, 2]
