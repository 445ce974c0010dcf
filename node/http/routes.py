"""The one table of all paths: the server serves from it, the OpenAPI document is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contracts.genesis import Genesis
from contracts.views import BillsView, CreditView, LedgerTotals, MarketView, MeterView
from node.http import chain, events, ledger, transactions, validators, views
from node.http.call import Handler

_DIGITS = {"type": "integer", "minimum": 0}
_SWITCH = {"type": "integer", "enum": [0, 1]}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
_HEX32 = {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the path or the query."""

    name: str
    text: str
    schema: dict[str, Any]
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Route:
    """One path with its handler and what the document says about it.

    Attributes:
        answer: type of the JSON answer; None where it is no JSON (``media_type`` says what).
        status: of a success.
        body: type of a JSON body, where one is taken.
        errors: statuses of the route's own errors, beside those that all have.
        waits: whether ``wait`` may hold the answer back.
        streams: whether the request stays open (no time limit).
    """

    method: str
    path: str
    handler: Handler
    answer: Any
    parameters: tuple[Parameter, ...] = ()
    status: int = 200
    body: Any = None
    errors: tuple[int, ...] = ()
    media_type: str = "application/json"
    waits: bool = False
    streams: bool = False

    @property
    def known(self) -> frozenset[str]:
        """Names of the query parameters."""
        return frozenset(parameter.name for parameter in self.parameters if parameter.place == "query")


def _path(name: str, text: str, schema: dict[str, Any]) -> Parameter:
    return Parameter(name, text, schema, "path")


CHANNEL = Parameter("channel", "channel of the node; its first one if left out", _NAME)
_LIMIT = Parameter("limit", "entries of a page, at most (and by default) as many as the server gives", {"type": "integer", "minimum": 1})
_OFFSET = Parameter("offset", "entries to skip", _DIGITS)
_AFTER = Parameter("after", "start after this name", _NAME)
_AFTER_EPOCH = Parameter("after", "start after this epoch", _DIGITS)
_BEFORE = Parameter("before", "start before this one", _DIGITS)
_ACCOUNT = _path("account", "name of the account", _NAME)
_VALIDATOR = _path("validator", "name of the validator", _NAME)
_METER = _path("meter", "name of the meter", _NAME)
_PERIOD = _path("period", "index of the delivery period: its start divided by its length", _DIGITS)
_ANY_PERIOD = _path(
    "period", 'index of the delivery period, "current" or "trading"', {"type": "string", "pattern": "^([0-9]+|current|trading)$"}
)
_HEIGHT = _path("height", 'height of the block, or "latest"', {"type": "string", "pattern": "^([0-9]+|latest)$"})
_ID = _path("id", "id of the transaction: SHA-256 of its body, in hex", _HEX32)
_CONTRACT = _path("id", "id of the contract, in hex", _HEX32)
_FILE = _path("file", "name of the file", {"type": "string"})
_PROOF = Parameter("proof", "1: with the proof of the entry", _SWITCH)
_RECEIPTS = Parameter("receipts", "0: without the receipts", _SWITCH)
_WAIT = Parameter("wait", "seconds to wait until it is executed and certified", {"type": "number", "minimum": 0, "maximum": 30})
_KINDS = Parameter("kinds", "kinds of events, with commas between; all if left out", {"type": "string"})

_PAGE = (_LIMIT, _OFFSET, CHANNEL)

ROUTES = (
    Route(
        "POST",
        "/v1/transactions",
        transactions.post_transaction,
        views.SubmissionView,
        (CHANNEL,),
        202,
        transactions.JsonEnvelope,
        (409, 413, 415, 422),
    ),
    Route(
        "POST",
        "/v1/transactions/batch",
        transactions.post_batch,
        list[views.SubmissionView],
        (CHANNEL,),
        200,
        list[transactions.JsonEnvelope],
        (413, 415),
    ),
    Route("GET", "/v1/transactions/{id}", transactions.get_transaction, views.TransactionView, (_ID, _WAIT, CHANNEL), waits=True),
    Route("GET", "/v1/status", chain.get_status, views.StatusView, (CHANNEL,)),
    Route("GET", "/v1/genesis", chain.get_genesis, Genesis, (CHANNEL,)),
    Route("GET", "/v1/blocks", chain.list_blocks, views.BlocksView, (_BEFORE, _LIMIT, CHANNEL)),
    Route("GET", "/v1/blocks/{height}", chain.get_block, views.BlockView, (_HEIGHT, _RECEIPTS, CHANNEL)),
    Route("GET", "/v1/accounts", ledger.list_accounts, views.AccountsView, (_AFTER, _LIMIT, CHANNEL)),
    Route("GET", "/v1/accounts/{account}", ledger.get_account, views.ProvenAccountView, (_ACCOUNT, _PROOF, CHANNEL)),
    Route("GET", "/v1/markets/{period}", ledger.get_market, MarketView, (_ANY_PERIOD, *_PAGE)),
    Route("GET", "/v1/markets/{period}/bills", ledger.get_period_bills, views.PeriodBillsView, (_PERIOD, *_PAGE)),
    Route("GET", "/v1/meters", ledger.list_meters, views.MetersView, (_AFTER, _LIMIT, CHANNEL)),
    Route("GET", "/v1/meters/{meter}", ledger.get_meter, MeterView, (_METER, CHANNEL)),
    Route("GET", "/v1/bills/{account}", ledger.get_bills, BillsView, (_ACCOUNT, _BEFORE, _LIMIT, CHANNEL)),
    Route("GET", "/v1/credit/{account}", ledger.get_credit, CreditView, (_ACCOUNT, CHANNEL)),
    Route("GET", "/v1/totals", ledger.get_totals, LedgerTotals, (CHANNEL,)),
    Route("GET", "/v1/contracts/{id}", ledger.get_contract, None, (_CONTRACT, CHANNEL)),
    Route("GET", "/v1/schedules/{period}", ledger.get_schedule, None, (_PERIOD, CHANNEL)),
    Route("GET", "/v1/epochs", validators.get_epochs, views.EpochsView, (_AFTER_EPOCH, _LIMIT, CHANNEL)),
    Route("GET", "/v1/validators", validators.get_validators, views.ValidatorSetsView, (_AFTER, _LIMIT, CHANNEL)),
    Route("GET", "/v1/validators/{validator}", validators.get_validator, views.ValidatorDetailView, (_VALIDATOR, *_PAGE)),
    Route("GET", "/v1/evidence", validators.get_evidence, views.EvidenceView, _PAGE),
    Route("GET", "/v1/events", events.get_events, views.EventView, (_KINDS, CHANNEL), 101, errors=(426,), streams=True),
    Route("GET", "/healthz", chain.get_health, views.HealthView),
    Route("GET", "/metrics", chain.get_metrics, None, media_type="text/plain"),
    Route("GET", "/openapi.json", chain.get_document, None, media_type="application/json"),
    Route("GET", "/", chain.get_dashboard, None, media_type="text/html"),
    Route("GET", "/web/{file}", chain.get_file, None, (_FILE,), errors=(404,), media_type="text/css"),
)
