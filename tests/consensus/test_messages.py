"""Votes count in one place only; certificates need a quorum of distinct, known validators."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import assume, given
from hypothesis import strategies as st

from consensus.block import Certificate, CertificateVote
from consensus.codec import Wire, encode
from consensus.crypto import ED25519, Ed25519Signer, verify
from consensus.errors import DecodeError
from consensus.messages import (
    Domain,
    FetchBatch,
    Kind,
    Message,
    StatusBody,
    ValidatorSet,
    Vote,
    body_digest,
    decode_message,
    make_certificate,
    sign_vote,
    signing_bytes,
)
from consensus.quorum import quorums
from consensus.transaction import decode_transaction, sign_transaction
from tests.wire_values import values_of

HEADER_HASH = b"\x07" * 32
names = st.sampled_from(["demo", "main", "other", ""])


def signer(index: int) -> Ed25519Signer:
    return Ed25519Signer(bytes([index + 1]) * 32)


def validators(count: int, epoch: int = 0) -> ValidatorSet:
    return set_of(Domain("demo", "main", epoch), [signer(index).public_key for index in range(count)])


def set_of(domain: Domain, keys: list[bytes]) -> ValidatorSet:
    names = tuple(f"dc{index}" for index in range(len(keys)))
    return ValidatorSet(domain, 1, names, tuple(keys), tuple(b"log of %d" % index for index in range(len(keys))))


def checks(vote: Vote, domain: Domain, public_key: bytes) -> bool:
    """Whether the vote counts for whoever knows that everybody in ``domain`` signs with this key."""
    return set_of(domain, [public_key] * 4).checks(vote)


@dataclass(frozen=True)
class Place:
    """Everything that a vote's signature covers."""

    chain_id: str
    channel: str
    epoch: int
    kind: int
    view: int
    sequence: int
    digest: bytes
    sender: int

    @property
    def domain(self) -> Domain:
        return Domain(self.chain_id, self.channel, self.epoch)

    def with_signature(self, signature: bytes) -> Vote:
        return Vote(self.kind, self.epoch, self.view, self.sequence, self.digest, self.sender, signature)


places = st.builds(
    Place,
    chain_id=names,
    channel=names,
    epoch=st.integers(0, 2),
    kind=st.sampled_from([int(kind) for kind in Kind]),
    view=st.integers(0, 3),
    sequence=st.integers(0, 3),
    digest=st.sampled_from([bytes(32), HEADER_HASH, b""]),
    sender=st.integers(0, 3),
)


@given(places, places)
def test_a_signature_made_in_one_place_is_worth_nothing_in_another(here: Place, there: Place) -> None:
    one = signer(0)
    vote = sign_vote(one, here.domain, Kind(here.kind), here.view, here.sequence, here.digest, here.sender)
    assert checks(vote, here.domain, one.public_key)
    assert checks(there.with_signature(vote.signature), there.domain, one.public_key) == (here == there)
    assert not checks(vote, here.domain, signer(1).public_key)


@given(places)
def test_what_is_signed_is_a_tag_and_a_plain_array(place: Place) -> None:
    plain = [place.chain_id, place.channel, place.epoch, place.kind, place.view, place.sequence, place.digest, place.sender]
    vote = sign_vote(signer(2), place.domain, Kind(place.kind), place.view, place.sequence, place.digest, place.sender)
    message = b"GridPact vote\x00" + msgpack.packb(plain, use_bin_type=True)
    Ed25519PublicKey.from_public_bytes(signer(2).public_key).verify(vote.signature, message)


@given(places, st.data())
def test_a_changed_vote_does_not_check(place: Place, data: st.DataObject) -> None:
    vote = sign_vote(signer(0), place.domain, Kind(place.kind), place.view, place.sequence, place.digest, place.sender)
    field = data.draw(st.sampled_from(["kind", "epoch", "view", "sequence", "digest", "sender", "signature"]))
    values = {name: getattr(vote, name) for name in vote.__struct_fields__}
    old = values[field]
    values[field] = old + data.draw(st.integers(1, 9)) if isinstance(old, int) else data.draw(st.binary(max_size=70))
    assume(values[field] != old)
    assert not checks(Vote(**values), place.domain, signer(0).public_key)


def test_a_vote_is_no_transaction_and_a_transaction_no_vote() -> None:
    one = signer(0)
    raw = sign_transaction(one, chain_id="demo", channel="main", sender="a", nonce=1, valid_until_ms=1, call=("x",))
    envelope = decode_transaction(raw).envelope
    message = signing_bytes(Domain("demo", "main", 0), Kind.COMMIT, 0, 1, HEADER_HASH, 0)
    assert not verify(ED25519, one.public_key, message, envelope.signature)
    assert not verify(ED25519, one.public_key, envelope.body, one.sign(message))


@given(values_of(Message))
def test_every_message_survives_the_wire(message: Wire) -> None:
    assert decode_message(encode(message)) == message


@given(st.binary(max_size=200))
def test_garbage_messages_are_refused(data: bytes) -> None:
    try:
        message = decode_message(data)
    except DecodeError:
        return
    assert decode_message(encode(message)) == message


@given(values_of(Message), st.data())
def test_a_flipped_bit_is_refused_or_another_value(message: Wire, data: st.DataObject) -> None:
    encoded = bytearray(encode(message))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        changed = decode_message(bytes(encoded))
    except DecodeError:
        return
    assert encode(changed) != encode(message)


def test_a_body_has_its_own_domain() -> None:
    body = StatusBody(1, False, 2, 3, 1, None)
    assert body_digest(body) == body_digest(encode(body))
    assert body_digest(encode(FetchBatch(b""))) != body_digest(body)


# ---------------------------------------------------------------------------------------------------------- certificates


def checkpoint(index: int, count: int = 4, digest: bytes = HEADER_HASH, height: int = 9, key: int | None = None, epoch: int = 0) -> Vote:
    return sign_vote(signer(index if key is None else key), validators(count, epoch).domain, Kind.CHECKPOINT, 0, height, digest, index)


def certificate(votes: list[Vote], epoch: int = 0, height: int = 9) -> Certificate:
    return Certificate(epoch, height, HEADER_HASH, tuple(CertificateVote(vote.sender, vote.signature) for vote in votes))


@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_exactly_the_subsets_with_a_quorum_certify(count: int) -> None:
    known = validators(count)
    votes = [checkpoint(index, count) for index in range(count)]
    for size in range(count + 1):
        for chosen in combinations(votes, size):
            assert known.certifies(certificate(list(chosen))) == (size >= quorums(count).quorum)


@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_one_validator_counts_once(count: int) -> None:
    votes = [checkpoint(index, count) for index in range(quorums(count).quorum - 1)]
    assert not validators(count).certifies(certificate([*votes, votes[-1]]))
    assert not validators(count).certifies(certificate(votes[:1] * count))


def test_votes_out_of_order_are_refused_and_made_in_order() -> None:
    votes = [checkpoint(index) for index in (3, 0, 2)]
    assert not validators(4).certifies(certificate(votes))
    made = make_certificate(tuple(votes))
    assert [vote.validator for vote in made.votes] == [0, 2, 3]
    assert validators(4).certifies(made)


def bad_certificates() -> dict[str, Certificate]:
    good = [checkpoint(0), checkpoint(1)]
    commit = sign_vote(signer(2), validators(4).domain, Kind.COMMIT, 0, 9, HEADER_HASH, 2)
    in_view = sign_vote(signer(2), validators(4).domain, Kind.CHECKPOINT, 1, 9, HEADER_HASH, 2)
    return {
        "a foreign key": certificate([*good, checkpoint(2, key=9)]),
        "another validator's key": certificate([*good, checkpoint(2, key=0)]),
        "an unknown validator": certificate([*good, checkpoint(4)]),
        "a negative validator": certificate([checkpoint(-1, key=3), *good]),
        "another digest": certificate([*good, checkpoint(2, digest=b"\x08" * 32)]),
        "another height": certificate([*good, checkpoint(2, height=10)]),
        "another epoch": certificate([*good, checkpoint(2, epoch=1)]),
        "all of another epoch": certificate([checkpoint(index, epoch=1) for index in range(3)], epoch=1),
        "a commit for a checkpoint": certificate([*good, commit]),
        "a checkpoint of a view": certificate([*good, in_view]),
        "an empty signature": certificate([*good, Vote(Kind.CHECKPOINT, 0, 0, 9, HEADER_HASH, 2, b"")]),
        "no votes": certificate([]),
    }


@pytest.mark.parametrize("name", bad_certificates())
def test_a_certificate_with_one_bad_vote_certifies_nothing(name: str) -> None:
    assert validators(4).certifies(certificate([checkpoint(0), checkpoint(1), checkpoint(2)])), "the good one"
    assert not validators(4).certifies(bad_certificates()[name])


@pytest.mark.parametrize("sender", [-1, -4, 4, 2**40])
def test_a_vote_of_nobody_does_not_check(sender: int) -> None:
    """Not even one that is well signed by the validator whom a negative index would reach."""
    assert validators(4).checks(checkpoint(3))
    for key in range(4):
        assert not validators(4).checks(checkpoint(sender, key=key))
