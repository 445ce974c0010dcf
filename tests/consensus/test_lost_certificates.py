"""Certificates that were lost with the power, while the chain goes on without them."""

from __future__ import annotations

import pytest

from tests.consensus.virtual_cluster import VirtualCluster


def run_until_all_have(cluster: VirtualCluster, batches: list[bytes]) -> None:
    for batch in batches:
        cluster.submit(batch)
        cluster.run(40)
    assert cluster.run(30_000, lambda: cluster.everybody_has(batches))


@pytest.mark.parametrize("lost_by", [(1,), (1, 2), (0, 1, 2)])
def test_a_lost_certificate_is_asked_for_although_blocks_go_on(lost_by: tuple[int, ...]) -> None:
    cluster = VirtualCluster(5, seed=3)
    cluster.start()
    run_until_all_have(cluster, [b"a%d" % number for number in range(6)])
    assert cluster.run(5_000, lambda: all(host.replica.status(0).certified == host.disk.height for host in cluster.hosts))
    for index in lost_by:
        host = cluster.hosts[index]
        host.crash()
        for height in [height for height in host.disk.certificates if height >= 3]:
            del host.disk.certificates[height]
        host.start()
    for number in range(60):  # never still for as long as a status interval
        cluster.submit(b"b%d" % number)
        cluster.run(60)
    assert all(host.replica.status(0).certified > 6 for host in cluster.hosts)
    assert cluster.run(30_000, lambda: all(host.replica.status(0).certified == host.disk.height for host in cluster.hosts))
