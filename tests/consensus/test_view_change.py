"""View changes (Castro and Liskov 1999, section 4.4)."""

from __future__ import annotations

import pytest

from consensus.block import NULL_DIGEST, Certificate, batch_digest
from consensus.codec import encode
from consensus.effects import Broadcast, Fault, Received
from consensus.errors import Suspicion
from consensus.messages import (
    Kind,
    Message,
    NewViewBody,
    NewViewMessage,
    PreparedProof,
    PrePrepareMessage,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
    make_certificate,
    sign_vote,
)
from consensus.recovery import Recovered
from consensus.replica import Replica
from consensus.view_change import reproposals
from tests.consensus.virtual_cluster import DOMAIN, VirtualCluster, name, signer, validator_set

SIZES = (4, 5, 6, 7)


def proof(view: int, sequence: int, digest: bytes, n: int = 4, prepares: int | None = None) -> PreparedProof:
    primary = view % n
    backups = [i for i in range(n) if i != primary][: prepares if prepares is not None else validator_set(n).quorums.prepares]
    return PreparedProof(
        sign_vote(signer(primary), DOMAIN, Kind.PRE_PREPARE, view, sequence, digest, primary),
        tuple(sign_vote(signer(i), DOMAIN, Kind.PREPARE, view, sequence, digest, i) for i in backups),
    )


def certificate(height: int, n: int = 4) -> Certificate:
    votes = tuple(sign_vote(signer(i), DOMAIN, Kind.CHECKPOINT, 0, height, b"h" * 32, i) for i in range(validator_set(n).quorums.quorum))
    return make_certificate(votes)


def view_change(sender: int, new_view: int, stable: Certificate | None = None, *proofs: PreparedProof) -> ViewChangeMessage:
    body = encode(ViewChangeBody(new_view, stable, proofs))
    return ViewChangeMessage(sign_vote(signer(sender), DOMAIN, Kind.VIEW_CHANGE, new_view, 0, body_digest(body), sender), body)


def new_view(view: int, changes: list[ViewChangeMessage], proposals: list[tuple[int, bytes]], sender: int | None = None) -> NewViewMessage:
    primary = view % 4 if sender is None else sender
    votes = tuple(sign_vote(signer(primary), DOMAIN, Kind.PRE_PREPARE, view, s, d, primary) for s, d in proposals)
    body = encode(NewViewBody(tuple(changes), votes))
    return NewViewMessage(sign_vote(signer(primary), DOMAIN, Kind.NEW_VIEW, view, 0, body_digest(body), primary), body)


def backup(index: int = 2) -> Replica:
    replica = Replica(VirtualCluster(4).hosts[index].config(), Recovered((validator_set(4),)))
    replica.start(0)
    return replica


def faults_after(replica: Replica, *messages: Message) -> list[Suspicion]:
    effects = [effect for message in messages for effect in replica.step(Received(name(0), message), 10)]
    return [effect.fault.code for effect in effects if isinstance(effect, Fault)]


@pytest.mark.parametrize("n", SIZES)
def test_the_cluster_survives_its_primary(n: int) -> None:
    cluster = VirtualCluster(n, seed=n)
    cluster.start()
    cluster.submit(b"before")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"before"]))
    cluster.hosts[0].crash()
    cluster.submit(b"after")
    others = cluster.hosts[1:]
    assert cluster.run(10_000, lambda: all(any(b == b"after" for _, b in host.disk.blocks) for host in others))
    assert {host.replica.status(0).view for host in others} == {1}
    cluster.hosts[0].start()
    assert cluster.run(10_000, lambda: cluster.everybody_has([b"before", b"after"]))


@pytest.mark.parametrize("n", SIZES)
def test_several_dead_primaries_in_a_row(n: int) -> None:
    cluster = VirtualCluster(n, seed=n)
    cluster.start()
    faulty = (n - 1) // 3
    for index in range(faulty):
        cluster.hosts[index].crash()
    cluster.submit(b"anyway")
    others = cluster.hosts[faulty:]
    assert cluster.run(30_000, lambda: all(host.disk.blocks for host in others))
    assert {host.replica.status(0).view for host in others} == {faulty}


@pytest.mark.parametrize("n", SIZES)
def test_what_one_replica_may_have_committed_survives_the_view_change(n: int) -> None:
    """Only one replica hears the commits of view 0; the new view must propose the same batch at the same place."""
    cluster = VirtualCluster(n, seed=n)
    lucky = n - 1

    def only_lucky_hears_commits(_: int, to: int, message: Message) -> Message | None:
        if isinstance(message, VoteMessage) and message.vote.kind == Kind.COMMIT and message.vote.view == 0 and to != lucky:
            return None
        return message

    cluster.intercept = only_lucky_hears_commits
    cluster.start()
    cluster.submit(b"money")
    assert cluster.run(5_000, lambda: len(cluster.hosts[lucky].disk.blocks) == 1)
    cluster.hosts[0].crash()
    cluster.submit(b"more")
    others = cluster.hosts[1:]
    assert cluster.run(60_000, lambda: all(len(host.disk.blocks) >= 2 for host in others))
    assert all(host.disk.blocks[0][1] == b"money" for host in others)


def test_a_censored_request_forces_a_view_change() -> None:
    """The primary orders other requests all the time, but never the one that only the backups have."""
    cluster = VirtualCluster(4, seed=3)
    cluster.start()
    cluster.submit(b"victim", range(1, 4))
    assert cluster.run(30_000, lambda: all(any(b == b"victim" for _, b in host.disk.blocks) for host in cluster.hosts[1:]))
    assert cluster.hosts[1].replica.status(0).view >= 1


def test_one_replica_alone_cannot_change_the_view() -> None:
    cluster = VirtualCluster(4, seed=4)
    cluster.start()
    for to in range(1, 4):
        cluster.send(3, to, view_change(3, 1_000_000))
    cluster.submit(b"calm")
    assert cluster.run(5_000, lambda: cluster.everybody_has([b"calm"]))
    assert {host.replica.status(0).view for host in cluster.hosts} == {0}


def test_f_plus_one_take_everybody_along_to_the_smallest_of_their_views() -> None:
    replica = backup()
    assert not faults_after(replica, view_change(3, 9), view_change(1, 5))
    status = replica.status(0)
    assert (status.view, status.changing) == (5, True)


def test_after_a_view_change_no_vote_of_the_old_view_is_cast() -> None:
    replica = backup()
    faults_after(replica, view_change(3, 1), view_change(0, 1))
    assert replica.status(0).changing
    digest = batch_digest(b"late")
    late = PrePrepareMessage(sign_vote(signer(0), DOMAIN, Kind.PRE_PREPARE, 0, 1, digest, 0), b"late")
    assert not [effect for effect in replica.step(Received(name(0), late), 20) if isinstance(effect, Broadcast)]


def test_o_takes_the_highest_view_fills_gaps_and_starts_at_the_highest_certificate() -> None:
    a, b, c = b"a" * 32, b"b" * 32, b"c" * 32
    bodies = [
        ViewChangeBody(7, certificate(3), (proof(1, 4, a), proof(2, 6, c))),
        ViewChangeBody(7, certificate(2), (proof(0, 3, a), proof(2, 4, b))),
        ViewChangeBody(7, None, (proof(0, 1, a), proof(0, 2, a), proof(1, 6, b))),
    ]
    assert reproposals(bodies) == (3, [(4, b), (5, NULL_DIGEST), (6, c)])
    assert reproposals([ViewChangeBody(1, None, ())] * 3) == (0, [])


def test_a_correct_new_view_is_entered() -> None:
    replica = backup()
    digest = batch_digest(b"kept")
    changes = [view_change(0, 1, None, proof(0, 2, digest)), view_change(1, 1), view_change(3, 1)]
    assert not faults_after(replica, new_view(1, changes, [(1, NULL_DIGEST), (2, digest)]))
    assert (replica.status(0).view, replica.status(0).changing) == (1, False)


GOOD = batch_digest(b"kept")
CHANGES = [view_change(0, 1, None, proof(0, 2, GOOD)), view_change(1, 1), view_change(3, 1)]
PROPOSALS = [(1, NULL_DIGEST), (2, GOOD)]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(new_view(1, CHANGES, [(1, NULL_DIGEST)]), id="last sequence dropped"),
        pytest.param(new_view(1, CHANGES, [(2, GOOD)]), id="no null request for the gap"),
        pytest.param(new_view(1, CHANGES, [(1, NULL_DIGEST), (2, NULL_DIGEST)]), id="prepared batch replaced by null"),
        pytest.param(new_view(1, CHANGES, [(1, GOOD), (2, GOOD)]), id="something invented for the gap"),
        pytest.param(new_view(1, CHANGES, [*PROPOSALS, (3, GOOD)]), id="one too many"),
        pytest.param(new_view(1, CHANGES[:2], PROPOSALS), id="no quorum of view-changes"),
        pytest.param(new_view(1, [CHANGES[0], CHANGES[1], CHANGES[1]], PROPOSALS), id="one sender twice"),
        pytest.param(new_view(1, [CHANGES[0], CHANGES[1], view_change(3, 2)], PROPOSALS), id="view-change for another view"),
        pytest.param(new_view(1, CHANGES, PROPOSALS, sender=3), id="not the primary"),
        pytest.param(
            new_view(1, [view_change(0, 1, None, proof(0, 2, GOOD, prepares=1)), *CHANGES[1:]], PROPOSALS), id="proof without a quorum"
        ),
    ],
)
def test_a_new_view_that_does_not_follow_from_its_view_changes_is_refused(message: NewViewMessage) -> None:
    replica = backup()
    assert faults_after(replica, message)
    assert (replica.status(0).view, replica.status(0).changing) == (0, False)


def forged(message: ViewChangeMessage, **changes: object) -> ViewChangeMessage:
    fields = {field: getattr(message.vote, field) for field in Vote.__struct_fields__} | changes
    return ViewChangeMessage(Vote(**fields), message.body)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(forged(view_change(3, 2), view=3), id="signature of another view"),
        pytest.param(forged(view_change(3, 2), sender=1), id="in another's name"),
        pytest.param(ViewChangeMessage(view_change(3, 2).vote, view_change(3, 2, certificate(1)).body), id="another body"),
        pytest.param(view_change(3, 2, Certificate(0, 9, b"x" * 32, certificate(9).votes)), id="certificate of another block"),
        pytest.param(view_change(3, 2, None, proof(0, 3, GOOD), proof(0, 2, GOOD)), id="not by rising sequence"),
        pytest.param(view_change(3, 2, certificate(5), proof(0, 5, GOOD)), id="below its own certificate"),
        pytest.param(view_change(3, 2, None, proof(2, 1, GOOD)), id="prepared in the view it asks for"),
        pytest.param(view_change(3, 2, None, proof(0, 500, GOOD)), id="far beyond the water marks"),
    ],
)
def test_a_bad_view_change_is_dropped_alone(message: ViewChangeMessage) -> None:
    replica = backup()
    assert faults_after(replica, message)
    assert not faults_after(replica, view_change(3, 1), view_change(0, 1))
    assert (replica.status(0).view, replica.status(0).changing) == (1, True)


def test_the_timer_doubles_without_progress_up_to_the_cap_and_falls_back() -> None:
    cluster = VirtualCluster(4, seed=5)
    cluster.start()
    cluster.intercept = lambda sender, to, message: None if isinstance(message, NewViewMessage | PrePrepareMessage) else message
    cluster.submit(b"stuck")
    cluster.run(40_000)
    views = {host.replica.status(0).view for host in cluster.hosts}
    assert 4 <= min(views) <= max(views) <= 8  # 1 + 1 + 2 + 4 + 8 + 16 s: without doubling it would be near 40
    cluster.intercept = lambda sender, to, message: message
    assert cluster.run(120_000, lambda: cluster.everybody_has([b"stuck"]))
    cluster.hosts[cluster.hosts[0].replica.status(0).primary].crash()
    left = [host for host in cluster.hosts if host.up]
    cluster.submit(b"quick again")
    assert cluster.run(4_000, lambda: all(any(b == b"quick again" for _, b in host.disk.blocks) for host in left))
