"""Errors as the API answers them: always ``{"error": CODE, "detail": TEXT}`` with a fitting status."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from consensus.errors import InputError
from node.http.views import PASSING

RETRY_AFTER_S = 1
_CONFLICTS = frozenset(
    {"NONCE_SPENT", "NONCE_IN_USE", "DUPLICATE", "DUPLICATE_READING", "ALREADY_CANCELLED", "GATE_CLOSED", "NOT_OPEN", "EXPIRED"}
)
_MALFORMED = frozenset({"MALFORMED", "BAD_TRANSACTION", "BAD_CALL", "BAD_SIGNATURE", "WRONG_CHAIN", "WRONG_CHANNEL"})
_CODES_BY_STATUS = {
    400: "BAD_REQUEST",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "TIMEOUT",
    413: "TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    417: "EXPECTATION_FAILED",
    426: "UPGRADE_REQUIRED",
}


class ErrorView(msgspec.Struct, frozen=True):
    """Every answer that is not a success. ``id`` names the transaction that was refused, if the bytes were one."""

    error: str
    detail: str
    id: str = ""
    reasons: tuple[str, ...] = ()


class PrunedView(ErrorView, frozen=True, kw_only=True):
    """The answer for a block that is no longer stored here; those from ``first_height`` on are."""

    first_height: int


class ApiError(Exception):
    """A request that cannot be served.

    Args:
        status: HTTP status.
        code: short code in capitals.
        detail: what is wrong, naming the part.
        transaction_id: which transaction was refused (hex).
        reasons: several causes, where there can be several.
    """

    def __init__(self, status: int, code: str, detail: str, *, transaction_id: str = "", reasons: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.view = ErrorView(code, detail, transaction_id, reasons)


class PrunedError(ApiError):
    """A block that the node has deleted, or never had since it began with a snapshot.

    Args:
        height: of the block.
        first_height: of the first block that is stored.
    """

    def __init__(self, height: int, first_height: int) -> None:
        detail = f"block {height} is no longer stored here, only those from {first_height} on are; another node may have it"
        super().__init__(404, "PRUNED", detail)
        self.view = PrunedView("PRUNED", detail, first_height=first_height)


def bad_parameter(name: str, reason: str) -> ApiError:
    """Return the error for a path or query parameter that does not fit."""
    return ApiError(400, "BAD_PARAMETER", f"{name}: {reason}")


def not_found(what: str) -> ApiError:
    """Return the error for something that is not there."""
    return ApiError(404, "NOT_FOUND", what)


def refusal_status(code: str, transaction_id: str) -> int:
    """Return the HTTP status of a refused transaction.

    Args:
        code: code of the refusal.
        transaction_id: its id in hex; empty if the bytes were no transaction.
    """
    if code in PASSING:
        return 503
    if code == "TOO_LARGE":
        return 413
    if not transaction_id or code in _MALFORMED:
        return 400
    return 409 if code in _CONFLICTS else 422


def error_answer(error: ApiError, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the answer for an error; those that pass by themselves say when to try again."""
    answer = web.Response(body=msgspec.json.encode(error.view), status=error.status, content_type="application/json", headers=headers)
    if error.status == 503:
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer


def from_http_exception(error: web.HTTPException) -> web.Response:
    """Return the answer for an error that the server itself found (no such path, wrong method, ...)."""
    code = _CODES_BY_STATUS.get(error.status, "HTTP_ERROR")
    kept = {name: value for name, value in error.headers.items() if name in ("Allow", "Upgrade")}
    return error_answer(ApiError(error.status, code, error.text or error.reason), kept)


def from_input_error(error: InputError) -> web.Response:
    """Return the answer for bad input found by a parser."""
    return error_answer(ApiError(400, "MALFORMED", str(error)))
