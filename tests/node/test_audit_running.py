"""A node is audited while it works: what it adds meanwhile is no fault."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from node.audit import audit
from tests.node.changing_cluster import ChangingCluster


async def test_blocks_and_votes_that_come_in_during_the_audit_are_no_fault(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    async with ChangingCluster(tmp_path / "home") as cluster, cluster.client(0) as client:
        await cluster.pay(client, 1, 2)
        loop = asyncio.get_running_loop()

        def pause(_height: int, _total: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(60)

        auditing = asyncio.create_task(asyncio.to_thread(audit, cluster.channel_folder(0), cluster.genesis, pause))
        await begun.wait()
        for nonce in range(3, 9):
            await cluster.pay(client, nonce)
        await cluster.stop(3)
        cluster.wipe(3)
        cluster.start(3)
        await cluster.until(lambda statuses: len(statuses) == 4 and all(one["epoch"] == 1 for one in statuses))
        go_on.set()
        report = await auditing
        assert report.ok, report.faults
        assert report.height < (await cluster.status(0))["certified"]
        later = await asyncio.to_thread(audit, cluster.channel_folder(0), cluster.genesis)
        assert later.ok, later.faults
