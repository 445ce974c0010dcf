"""The ledger over HTTP: accounts, markets, meters, bills, credit, totals."""

from __future__ import annotations

import msgspec

from consensus.block import decode_header
from consensus.codec import encode
from contracts.periods import Calendar
from node.http.call import Call
from node.http.errors import ApiError, not_found
from node.http.views import AccountsView, MetersView, PeriodBillsView, ProvenAccountView, next_name


async def list_accounts(call: Call) -> object:
    """Return accounts by name."""
    limit = call.page(call.api.limits.max_page)
    accounts = call.channel.application.view.accounts(call.optional_name("after"), limit)
    return AccountsView(accounts, next_name([account.account for account in accounts], limit))


async def get_account(call: Call) -> object:
    """Return one account; with ``proof=1`` the proof of its entry at the certified head."""
    name, view = call.name("account"), call.channel.application.view
    account = view.account(name)
    if account is None:
        raise not_found(f"account {name}")
    fields = msgspec.structs.asdict(account)
    if not call.flag("proof", False):
        return ProvenAccountView(**fields)
    proof = await call.channel.entry_proof(view.state_key_of_account(name))
    if proof is None:
        raise ApiError(503, "NOT_CERTIFIED", "proof: the head is not certified yet")
    return ProvenAccountView(**fields, proof=encode(proof).hex(), proof_height=decode_header(proof.header).height)


async def get_market(call: Call) -> object:
    """Return one delivery period with its book and trades; "current" is delivered now, "trading" takes orders now."""
    period, now_ms = _period(call), call.channel.clock.now_ms()
    limit, offset = call.page(call.api.limits.max_book_page), call.query("offset", 0)
    market = call.channel.application.view.market(period, now_ms, offset, limit)
    if market is None:
        raise not_found(f"market of period {period}")
    return market


def _period(call: Call) -> int:
    asked, calendar = call.request.match_info["period"], Calendar(call.channel.genesis.market)
    if asked == "current":
        return calendar.delivery_period(call.channel.clock.now_ms())
    if asked == "trading":
        return calendar.trading_period(call.channel.clock.now_ms())
    return call.number("period")


async def get_period_bills(call: Call) -> object:
    """Return all bills of one settled period."""
    period = call.number("period")
    limit, offset = call.page(call.api.limits.max_book_page), call.query("offset", 0)
    return PeriodBillsView(period, call.channel.application.view.period_bills(period, offset, limit))


async def list_meters(call: Call) -> object:
    """Return meters by name."""
    limit = call.page(call.api.limits.max_page)
    meters = call.channel.application.view.meters(call.optional_name("after"), limit)
    return MetersView(meters, next_name([meter.meter for meter in meters], limit))


async def get_meter(call: Call) -> object:
    """Return one meter."""
    name = call.name("meter")
    meter = call.channel.application.view.meter(name)
    if meter is None:
        raise not_found(f"meter {name}")
    return meter


async def get_bills(call: Call) -> object:
    """Return bills of one account, newest first."""
    name = call.name("account")
    before = call.query("before", 0) or None
    bills = call.channel.application.view.bills(name, before, call.page(call.api.limits.max_page))
    if bills is None:
        raise not_found(f"account {name}")
    return bills


async def get_credit(call: Call) -> object:
    """Return how well an account delivered and took what it traded."""
    name = call.name("account")
    credit = call.channel.application.view.credit(name)
    if credit is None:
        raise not_found(f"account {name}")
    return credit


async def get_totals(call: Call) -> object:
    """Return the sums of the whole ledger and the checks on them."""
    return call.channel.application.view.totals(call.channel.clock.now_ms())


async def get_contract(call: Call) -> object:
    """Return one bilateral contract: this chain has none."""
    raise not_found(f"contract {call.digest('id').hex()}")


async def get_schedule(call: Call) -> object:
    """Return the schedule of one period: this chain has none."""
    raise not_found(f"schedule of period {call.number('period')}")
