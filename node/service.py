"""One node process: opens its disk, wires channel, links, API and meter feed, and runs until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

import structlog

from consensus.errors import GridPactError, InputError, InvariantViolation
from contracts.topics import BrokerAddress
from node.block_store import ChannelStore
from node.channel import Channel
from node.clock import Clock, RealClock, ReplayClock, wall_ms
from node.config import MqttConfig, NodeConfig, load_genesis
from node.handshake import TlsFileWatch
from node.http_api import HttpApi
from node.keys import certificate_days_left, load_tls, read_password, read_signer
from node.meter_feed import BrokerSettings, MeterFeed
from node.metrics import ChannelMetrics, NodeMetrics
from node.opening import ChannelDisk, Identity, match_votes
from node.outgoing import PeerAddress
from node.snapshots import SnapshotShelf
from node.transport import PeerLinks
from node.vote_log import VoteLog

log = structlog.get_logger("gridpact.node")
THREADS = 4
GAUGES_S = 1.0
WARN_DAYS = 30


class NodeFailedError(InvariantViolation):
    """The node stopped by itself: its disk is kept as it is for inspection.

    Args:
        causes: what its tasks failed with.
    """

    def __init__(self, causes: Sequence[BaseException]) -> None:
        super().__init__("; ".join(map(_in_words, causes)))
        self.causes = tuple(causes)


async def run_node(config: NodeConfig, stop: asyncio.Event) -> None:
    """Run one node until ``stop`` is set: it votes in the epochs whose validator set names it, and follows in all others.

    Raises:
        InputError: configuration, genesis or keys do not fit together, or an address is taken.
        StoreError: a database cannot be opened.
        NodeFailedError: an invariant broke while it ran.
    """
    genesis = load_genesis(config)
    identity = Identity(config.name, tuple(read_signer(path) for path in config.validator_keys))
    clock: Clock = ReplayClock(config.clock_file) if config.clock_file is not None else RealClock()
    metrics = NodeMetrics()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="worker")
    store = ChannelStore.open(config.blocks_folder(genesis.channel))
    try:
        votes = VoteLog.open(config.votes_folder(genesis.channel))
        shelf = SnapshotShelf(config.snapshots_folder(genesis.channel))
        try:
            match_votes(store, votes)
            disk = ChannelDisk(store, votes, shelf, config.retain_blocks, config.snapshot_every, config.fetch_snapshots)
            channel = Channel(genesis, identity, disk, clock, threads, metrics.channel(genesis.channel))
            _check_keys(config, identity, channel)
            await _serve(config, channel, metrics, stop)
        finally:
            shelf.close()
            threads.shutdown(wait=True)
            votes.close()
    finally:
        store.close()


def _check_keys(config: NodeConfig, identity: Identity, channel: Channel) -> None:
    """Check that a node that is a validator now, or soon, as far as its disk knows, has some key. (Whether the right one: keys change.)

    Raises:
        InputError: it has none.
    """
    if not identity.signers and config.name in channel.members():
        raise InputError(f"{config.path}: validator_key", f"is missing, and {config.name} is a validator of {channel.name}")


async def _serve(config: NodeConfig, channel: Channel, metrics: NodeMetrics, stop: asyncio.Event) -> None:
    """Open the doors, run the channel, close the doors in the opposite order."""
    links = PeerLinks(
        name=config.name,
        listen=(config.listen.host, config.listen.port),
        peers=_peers(config, channel),
        tls=load_tls(config.tls.certificate, config.tls.key, config.tls.authority),
        on_frame=channel.door.on_frame,
    )
    api = HttpApi([channel], metrics, host=config.http.host, port=config.http.port, version=_version())
    _warn_of_expiry(certificate_days_left(config.tls.certificate, wall_ms()))
    feed = _make_feed(config, channel, metrics.channel(channel.name))
    channel.on_new_epoch(lambda: _follow_epochs(config, channel, links, feed))
    files = TlsFileWatch(config.tls.certificate, config.tls.key, config.tls.authority)
    async with contextlib.AsyncExitStack() as doors:
        await links.start()
        doors.push_async_callback(links.stop)
        await api.start()
        doors.push_async_callback(api.stop)
        if feed is not None:
            channel.publisher.send_receipt = feed.publish_receipt
            await feed.start()
            doors.push_async_callback(feed.stop)
            feed.publish_epochs(channel.epoch_changes())
        gc.collect()
        gc.freeze()
        log.info("node started", node=config.name, height=channel.status()["height"], http=api.url)
        await _until_stopped(channel, links, files, feed, metrics, stop)
    log.info("node stopped", node=config.name, height=channel.status()["height"])


def _warn_of_expiry(days: int) -> None:
    if days < 0:
        log.warning("the TLS certificate of this node has expired: the others refuse its links", expired_days_ago=-days)
    elif days < WARN_DAYS:
        log.warning("the TLS certificate of this node expires soon: the others will refuse its links then", days_left=days)


async def _until_stopped(
    channel: Channel, links: PeerLinks, files: TlsFileWatch, feed: MeterFeed | None, metrics: NodeMetrics, stop: asyncio.Event
) -> None:
    work = [
        asyncio.create_task(channel.run(links), name="channel"),
        asyncio.create_task(_watch(links, files, feed, metrics, channel.name), name="gauges"),
    ]
    if feed is not None:
        work.append(asyncio.create_task(feed.wait(), name="feed"))
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([stopped, *work], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopped, *work):
            task.cancel()
        await asyncio.wait([stopped, *work])
    failures = [error for task in work if not task.cancelled() and (error := task.exception()) is not None]
    if failures:
        error = NodeFailedError(_single(failures))
        log.critical("node failed", reasons=str(error), exc_info=failures[0])
        raise error


def _in_words(cause: BaseException) -> str:
    return str(cause) if isinstance(cause, GridPactError) else f"{type(cause).__name__}: {cause}"


def _single(failures: Sequence[BaseException]) -> list[BaseException]:
    """Return the failures with the groups that task groups make of them taken apart."""
    found: list[BaseException] = []
    for failure in failures:
        found += _single(failure.exceptions) if isinstance(failure, BaseExceptionGroup) else [failure]
    return found


async def _watch(links: PeerLinks, files: TlsFileWatch, feed: MeterFeed | None, metrics: NodeMetrics, channel: str) -> None:
    """Copy the state of the connections into the metrics; take a renewed certificate."""
    dropped: dict[str, int] = {}
    refused: dict[str, int] = {}
    while True:
        for link in links.status():
            if not link.guest:
                before = dropped.get(link.name, 0)
                metrics.peer_connected.labels(link.name).set(link.connected)
                metrics.peer_dropped_frames.labels(link.name).inc(link.dropped - before if link.dropped >= before else link.dropped)
                dropped[link.name] = link.dropped
        if feed is not None:
            metrics.mqtt_connected.set(feed.status().connected)
            for code, count in feed.refusals().items():
                metrics.channel(channel).reading_refused(code, count - refused.get(code, 0))
                refused[code] = count
        renewed = files.renewed()
        if renewed is not None:
            links.reload_tls(renewed)
        await asyncio.sleep(GAUGES_S)


def _peers(config: NodeConfig, channel: Channel) -> dict[str, PeerAddress]:
    """Return where the other nodes are: the configuration says so, or else the chain, for validators that it has decided on.

    The nodes of the configuration stay even if they are no validators: whoever slept while all others were replaced knows only validators
    that are gone, and hears of the new ones from nobody else. Validators come first.
    """
    written = {name: PeerAddress(place.host, place.port) for name, place in config.peers.items()}
    members = channel.members().values()
    stated = {member.name: PeerAddress(member.host, member.port) for member in members if member.host}
    places = {**stated, **written}
    peers = {member.name: places[member.name] for member in members if member.name in places} | written
    peers.pop(channel.node, None)
    return peers


def _follow_epochs(config: NodeConfig, channel: Channel, links: PeerLinks, feed: MeterFeed | None) -> None:
    """Link to the validators of the present and of announced epochs; let meters know who signs."""
    peers = _peers(config, channel)
    for name in sorted(set(channel.members()) - set(peers) - {channel.node}):
        log.warning("no address is known for a validator", validator=name)
    links.set_peers(peers)
    if feed is not None:
        feed.publish_epochs(channel.epoch_changes())


def _make_feed(config: NodeConfig, channel: Channel, metrics: ChannelMetrics) -> MeterFeed | None:
    if config.mqtt is None:
        return None

    def count(name: str, amount: int) -> None:
        if name == "received":
            metrics.readings_received.inc(amount)

    return MeterFeed(
        channel=channel.name,
        node=config.name,
        broker=_broker(config.mqtt),
        submit=channel.submit,
        find_proof=channel.transaction_proof,
        on_count=count,
    )


def _broker(mqtt: MqttConfig) -> BrokerSettings:
    password = read_password(mqtt.password_file) if mqtt.password_file is not None else ""
    context = ssl.create_default_context(cafile=str(mqtt.ca_file) if mqtt.ca_file is not None else None) if mqtt.tls else None
    return BrokerSettings(BrokerAddress(mqtt.host, mqtt.port, mqtt.tls), mqtt.username, password, context)


def _version() -> str:
    try:
        return version("gridpact")
    except PackageNotFoundError:
        return "0"
