"""A meter's persistent MQTT session: connects, and connects again, as long as it takes.

``aiomqtt`` has no reconnect of its own. Each attempt makes a new client with the same identifier and ``clean_session`` off, so that the
broker keeps the session and queues what arrives in between.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiomqtt

from consensus.errors import InputError
from contracts.topics import BrokerAddress

KEEPALIVE_S = 20
TIMEOUT_S = 10.0
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 15.0
CANCEL_AGAIN_S = 0.2
STABLE_S = 5.0
"""A session that lasted so long was a good one: the next pause is short again."""
NO_DELAY = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
"""Without it a connection that publishes and receives waits for delayed TCP acknowledgements: 22 messages a second instead of 646."""


@dataclass(frozen=True, slots=True)
class BrokerLogin:
    """How to reach a broker.

    Attributes:
        address: host, port and whether to use TLS.
        username, password: credentials; empty user name for none (a client certificate may say it).
        tls: context for TLS; None if the address is without.
    """

    address: BrokerAddress
    username: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None = None


def tls_context(ca_file: Path | None = None, certificate_file: Path | None = None, key_file: Path | None = None) -> ssl.SSLContext:
    """Return a TLS context that checks the broker's certificate and shows the meter's own, if it has one.

    Raises:
        InputError: a file cannot be read or used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate_file is not None:
            context.load_cert_chain(certificate_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError("broker: TLS files", str(error)) from error
    return context


async def hold_session(
    login: BrokerLogin,
    identifier: str,
    will: aiomqtt.Will,
    session: Callable[[aiomqtt.Client], Awaitable[None]],
    *,
    stop: asyncio.Event,
    logger: logging.Logger,
) -> None:
    """Run ``session`` on a connected client, again after every loss of the connection, until ``stop`` is set.

    Args:
        identifier: fixed client identifier: it names the session at the broker.
        session: returns when ``stop`` is set; raises ``MqttError`` when the connection is lost.
    """
    backoff_s = FIRST_BACKOFF_S
    while not stop.is_set():
        started_s = time.monotonic()
        client = make_client(login, identifier, will)
        try:
            async with client:
                await session(client)
        except (aiomqtt.MqttError, OSError) as error:
            logger.warning("%s: broker %s:%d: %s", identifier, login.address.host, login.address.port, error)
        finally:
            abandon(client)
        lasted = time.monotonic() - started_s > STABLE_S
        backoff_s = FIRST_BACKOFF_S if lasted else min(backoff_s * 2, MAX_BACKOFF_S)
        await sleep_unless(stop, backoff_s * random.SystemRandom().uniform(0.5, 1.0))


def make_client(login: BrokerLogin, identifier: str, will: aiomqtt.Will) -> aiomqtt.Client:
    """Return a client for one connection."""
    client = aiomqtt.Client(
        login.address.host,
        login.address.port,
        username=login.username or None,
        password=login.password or None,
        identifier=identifier,
        clean_session=False,
        will=will,
        keepalive=KEEPALIVE_S,
        timeout=TIMEOUT_S,
        tls_context=login.tls if login.address.tls else None,
        socket_options=NO_DELAY,
    )
    client.pending_calls_threshold = 1000
    return client


def abandon(client: aiomqtt.Client) -> None:
    """Close what is left of a connection; a connection attempt that timed out would otherwise keep its socket."""
    inner = client._client  # aiomqtt has no way of its own to close after a failed connect
    if inner.socket() is not None:
        inner.disconnect()


async def sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    """Wait for ``seconds``, or until ``stop`` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def end(tasks: Sequence[asyncio.Future[object]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: ``asyncio.wait_for``, which aiomqtt uses, drops a cancellation that comes together with the result (until
    Python 3.12).
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
