"""What must be on the disk before something else may leave it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from consensus.block import Certificate, CertificateVote
from consensus.effects import Certified, LogRecord
from consensus.messages import Kind, Message
from consensus.quorum import quorums
from node.block_reader import CERTIFICATE_PREFIX
from tests.consensus.virtual_cluster import VirtualCluster
from tests.node.test_channel_input import OneChannel


def test_votes_are_dropped_only_after_the_certificate_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power fails between two unsynced writes: the certificate may be lost, so the votes that it replaces must still be there."""
    one = OneChannel(tmp_path / "home")
    try:
        order: list[tuple[str, bool]] = []

        def spy(name: str, database: Any) -> None:
            real = database.write

            def write(writes: Iterable[tuple[bytes, bytes | None]], *, sync: bool) -> None:
                listed = list(writes)
                if name == "votes" or any(key.startswith(CERTIFICATE_PREFIX) for key, _ in listed):
                    order.append((name, sync))
                real(listed, sync=sync)

            monkeypatch.setattr(database, "write", write)

        one.votes.append([LogRecord(1, 0, 0, int(Kind.COMMIT), b"")])
        spy("store", one.store._database)
        spy("votes", one.votes._database)
        one.channel._host.certified(Certified(Certificate(0, 1, b"h" * 32, (CertificateVote(0, b""),)), 1, 0, 0))
        kept = [record.sequence for record in one.votes.records()]
        assert kept == [1] or order[0] == ("store", True), order
    finally:
        one.close()


@pytest.mark.parametrize("n", [4, 5])
def test_no_replica_votes_against_a_block_that_it_executed(n: int) -> None:
    """The whole site loses power after truncating votes and before syncing the certificate; f replicas do not come back."""
    cluster, behind = VirtualCluster(n, seed=3), n - 1
    cluster.start()
    cluster.submit(b"zero")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"zero"]))
    cluster.run(1_000)

    def cut_off(_: int, to: int, message: Message) -> Message | None:
        return None if to == behind else message

    cluster.intercept = cut_off
    cluster.submit(b"money", range(behind))
    assert cluster.run(5_000, lambda: all(2 in host.disk.certificates for host in cluster.hosts[:behind]))
    for host in cluster.hosts:
        host.crash()
        host.disk.certificates.pop(2, None)
    cluster.queue.clear()
    cluster.intercept = lambda sender, to, message: message
    faulty = quorums(n).faulty
    for host in cluster.hosts[faulty:]:
        host.start()
    cluster.submit(b"after", range(faulty, n))
    cluster.run(30_000)
