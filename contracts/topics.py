"""Names of the MQTT topics, and what goes over them besides transactions: pure text and bytes, so that the smallest agent can load it.

One topic per meter and purpose: ``gridpact/<channel>/meters/<meter>/<purpose>``.

| purpose | who publishes | payload |
| --- | --- | --- |
| ``reading`` | the meter | one signed transaction (an encoded envelope) with a ``SubmitReading`` call |
| ``status`` | the meter, or the broker as its last will; retained | ``online`` or ``offline`` |
| ``setpoint`` | the operator | one signed set-point |
| ``receipt`` | the nodes | one encoded :class:`ReceiptNotice` |

Who validates is told to all meters at once: ``gridpact/<channel>/epochs/<node>/<page>``, retained, each node under its own name, so that
none can put anything in the place of what another says. The payload is a list of encoded ``EpochChange`` values
(:mod:`consensus.validators`); the pages of one node, from 0 on, hold all of them by rising epoch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit

from consensus.codec import Decoder, Wire, encode
from consensus.errors import InputError
from consensus.proofs import TransactionProof

ROOT = "gridpact"
ONLINE = b"online"
OFFLINE = b"offline"
MAX_RECEIPT_NOTICE_BYTES = 256 * 1024
MAX_EPOCHS_PAGE_BYTES = 512 * 1024
MQTT_PORT = 1883
MQTTS_PORT = 8883

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LEVELS = 5
_FRAME_BYTES = 5


class Purpose(StrEnum):
    """Last level of a meter's topic."""

    READING = "reading"
    STATUS = "status"
    SETPOINT = "setpoint"
    RECEIPT = "receipt"


class MeterTopic(NamedTuple):
    """A topic of one meter, taken apart."""

    channel: str
    meter: str
    purpose: Purpose


class ReceiptNotice(Wire, frozen=True):
    """What a node tells a meter about one of its readings: the proof that the chain holds it, with the result.

    Fields:
        transaction_id: id of the reading's transaction.
        proof: check it with :class:`consensus.light_client.LightClient` before believing it.
    """

    transaction_id: bytes
    proof: TransactionProof


decode_receipt_notice = Decoder(ReceiptNotice, "receipt notice", MAX_RECEIPT_NOTICE_BYTES)


decode_epochs_page = Decoder(tuple[bytes, ...], "epochs page", MAX_EPOCHS_PAGE_BYTES)


class BrokerAddress(NamedTuple):
    """Where a broker listens, from its URL."""

    host: str
    port: int
    tls: bool


def meter_topic(channel: str, meter: str, purpose: Purpose) -> str:
    """Return one topic of one meter.

    Raises:
        InputError: channel or meter is not a name (so it could reach into other topics).
    """
    return f"{ROOT}/{_name('channel', channel)}/meters/{_name('meter', meter)}/{purpose.value}"


def every_meter(channel: str, purpose: Purpose) -> str:
    """Return the filter that matches one purpose for all meters of a channel.

    Raises:
        InputError: the channel is not a name.
    """
    return f"{ROOT}/{_name('channel', channel)}/meters/+/{purpose.value}"


def epochs_topic(channel: str, node: str, page: int) -> str:
    """Return the topic of one page of what a node proves about epochs.

    Raises:
        InputError: channel or node is not a name.
    """
    return f"{_epochs_of(channel, node)}/{page}"


def epochs_of_node(channel: str, node: str) -> str:
    """Return the filter that matches everything that one node proves about epochs.

    Raises:
        InputError: channel or node is not a name.
    """
    return f"{_epochs_of(channel, node)}/+"


def every_epochs(channel: str) -> str:
    """Return the filter that matches everything that the nodes of a channel prove about epochs.

    Raises:
        InputError: the channel is not a name.
    """
    return f"{ROOT}/{_name('channel', channel)}/epochs/+/+"


def epochs_pages(changes: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the payloads that hold encoded epoch changes; when more are appended, only the last page changes, or pages are added."""
    pages: list[list[bytes]] = []
    size = 0
    for change in changes:
        grown = size + len(change) + _FRAME_BYTES
        if not pages or grown > MAX_EPOCHS_PAGE_BYTES:
            pages.append([])
            grown = 2 * _FRAME_BYTES + len(change)
        pages[-1].append(change)
        size = grown
    return tuple(encode(tuple(page)) for page in pages)


def parse_topic(topic: str) -> MeterTopic:
    """Take a meter's topic apart; exactly what :func:`meter_topic` makes is accepted.

    Raises:
        InputError: it is not such a topic.
    """
    levels = topic.split("/")
    if len(levels) != _LEVELS or levels[0] != ROOT or levels[2] != "meters":
        raise InputError("topic", f"{topic[:200]!r} is not {ROOT}/<channel>/meters/<meter>/<purpose>")
    try:
        purpose = Purpose(levels[4])
    except ValueError as error:
        raise InputError("topic", f"{levels[4][:64]!r} is none of {', '.join(known.value for known in Purpose)}") from error
    return MeterTopic(_name("topic: channel", levels[1]), _name("topic: meter", levels[3]), purpose)


def parse_broker_url(url: str) -> BrokerAddress:
    """Take a broker's URL apart: ``mqtt://HOST[:PORT]`` or ``mqtts://HOST[:PORT]``.

    Raises:
        InputError: another scheme, no host, a bad port, or anything beyond (names and passwords never stand in a URL).
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError("broker", f"{url[:200]!r}: {error}") from error
    if parts.scheme not in ("mqtt", "mqtts") or not host or port == 0:
        raise InputError("broker", f"{url[:200]!r} is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InputError("broker", f"{host}: only host and port belong into the URL")
    tls = parts.scheme == "mqtts"
    return BrokerAddress(host, port or (MQTTS_PORT if tls else MQTT_PORT), tls)


def _epochs_of(channel: str, node: str) -> str:
    return f"{ROOT}/{_name('channel', channel)}/epochs/{_name('node', node)}"


def _name(field: str, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise InputError(field, f"{value[:64]!r} is not a name of letters, digits, '.', '_' and '-' (at most 64)")
    return value
