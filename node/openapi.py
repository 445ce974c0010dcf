"""The OpenAPI 3.1 document of the HTTP API, made from the route table and the types of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from node.http.errors import ErrorView
from node.http.routes import CHANNEL, Parameter, Route
from node.http.transactions import MSGPACK_TYPES

_SCHEMAS = "#/components/schemas/{name}"
_REASONS = {
    400: "The request is malformed, or names something impossible",
    404: "There is no such thing, or (PRUNED) this node no longer stores it",
    409: "The transaction came too late or was used already",
    413: "The body is too large",
    415: "The body is of an unknown media type",
    422: "A contract refuses the transaction",
    426: "This path is a WebSocket",
    500: "The node has a fault; it is in its log",
    503: "Not now: try again after the time in Retry-After",
}


def openapi_document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the document.

    Args:
        routes: all paths.
        version: of GridPact.
    """
    types = [kind for route in routes for kind in (route.answer, route.body) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, ErrorView], ref_template=_SCHEMAS)
    by_type = dict(zip(map(repr, [*types, ErrorView]), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GridPact node",
            "version": version,
            "description": "Energy in Wh, money in 1e-6 of the currency, prices in 1e-6 per kWh, times in Unix milliseconds, bytes in hex.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, by_type: dict[str, Any]) -> dict[str, Any]:
    text = (route.handler.__doc__ or "").strip()
    responses: dict[str, Any] = {str(route.status): _success(route, by_type)}
    always = (400, 404, 500, 503) if CHANNEL in route.parameters else (400, 500, 503)
    for status in sorted({*route.errors, *always}):
        responses[str(status)] = {"description": _REASONS[status], "content": {"application/json": {"schema": by_type[repr(ErrorView)]}}}
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": text,
        "parameters": [_parameter(parameter) for parameter in route.parameters],
        "responses": responses,
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _body(route, by_type)}
    return operation


def _success(route: Route, by_type: dict[str, Any]) -> dict[str, Any]:
    if route.streams:
        return {"description": "A WebSocket of JSON texts, each an EventView with the fields of its kind"}
    schema = by_type[repr(route.answer)] if route.answer is not None else {}
    return {"description": "Success", "content": {route.media_type: {"schema": schema}}}


def _body(route: Route, by_type: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": by_type[repr(route.body)]}}
    content.update({media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MSGPACK_TYPES})
    return content


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.text,
        "schema": parameter.schema,
    }
