"""The light client: from genesis to the present by proofs, and nothing else is believed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.crypto import digest
from consensus.errors import DecodeError, InputError, UnknownEpochError
from consensus.light_client import LightClient
from consensus.messages import Domain, ValidatorSet
from consensus.proofs import decode_transaction_proof
from consensus.validators import EpochChange, decode_epoch_change
from tests.consensus.epoch_chain import EpochChain, key, signed, transaction_id, validators

replace = msgspec.structs.replace


@st.composite
def chains(draw: st.DrawFn, least: int = 1) -> EpochChain:
    """Chains of up to six epochs of four to seven validators, of which some stay and some go."""
    epochs = draw(st.integers(least, 6))
    members = [draw(st.lists(st.integers(1, 12), min_size=4, max_size=7, unique=True)) for _ in range(epochs)]
    lengths = [draw(st.integers(1, 4)) for _ in range(epochs)]
    return EpochChain(members, lengths)


def story(epochs: int = 3, length: int = 3) -> EpochChain:
    """A chain whose set moves on by one validator per epoch."""
    return EpochChain([range(1 + epoch, 5 + epoch) for epoch in range(epochs)], [length] * epochs)


def informed(chain: EpochChain, epochs: int | None = None) -> LightClient:
    client = LightClient(chain.sets[0])
    client.learn(chain.changes[:epochs])
    return client


@settings(deadline=None, max_examples=40)
@given(chains())
def test_whoever_has_all_proofs_believes_the_whole_chain(chain: EpochChain) -> None:
    client = informed(chain)
    assert client.epochs == tuple(chain.sets)
    assert client.epoch == len(chain.sets) - 1
    for height in range(1, chain.height + 1):
        assert client.transaction(transaction_id(height), chain.transaction_proof(height)) == chain.headers[height]
        assert client.entry(chain.entry_proof(height)) == chain.headers[height]
        assert client.header(encode(chain.headers[height]), chain.certificates[height]) == chain.headers[height]
    run = [encode(header) for header in chain.headers]
    assert client.headers(run, chain.certificates[chain.height]) == tuple(chain.headers)


@settings(deadline=None, max_examples=40)
@given(chains(2), st.data())
def test_a_later_epoch_is_neither_believed_nor_refused_until_it_is_proven(chain: EpochChain, data: st.DataObject) -> None:
    known = data.draw(st.integers(0, len(chain.sets) - 2))
    client = informed(chain, known)
    for height in range(1, chain.height + 1):
        proof = chain.transaction_proof(height)
        if chain.epoch_of(height) <= known:
            assert client.transaction(transaction_id(height), proof) == chain.headers[height]
            continue
        with pytest.raises(UnknownEpochError, match=f"epoch {chain.epoch_of(height)}") as unknown:
            client.transaction(transaction_id(height), proof)
        assert (unknown.value.epoch, unknown.value.known) == (chain.epoch_of(height), known)
        with pytest.raises(UnknownEpochError):
            client.entry(chain.entry_proof(height))
        with pytest.raises(UnknownEpochError):
            client.headers([encode(header) for header in chain.headers[: height + 1]], chain.certificates[height])
    client.learn(chain.changes)
    assert client.epoch == len(chain.sets) - 1
    assert client.transaction(transaction_id(chain.height), chain.transaction_proof(chain.height)) == chain.headers[-1]


@settings(deadline=None, max_examples=40)
@given(chains(3), st.data())
def test_no_epoch_is_skipped(chain: EpochChain, data: st.DataObject) -> None:
    changes = chain.changes
    gone = data.draw(st.integers(0, len(changes) - 2))
    client = LightClient(chain.sets[0])
    with pytest.raises(DecodeError, match="epoch change"):
        client.learn(changes[:gone] + changes[gone + 1 :])
    assert client.epochs == (chain.sets[0],), "nothing is half learned"
    client.learn(changes[:gone])
    assert client.epoch == gone


@settings(deadline=None, max_examples=60)
@given(chains(2), st.data())
def test_one_bad_proof_spoils_the_lot_and_changes_nothing(chain: EpochChain, data: st.DataObject) -> None:
    changes = chain.changes
    known = data.draw(st.integers(0, len(changes) - 1))
    bad = data.draw(st.integers(known, len(changes) - 1))
    client = informed(chain, known)
    spoiled = bytearray(changes[bad])
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= data.draw(st.integers(1, 255))
    before = client.save()
    with pytest.raises(InputError):
        client.learn([*changes[:bad], bytes(spoiled), *changes[bad + 1 :]])
    assert client.epochs == tuple(chain.sets[: known + 1])
    assert client.save() == before


def changed(chain: EpochChain, epoch: int, **fields: object) -> bytes:
    """Return the proof of an epoch with another set in it than its header names."""
    proof = chain.change(epoch)
    return encode(replace(proof, validators=replace(proof.validators, **fields)))


def signed_change(chain: EpochChain, epoch: int, following: ValidatorSet) -> bytes:
    """Return a proof that the members of the epoch before really signed, of any set at all."""
    last = chain.sets[epoch].first_height - 1
    header = replace(chain.headers[last], next_validators=following.digest)
    return encode(EpochChange(encode(header), signed(chain.sets[epoch - 1], chain.members[epoch - 1], header), following))


LIES: dict[str, Callable[[EpochChain], bytes]] = {
    "another key": lambda chain: changed(chain, 1, public_keys=(key(99).public_key, *chain.sets[1].public_keys[1:])),
    "another name": lambda chain: changed(chain, 1, names=("me", *chain.sets[1].names[1:])),
    "another vote log": lambda chain: changed(chain, 1, logs=(b"new", *chain.sets[1].logs[1:])),
    "one more member": lambda chain: changed(
        chain, 1, names=(*chain.sets[1].names, "me"), public_keys=(*chain.sets[1].public_keys, key(99).public_key)
    ),
    "an earlier first height": lambda chain: changed(chain, 1, first_height=chain.sets[1].first_height - 1),
    "a later first height": lambda chain: changed(chain, 1, first_height=chain.sets[1].first_height + 1),
    "an earlier first height, signed": lambda chain: signed_change(
        chain, 1, replace(chain.sets[1], first_height=chain.sets[1].first_height - 1)
    ),
    "a later first height, signed": lambda chain: signed_change(chain, 1, replace(chain.sets[1], first_height=99)),
    "another chain, signed": lambda chain: signed_change(chain, 1, replace(chain.sets[1], domain=Domain("other", "main", 1))),
    "another channel, signed": lambda chain: signed_change(chain, 1, replace(chain.sets[1], domain=Domain("demo", "energy", 1))),
    "the epoch after the next, signed": lambda chain: signed_change(chain, 1, replace(chain.sets[1], domain=Domain("demo", "main", 2))),
    "too few signatures": lambda chain: encode(
        replace(chain.change(1), certificate=replace(chain.change(1).certificate, votes=chain.change(1).certificate.votes[:-1]))
    ),
    "one signature twice": lambda chain: encode(
        replace(chain.change(1), certificate=replace(chain.change(1).certificate, votes=(chain.change(1).certificate.votes[0],) * 3))
    ),
    "signatures of strangers": lambda chain: encode(
        replace(chain.change(1), certificate=signed(chain.sets[0], range(50, 54), chain.headers[chain.sets[1].first_height - 1]))
    ),
    "signatures of the next set": lambda chain: encode(
        replace(chain.change(1), certificate=signed(chain.sets[0], chain.members[1], chain.headers[chain.sets[1].first_height - 1]))
    ),
    "a certificate of another block": lambda chain: encode(replace(chain.change(1), certificate=chain.certificates[1])),
    "a block in the middle of the epoch": lambda chain: encode(EpochChange(encode(chain.headers[2]), chain.certificates[2], chain.sets[1])),
    "the last block of a later epoch": lambda chain: encode(chain.change(2)),
    "rubbish": lambda chain: b"\x93\x01\x02\x03",
    "nothing": lambda chain: b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_forged_epoch_is_refused_and_the_true_one_still_taken(lie: str) -> None:
    chain = story()
    client = LightClient(chain.sets[0])
    with pytest.raises(InputError, match="epoch change"):
        client.learn([LIES[lie](chain)])
    assert client.epochs == (chain.sets[0],)
    client.learn(chain.changes)
    assert client.epoch == 2


def test_learning_twice_or_in_parts_is_the_same() -> None:
    chain = story(5)
    parts = LightClient(chain.sets[0])
    for change in chain.changes:
        parts.learn([change])
        parts.learn(chain.changes[:1])
    parts.learn([])
    parts.learn(chain.changes)
    assert parts.epochs == informed(chain).epochs
    assert parts.save() == informed(chain).save()


def test_known_epochs_cost_no_signature_check() -> None:
    chain = story(4)
    checked: list[bytes] = []

    def check(scheme: int, public_key: bytes, message: bytes, signature: bytes) -> bool:
        checked.append(public_key)
        return True

    client = LightClient(chain.sets[0], check)
    client.learn(chain.changes)
    before = len(checked)
    client.learn(chain.changes * 100)
    assert len(checked) == before


def test_two_successors_of_one_epoch_are_two_chains() -> None:
    """The members of epoch 0 really signed both: whoever knows one refuses the other."""
    chain = story()
    client = informed(chain)
    elsewhere = signed_change(chain, 1, validators(1, chain.sets[1].first_height, range(80, 84)))
    with pytest.raises(InputError, match="known of epoch 1"):
        client.learn([elsewhere])
    assert client.epochs == tuple(chain.sets)


def test_former_validators_prove_nothing_above_their_epoch() -> None:
    """The quorum of epoch 0 signs a block that lies in epoch 1: only who does not know epoch 1 can be fooled."""
    chain = story()
    height = chain.sets[1].first_height + 1
    header, certificate = chain.fork(0, height, chain.sets[0])
    assert LightClient(chain.sets[0]).header(encode(header), certificate) == header, "the long-range attack that the module speaks of"
    client = informed(chain, 1)
    with pytest.raises(InputError, match=f"is of epoch 0, but block {height} is of epoch 1") as refused:
        client.header(encode(header), certificate)
    assert not isinstance(refused.value, UnknownEpochError)


def test_future_validators_prove_nothing_below_their_epoch() -> None:
    chain = story()
    header, certificate = chain.fork(1, 2, chain.sets[1])
    with pytest.raises(InputError, match="is of epoch 1, but block 2 is of epoch 0"):
        informed(chain).header(encode(header), certificate)


def test_who_knows_the_next_set_refuses_a_header_that_names_another() -> None:
    """Two headers of one quorum at one height: the one that leads elsewhere is not believed."""
    chain = story()
    client = informed(chain)
    last = chain.sets[1].first_height - 1
    elsewhere = validators(1, last + 1, range(80, 84))
    for height, following in ((last, elsewhere), (last, chain.sets[0]), (last - 1, elsewhere), (last - 1, chain.sets[1])):
        header, certificate = chain.fork(0, height, following)
        with pytest.raises(InputError, match="two chains"):
            client.header(encode(header), certificate)


def test_header_and_certificate_must_name_the_same_epoch() -> None:
    chain = story()
    header = replace(chain.headers[2], epoch=1)
    with pytest.raises(InputError, match="says epoch 1, its certificate epoch 0"):
        informed(chain).header(encode(header), signed(chain.sets[0], chain.members[0], header))


def test_a_certificate_of_a_made_up_epoch_is_an_unknown_one_and_of_none_is_refused() -> None:
    chain = story()
    header = encode(chain.headers[2])
    with pytest.raises(UnknownEpochError):
        informed(chain).header(header, replace(chain.certificates[2], epoch=2**60))
    with pytest.raises(InputError, match="epoch -1"):
        informed(chain).header(header, replace(chain.certificates[2], epoch=-1))


@settings(deadline=None, max_examples=60)
@given(chains(), st.data())
def test_tampering_with_a_proof_of_any_epoch_is_refused(chain: EpochChain, data: st.DataObject) -> None:
    client = informed(chain)
    height = data.draw(st.integers(1, chain.height))
    proof = chain.transaction_proof(height)
    encoded = bytearray(encode(proof))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InputError):
        client.transaction(transaction_id(height), decode_transaction_proof(bytes(encoded)))


def test_a_run_of_headers_needs_every_link_and_a_certified_end() -> None:
    chain = story()
    client = informed(chain)
    top, run = chain.certificates[chain.height], [encode(header) for header in chain.headers]
    assert [header.height for header in client.headers(run[3:6], chain.certificates[5])] == [3, 4, 5]
    assert client.headers(run[-1:], top) == (chain.headers[-1],)
    wire = run[4]
    lies: dict[str, list[bytes]] = {
        "there is none": [],
        "is for another header": run[:-1],
        "before block 5 is not its predecessor": run[:4] + run[5:],
        "before block 4 is not its predecessor": [*run[:3], encode(replace(chain.headers[3], time_ms=77)), *run[4:]],
        "before block 1 is not its predecessor": [encode(replace(chain.headers[0], previous_hash=digest(b"other genesis"))), *run[1:]],
        "before block 3 is not its predecessor": [*run[:2], run[1], *run[3:]],
        "header: ": [*run[:2], b"\x00", *run[3:]],
        "before block 2 is": [run[0], wire, *run[2:]],
    }
    for reason, lie in lies.items():
        with pytest.raises(InputError, match=reason):
            client.headers(lie, top)


def test_a_run_whose_certified_end_hides_a_wrong_epoch_is_refused() -> None:
    """Even with a quorum's help: a header inside the run that says another epoch than its height has."""
    chain = story(2)
    inner = replace(chain.headers[2], epoch=1)
    outer = replace(chain.headers[3], previous_hash=inner.hash)
    run = [encode(chain.headers[1]), encode(inner), encode(outer)]
    with pytest.raises(InputError, match="block 2 says epoch 1"):
        informed(chain).headers(run, signed(chain.sets[0], chain.members[0], outer))


def test_a_respelled_header_in_a_run_is_refused() -> None:
    chain = story()
    wire = encode(chain.headers[2])
    respelled = wire[:3] + b"\xcc\x02" + wire[4:]
    run = [encode(chain.headers[1]), respelled, encode(chain.headers[3])]
    with pytest.raises(InputError, match="before block 3"):
        informed(chain).headers(run, chain.certificates[3])


@settings(deadline=None, max_examples=25)
@given(chains(), st.data())
def test_what_was_learned_survives_and_is_checked_again(chain: EpochChain, data: st.DataObject) -> None:
    saved = informed(chain).save()
    again = LightClient.restore(chain.sets[0], saved)
    assert again.epochs == tuple(chain.sets)
    assert again.save() == saved
    damaged = bytearray(saved)
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InputError):
        LightClient.restore(chain.sets[0], bytes(damaged))


def test_what_another_chain_proved_is_not_taken_over() -> None:
    chain, other = story(), EpochChain([range(1, 5), range(2, 6)], [3, 3], chain_id="other")
    with pytest.raises(DecodeError):
        LightClient.restore(chain.sets[0], informed(other).save())
    assert LightClient.restore(chain.sets[0], LightClient(other.sets[0]).save()).epochs == (chain.sets[0],)


def test_every_signature_goes_through_the_given_check() -> None:
    chain = story()
    seen: list[bytes] = []

    def check(scheme: int, public_key: bytes, message: bytes, signature: bytes) -> bool:
        seen.append(public_key)
        return True

    client = LightClient(chain.sets[0], check)
    client.learn(chain.changes)
    client.transaction(transaction_id(4), chain.transaction_proof(4))
    assert len(seen) == 3 * 3


def test_the_proofs_themselves_are_kept() -> None:
    chain = story()
    kept = msgspec.msgpack.decode(informed(chain).save(), type=tuple[bytes, ...])
    assert [decode_epoch_change(one).validators for one in kept] == chain.sets[1:]
