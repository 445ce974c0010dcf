"""The chain and the node over HTTP: status, health, genesis, blocks, metrics, files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from consensus.block import Header
from consensus.quorum import quorums
from node.http.call import Call
from node.http.errors import ApiError, PrunedError, not_found
from node.http.service import ChannelService
from node.http.views import (
    BlockSummary,
    BlocksView,
    BlockView,
    HealthView,
    certificate_view,
    header_view,
    receipt_view,
)
from node.metrics import CONTENT_TYPE, NodeMetrics

WEB_FILES = {"index.html": "text/html", "dashboard.css": "text/css", "dashboard.js": "text/javascript"}
_POLICY = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'"


def load_web_files() -> dict[str, tuple[str, bytes]]:
    """Read the dashboard's files, which lie beside this package."""
    folder = Path(__file__).parent.parent / "web"
    return {name: (media_type, (folder / name).read_bytes()) for name, media_type in WEB_FILES.items()}


async def get_status(call: Call) -> object:
    """Return how the channel does."""
    return {"clock_ms": call.channel.clock.now_ms(), **call.channel.status(), "websockets": call.api.websockets}


async def get_health(call: Call) -> object:
    """Tell whether every channel of the node can make progress."""
    reasons = [reason for channel in call.api.channels.values() for reason in unfit_reasons(channel)]
    if reasons:
        raise ApiError(503, "UNHEALTHY", "; ".join(reasons), reasons=tuple(reasons))
    return HealthView("ok", _height(call.channel))


def unfit_reasons(channel: ChannelService) -> list[str]:
    """Return why a channel cannot make progress; nothing if it can."""
    status = channel.status()
    reasons = []
    connected, needed, purpose = _connected(status)
    if connected < needed:
        reasons.append(f"channel {channel.name}: {connected} other nodes connected, {needed} needed {purpose}")
    if status.get("diverged"):
        reasons.append(f"channel {channel.name}: this node's own result differs from a certified one")
    return reasons


def _connected(status: Mapping[str, object]) -> tuple[int, int, str]:
    """Return how many other validators are connected, how many are needed, and for what: a node without a vote has to hear from one."""
    peers, members = status.get("peers"), status.get("members")
    if not isinstance(peers, list | tuple) or not isinstance(members, list | tuple):
        return 0, 0, ""
    connected = sum(1 for peer in peers if peer["connected"] and peer["name"] in members)
    if status.get("voting"):
        return connected, quorums(len(members)).quorum - 1, "for a quorum"
    return connected, 1, "to follow the chain"


async def get_genesis(call: Call) -> object:
    """Return what the participants agreed on before the first block."""
    return call.channel.genesis


async def get_block(call: Call) -> object:
    """Return one block; height "latest" is the last executed one."""
    height = _height(call.channel) if call.request.match_info["height"] == "latest" else call.number("height")
    return await asyncio.to_thread(_block, call.channel, height, call.flag("receipts", True))


def _block(channel: ChannelService, height: int, with_receipts: bool) -> BlockView:
    """Read and show one block; it may be large, so call it in a thread."""
    header = channel.store.header(height)
    if header is None:
        raise PrunedError(height, first) if 0 < height < (first := channel.store.first_height) else not_found(f"block {height}")
    receipts = channel.store.receipts(height) if with_receipts else None
    ids = channel.store.transaction_ids(height)
    certificate = channel.store.certificate(height)
    if 0 < height < channel.store.first_height:
        raise PrunedError(height, channel.store.first_height)
    return BlockView(
        header=header_view(header),
        proposer_name=channel.epochs.proposer(height, header.proposer),
        certified=certificate is not None or height == 0,
        certificate=certificate_view(certificate, channel.epochs.at(height).names) if certificate else None,
        transactions=tuple(transaction_id.hex() for transaction_id in ids or ()),
        receipts=tuple(receipt_view(receipt) for receipt in receipts or ()),
    )


async def list_blocks(call: Call) -> object:
    """Return blocks, newest first, down to the first one that is stored."""
    limit, store = call.page(call.api.limits.max_page), call.channel.store
    first = store.first_height
    lowest = first if first > 1 else 0
    top = min(call.query("before", 2**53), _height(call.channel) + 1)
    heights = range(top - 1, max(top - 1 - limit, lowest - 1), -1)
    headers = [header for height in heights if (header := store.header(height)) is not None]
    last = headers[-1].height if headers else lowest
    return BlocksView(tuple(_summary(call.channel, header) for header in headers), last if last > lowest else 0, first)


def _summary(channel: ChannelService, header: Header) -> BlockSummary:
    return BlockSummary(
        height=header.height,
        hash=header.hash.hex(),
        time_ms=header.time_ms,
        view=header.view,
        proposer=header.proposer,
        proposer_name=channel.epochs.proposer(header.height, header.proposer),
        transaction_count=header.transaction_count,
        certified=header.height == 0 or channel.store.certificate(header.height) is not None,
    )


async def get_metrics(call: Call) -> object:
    """Return all metrics; gauges are brought up to date first."""
    for channel in call.api.channels.values():
        refresh_gauges(call.api.metrics, channel)
    call.api.metrics.websockets.set(call.api.websockets)
    return web.Response(body=call.api.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def refresh_gauges(metrics: NodeMetrics, channel: ChannelService) -> None:
    """Set a channel's gauges from its status."""
    status, gauges = channel.status(), metrics.channel(channel.name)
    shown = (
        (gauges.height, "height"),
        (gauges.certified_height, "certified"),
        (gauges.view, "view"),
        (gauges.diverged, "diverged"),
    )
    for gauge, key in shown:
        value = status.get(key)
        if isinstance(value, int):
            gauge.set(value)
    mempool = status.get("mempool")
    if isinstance(mempool, dict):
        gauges.mempool_transactions.set(mempool["transactions"])
        gauges.mempool_bytes.set(mempool["bytes"])


async def get_document(call: Call) -> object:
    """Return the description of this API (OpenAPI 3.1)."""
    return web.Response(body=call.api.document, content_type="application/json")


async def get_dashboard(call: Call) -> object:
    """Return the page that shows what happens."""
    return _file(call, "index.html")


async def get_file(call: Call) -> object:
    """Return one file of the dashboard."""
    return _file(call, call.request.match_info["file"])


def _file(call: Call, name: str) -> web.Response:
    if name not in call.api.files:
        raise not_found(f"file {name[:64]!r}")
    media_type, content = call.api.files[name]
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}
    return web.Response(body=content, content_type=media_type, charset="utf-8", headers=headers)


def _height(channel: ChannelService) -> int:
    head = channel.store.head()
    return head.height if head else 0
