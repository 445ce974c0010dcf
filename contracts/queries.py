"""What the committed ledger answers to questions. Every answer is bounded; what is not there is None."""

from __future__ import annotations

from itertools import islice

from consensus.application import StateReader
from contracts.events import Billed, Traded
from contracts.genesis import Genesis
from contracts.invariants import energy_is_balanced, money_micro
from contracts.ledger import Ledger
from contracts.records import MARKET_KEY, PAGE, BookEntry, Credit, Period, Progress, name_key, order_key, page_key, period_key
from contracts.registry import Sender
from contracts.validator_queries import ValidatorsView
from contracts.views import (
    AccountView,
    BillsView,
    CreditView,
    EpochView,
    LedgerTotals,
    MarketView,
    MeterView,
    OrderView,
)

MAX_LIST = 1_000
MAX_PERIODS_SCANNED = 200


class LedgerView:
    """Questions to the committed state of one channel.

    Args:
        genesis: the agreement.
        state: the committed state.

    Attributes:
        validators: questions about validators.
    """

    def __init__(self, genesis: Genesis, state: StateReader) -> None:
        self._genesis = genesis
        self._ledger = Ledger(genesis, state, caching=False)
        self.validators = ValidatorsView(self._ledger)

    @property
    def progress(self) -> Progress | None:
        """How far the market is; None before genesis is committed."""
        return self._ledger.state.market.committed(MARKET_KEY)

    def state_key_of_account(self, account: str) -> bytes:
        """Return the state key whose entry proves an account's money."""
        return b"account/" + name_key(account)

    def account(self, name: str) -> AccountView | None:
        """Return one account."""
        sender = self._ledger.registry.account(name)
        record = self._ledger.state.accounts.committed(sender.key) if sender else None
        if sender is None or record is None:
            return None
        debt = 0 if sender.role == "grid" else max(0, -record.balance_micro)
        return AccountView(name, sender.role, record.balance_micro, record.locked_micro, record.nonces.highest + 1, debt)

    def accounts(self, after: str = "", limit: int = 100) -> tuple[AccountView, ...]:
        """Return accounts whose name comes after ``after``, by name."""
        names = [sender.name for sender in self._ledger.registry.accounts if sender.name > after][: _bound(limit)]
        return tuple(view for view in map(self.account, names) if view is not None)

    def next_nonce(self, sender: str) -> int:
        """Return the lowest nonce that is certain to be unused by an account, a meter or a validator; 1 for somebody unknown."""
        view = self.account(sender) or self.meter(sender) or self.validators.validator(sender)
        return view.next_nonce if view is not None else 1

    def epochs(self, first: int = 0) -> tuple[EpochView, ...]:
        """Return all validator sets from the ``first``-th on, the announced ones included."""
        return self.validators.epochs(first, None)

    def meter(self, name: str) -> MeterView | None:
        """Return one meter."""
        sender = self._ledger.registry.meter(name)
        record = self._ledger.state.meters.committed(sender.key) if sender else None
        if sender is None or record is None:
            return None
        return MeterView(
            meter=name,
            account=sender.account,
            last_sequence=record.sequences.highest,
            last_time_ms=record.time_ms,
            import_wh=record.import_wh,
            export_wh=record.export_wh,
            accepted=record.accepted,
            missing=record.missing,
            quarantined=record.quarantined,
            quarantine=record.quarantine,
            next_nonce=record.nonces.highest + 1,
        )

    def meters(self, after: str = "", limit: int = 100) -> tuple[MeterView, ...]:
        """Return meters whose name comes after ``after``, by name."""
        names = [sender.name for sender in self._ledger.registry.meters if sender.name > after][: _bound(limit)]
        return tuple(view for view in map(self.meter, names) if view is not None)

    def credit(self, account: str) -> CreditView | None:
        """Return an account's credit record; a full score if it never traded."""
        sender = self._ledger.registry.account(account)
        if sender is None:
            return None
        record = self._ledger.state.credits.committed(sender.key) or Credit()
        return CreditView(
            account, record.score_ppm, record.periods, record.under_deliveries, record.under_takes, record.debts, record.double_signings
        )

    def market(self, period: int, time_ms: int | None = None, offset: int = 0, limit: int = MAX_LIST) -> MarketView | None:
        """Return one period, up to the next one to open.

        Args:
            time_ms: present chain time, for the state; the last block's if left out.
            offset, limit: which orders and which trades to list (``order_count``, ``trade_count``: how many there are).
        """
        progress = self.progress
        calendar = self._ledger.calendar
        if progress is None:
            return None
        now_ms = progress.time_ms if time_ms is None else max(time_ms, progress.time_ms)
        if not self._genesis.market.first_period <= period <= calendar.last_open(now_ms) + 1:
            return None
        book = self._ledger.state.periods.committed(period_key(period)) or Period()
        grid_buy, grid_sell = self._ledger.grid_prices(period)
        first, count = max(0, offset), _bound(limit)
        return MarketView(
            period=period,
            state=self._period_state(period, progress, now_ms),
            start_ms=calendar.start_ms(period),
            end_ms=calendar.end_ms(period),
            opens_ms=calendar.opens_ms(period),
            gate_closure_ms=calendar.gate_ms(period),
            grid_buy_micro_per_kwh=grid_buy,
            grid_sell_micro_per_kwh=grid_sell,
            mean_price_micro_per_kwh=book.mean_price_micro_per_kwh,
            energy_wh=book.energy_wh,
            order_count=book.order_count,
            trade_count=book.trade_count,
            orders=self._orders(period, period < progress.next_clear, first, min(count, max(0, book.order_count - first))),
            trades=self._trades(period, first, min(count, max(0, book.trade_count - first))),
        )

    def bills(self, account: str, before: int | None = None, limit: int = 100) -> BillsView | None:
        """Return an account's bills, newest first.

        Args:
            before: only periods before this one; None: all settled ones.
        """
        sender, progress = self._ledger.registry.account(account), self.progress
        if sender is None or progress is None:
            return None
        first = self._genesis.market.first_period
        period = progress.next_settle if before is None else max(first, min(before, progress.next_settle))
        stop = max(first, period - MAX_PERIODS_SCANNED)
        found: list[Billed] = []
        while period > stop and len(found) < _bound(limit):
            period -= 1
            found.extend(bill for bill in self._bill_page(period, sender) if bill.account == account)
        return BillsView(account, tuple(found), period if period > first else 0)

    def period_bills(self, period: int, offset: int = 0, limit: int | None = None) -> tuple[Billed, ...]:
        """Return the bills of a period, by account, from the ``offset``-th on; empty if it is not settled."""
        if not 0 <= period < 2**64:
            return ()
        bills = (bill for _, page in self._ledger.state.bills.scan_committed(period_key(period)) for bill in page.entries)
        first = max(0, offset)
        return tuple(islice(bills, first, None if limit is None else first + limit))

    def totals(self, time_ms: int) -> LedgerTotals:
        """Return sums over the whole chain, computed in full, and whether money and energy balance to the last unit.

        Args:
            time_ms: present chain time, for the current and the trading period.
        """
        ledger, first = self._ledger, self._genesis.market.first_period
        progress = self.progress or Progress(self._genesis.time_ms, first, first)
        meters = [meter for _, meter in ledger.state.meters.scan_committed()]
        money, at_genesis = money_micro(ledger), sum(participant.balance_micro for participant in self._genesis.participants)
        open_periods = range(progress.next_clear, ledger.calendar.last_open(progress.time_ms) + 1)
        books = [ledger.state.periods.committed(period_key(period)) for period in open_periods]
        return LedgerTotals(
            money_micro=money,
            genesis_money_micro=at_genesis,
            periods_settled=progress.next_settle - first,
            last_settled_period=progress.next_settle - 1,
            readings_accepted=sum(meter.accepted for meter in meters),
            readings_quarantined=sum(meter.quarantined for meter in meters),
            orders=progress.orders + sum(book.order_count for book in books if book is not None),
            trades=progress.trades,
            energy_traded_wh=progress.traded_wh,
            energy_grid_wh=progress.grid_bought_wh + progress.grid_sold_wh,
            supply_conserved=money == at_genesis and energy_is_balanced(ledger),
            current_period=ledger.calendar.delivery_period(time_ms),
            trading_period=ledger.calendar.trading_period(time_ms),
        )

    def _period_state(self, period: int, progress: Progress, now_ms: int) -> str:
        calendar = self._ledger.calendar
        if period < progress.next_settle:
            return "settled"
        if now_ms >= calendar.end_ms(period):
            return "metering"
        if now_ms >= calendar.start_ms(period):
            return "delivering"
        if period < progress.next_clear:
            return "cleared"
        if now_ms >= calendar.gate_ms(period):
            return "closed"
        return "open" if now_ms >= calendar.opens_ms(period) else "announced"

    def _orders(self, period: int, is_cleared: bool, offset: int, limit: int) -> tuple[OrderView, ...]:
        """Return orders in ledger order, only those asked for, from the archive once the period is cleared."""
        state = self._ledger.state
        if not is_cleared:
            live = (state.orders.committed(order_key(period, number)) for number in range(offset, offset + limit))
            return tuple(
                OrderView(
                    order=order.order.hex(),
                    account=order.account,
                    side=order.side,
                    energy_type=order.energy_type,
                    energy_wh=order.energy_wh,
                    remaining_wh=order.energy_wh,
                    price_micro_per_kwh=order.price_micro_per_kwh,
                    state="cancelled" if order.cancelled else "open",
                )
                for order in live
                if order is not None
            )
        archived: list[BookEntry] = []
        for number in range(offset // PAGE, (offset + limit) // PAGE + 1 if limit else 0):
            page = state.books.committed(page_key(period, number))
            if page is None:
                break
            archived.extend(page.entries)
        skip = offset % PAGE
        return tuple(
            OrderView(
                order=entry.order.hex(),
                account=entry.account,
                side=entry.side,
                energy_type=entry.energy_type,
                energy_wh=entry.energy_wh,
                remaining_wh=entry.remaining_wh,
                price_micro_per_kwh=entry.price_micro_per_kwh,
                state=entry.state,
            )
            for entry in archived[skip : skip + limit]
        )

    def _trades(self, period: int, offset: int, count: int) -> tuple[Traded, ...]:
        trades: list[Traded] = []
        for number in range(offset // PAGE, (offset + count) // PAGE + 1 if count else 0):
            page = self._ledger.state.trades.committed(page_key(period, number))
            if page is None:
                break
            trades.extend(page.entries)
        skip = offset % PAGE
        return tuple(trades[skip : skip + count])

    def _bill_page(self, period: int, sender: Sender) -> tuple[Billed, ...]:
        page = self._ledger.registry.account_numbers[sender.name] // PAGE
        record = self._ledger.state.bills.committed(page_key(period, page))
        return () if record is None else record.entries


def _bound(limit: int) -> int:
    return max(1, min(limit, MAX_LIST))
