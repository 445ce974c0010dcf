"""What a node counts and measures, in Prometheus terms, in a registry of its own (nothing global: tests run many nodes in one process).

Channels, transactions and peers are labels. :class:`ChannelMetrics` is one channel's part with the label filled in, so that the
hot path looks nothing up.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from consensus.errors import Suspicion

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class NodeMetrics:
    """All metrics of one process.

    Attributes:
        registry: holds them; hand it to nobody else.
        peer_connected: 1 while the link to a peer stands (label peer).
        peer_dropped_frames: frames dropped because a peer's queue was full (label peer).
        http_requests: answered requests (labels method, route, status).
        http_seconds: time to answer (label route).
        websockets: open event streams.
        mqtt_connected: 1 while the broker is connected.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.peer_connected = Gauge("gridpact_peer_connected", "Whether the link to a peer stands", ("peer",), registry=registry)
        self.peer_dropped_frames = Counter("gridpact_peer_dropped_frames", "Frames dropped, queue full", ("peer",), registry=registry)
        self.http_requests = Counter("gridpact_http_requests", "Answered requests", ("method", "route", "status"), registry=registry)
        self.http_seconds = Histogram("gridpact_http_seconds", "Time to answer", ("route",), registry=registry, buckets=_SECONDS)
        self.websockets = Gauge("gridpact_websockets", "Open event streams", registry=registry)
        self.mqtt_connected = Gauge("gridpact_mqtt_connected", "Whether the broker is connected", registry=registry)
        self._families = _Families(registry)
        self._channels: dict[str, ChannelMetrics] = {}

    def channel(self, name: str) -> ChannelMetrics:
        """Return the metrics of one channel, always the same object for the same name."""
        if name not in self._channels:
            self._channels[name] = ChannelMetrics(name, self._families)
        return self._channels[name]

    def render(self) -> bytes:
        """Return everything in the Prometheus text format (:data:`CONTENT_TYPE`)."""
        return generate_latest(self.registry)


class _Families:
    """The metrics that have a label channel, before the label is filled in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"gridpact_{name}", text, ("channel", *labels), registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"gridpact_{name}", text, ("channel",), registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"gridpact_{name}_seconds", text, ("channel",), registry=registry, buckets=_SECONDS)

        self.blocks = counter("blocks", "Blocks executed")
        self.transactions_executed = counter("transactions_executed", "Transactions executed, whatever their result")
        self.transactions_refused = counter("transactions_refused", "Transactions refused at intake", "code", "source")
        self.readings_received = counter("readings_received", "Readings received over MQTT")
        self.readings_duplicated = counter("readings_duplicated", "Readings received that were known already")
        self.readings_refused = counter("readings_refused", "Readings refused at intake", "code")
        self.view_changes = counter("view_changes", "Views entered after the first")
        self.peer_faults = counter("peer_faults", "Broken protocol rules seen", "suspicion")
        self.evidence = counter("evidence", "Pairs of votes that an honest validator never signs both")
        self.mempool_transactions = gauge("mempool_transactions", "Transactions that wait to be ordered")
        self.mempool_bytes = gauge("mempool_bytes", "Bytes of transactions that wait to be ordered")
        self.height = gauge("height", "Height of the last executed block")
        self.certified_height = gauge("certified_height", "Height of the last certified block")
        self.view = gauge("view", "Current view")
        self.epoch = gauge("epoch", "Number of the present validator set")
        self.voting = gauge("voting", "1 if this node has a seat in the present validator set")
        self.diverged = gauge("diverged", "1 if this node's own result differs from a certified one")
        self.vote_log_write = seconds("vote_log_write", "Synced write of the vote log")
        self.block_execution = seconds("block_execution", "Execution of a block")
        self.block_store = seconds("block_store", "Synced write of a block")


class ChannelMetrics:
    """Metrics of one channel.

    Attributes:
        blocks, transactions_executed, readings_received, readings_duplicated, view_changes, evidence: counters (``inc``).
        mempool_transactions, mempool_bytes, height, certified_height, view, epoch, voting, diverged: gauges (``set``).
        vote_log_write, block_execution, block_store: histograms of seconds (``observe``, or ``with metric.time():``).
    """

    def __init__(self, name: str, families: _Families) -> None:
        self._name = name
        self._families = families
        self.blocks = families.blocks.labels(name)
        self.transactions_executed = families.transactions_executed.labels(name)
        self.readings_received = families.readings_received.labels(name)
        self.readings_duplicated = families.readings_duplicated.labels(name)
        self.view_changes = families.view_changes.labels(name)
        self.evidence = families.evidence.labels(name)
        self.mempool_transactions = families.mempool_transactions.labels(name)
        self.mempool_bytes = families.mempool_bytes.labels(name)
        self.height = families.height.labels(name)
        self.certified_height = families.certified_height.labels(name)
        self.view = families.view.labels(name)
        self.epoch = families.epoch.labels(name)
        self.voting = families.voting.labels(name)
        self.diverged = families.diverged.labels(name)
        self.vote_log_write = families.vote_log_write.labels(name)
        self.block_execution = families.block_execution.labels(name)
        self.block_store = families.block_store.labels(name)

    def transaction_refused(self, code: str, source: str) -> None:
        """Count a transaction refused at intake; ``source`` is http, mqtt or peer."""
        self._families.transactions_refused.labels(self._name, code, source).inc()

    def reading_refused(self, code: str, count: int = 1) -> None:
        """Count readings refused at intake."""
        self._families.readings_refused.labels(self._name, code).inc(count)

    def peer_fault(self, suspicion: Suspicion) -> None:
        """Count a broken protocol rule."""
        self._families.peer_faults.labels(self._name, suspicion.name.lower().replace("_", "-")).inc()
