"""Statuses as heartbeats: a primary that says nothing is replaced even if nobody waits; who is cut off itself stays where it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consensus.messages import FetchBlocks, Kind, Message, StatusBody, StatusMessage, ViewChangeMessage, body_digest
from tests.consensus.plain_ledger import WINDOW, set_batch
from tests.consensus.scenes import Chain, Lone, in_epoch, seat
from tests.consensus.virtual_cluster import Host, VirtualCluster, name

SIZES = (4, 5, 6, 7)
CONFIG = VirtualCluster(4).hosts[0].config()
PATIENCE_MS = CONFIG.silence_ms + CONFIG.status_interval_ms
ROUND_TRIP_MS = 100


def idle(n: int) -> VirtualCluster:
    """A cluster that has ordered one batch and has nothing to do."""
    cluster = VirtualCluster(n, seed=n)
    cluster.start()
    cluster.submit(b"first")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"first"]))
    cluster.run(3_000)
    return cluster


def in_view(view: int, hosts: list[Host]) -> Callable[[], bool]:
    return lambda: all((host.replica.view, host.replica.status(0).changing) == (view, False) for host in hosts)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("how", ["dead", "mute"])
def test_a_silent_primary_of_an_idle_chain_is_replaced_in_time(n: int, how: str) -> None:
    cluster = idle(n)
    others = cluster.hosts[1:]
    if how == "dead":
        cluster.hosts[0].crash()
    else:
        cluster.cut = {(0, to) for to in range(n)}
    before = cluster.now_ms
    assert not cluster.run(CONFIG.silence_ms - CONFIG.status_interval_ms - ROUND_TRIP_MS, lambda: not in_view(0, others)())
    assert cluster.run(10_000, in_view(1, others))
    assert cluster.now_ms - before <= PATIENCE_MS + CONFIG.status_interval_ms + ROUND_TRIP_MS


@pytest.mark.parametrize("n", SIZES)
def test_a_primary_that_speaks_keeps_its_view_for_ever(n: int) -> None:
    cluster = idle(n)
    cluster.loss, cluster.delay_ms = 0.3, 100
    cluster.run(120_000)
    assert in_view(0, cluster.hosts)()


def test_one_silent_primary_after_the_other() -> None:
    """The next in line is dead as well; the third is found without anything to order."""
    cluster = idle(7)
    cluster.hosts[0].crash()
    cluster.hosts[1].crash()
    assert cluster.run(PATIENCE_MS + 10_000, in_view(2, cluster.hosts[2:]))


def test_a_primary_that_comes_back_is_told_the_view() -> None:
    cluster = idle(4)
    cluster.hosts[0].crash()
    assert cluster.run(10_000, in_view(1, cluster.hosts[1:]))
    cluster.hosts[0].start()
    assert cluster.run(5_000, in_view(1, cluster.hosts))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("who", ["the primary", "a backup"])
def test_who_is_cut_off_from_everybody_does_not_leave_its_view(n: int, who: str) -> None:
    """It is not the primary that is silent, but the link. When it is back, nothing has to change for it."""
    cluster = idle(n)
    lonely = 0 if who == "the primary" else n - 1
    cluster.cut = {(sender, lonely) for sender in range(n)}
    said = []
    cluster.intercept = lambda sender, to, message: said.append(message) or message if sender == lonely else message
    cluster.run(60_000)
    assert in_view(0, [cluster.hosts[lonely]])()
    assert not [message for message in said if isinstance(message, ViewChangeMessage)]
    cluster.cut = set()
    cluster.submit(b"second")
    assert cluster.run(10_000, lambda: cluster.everybody_has([b"second"]))
    assert in_view(0, cluster.hosts)()


@pytest.mark.parametrize("n", SIZES)
def test_fewer_than_a_quorum_that_hear_each_other_stay_where_they_are(n: int) -> None:
    """A partition without a quorum cannot elect anybody: its views would only run away."""
    cluster = idle(n)
    quorum = cluster.genesis.quorums.quorum
    minority = list(range(1, quorum))
    cluster.cut = {(a, b) for a in range(n) for b in range(n) if (a in minority) != (b in minority)}
    cluster.run(60_000)
    assert in_view(0, [cluster.hosts[index] for index in minority])()
    cluster.cut = set()
    cluster.submit(b"second")
    assert cluster.run(10_000, lambda: cluster.everybody_has([b"second"]))


@pytest.mark.parametrize("n", SIZES)
def test_who_is_cut_off_from_the_primary_only_takes_nobody_along_and_keeps_up(n: int) -> None:
    """One replica cannot force a view change; the chain goes on, and it has every block."""
    cluster, last = idle(n), n - 1
    cluster.cut = {(0, last)}
    cluster.run(2 * PATIENCE_MS)
    others = cluster.hosts[:last]
    wanted = [b"request %d" % index for index in range(20)]
    for batch in wanted:
        cluster.submit(batch, range(last))
    assert cluster.run(10_000, lambda: all(all(map(host.disk.ledger.has, wanted)) for host in others))
    assert cluster.run(5_000, lambda: cluster.everybody_has(wanted))
    assert in_view(0, others)()
    cluster.cut = set()
    cluster.submit(b"healed")
    assert cluster.run(10_000, lambda: cluster.everybody_has([b"healed"]))


@pytest.mark.parametrize("n", SIZES)
def test_f_plus_one_that_cannot_hear_the_primary_do_take_everybody_along(n: int) -> None:
    cluster = idle(n)
    weak = cluster.genesis.quorums.weak
    cluster.cut = {(0, index) for index in range(n - weak, n)}
    assert cluster.run(2 * PATIENCE_MS, lambda: all(host.replica.view >= 1 for host in cluster.hosts))
    cluster.submit(b"second")
    assert cluster.run(10_000, lambda: cluster.everybody_has([b"second"]))


def test_in_a_new_epoch_everybody_gets_time_to_speak() -> None:
    """Two newcomers that nobody has heard yet lead the first views of the epoch: being new is not being silent."""
    cluster = VirtualCluster(4, seed=1, extra=2)
    cluster.start()
    cluster.submit(set_batch(*(seat(host) for host in cluster.hosts[4:]), removed=(name(0), name(1))))
    assert cluster.run(10_000, in_epoch(cluster, 1))
    cluster.run(20_000)
    assert in_view(0, cluster.hosts)()
    assert in_epoch(cluster, 1)()


def test_a_newcomer_that_never_starts_is_replaced_as_primary() -> None:
    """The first three leave, so that the missing one is among those who lead."""
    cluster = VirtualCluster(4, seed=2, extra=1)
    for host in cluster.hosts[:4]:
        host.start()
    cluster.submit(set_batch(seat(cluster.hosts[4]), removed=(name(0),)))
    alive = cluster.hosts[1:4]
    assert cluster.run(10_000, in_epoch(cluster, 1, alive))
    cluster.hosts[0].crash()
    cluster.hosts[1].crash()
    cluster.hosts[4].start()
    assert cluster.run(PATIENCE_MS + 5_000, in_view(1, [cluster.hosts[index] for index in (2, 3, 4)]))


# ---------------------------------------------------------------------------------------- what a status brings, at the boundary


def test_a_status_is_due_at_every_interval_and_not_before() -> None:
    lone = Lone(1)
    lone.said.clear()
    lone.wait(10 * CONFIG.status_interval_ms + 10)
    sent = [to for to, _ in lone.say(StatusMessage)]
    assert {sent.count(to) for to in range(10) if to != 1} <= {9, 10}, "to all nine other nodes, be they validators or not"
    assert 1 not in sent


def test_the_certificate_in_a_status_is_taken_for_a_block_that_stands_still() -> None:
    own, others = Chain(), Chain()
    for chain in (own, others):
        chain.extend_to(3)
    del own.disk.certificates[3]
    lone = Lone(3, disk=own.disk)
    lone.wait(2 * CONFIG.status_interval_ms)
    assert lone.status.certified == 2
    lone.hear(0, others.status(0))
    assert lone.status.certified == 3
    assert own.disk.certificates[3] == others.disk.certificates[3]


@pytest.mark.parametrize("lie", ["too few votes", "another block", "another height"])
def test_a_forged_certificate_in_a_status_is_not_taken(lie: str) -> None:
    own, others = Chain(), Chain()
    for chain in (own, others):
        chain.extend_to(3)
    del own.disk.certificates[3]
    lone = Lone(3, disk=own.disk)
    lone.wait(2 * CONFIG.status_interval_ms)
    hash_ = others.disk.headers[3].hash
    forged = {
        "too few votes": others.certificate(3, hash_, votes=2),
        "another block": others.certificate(4, hash_),
        "another height": others.certificate(5, hash_),
    }[lie]
    lone.hear(0, others.status(0, certificate=forged))
    assert (lone.status.certified, lone.status.diverged) == (2, False)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("lost_by", ["one", "all but one", "everybody"])
def test_a_certificate_that_power_took_comes_back_on_an_idle_chain(n: int, lost_by: str) -> None:
    """Votes are on the disk until the certificate is there for sure, so even if everybody lost it, it is made again."""
    cluster = idle(n)
    losers = {"one": cluster.hosts[:1], "all but one": cluster.hosts[1:], "everybody": cluster.hosts}[lost_by]
    for host in cluster.hosts:
        host.crash(1 if host in losers else 0)
    assert all(1 not in host.disk.certificates for host in losers)
    for host in cluster.hosts:
        host.start()
    assert cluster.run(5_000, lambda: all(1 in host.disk.certificates for host in cluster.hosts))
    assert not [pair for host in cluster.hosts for pair in host.evidence]


def test_a_certificate_of_the_boundary_in_a_status_opens_the_epoch() -> None:
    """The last block of the epoch is executed here, everybody else has moved on, and nobody asks for anything any more."""
    own, others = Chain(), Chain()
    for chain in (own, others):
        chain.extend(set_batch(seat(VirtualCluster(4, extra=1).hosts[4])))
        chain.extend_to(WINDOW + 1)
    del own.disk.certificates[WINDOW + 1]
    own.disk.changes.clear()
    lone = Lone(3, disk=own.disk)
    lone.wait(2 * CONFIG.status_interval_ms)
    assert lone.status.epoch == 0
    lone.hear(0, others.status(0))
    assert (lone.status.epoch, lone.status.seat) == (1, 3)
    assert own.disk.changes == others.disk.changes


def test_a_lie_about_heights_makes_nobody_believe_that_it_is_behind() -> None:
    """One replica says that it is a thousand blocks ahead: that must not spare a lazy primary the view change."""
    cluster = VirtualCluster(4, seed=3)
    cluster.start()
    chain = Chain()
    for to in (1, 2):
        cluster.send(3, to, chain.status(3, certified=1_000))
    cluster.intercept = lambda sender, to, message: None if sender == 0 and not isinstance(message, StatusMessage) else message
    cluster.submit(b"lazy", range(1, 4))
    assert cluster.run(10_000, lambda: all(host.disk.ledger.has(b"lazy") for host in cluster.hosts[1:]))


def test_who_stands_still_is_sent_what_it_lacks_and_only_that() -> None:
    """The second status in a row that says the same gets the votes; nobody is sent anything for the first."""
    cluster = VirtualCluster(4, seed=4)
    cluster.start()
    lost: list[Message] = []

    def lose(sender: int, to: int, message: Message) -> Message | None:
        ordering = hasattr(message, "vote") and message.vote.kind in (Kind.PRE_PREPARE, Kind.PREPARE, Kind.COMMIT, Kind.CHECKPOINT)
        if to == 3 and ordering and len(lost) < 40 and cluster.now_ms < 1_200:
            lost.append(message)
            return None
        return message

    cluster.intercept = lose
    cluster.submit(b"only")
    assert cluster.run(200, lambda: all(host.disk.certificates for host in cluster.hosts[:3]))
    assert not cluster.hosts[3].disk.blocks and lost
    assert cluster.run(2_000, lambda: cluster.everybody_has([b"only"]))


def test_a_status_out_of_range_does_no_harm() -> None:
    lone, chain = Lone(3), Chain()
    for body in (
        StatusBody(0, False, -5, -5, -5, None),
        StatusBody(0, False, 2**60, 2**60, 2**60, None),
        StatusBody(0, False, 0, 0, 2**60, None),
    ):
        lone.hear(0, StatusMessage(chain.vote(Kind.STATUS, 0, 0, body_digest(body), 0, chain.epochs[0]), body))
    lone.wait(5_000)
    assert [peer for peer, _ in lone.faults] == ["dc0"], "a height without its certificate"
    assert (lone.status.executed, lone.status.view) == (0, 0)
    assert not [message for _, message in lone.say(FetchBlocks) if message.first > 1_000]
