from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from consensus.errors import Suspicion
from node.metrics import NodeMetrics


def samples(metrics: NodeMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_every_metric_is_rendered_with_its_labels() -> None:
    metrics = NodeMetrics()
    channel = metrics.channel("main")
    channel.blocks.inc()
    channel.transactions_executed.inc(5)
    channel.transaction_refused("BAD_SIGNATURE", "mqtt")
    channel.reading_refused("BAD_SIGNATURE")
    channel.peer_fault(Suspicion.BAD_BLOCK)
    channel.height.set(12)
    channel.vote_log_write.observe(0.002)
    with channel.block_execution.time():
        pass
    metrics.peer_connected.labels("dc2").set(1)
    metrics.http_requests.labels("GET", "/v1/status", "200").inc()
    seen = samples(metrics)
    main = (("channel", "main"),)
    assert seen["gridpact_blocks_total", main] == 1
    assert seen["gridpact_transactions_executed_total", main] == 5
    assert seen["gridpact_transactions_refused_total", (("channel", "main"), ("code", "BAD_SIGNATURE"), ("source", "mqtt"))] == 1
    assert seen["gridpact_readings_refused_total", (("channel", "main"), ("code", "BAD_SIGNATURE"))] == 1
    assert seen["gridpact_peer_faults_total", (("channel", "main"), ("suspicion", "bad-block"))] == 1
    assert seen["gridpact_height", main] == 12
    assert seen["gridpact_vote_log_write_seconds_count", main] == 1
    assert seen["gridpact_block_execution_seconds_count", main] == 1
    assert seen["gridpact_diverged", main] == 0
    assert seen["gridpact_peer_connected", (("peer", "dc2"),)] == 1


def test_channels_share_a_registry_and_processes_do_not() -> None:
    first, second = NodeMetrics(), NodeMetrics()
    first.channel("main").blocks.inc()
    first.channel("trade").blocks.inc(2)
    assert first.channel("main") is first.channel("main")
    assert samples(first)["gridpact_blocks_total", (("channel", "trade"),)] == 2
    second.channel("main")
    assert samples(second)["gridpact_blocks_total", (("channel", "main"),)] == 0
    assert b"gridpact_" not in b"".join(name.encode() for name in REGISTRY._names_to_collectors)
