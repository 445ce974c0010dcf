"""Real nodes in this process: disks are lost, validators change, others follow. Small windows, so that epochs are short."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from cluster.voting import Decision, decide, voters_in
from consensus.transaction import decode_transaction
from contracts.calls import Action, VoteOnValidators
from contracts.genesis import ConsensusRules
from node.client import Executed, GridPactClient
from node.config import read_config
from node.new_node import NewNode, make_next_key, make_node
from tests.node.running_cluster import RunningCluster, free_ports

WINDOW = 8
Statuses = list[dict[str, Any]]


class ChangingCluster(RunningCluster):
    """A cluster to which nodes are added.

    Args:
        snapshot_every, retain: for ``node.toml`` of every node, later ones too.
    """

    def __init__(self, home: Path, *, snapshot_every: int = 1_000, retain: int = 0, nodes: int = 4, rules: ConsensusRules | None = None):
        super().__init__(home, nodes, rules or ConsensusRules(window=WINDOW, view_timeout_ms=500))
        self.added: list[str] = []
        for index in range(nodes):
            with (self.folder(index) / "node.toml").open("a") as file:
                file.write(f"\n[retain]\nblocks = {retain}\n\n[snapshots]\nevery_blocks = {snapshot_every}\n")

    def folder(self, index: int) -> Path:
        return self.home / "nodes" / f"node-{index}"

    def channel_folder(self, index: int) -> Path:
        return read_config(self.folder(index)).channel_folder("main")

    def wipe(self, index: int) -> None:
        """Lose the disk of a stopped node: everything but its configuration and keys."""
        shutil.rmtree(self.channel_folder(index))

    def make_node(self, *, follows: bool = False) -> tuple[int, bytes]:
        """Make the folder of one more node; return its index and its validator key."""
        index = len(self.urls)
        port, http_port = free_ports(2)
        _, key = make_node(self.home, NewNode(f"node-{index}", "127.0.0.1", port, http_port, follows=follows))
        self.urls.append(f"http://127.0.0.1:{http_port}")
        return index, key

    def make_next_key(self, index: int) -> bytes:
        return make_next_key(self.folder(index))

    async def vote(self, action: Action, index: int, key: bytes = b"", *, wait: bool = True) -> Decision:
        """Let the running validators decide to add, remove or replace the validator ``node-INDEX``; wait until that is in force."""
        fields: dict[str, Any] = {}
        if action == "add":
            fields = {"account": "fees-0", "host": "127.0.0.1", "port": read_config(self.folder(index)).listen.port}
        change = VoteOnValidators(0, action, f"node-{index}", key, **fields)
        voters, genesis = voters_in([self.folder(one) for one in sorted(self._tasks) if read_config(self.folder(one)).validator_keys])
        decision = await decide(voters, genesis, change, lambda _: None, wait=wait)
        assert decision.decided
        return decision

    async def get(self, index: int, path: str) -> Any:
        """Return what one node answers."""
        async with aiohttp.ClientSession() as session, session.get(self.urls[index] + path) as answer:
            return await answer.json()

    async def status(self, index: int) -> dict[str, Any]:
        return dict(await self.get(index, "/v1/status"))

    async def pay(self, client: GridPactClient, first: int, count: int = 1) -> None:
        """Execute ``count`` transfers of alice to bob, from nonce ``first`` on, all proven."""
        raws = [self.transfer(nonce) for nonce in range(first, first + count)]
        for answer in await client.submit_many(raws):
            assert answer.code == "OK", answer
        done: list[Executed] = await asyncio.gather(*(client.wait_receipt(decode_transaction(raw).id, 30) for raw in raws))
        assert {one.receipt.code for one in done} == {"OK"}

    async def level(self, count: int, timeout_s: float = 30.0) -> Statuses:
        """Wait until so many nodes answer and all have the same certified head."""

        def holds(statuses: Statuses) -> bool:
            return len(statuses) == count and len({(one["certified"], one["head_hash"], one["epoch"]) for one in statuses}) == 1

        return await self.until(holds, timeout_s)


def of(statuses: Statuses, index: int) -> dict[str, Any]:
    """The status of one node, empty if it does not answer."""
    return next((one for one in statuses if one["node"] == f"node-{index}"), {})
