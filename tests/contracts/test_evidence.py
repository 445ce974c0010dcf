"""Reports of double signing: what proves it, what does not, and that it counts once."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.messages import Domain, Kind, Vote, sign_vote
from contracts import evidence
from contracts.calls import ReportDoubleSigning
from contracts.events import DoubleSigningRecorded
from contracts.genesis import ConsensusRules
from tests.contracts.world import World, make_genesis, signer

DOMAIN = Domain("test", "main", 0)
KINDS = [Kind.PRE_PREPARE, Kind.PREPARE, Kind.COMMIT, Kind.CHECKPOINT, Kind.VIEW_CHANGE, Kind.NEW_VIEW]


def vote(
    content: bytes, *, kind: int = Kind.PREPARE, view: int = 3, sequence: int = 9, index: int = 2, by: str = "", domain: Domain = DOMAIN
):
    return sign_vote(signer(by or f"node{index}"), domain, kind, view, sequence, content.ljust(32, b"."), index)


def double(**place: object) -> ReportDoubleSigning:
    return ReportDoubleSigning(vote(b"one", **place), vote(b"other", **place))


def make_world() -> World:
    return World(make_genesis(validators=5, consensus=ConsensusRules(window=5)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_proven_double_signing_is_recorded_with_validator_and_account(kind: Kind) -> None:
    world = make_world()
    transaction = world.transaction("node0", double(kind=kind))
    assert world.application.check_transaction(transaction, world.time_ms).ok
    (receipt,) = world.block(transaction)
    shown = kind.name.lower().replace("_", "-")
    assert receipt.code == "OK" and receipt.events == (DoubleSigningRecorded("node2", "DC2", 0, shown, 3, 9, 1, "node0"),)
    assert world.view.validators.validator("node2").offences == 1
    credit = world.view.credit("DC2")
    assert credit.double_signings == 1 and credit.score_ppm == 1_000_000
    (offence,) = world.view.validators.offences("node2")
    assert (offence.epoch, offence.kind, offence.view, offence.sequence, offence.reporter) == (0, shown, 3, 9, "node0")
    assert offence.report == transaction.id.hex()


def test_a_place_counts_once_whoever_reports_it() -> None:
    world = make_world()
    assert world.call("node0", double()).code == "OK"
    reports = [double(), ReportDoubleSigning(vote(b"third"), vote(b"one")), ReportDoubleSigning(vote(b"other"), vote(b"one"))]
    for reporter, report in zip(("node1", "node2", "node0"), reports, strict=True):
        transaction = world.transaction(reporter, report)
        assert world.application.check_transaction(transaction, world.time_ms).code == "ALREADY_REPORTED"
        (receipt,) = world.block(transaction)
        assert (receipt.code, receipt.events) == ("ALREADY_REPORTED", ())
    assert world.view.validators.validator("node2").offences == world.view.credit("DC2").double_signings == 1
    twice = [world.transaction(reporter, double(view=4)) for reporter in ("node0", "node1")]
    assert [receipt.code for receipt in world.block(*twice)] == ["OK", "ALREADY_REPORTED"]


def test_every_part_of_the_place_makes_it_another_offence() -> None:
    world = make_world()
    reports = [double(), double(view=4), double(sequence=10), double(kind=Kind.COMMIT), double(index=1), double(sequence=2**63 - 1)]
    assert [world.call("node0", report).code for report in reports] == ["OK"] * 6
    assert [world.view.validators.validator(f"node{index}").offences for index in range(4)] == [0, 1, 5, 0]
    places = [(offence.kind, offence.view, offence.sequence) for offence in world.view.validators.offences("node2")]
    assert places == [("prepare", 3, 9), ("prepare", 3, 10), ("prepare", 3, 2**63 - 1), ("prepare", 4, 9), ("commit", 3, 9)]
    assert [one.sequence for one in world.view.validators.offences("node2", 1, 2)] == [10, 2**63 - 1]


def changed(report: ReportDoubleSigning, **fields: object) -> ReportDoubleSigning:
    return ReportDoubleSigning(report.first, msgspec.structs.replace(report.second, **fields))


OTHER_CHAIN = Domain("other", "main", 0)
OTHER_CHANNEL = Domain("test", "trade", 0)


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (double(kind=Kind.STATUS), "NOT_EVIDENCE"),
        (double(kind=8), "NOT_EVIDENCE"),
        (double(kind=0), "NOT_EVIDENCE"),
        (ReportDoubleSigning(vote(b"one"), vote(b"one")), "NOT_EVIDENCE"),
        (ReportDoubleSigning(vote(b"one"), vote(b"two", view=4)), "NOT_EVIDENCE"),
        (ReportDoubleSigning(vote(b"one"), vote(b"two", sequence=8)), "NOT_EVIDENCE"),
        (ReportDoubleSigning(vote(b"one"), vote(b"two", kind=Kind.COMMIT)), "NOT_EVIDENCE"),
        (ReportDoubleSigning(vote(b"one"), vote(b"two", index=3)), "NOT_EVIDENCE"),
        (ReportDoubleSigning(vote(b"one"), vote(b"two", domain=Domain("test", "main", 1))), "NOT_EVIDENCE"),
        (double(view=-1), "NOT_EVIDENCE"),
        (double(sequence=2**63), "NOT_EVIDENCE"),
        (double(index=-1, by="node2"), "NOT_EVIDENCE"),
        (double(domain=Domain("test", "main", 2**63)), "NOT_EVIDENCE"),
        (double(domain=Domain("test", "main", 1)), "NO_SUCH_EPOCH"),
        (double(index=5, by="node2"), "NO_SUCH_VALIDATOR"),
        (double(index=2**62, by="node2"), "NO_SUCH_VALIDATOR"),
        (double(by="node1"), "BAD_SIGNATURE"),
        (double(domain=OTHER_CHAIN), "BAD_SIGNATURE"),
        (double(domain=OTHER_CHANNEL), "BAD_SIGNATURE"),
        (changed(double(), digest=b"forged".ljust(32, b".")), "BAD_SIGNATURE"),
        (changed(double(), signature=bytes(64)), "BAD_SIGNATURE"),
        (changed(double(), signature=b""), "BAD_SIGNATURE"),
        (ReportDoubleSigning(msgspec.structs.replace(vote(b"one"), signature=bytes(64)), vote(b"two")), "BAD_SIGNATURE"),
    ],
)
def test_what_proves_nothing_is_refused_and_leaves_nothing(report: ReportDoubleSigning, code: str) -> None:
    world = make_world()
    transaction = world.transaction("node0", report)
    door = world.application.check_transaction(transaction, world.time_ms)
    assert door.code == code or (door.ok and code == "NO_SUCH_EPOCH")
    (receipt,) = world.block(transaction)
    assert (receipt.code, receipt.events) == (code, ()) and receipt.detail
    assert not [entry for entry in world.store.entries if entry.startswith((b"offence/", b"credit/"))]
    assert {view.offences for view in world.view.validators.all()} == {0}


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=5, max_size=5), st.binary(max_size=70), st.binary(max_size=70))
def test_no_report_makes_a_block_fail(numbers: list[int], one: bytes, other: bytes) -> None:
    world = make_world()
    kind, epoch, view, sequence, sender = numbers
    votes = [Vote(kind % 9, epoch % 3, view, sequence, digest, sender, other) for digest in (one, other)]
    transaction = world.transaction("node0", ReportDoubleSigning(*votes))
    assert not world.application.check_transaction(transaction, world.time_ms).code.startswith("OK") or epoch % 3
    assert world.block(transaction)[0].code != "OK"


@pytest.mark.parametrize("sender", ["A", "OPERATOR", "m-A"])
def test_only_validators_report(sender: str) -> None:
    world = make_world()
    transaction = world.transaction(sender, double())
    assert world.application.check_transaction(transaction, world.time_ms).code == "NOT_A_VALIDATOR"
    assert world.block(transaction)[0].code == "NOT_A_VALIDATOR"
    assert world.view.validators.validator("node2").offences == 0


def test_votes_are_judged_by_the_set_of_their_epoch() -> None:
    world = make_world()
    world.decide("remove", "node1")
    world.decide("replace", "node2", public_key=signer("fresh").public_key, account="DC4")
    world.advance_to(world.application.epochs()[2].first_height)
    new = Domain("test", "main", 2)
    assert world.call("node0", double(index=1)).events[0].validator == "node1"
    assert world.call("node0", double()).events[0].account == "DC2"
    assert world.call("node0", double(domain=new, index=1, by="node2")).code == "BAD_SIGNATURE"
    receipt = world.call("node0", double(domain=new, index=1, by="fresh"))
    assert [(event.validator, event.account, event.epoch, event.offences) for event in receipt.events] == [("node2", "DC4", 2, 2)]
    assert world.view.credit("DC4").double_signings == world.view.credit("DC2").double_signings == 1
    assert world.call("node0", double(domain=new, index=4, by="node1")).code == "NO_SUCH_VALIDATOR"


def test_what_is_recorded_of_one_validator_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert evidence.MAX_OFFENCES == 1_000
    monkeypatch.setattr(evidence, "MAX_OFFENCES", 3)
    world = make_world()
    codes = [world.call("node0", double(sequence=number)).code for number in range(5)]
    assert codes == ["OK"] * 3 + ["ENOUGH_OFFENCES"] * 2
    assert world.call("node0", double(sequence=0)).code == "ALREADY_REPORTED"
    assert world.call("node0", double(index=3)).code == "OK"
    assert sum(entry.startswith(b"offence/node2/") for entry in world.store.entries) == 3


def test_a_validator_whose_name_begins_with_anothers_has_its_own_offences() -> None:
    world = make_world()
    world.decide("add", "node22")
    world.advance_to(world.application.epochs()[1].first_height)
    world.call("node0", double(domain=Domain("test", "main", 1), index=5, by="node22"))
    assert len(world.view.validators.offences("node22")) == 1 and world.view.validators.offences("node2") == ()
