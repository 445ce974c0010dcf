"""Transactions over HTTP: hand one in, hand in many, ask what became of one."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from consensus.application import OK
from consensus.codec import Decoder, encode
from consensus.transaction import MAX_TRANSACTION_BYTES, Envelope
from node.http.call import Call
from node.http.errors import ApiError, bad_parameter, refusal_status
from node.http.service import Submitted
from node.http.views import SubmissionView, TransactionView, proof_view, receipt_view, to_json

_T = TypeVar("_T")
MSGPACK_TYPES = ("application/msgpack", "application/vnd.msgpack", "application/x-msgpack", "application/octet-stream")
MAX_JSON_BYTES = 3 * MAX_TRANSACTION_BYTES
_RECHECK_S = 0.1
_Hex = Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{2})*$(?!\n)")]
_decode_many = Decoder(tuple[bytes, ...], "body", 64 * 1024 * 1024)


class JsonEnvelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed transaction for those who have no MessagePack at hand: bytes in hex. The signature covers the bytes of ``body``."""

    scheme: int
    public_key: _Hex
    body: _Hex
    signature: _Hex


_decode_json = msgspec.json.Decoder(JsonEnvelope)
_decode_json_many = msgspec.json.Decoder(list[JsonEnvelope])


async def post_transaction(call: Call) -> object:
    """Take in one signed transaction."""
    is_json = _is_json(call.request)
    body = await call.body(MAX_JSON_BYTES if is_json else MAX_TRANSACTION_BYTES)
    raw = _envelope(_from_json(_decode_json, body)) if is_json else body
    (answer,) = await _submit(call, [raw])
    if answer.code != OK:
        raise ApiError(refusal_status(answer.code, answer.id), answer.code, answer.detail, transaction_id=answer.id)
    return web.Response(body=to_json(SubmissionView(answer.id, answer.code)), status=202, content_type="application/json")


async def post_batch(call: Call) -> object:
    """Take in many signed transactions; each is judged by itself, so the status is 200 and every answer has its own code."""
    limits = call.api.limits
    is_json = _is_json(call.request)
    body = await call.body(limits.max_batch_bytes)
    raws = [_envelope(one) for one in _from_json(_decode_json_many, body)] if is_json else list(_decode_many(body))
    if len(raws) > limits.max_batch_transactions:
        raise ApiError(413, "TOO_LARGE", f"body: {len(raws)} transactions, more than {limits.max_batch_transactions}")
    if not raws:
        return []
    return [SubmissionView(answer.id, answer.code, answer.detail) for answer in await _submit(call, raws)]


async def get_transaction(call: Call) -> object:
    """Return where a transaction stands; with ``wait``, as soon as it is executed and certified or the time is over."""
    transaction_id = call.digest("id")
    wait_s = call.seconds("wait", call.api.limits.max_wait_s)
    found = find_transaction(call, transaction_id)
    if found.certified or not wait_s:
        return found
    if call.api.waiting >= call.api.limits.max_waiting:
        raise ApiError(503, "TOO_MANY_WAITING", "wait: too many requests wait already")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    call.api.waiting += 1
    try:
        while not found.certified and (left_s := deadline - loop.time()) > 0:
            await call.channel.events.wait_for("block", min(left_s, _RECHECK_S))
            found = find_transaction(call, transaction_id)
    finally:
        call.api.waiting -= 1
    return found


def find_transaction(call: Call, transaction_id: bytes) -> TransactionView:
    """Return what this node knows of a transaction."""
    channel, shown = call.channel, transaction_id.hex()
    place = channel.store.locate(transaction_id)
    if place is None:
        return TransactionView(shown, "pending" if channel.find(transaction_id) else "unknown")
    height, position = place
    header = channel.store.header(height)
    time_ms = header.time_ms if header else None
    proof = channel.transaction_proof(transaction_id)
    if proof is None:
        return TransactionView(shown, "executed", False, height, position, time_ms)
    receipt = receipt_view(proof.receipt)
    return TransactionView(shown, "executed", True, height, position, time_ms, receipt, proof_view(proof, channel.epochs.at(height).names))


async def _submit(call: Call, raws: list[bytes]) -> list[Submitted]:
    answers = list(await call.api.finish(call.channel.submit(raws, "http")))
    if len(answers) != len(raws):
        raise RuntimeError(f"{len(answers)} answers for {len(raws)} transactions")
    return answers


def _is_json(request: web.Request) -> bool:
    if request.content_type == "application/json":
        return True
    if request.content_type in MSGPACK_TYPES:
        return False
    wanted = "application/msgpack, application/octet-stream or application/json"
    raise ApiError(415, "UNSUPPORTED_MEDIA_TYPE", f"Content-Type: {request.content_type[:64]!r} is not {wanted}")


def _from_json(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "MALFORMED", f"body: {error}") from error


def _envelope(envelope: JsonEnvelope) -> bytes:
    public_key, body, signature = (bytes.fromhex(text) for text in (envelope.public_key, envelope.body, envelope.signature))
    try:
        return encode(Envelope(envelope.scheme, public_key, body, signature))
    except OverflowError:
        raise bad_parameter("body: scheme", "is no number of a scheme") from None
