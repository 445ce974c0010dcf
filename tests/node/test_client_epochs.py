"""The client across changes of the validators: it believes who was proven to it, and asks for the proof that it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from consensus.codec import encode
from consensus.errors import InputError
from consensus.proofs import decode_transaction_proof
from consensus.transaction import decode_transaction
from contracts.calls import Transfer
from node.client import GridPactClient, Member, NodeUnreachable
from node.http.call import Limits
from node.http.views import EpochsView
from node.http_api import HttpApi
from node.metrics import NodeMetrics
from tests.node.chain_support import MONEY_MICRO, LocalChannel, key_of, make_genesis, signer_of
from tests.node.test_client import Liar, Node

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "store")
    await made.api.start()
    yield made
    await made.api.stop()
    made.channel.close()


def pass_epoch(channel: LocalChannel, number: int) -> None:
    """Let the chain into an epoch with one more validator."""
    channel.decide("add", f"node{number}")
    channel.enter_latest_epoch()


async def submitted(channel: LocalChannel, amount_micro: int) -> bytes:
    """Execute a transfer; return its id."""
    return bytes.fromhex((await channel.submit([channel.transfer(amount_micro)], "http"))[0].id)


def counting(channel: LocalChannel) -> list[int]:
    """Count how often the proofs of epochs are asked for."""
    asked: list[int] = []
    inner = channel.epoch_changes

    def epoch_changes() -> tuple[bytes, ...]:
        asked.append(1)
        return inner()

    channel.epoch_changes = epoch_changes  # type: ignore[method-assign]
    return asked


async def test_receipts_and_accounts_are_proven_in_every_epoch(node: Node) -> None:
    async with GridPactClient([node.api.url], make_genesis()) as client:
        member = Member(client, "anna", signer_of("anna"))
        for epoch in range(4):
            executed = await member.execute(Transfer("ben", 5))
            assert executed.header.epoch == epoch
            proven = await client.proven_account("ben")
            assert proven is not None
            assert (proven.account.balance_micro, proven.header.epoch) == (MONEY_MICRO + 5 * (epoch + 1), epoch)
            assert (await client.epochs.known()).epochs == tuple(node.channel.epochs.all)
            pass_epoch(node.channel, 4 + epoch)


async def test_a_late_client_learns_of_all_epochs_at_once_and_of_each_only_once(node: Node) -> None:
    for number in range(4, 8):
        pass_epoch(node.channel, number)
    asked = counting(node.channel)
    ids = [await submitted(node.channel, amount) for amount in range(1, 6)]
    async with GridPactClient([node.api.url]) as client:
        found = await asyncio.gather(*(client.wait_receipt(one, 10) for one in ids))
        assert [one.receipt.code for one in found] == ["OK"] * 5
        assert (await client.epochs.known()).epoch == 4
        assert len(asked) == 1
        await client.wait_receipt(ids[0], 10)
        assert len(asked) == 1


async def test_more_epochs_than_fit_on_a_page(tmp_path: Path) -> None:
    channel = LocalChannel(tmp_path / "store")
    for number in range(4, 9):
        pass_epoch(channel, number)
    api = HttpApi([channel], NodeMetrics(), host="127.0.0.1", port=0, limits=Limits(max_page=2))
    await api.start()
    asked = counting(channel)
    async with GridPactClient([api.url]) as client:
        assert (await client.wait_receipt(await submitted(channel, 1), 10)).header.epoch == 5
    assert len(asked) == 3
    await api.stop()
    channel.close()


async def test_update_asks_all_nodes_without_a_proof_at_hand(node: Node) -> None:
    pass_epoch(node.channel, 4)
    async with GridPactClient(["http://127.0.0.1:1", node.api.url], make_genesis(), timeout_s=1) as client:
        assert [one.epoch for one in await client.epochs.update()] == [0, 1]
    async with GridPactClient(["http://127.0.0.1:1"], make_genesis(), timeout_s=1) as client:
        with pytest.raises(NodeUnreachable, match="refuses the connection"):
            await client.epochs.update()


class Between(Liar):
    """A node that passes on what an honest one answers, but for what the test replaces."""

    def __init__(self, node: Node, replaced: dict[str, Callable[[bytes], bytes | None]]) -> None:
        super().__init__(self._pass_on)
        self._node, self._replaced = node, replaced

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        async with aiohttp.ClientSession() as session, session.get(self._node.api.url + request.path_qs) as response:
            body: bytes | None = await response.read()
            for start, change in self._replaced.items():
                if request.path.startswith(start) and body is not None:
                    body = change(body)
            if body is None:
                return web.json_response({"error": "NOT_FOUND", "detail": "no such path"}, status=404)
            return web.Response(body=body, status=response.status, content_type="application/json")


def no_epochs(_: bytes) -> bytes:
    return msgspec.json.encode(EpochsView((), 0))


def forged_epochs(body: bytes) -> bytes:
    view = msgspec.json.decode(body, type=EpochsView)
    forged = tuple(msgspec.structs.replace(one, change=one.change.replace(key_of("node4"), key_of("mallory"))) for one in view.epochs)
    return msgspec.json.encode(msgspec.structs.replace(view, epochs=forged))


def no_hex(body: bytes) -> bytes:
    view = msgspec.json.decode(body, type=EpochsView)
    return msgspec.json.encode(EpochsView(tuple(msgspec.structs.replace(one, change="xyz") for one in view.epochs), 0))


LIES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "none": (no_epochs, "does not prove itself"),
    "forged": (forged_epochs, "epoch change"),
    "no hex": (no_hex, "nonsense"),
    "no such path": (lambda _: None, "has no epochs"),
    "no JSON": (lambda _: b"{", "nonsense"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_node_that_proves_no_epoch_is_not_believed_but_others_may_prove_it(node: Node, lie: str) -> None:
    pass_epoch(node.channel, 4)
    transaction_id = await submitted(node.channel, 3)
    change, reason = LIES[lie]
    between = Between(node, {"/v1/epochs": change})
    url = await between.start()
    async with GridPactClient([url], make_genesis(), timeout_s=5) as client:
        with pytest.raises(NodeUnreachable, match=f"proof of epoch 1, and no node proves that epoch.*{reason}"):
            await client.wait_receipt(transaction_id, 5)
        with pytest.raises(NodeUnreachable, match="no node proves that epoch"):
            await client.proven_account("ben")
        assert (await client.epochs.known()).epoch == 0
    async with GridPactClient([url, node.api.url], make_genesis(), timeout_s=5) as client:
        assert (await client.wait_receipt(transaction_id, 5)).header.epoch == 1
        assert client._pool.preferred == url, "its proof was good"
    await between.runner.cleanup()


def with_epoch(epoch: int) -> Callable[[bytes], bytes]:
    """Let certificates claim an epoch that there is not."""

    def change(body: bytes) -> bytes:
        shown: dict[str, Any] = msgspec.json.decode(body)
        proof = decode_transaction_proof(bytes.fromhex(shown["proof"]["encoded"]))
        made_up = msgspec.structs.replace(proof, certificate=msgspec.structs.replace(proof.certificate, epoch=epoch))
        shown["proof"]["encoded"] = encode(made_up).hex()
        return msgspec.json.encode(shown)

    return change


async def test_a_made_up_epoch_costs_a_question_and_the_next_node_is_asked(node: Node) -> None:
    transaction_id = await submitted(node.channel, 3)
    between = Between(node, {"/v1/transactions/": with_epoch(2**40)})
    url = await between.start()
    async with GridPactClient([url], make_genesis(), timeout_s=5) as client:
        with pytest.raises(NodeUnreachable, match=f"epoch {2**40}"):
            await client.wait_receipt(transaction_id, 5)
    async with GridPactClient([url, node.api.url], make_genesis(), timeout_s=5) as client:
        assert (await client.wait_receipt(transaction_id, 5)).header.epoch == 0
    await between.runner.cleanup()


async def test_former_validators_convince_nobody_who_knows_their_successors(node: Node, tmp_path: Path) -> None:
    """The old quorum goes on without the new one: another chain from the same genesis, with blocks above its epoch."""
    pass_epoch(node.channel, 4)
    known = await submitted(node.channel, 1)
    fork = Node(tmp_path / "fork")
    await fork.api.start()
    for amount in range(1, node.channel.head.height + 3):
        forked = await submitted(fork.channel, 1000 + amount)
    async with GridPactClient([node.api.url, fork.api.url], make_genesis(), timeout_s=5) as client:
        await client.wait_receipt(known, 10)
        client._pool.rotate(node.api.url)
        with pytest.raises((NodeUnreachable, TimeoutError)):
            await client.wait_receipt(forked, 0.5)
        proven = await client.proven_account("ben")
        assert proven is not None
        assert proven.account.balance_micro == MONEY_MICRO + 1
        saved = await client.epochs.save()
    async with GridPactClient([fork.api.url], make_genesis(), timeout_s=5, proven=saved) as client:
        with pytest.raises(NodeUnreachable, match=r"is of epoch 0, but block \d+ is of epoch 1"):
            await client.wait_receipt(forked, 5)
    async with GridPactClient([fork.api.url], msgspec.structs.replace(make_genesis(), chain_id="other"), proven=saved) as client:
        with pytest.raises(InputError, match="epoch change"):
            await client.wait_receipt(forked, 5)
    await fork.api.stop()
    fork.channel.close()


async def test_the_validators_of_another_chain_prove_nothing(node: Node) -> None:
    """The same keys, another chain id: neither its blocks nor its epochs count."""
    pass_epoch(node.channel, 4)
    transaction_id = await submitted(node.channel, 3)
    other = msgspec.structs.replace(make_genesis(), chain_id="other")
    async with GridPactClient([node.api.url], other, timeout_s=5) as client:
        with pytest.raises(NodeUnreachable, match="is of chain test"):
            await client.wait_receipt(transaction_id, 5)
        with pytest.raises(NodeUnreachable, match="epoch change"):
            await client.epochs.update()


async def test_the_transaction_that_changes_the_validators_is_proven_by_the_old_ones(node: Node) -> None:
    channel = node.channel
    channel.decide("add", "node4")
    deciding = channel.store.transaction_ids(channel.head.height)
    assert deciding is not None
    channel.enter_latest_epoch()
    async with GridPactClient([node.api.url], make_genesis()) as client:
        executed = await client.wait_receipt(deciding[0], 5)
        assert executed.header.epoch == 0
        assert [type(event).__name__ for event in executed.receipt.events] == ["ValidatorVoted", "ValidatorsChanged"]
        assert (await client.wait_receipt(decode_transaction(await handed_in(client, channel)).id, 5)).header.epoch == 1


async def handed_in(client: GridPactClient, channel: LocalChannel) -> bytes:
    raw = channel.transfer(8)
    await client.submit(raw)
    return raw
