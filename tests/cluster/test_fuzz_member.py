"""The faulty member: what it may lead to and what not, and that a hole in the rules of the group is found."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from cluster.fuzz.group import MAX_TABLE, Group
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.notary import Notary
from cluster.fuzz.on_member import FORGE, MemberTarget, Move
from cluster.fuzz.seat import Seat
from cluster.fuzz.toy import FAULTY, HONEST, NAMES, SNAPSHOT_EVERY, ToyChain, check, fresh_batch, members_of, set_of, signer_of
from cluster.fuzz.traitor import Traitor
from consensus.block import Certificate, CertificateVote
from consensus.codec import encode
from consensus.crypto import digest
from consensus.effects import Broadcast, Diverged, Effect, Evidence, LogRecord, Persist
from consensus.messages import Kind, Message, Vote, VoteMessage, sign_vote
from consensus.ordering import on_fetch_batch
from consensus.snapshot import verify_snapshot
from consensus.state import Turn
from consensus.validators import follow


def calm_group(times: int = 8) -> Group:
    group, random = Group(), Random(1)
    for _ in range(times):
        group.calm_down(random)
    return group


def test_a_group_crosses_epochs_without_its_faulty_member_and_makes_snapshots() -> None:
    group = calm_group()
    epochs = {seat.replica.committee.epoch for seat in group.honest}
    assert min(epochs) >= 2
    chain = group.chain
    height = max(height for height in range(0, chain.height, SNAPSHOT_EVERY) if chain.snapshot(height))
    snapshot = chain.snapshot(height)
    assert snapshot is not None
    header, known = verify_snapshot(chain.epochs(0), snapshot[0], check)
    assert header == chain.headers[height]
    assert known[: len(snapshot[0].epochs) + 1] == follow(chain.epochs(0), snapshot[0].epochs, check)


def test_somebody_honest_is_away_in_every_second_epoch_and_the_faulty_one_never() -> None:
    assert [len(members_of(epoch)) for epoch in range(4)] == [5, 4, 5, 4]
    assert all(FAULTY in members_of(epoch) for epoch in range(20))
    assert {name for epoch in range(20) for name in set(NAMES) - set(members_of(epoch))} == set(HONEST)


def quiet_seat() -> tuple[Seat, ToyChain]:
    chain = ToyChain()
    return Seat(HONEST[0], chain, lambda _sender, _to, _message: None), chain


def own_vote(seat: Seat, kind: Kind, said: bytes) -> Vote:
    index = seat.replica.committee.index
    assert index is not None
    return sign_vote(signer_of(seat.name), set_of(0).domain, kind, 0, 1, digest(said), index)


def test_a_member_that_says_what_is_not_on_its_disk_or_signs_twice_is_caught() -> None:
    seat, _ = quiet_seat()
    first, second = (own_vote(seat, Kind.PREPARE, said) for said in (b"one", b"two"))
    with pytest.raises(LawBrokenError, match="says what is not on its disk: PREPARE"):
        seat._perform([Broadcast(VoteMessage(first))])
    seat._perform([Persist((LogRecord(1, 0, 0, Kind.PREPARE, b""),)), Broadcast(VoteMessage(first)), Broadcast(VoteMessage(first))])
    with pytest.raises(LawBrokenError, match="signs twice: PREPARE"):
        seat._perform([Broadcast(VoteMessage(second))])


def test_forks_false_certificates_and_accusations_are_caught() -> None:
    seat, chain = quiet_seat()
    good, other = (fresh_batch(0, 0, chain.headers[0], (digest(said),)) for said in (b"one", b"two"))
    header = chain.execute(1, good)
    assert chain.execute(1, good) == header
    with pytest.raises(LawBrokenError, match="a fork"):
        chain.execute(1, other)
    alone = Certificate(0, 1, header.hash, (CertificateVote(0, bytes(64)),) * 4)
    with pytest.raises(LawBrokenError, match="proves nothing"):
        chain.certify(alone)
    with pytest.raises(LawBrokenError, match="of another block"):
        chain.certify(Certificate(0, 1, bytes(32), ()))
    vote = own_vote(seat, Kind.COMMIT, b"one")
    wrongs: list[tuple[Effect, str]] = [(Evidence(vote, vote), "is accused"), (Diverged(1, b"", b""), "holds its own block 1 for wrong")]
    for effect, told in wrongs:
        with pytest.raises(LawBrokenError, match=told):
            seat._perform([effect])


def test_a_group_that_does_not_go_on_and_a_table_that_grows_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    group = calm_group(1)
    group.honest[0].replica._state.missing.update({digest(b"%d" % number): 1 for number in range(MAX_TABLE + 1)})
    with pytest.raises(LawBrokenError, match=f"missing of {HONEST[0]} has {MAX_TABLE + 1} entries"):
        group.check_sizes()
    monkeypatch.setattr("cluster.fuzz.group.CALM_MS", 2_000)
    monkeypatch.setattr(group, "_post", lambda *_: None)
    for seat in group.honest:
        seat._post = lambda *_: None
    with pytest.raises(LawBrokenError, match="do not go on, though all is calm"):
        group.calm_down(Random(1))


def test_every_forgery_comes_up_and_nobody_honest_signed_one() -> None:
    """Whatever the traitor says in its own name is well signed: it gets past the first check."""
    group = calm_group(4)
    traitor, random = Traitor(group.chain), Random(1)
    seat = group.honest[0].replica
    made: list[Message] = [
        traitor.forge(number, random, seat.committee.epoch, seat.view) for _ in range(40) for number in range(len(traitor.forgeries))
    ]
    kinds = {type(message).__name__ for message in made}
    assert len(kinds) == 13, kinds
    votes = [message.vote for message in made if hasattr(message, "vote")]
    known = {one.epoch: one for one in group.chain.epochs(group.chain.height)}
    signed = [vote for vote in votes if vote.epoch in known and known[vote.epoch].checks(vote, check)]
    assert len(signed) > len(votes) // 2
    assert {known[vote.epoch].names[vote.sender] for vote in signed} == {FAULTY}


def played(seed: int, moves: int) -> None:
    """Play moves of one seed; a broken law raises."""
    target, random = MemberTarget(Path()), Random(seed)
    mutator, seeds = Mutator(random, lambda: b""), target.seeds()
    for number in range(moves):
        target.run(target.change(seeds[number % len(seeds)], mutator))


def test_holes_in_the_rules_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def grows(turn: Turn, peer: str, digest_: bytes) -> None:
        turn.state.bodies.update({digest_ + bytes((number,)): b"" for number in range(200)})
        on_fetch_batch(turn, peer, digest_)

    real = Turn.persist
    holes: list[tuple[object, str, object, str]] = [
        (Turn, "certifies", lambda _turn, _certificate: True, "a certificate that proves nothing is taken"),
        (Turn, "checks", lambda _turn, _vote: True, "is accused of double signing|fork|signs twice"),
        (Turn, "persist", lambda turn, kind, *rest: kind == Kind.COMMIT or real(turn, kind, *rest), "is not on its disk: COMMIT"),
    ]
    for owner, name, hole, told in holes:
        with monkeypatch.context() as patch, pytest.raises(LawBrokenError, match=told):
            patch.setattr(owner, name, hole)
            played(2, 3_000)
    with monkeypatch.context() as patch, pytest.raises(LawBrokenError, match=r"the table _state\.bodies of n\d has"):
        patch.setattr("consensus.ordering.on_fetch_batch", grows)
        played(2, 2_000)


def test_a_move_is_what_it_says() -> None:
    target = MemberTarget(Path())
    assert target.run(b"\xc1").startswith("refused: move")
    assert target.run(encode(Move(FORGE, 3, 16, -(2**63)))).split()[0] in ("accepted:", "refused:")
    assert isinstance(target._traitor._choices.notary, Notary)
