"""Serves the HTTP API of a node and its dashboard: routes, limits, errors, counts.

Whatever a client sends, the answer is one clear error and the server goes on. An exception that nobody foresaw is logged with its
traceback and answered 500.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import hdrs, web

from consensus.errors import InputError
from node.http.call import ApiContext, Call, Limits
from node.http.chain import load_web_files
from node.http.errors import ApiError, bad_parameter, error_answer, from_http_exception, from_input_error, not_found
from node.http.routes import ROUTES, Route
from node.http.service import ChannelService
from node.metrics import NodeMetrics
from node.openapi import openapi_document

_STOP_TIMEOUT_S = 5.0
_log = structlog.get_logger("gridpact.http")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpApi:
    """The HTTP server of one node.

    Args:
        channels: what it serves; the first is the default channel.
        metrics: of the process.
        host, port: where to listen; port 0 takes a free one.
        version: of GridPact, for the document.
        limits: bounds on requests.
    """

    def __init__(
        self,
        channels: Sequence[ChannelService],
        metrics: NodeMetrics,
        *,
        host: str,
        port: int,
        version: str = "0",
        limits: Limits | None = None,
    ) -> None:
        document = msgspec.json.encode(openapi_document(ROUTES, version))
        by_name = {channel.name: channel for channel in channels}
        self._context = ApiContext(by_name, metrics, limits or Limits(), load_web_files(), document)
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that it listens on, once started."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients reach it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            InputError: the address is taken, or not of this machine.
        """
        runner = web.AppRunner(
            make_app(self._context), access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=_STOP_TIMEOUT_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise InputError("http", f"cannot listen on {self._host} port {self._port}: {error.strerror or error}") from error
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening, end all event streams, let running requests end."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for channel in self._context.channels.values():
            channel.events.close()
        await runner.cleanup()
        await self._context.settle(_STOP_TIMEOUT_S)


def make_app(context: ApiContext) -> web.Application:
    """Return the aiohttp application over ``context``."""
    app = web.Application(middlewares=[_guard(context)])
    app.on_response_prepare.append(_as_error)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _serve(route, context))
    return app


def _serve(route: Route, context: ApiContext) -> _Handler:
    """Return the aiohttp handler of a route: finds the channel, keeps the limits, shows the answer as JSON."""

    async def handle(request: web.Request) -> web.StreamResponse:
        for name in request.query:
            if name not in route.known:
                raise bad_parameter(name[:64], "is no parameter of this path")
        call = Call(request, _channel(context, request), context)
        if route.waits or route.streams:
            answer = await route.handler(call)
        else:
            answer = await _bounded(route, call)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    return handle


async def _bounded(route: Route, call: Call) -> object:
    """Answer within the limits of time and number; routes that wait or stream keep limits of their own."""
    context = call.api
    if context.requests >= context.limits.max_requests:
        raise ApiError(503, "BUSY", f"{context.requests} requests are being answered already")
    context.requests += 1
    try:
        async with asyncio.timeout(context.limits.request_timeout_s):
            return await route.handler(call)
    finally:
        context.requests -= 1


def _channel(context: ApiContext, request: web.Request) -> ChannelService:
    names = request.query.getall("channel", [])
    if not names:
        return next(iter(context.channels.values()))
    if names[0] not in context.channels:
        raise not_found(f"channel {names[0][:64]!r}")
    return context.channels[names[0]]


async def _as_error(_request: web.Request, answer: web.StreamResponse) -> None:
    """Make an answer of the library's own an error as all are: an ``Expect`` that it does not know is refused before any middleware."""
    if isinstance(answer, web.HTTPExpectationFailed):
        error = from_http_exception(answer)
        body = (error.text or "").encode()
        answer.body, answer.content_type = body, error.content_type
        answer.headers[hdrs.CONTENT_LENGTH] = str(len(body))


def _guard(context: ApiContext) -> Any:  # noqa: ANN401 (aiohttp's middleware type is internal)
    """Return the middleware that turns every failure into an answer and counts every answer."""

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        started = time.perf_counter()
        answer = await _answered(request, handler)
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else "other"
        method = request.method if request.method in ("GET", "HEAD", "POST") else "other"
        context.metrics.http_requests.labels(method, path, str(answer.status)).inc()
        if not answer.prepared:
            context.metrics.http_seconds.labels(path).observe(time.perf_counter() - started)
            answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    return guard


async def _answered(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error_answer(error)
    except InputError as error:
        return from_input_error(error)
    except web.HTTPException as error:
        return from_http_exception(error)
    except TimeoutError:
        return error_answer(ApiError(503, "TIMEOUT", "the request took too long"))
    except (web.RequestPayloadError, web.PayloadAccessError):
        return error_answer(ApiError(400, "BAD_REQUEST", "body: is cut short or not coded as the headers say"))
    except Exception as error:  # noqa: BLE001 (the last line: logged with its traceback, answered, and the server goes on)
        _log.error("request failed", method=request.method, path=request.path, error=str(error), exc_info=True)
        return error_answer(ApiError(500, "INTERNAL", "the node has a fault; it is in its log"))
