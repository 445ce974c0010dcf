"""The event stream: a WebSocket that tells what happens, as it happens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import get_args

import msgspec
from aiohttp import ClientError, WSCloseCode, hdrs, web

from contracts.events import AnyEvent
from node.event_hub import OVERFLOW, Subscription
from node.http.call import Call
from node.http.errors import ApiError, bad_parameter

_HEARTBEAT_S = 20.0
NODE_KINDS = ("block",)
CONTRACT_KINDS = tuple(str(event.__struct_config__.tag) for event in get_args(AnyEvent))
KINDS = NODE_KINDS + CONTRACT_KINDS


async def get_events(call: Call) -> object:
    """Stream events as JSON texts until the client leaves, or falls behind (a last "overflow" event, close code 1013)."""
    kinds = _kinds(call)
    socket = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, max_msg_size=1024, compress=False)
    if not _is_upgrade(call.request, socket):
        raise ApiError(426, "UPGRADE_REQUIRED", "this path is a WebSocket; connect to it with ws://")
    if call.api.websockets >= call.api.limits.max_websockets:
        raise ApiError(503, "TOO_MANY_WEBSOCKETS", f"{call.api.websockets} event streams are open already")
    call.api.websockets += 1
    try:
        with call.channel.events.subscribe(kinds, call.api.limits.event_queue) as subscription:
            await socket.prepare(call.request)
            await _serve(call, socket, subscription)
    finally:
        call.api.websockets -= 1
    return socket


def _is_upgrade(request: web.Request, socket: web.WebSocketResponse) -> bool:
    """Tell whether a request asks for a WebSocket as it must. (The library does not bear a key that is not ASCII.)"""
    return request.headers.get(hdrs.SEC_WEBSOCKET_KEY, "").isascii() and socket.can_prepare(request).ok


def _kinds(call: Call) -> frozenset[str] | None:
    asked = call.request.query.get("kinds")
    if asked is None:
        return None
    kinds = frozenset(asked.split(","))
    unknown = sorted(kinds.difference(KINDS))
    if unknown:
        raise bad_parameter("kinds", f"{unknown[0][:64]!r} is none of {', '.join(KINDS)}")
    return kinds


async def _serve(call: Call, socket: web.WebSocketResponse, subscription: Subscription) -> None:
    head = call.channel.store.head()
    hello = {"event": "hello", "channel": call.channel.name, "height": head.height if head else 0}
    listener = asyncio.ensure_future(_listen(socket, subscription))
    try:
        await _send(call, socket, hello)
        code = WSCloseCode.GOING_AWAY
        async for message in subscription:
            await _send(call, socket, message)
            if message["event"] == OVERFLOW:
                code = WSCloseCode.TRY_AGAIN_LATER
        if not socket.closed:
            await socket.close(code=code)
    except (ConnectionError, TimeoutError, ClientError):
        # The client is gone or does not read: nothing is left to tell it.
        if call.request.transport is not None:
            call.request.transport.abort()
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError, ConnectionError, ClientError):  # it may have found the client gone, too
            await listener


async def _send(call: Call, socket: web.WebSocketResponse, message: object) -> None:
    async with asyncio.timeout(call.api.limits.send_timeout_s):
        await socket.send_str(msgspec.json.encode(message).decode())


async def _listen(socket: web.WebSocketResponse, subscription: Subscription) -> None:
    """Read what the client sends (nothing matters but that it closes) and end the subscription when it is gone."""
    try:
        async for _ in socket:
            pass
    finally:
        subscription.close()
