"""Questions of the client that one node answers on its word. What matters, ask with a proof (:mod:`node.client`)."""

from __future__ import annotations

from typing import TypeVar

from contracts.events import Billed
from contracts.views import AccountView, BillsView, CreditView, LedgerTotals, MarketView, MeterView
from node.client_pool import NodePool, NodeUnreachable
from node.http.views import MetersView, PeriodBillsView, StatusView, TransactionView, ValidatorDetailView, ValidatorSetsView

T = TypeVar("T")
_BOOK_PAGE = 1_000


class Queries:
    """Asks any node of a channel; each question raises ``NodeUnreachable`` if none answers, ``Refused`` if it does not fit.

    Args:
        pool: reaches the nodes.
    """

    def __init__(self, pool: NodePool) -> None:
        self._pool = pool

    async def transaction(self, transaction_id: bytes) -> TransactionView | None:
        """Return where a transaction stands, on one node's word."""
        return await self._pool.get(f"/v1/transactions/{transaction_id.hex()}", TransactionView)

    async def status(self) -> StatusView:
        """Return how the channel does, as one node sees it."""
        return _there(await self._pool.get("/v1/status", StatusView), "status")

    async def totals(self) -> LedgerTotals:
        """Return the sums of the ledger."""
        return _there(await self._pool.get("/v1/totals", LedgerTotals), "totals")

    async def account(self, name: str) -> AccountView | None:
        """Return one account, on one node's word."""
        return await self._pool.get(f"/v1/accounts/{name}", AccountView)

    async def meter(self, name: str) -> MeterView | None:
        """Return one meter."""
        return await self._pool.get(f"/v1/meters/{name}", MeterView)

    async def meters(self, after: str = "") -> MetersView:
        """Return a page of meters, by name."""
        return _there(await self._pool.get("/v1/meters", MetersView, {"after": after} if after else None), "meters")

    async def market(self, period: int | str) -> MarketView | None:
        """Return one delivery period (or "current", "trading") with its whole book and all its trades."""
        view = await self._pool.get(f"/v1/markets/{period}", MarketView, {"limit": _BOOK_PAGE})
        if view is None:
            return None
        orders, trades, offset = list(view.orders), list(view.trades), _BOOK_PAGE
        while offset < max(view.order_count, view.trade_count):
            page = await self._pool.get(f"/v1/markets/{view.period}", MarketView, {"limit": _BOOK_PAGE, "offset": offset})
            if page is None or not (page.orders or page.trades):
                break
            orders += page.orders
            trades += page.trades
            offset += _BOOK_PAGE
        values = {name: getattr(view, name) for name in view.__struct_fields__}
        return MarketView(**{**values, "orders": tuple(orders), "trades": tuple(trades)})

    async def period_bills(self, period: int) -> tuple[Billed, ...]:
        """Return all bills of one period (none before it is settled)."""
        bills: list[Billed] = []
        while True:
            query = {"limit": _BOOK_PAGE, "offset": len(bills)}
            page = _there(await self._pool.get(f"/v1/markets/{period}/bills", PeriodBillsView, query), "bills").bills
            bills += page
            if len(page) < _BOOK_PAGE:
                return tuple(bills)

    async def bills(self, account: str, before: int | None = None, limit: int = 100) -> BillsView | None:
        """Return a page of an account's bills, newest first."""
        query = {"limit": limit} if before is None else {"limit": limit, "before": before}
        return await self._pool.get(f"/v1/bills/{account}", BillsView, query)

    async def credit(self, account: str) -> CreditView | None:
        """Return how well an account delivered and took what it traded."""
        return await self._pool.get(f"/v1/credit/{account}", CreditView)

    async def validators(self) -> ValidatorSetsView:
        """Return the present and all announced validator sets, open votes and offences."""
        return _there(await self._pool.get("/v1/validators", ValidatorSetsView), "validators")

    async def validator(self, name: str) -> ValidatorDetailView | None:
        """Return one validator, of any set."""
        return await self._pool.get(f"/v1/validators/{name}", ValidatorDetailView)


def _there(value: T | None, what: str) -> T:
    """Return what every node must have."""
    if value is None:
        raise NodeUnreachable({"nodes": f"have no {what}"})
    return value
