"""Asks a running cluster how it does, through the nodes' HTTP API and the meters' status file, as any operator could."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from cluster.snapshot import MeterCounts, NodeState, Snapshot
from cluster.topology import NodePlace, Topology
from consensus.errors import GridPactError
from consensus.quorum import quorums
from contracts.events import Billed
from contracts.views import LedgerTotals, MarketView
from node.client_pool import BadAnswer, NodePool, NodeUnreachable, Refused, read
from node.http.views import PeriodBillsView, StatusView

STATUS_TIMEOUT_S = 2.0
_BILLS_PAGE = 1_000


class _FleetTotals(msgspec.Struct, frozen=True):
    """The part of the meters' status file that is shown."""

    published: int
    proven: int
    refused: int
    pending: int
    connected: int


class Monitor:
    """Takes snapshots of one cluster; close it at the end.

    Args:
        topology: which cluster.
        is_running: tells whether the process of a node runs; such a node that does not answer yet is starting.
    """

    def __init__(self, topology: Topology, is_running: Callable[[str], bool]) -> None:
        self._topology = topology
        self._is_running = is_running
        self._pool = NodePool(topology.http_urls, topology.channel, STATUS_TIMEOUT_S)
        self._settled: MarketView | None = None
        self._bills: tuple[Billed, ...] = ()
        self._seen: set[str] = set()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def nodes(self) -> tuple[NodeState, ...]:
        """Ask every node once, all at the same time."""
        return tuple(await asyncio.gather(*(self._node(place) for place in self._topology.nodes)))

    async def snapshot(self, chain_ms: int) -> Snapshot:
        """Return all that is known now; what nobody answers stays empty."""
        nodes = await self.nodes()
        totals = trading = delivering = None
        if any(node.healthy for node in nodes):
            try:
                totals, trading, delivering = await asyncio.gather(self.totals(), self._market("trading"), self._market("current"))
                await self._look_at_settled(totals)
            except (NodeUnreachable, Refused):
                totals = None
        return Snapshot(chain_ms, self._topology.speed, nodes, self.meters(), totals, trading, delivering, self._settled, self._bills)

    async def totals(self) -> LedgerTotals:
        """Return the sums of the ledger.

        Raises:
            NodeUnreachable: no node answers.
        """
        totals = await self._pool.get("/v1/totals", LedgerTotals)
        if totals is None:
            raise GridPactError("the nodes know no totals")
        return totals

    async def period(self, period: int) -> tuple[MarketView | None, tuple[Billed, ...]]:
        """Return a period without its book, and its bills (none before it is settled).

        Raises:
            NodeUnreachable: no node answers.
        """
        bills: list[Billed] = []
        while True:
            query = {"limit": _BILLS_PAGE, "offset": len(bills)}
            page = await self._pool.get(f"/v1/markets/{period}/bills", PeriodBillsView, query)
            bills += page.bills if page is not None else ()
            if page is None or len(page.bills) < _BILLS_PAGE:
                return await self._market(period), tuple(bills)

    def meters(self) -> MeterCounts:
        """Return what the meters' status file says; zeros before there is one."""
        count = len(self._topology.households)
        try:
            status = msgspec.json.decode((self._topology.meters / "status.json").read_bytes(), type=_FleetTotals)
        except (OSError, msgspec.MsgspecError):
            return MeterCounts(count)
        return MeterCounts(count, status.connected, status.published, status.proven, status.refused, status.pending)

    def meters_written_ns(self) -> int:
        """Return when the meters' status file was written, Unix ns; 0 if it was not."""
        try:
            return (self._topology.meters / "status.json").stat().st_mtime_ns
        except OSError:
            return 0

    async def _look_at_settled(self, totals: LedgerTotals) -> None:
        last = totals.last_settled_period
        if totals.periods_settled and (self._settled is None or self._settled.period != last):
            self._settled, self._bills = await self.period(last)

    async def _market(self, period: int | str) -> MarketView | None:
        return await self._pool.get(f"/v1/markets/{period}", MarketView, {"limit": 1})

    async def _node(self, place: NodePlace) -> NodeState:
        try:
            status = read(await self._pool.ask(place.http_url, "GET", "/v1/status"), StatusView)
        except (BadAnswer, Refused) as error:
            if not self._is_running(place.name):
                return NodeState(place.name, place.http_url, "stopped")
            state = "not reachable" if place.name in self._seen else "starting"
            return NodeState(place.name, place.http_url, state, str(error))
        if status is None:
            return NodeState(place.name, place.http_url, "not reachable", f"has no channel {self._topology.channel}")
        self._seen.add(place.name)
        return self._state(place, status)

    def _state(self, place: NodePlace, status: StatusView) -> NodeState:
        others = [name for name in status.members if name != place.name]
        connected = sum(peer.connected and peer.name in others for peer in status.peers)
        needed = quorums(len(status.members)).quorum - 1 if status.voting else 1
        state, reason = "healthy", "" if status.voting else f"has no vote in epoch {status.epoch}"
        if status.diverged:
            state, reason = "diverged", "its own result differs from a certified one"
        elif connected < needed:
            state, reason = "no quorum" if status.voting else "cut off", f"{connected} validators connected, {needed} needed"
        elif status.changing:
            reason = "changing view"
        return NodeState(
            place.name,
            place.http_url,
            state,
            reason,
            height=status.height,
            view=status.view,
            primary=str(status.primary),
            voting=status.voting,
            peers=connected,
            others=len(others),
            pending=status.mempool.transactions,
            time_ms=status.time_ms,
            head_hash=status.head_hash,
            state_root=status.state_root,
        )
