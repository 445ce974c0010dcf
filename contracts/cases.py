"""The mechanisms offline, on a JSON case (markets, section 7): the same code that runs in blocks, without a chain.

``gridpact auction FILE`` calls :func:`run_auction_case`, ``gridpact settle FILE`` calls :func:`run_settle_case`. Unknown or missing keys
and wrong types are refused with the place in the file. An order that the market would not admit is no error: it stands under ``rejected``.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from consensus.errors import InputError
from contracts.auction import Clearing, Quote, clear_book
from contracts.calls import MAX_ENERGY_WH, MAX_PRICE_MICRO_PER_KWH, Price
from contracts.genesis import GRID, OPERATOR, Ppm
from contracts.settlement import Contract, Metered, Terms, settle
from contracts.units import payable_micro

MAX_CASE_BYTES = 256 * 1024 * 1024
CaseEnergyWh = Annotated[int, Meta(ge=0, le=10**12)]
Text = Annotated[str, Meta(min_length=1, max_length=128)]
T = TypeVar("T")


class _Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything in a case file: unknown keys are refused."""


class AuctionOrder(_Case, frozen=True):
    """One order, in ledger order. What the market refuses (``quantity_wh``, ``price``, ``side``) is not refused while reading."""

    id: Text
    account: Text
    side: str
    energy_type: Text
    price: int
    reserve_price: int
    quantity_wh: object
    time: int


class AuctionCase(_Case, frozen=True):
    """One period's orders and the rules that they meet under."""

    grid_buy_price: Price
    grid_sell_price: Price
    beta_ppm: Annotated[int, Meta(gt=0, le=1_000_000)]
    orders: tuple[AuctionOrder, ...]
    mode: Literal["batch", "continuous"] = "batch"
    max_reprice_rounds: Annotated[int, Meta(ge=0, le=1_000)] = 10
    price_cap: Price | None = None
    gate_close: int | None = None
    one_side_per_account: bool = True


class AuctionTrade(msgspec.Struct, frozen=True):
    """Two orders that met; round 0 is the direct one."""

    buy_order: str
    sell_order: str
    round: int
    quantity_wh: int
    price: int


class GridTrade(msgspec.Struct, frozen=True):
    """What is left of an order, traded with the grid at its price."""

    order: str
    side: str
    quantity_wh: int
    price: int


class Rejection(msgspec.Struct, frozen=True):
    """An order that the market would not admit."""

    order: str
    code: str


class AuctionResult(msgspec.Struct, frozen=True):
    """What the case gives; costs and incomes with the grid's part, and what the same orders would pay and get from the grid alone."""

    trades: tuple[AuctionTrade, ...]
    grid: tuple[GridTrade, ...]
    rejected: tuple[Rejection, ...]
    final_quotes: dict[str, int]
    reference_sell: int | None
    reference_buy: int | None
    reprice_rounds: int
    buyer_cost_micro: int
    seller_income_micro: int
    buyer_cost_grid_only_micro: int
    seller_income_grid_only_micro: int


class SettleTrade(_Case, frozen=True):
    """One trade to settle, in ledger order."""

    id: Text
    seller: Text
    buyer: Text
    quantity_wh: Annotated[int, Meta(gt=0, le=MAX_ENERGY_WH)]
    price: Price


class SettleMeter(_Case, frozen=True):
    """What an account's meters counted in the period."""

    export_wh: CaseEnergyWh
    import_wh: CaseEnergyWh


class SettleCase(_Case, frozen=True):
    """One period's trades and registers."""

    grid_buy_price: Price
    grid_sell_price: Price
    fine_ppm: Ppm
    tolerance_ppm: Ppm
    fee_ppm: Ppm
    trades: tuple[SettleTrade, ...]
    meters: dict[Text, SettleMeter]


class SettleLine(msgspec.Struct, frozen=True, rename={"payer": "from", "payee": "to"}):
    """One cash flow; the reference is the trade's id, or the account that exchanges with the grid."""

    reference: str
    why: str
    payer: str
    payee: str
    micro: int


class SettleResult(msgspec.Struct, frozen=True):
    """What the case gives: cash per account (summing to zero), energies per trade, performance per party."""

    cash_micro: dict[str, int]
    performed_wh: dict[str, int]
    delivered_wh: dict[str, int]
    taken_wh: dict[str, int]
    performance_ppm: dict[str, int]
    lines: tuple[SettleLine, ...]


def run_auction_case(text: bytes, name: str) -> AuctionResult:
    """Clear the auction in a JSON file.

    Args:
        text: contents of the file.
        name: of the file, for errors.

    Raises:
        InputError: it is not such a case; names the place.
    """
    case = _read(text, name, AuctionCase)
    admitted, rejected = _admit(case)
    numbers: dict[str, list[int]] = {}
    for number, order in enumerate(admitted):
        numbers.setdefault(order.energy_type, []).append(number)
    books = []
    for energy_type in sorted(numbers):
        quotes = [_quote(admitted[number]) for number in numbers[energy_type]]
        continuous = case.mode == "continuous"
        books.append((numbers[energy_type], clear_book(quotes, case.beta_ppm, case.max_reprice_rounds, continuous)))
    return _auction_result(case, admitted, rejected, books)


def run_settle_case(text: bytes, name: str) -> SettleResult:
    """Settle the period in a JSON file.

    Args:
        text: contents of the file.
        name: of the file, for errors.

    Raises:
        InputError: it is not such a case; names the place.
    """
    case = _read(text, name, SettleCase)
    seen: dict[str, None] = {}
    for number, trade in enumerate(case.trades):
        if trade.id in seen:
            raise InputError(f"{name}: trades[{number}].id", f"{trade.id} occurs twice")
        if trade.buyer == trade.seller:
            raise InputError(f"{name}: trades[{number}].buyer", f"{trade.buyer} is the seller, too")
        seen[trade.id] = None
    contracts = [Contract(trade.id, trade.seller, trade.buyer, trade.quantity_wh, trade.price) for trade in case.trades]
    meters = {account: Metered(meter.import_wh, meter.export_wh) for account, meter in case.meters.items()}
    for party in (party for contract in contracts for party in (contract.seller, contract.buyer)):
        meters.setdefault(party, Metered(0, 0))
    if GRID in meters:
        raise InputError(f"{name}: meters, trades", f"{GRID} is the other side of all meters, it has none and trades nothing")
    terms = Terms(case.grid_buy_price, case.grid_sell_price, case.fine_ppm, case.tolerance_ppm, case.fee_ppm, GRID, OPERATOR)
    result = settle(contracts, meters, terms)
    cash = dict.fromkeys((*meters, GRID, OPERATOR), 0)
    for flow in result.flows:
        cash[flow.payer] -= flow.micro
        cash[flow.payee] += flow.micro
    ids = list(seen)
    return SettleResult(
        cash_micro=cash,
        performed_wh=dict(zip(ids, result.performed_wh, strict=True)),
        delivered_wh=dict(zip(ids, result.delivered_wh, strict=True)),
        taken_wh=dict(zip(ids, result.taken_wh, strict=True)),
        performance_ppm=result.performance_ppm,
        lines=tuple(SettleLine(flow.reference, flow.why.value, flow.payer, flow.payee, flow.micro) for flow in result.flows),
    )


def _read(text: bytes, name: str, kind: type[T]) -> T:
    """Decode a case; the error says where in the file it is wrong."""
    if len(text) > MAX_CASE_BYTES:
        raise InputError(name, f"{len(text)} bytes, more than the limit of {MAX_CASE_BYTES}")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason, _, place = str(error).partition(" - at `$")
        field = place.rstrip("`").lstrip(".")
        raise InputError(f"{name}: {field}" if field else name, reason) from error


def _admit(case: AuctionCase) -> tuple[list[AuctionOrder], list[Rejection]]:
    """Sort out what the market would not admit (markets, section 3.3, in its order)."""
    ids: dict[str, None] = {}
    sides: dict[str, str] = {}
    admitted, rejected = [], []
    for order in case.orders:
        code = "DUPLICATE_ID" if order.id in ids else _refusal(case, order, sides.get(order.account))
        if code:
            rejected.append(Rejection(order.id, code))
            continue
        ids[order.id] = None
        sides[order.account] = order.side
        admitted.append(order)
    return admitted, rejected


def _refusal(case: AuctionCase, order: AuctionOrder, own_side: str | None) -> str:
    """Return the code of the first rule that an order breaks; empty if none."""
    cap = MAX_PRICE_MICRO_PER_KWH if case.price_cap is None else case.price_cap
    if type(order.quantity_wh) is not int or not 0 < order.quantity_wh <= MAX_ENERGY_WH:
        return "BAD_QTY"
    if not 0 <= order.price <= cap or not 0 <= order.reserve_price <= MAX_PRICE_MICRO_PER_KWH:
        return "BAD_PRICE"
    if (order.side == "buy" and order.reserve_price < order.price) or (order.side == "sell" and order.reserve_price > order.price):
        return "RESERVE_CROSSED"
    if order.side not in ("buy", "sell"):
        return "BAD_SIDE"
    if case.gate_close is not None and order.time >= case.gate_close:
        return "GATE_CLOSED"
    if case.one_side_per_account and own_side is not None and own_side != order.side:
        return "OPPOSITE_SIDE"
    return ""


def _quantity(order: AuctionOrder) -> int:
    """Return the energy of an admitted order."""
    return order.quantity_wh if isinstance(order.quantity_wh, int) else 0


def _quote(order: AuctionOrder) -> Quote:
    return Quote(order.account, order.side == "buy", _quantity(order), order.price, order.reserve_price)


def _auction_result(
    case: AuctionCase, orders: list[AuctionOrder], rejected: list[Rejection], books: list[tuple[list[int], Clearing]]
) -> AuctionResult:
    prices, left = [0] * len(orders), [0] * len(orders)
    trades: list[AuctionTrade] = []
    for numbers, clearing in books:
        for place, number in enumerate(numbers):
            prices[number], left[number] = clearing.prices[place], clearing.remaining_wh[place]
        trades.extend(
            AuctionTrade(orders[numbers[match.buy]].id, orders[numbers[match.sell]].id, match.round, match.energy_wh, match.price)
            for match in clearing.matches
        )
    grid_price = {"buy": case.grid_buy_price, "sell": case.grid_sell_price}
    grid = [GridTrade(order.id, order.side, left[number], grid_price[order.side]) for number, order in enumerate(orders) if left[number]]
    traded = sum(payable_micro(trade.quantity_wh, trade.price) for trade in trades)
    with_grid = {side: sum(payable_micro(part.quantity_wh, part.price) for part in grid if part.side == side) for side in grid_price}
    alone = {side: sum(payable_micro(_quantity(order), grid_price[side]) for order in orders if order.side == side) for side in grid_price}
    clearings = [clearing for _, clearing in books]
    return AuctionResult(
        trades=tuple(trades),
        grid=tuple(grid),
        rejected=tuple(rejected),
        final_quotes={order.id: prices[number] for number, order in enumerate(orders)},
        reference_sell=max((book.reference_sell for book in clearings if book.reference_sell is not None), default=None),
        reference_buy=min((book.reference_buy for book in clearings if book.reference_buy is not None), default=None),
        reprice_rounds=max((book.rounds for book in clearings), default=0),
        buyer_cost_micro=traded + with_grid["buy"],
        seller_income_micro=traded + with_grid["sell"],
        buyer_cost_grid_only_micro=alone["buy"],
        seller_income_grid_only_micro=alone["sell"],
    )
