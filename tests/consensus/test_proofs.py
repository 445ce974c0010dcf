"""Proofs for clients: complete for everything that is there, and refused after any change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.block import Batch, Certificate, Header, decode_header, genesis_header, make_header
from consensus.codec import encode
from consensus.crypto import digest
from consensus.errors import DecodeError, InputError
from consensus.merkle import InclusionProof, merkle_root, prove_inclusion
from consensus.messages import Kind, make_certificate, sign_vote
from consensus.proofs import (
    EntryProof,
    TransactionProof,
    check_entry_proof,
    check_transaction_proof,
    decode_entry_proof,
    decode_transaction_proof,
)
from consensus.state_tree import StateTree
from tests.consensus.test_messages import signer, validators

KNOWN = validators(4)


@dataclass(frozen=True)
class Chain:
    """One certified block over some transactions, receipts and state."""

    ids: list[bytes]
    receipts: list[bytes]
    tree: StateTree
    header: Header
    certificate: Certificate

    def transaction_proof(self, index: int) -> TransactionProof:
        paths = prove_inclusion(self.ids, index), prove_inclusion(self.receipts, index)
        return TransactionProof(encode(self.header), self.certificate, self.receipts[index], *paths)

    def entry_proof(self, key: bytes, value: bytes | None) -> EntryProof:
        return EntryProof(encode(self.header), self.certificate, key, value, self.tree.prove(key))


def certified(header: Header) -> Certificate:
    votes = [sign_vote(signer(index), KNOWN.domain, Kind.CHECKPOINT, 0, header.height, header.hash, index) for index in (0, 1, 3)]
    return make_certificate(tuple(votes))


def chain(transactions: int, with_due: bool = True) -> Chain:
    ids = [digest(b"transaction %d" % number) for number in range(transactions)]
    receipts = [b"receipt %d" % number for number in range(transactions)] + ([b"what fell due"] if with_due else [])
    tree = StateTree.of([(b"balance/%d" % number, b"%d" % number) for number in range(20)])
    batch = encode(Batch(0, 0, 10, tuple(ids)))
    header = make_header(
        genesis_header("demo", "main", 0, bytes(32), bytes(32), KNOWN.digest), batch, ids, receipts, tree.root, 0, KNOWN.digest
    )
    return Chain(ids, receipts, tree, header, certified(header))


@pytest.mark.parametrize("with_due", [True, False])
@pytest.mark.parametrize("transactions", range(1, 10))
def test_every_transaction_is_provable_with_its_own_receipt_only(transactions: int, with_due: bool) -> None:
    made = chain(transactions, with_due)
    for index, transaction_id in enumerate(made.ids):
        proof = made.transaction_proof(index)
        assert decode_transaction_proof(encode(proof)) == proof
        assert check_transaction_proof([KNOWN], transaction_id, proof) == made.header
        for other in made.ids:
            if other != transaction_id:
                with pytest.raises(InputError):
                    check_transaction_proof([KNOWN], other, proof)


@pytest.mark.parametrize("with_due", [True, False])
@pytest.mark.parametrize("transactions", range(1, 10))
def test_no_other_receipt_can_be_passed_off(transactions: int, with_due: bool) -> None:
    """A lying node chooses index, size and path freely; what it cannot choose is the receipt."""
    made = chain(transactions, with_due)
    for index, transaction_id in enumerate(made.ids):
        honest = made.transaction_proof(index)
        for at, receipt in enumerate(made.receipts):
            if at == index:
                continue
            real = prove_inclusion(made.receipts, at)
            for place in range(len(made.receipts) + 2):
                for size in range(len(made.receipts) + 3):
                    path = InclusionProof(place, size, real.path)
                    with pytest.raises(InputError):
                        check_transaction_proof([KNOWN], transaction_id, replaced(honest, receipt=receipt, receipt_path=path))


@pytest.mark.parametrize("transactions", range(1, 6))
def test_no_lie_about_both_paths_together_passes(transactions: int) -> None:
    made = chain(transactions)
    claims = [(place, size) for size in range(1, transactions + 3) for place in range(size)]
    for index, transaction_id in enumerate(made.ids):
        honest, id_path = made.transaction_proof(index), prove_inclusion(made.ids, index).path
        for at in range(len(made.receipts)):
            receipt_path = prove_inclusion(made.receipts, at).path
            for place, size in claims:
                for receipt_place, receipt_size in claims:
                    if at != index and place == receipt_place:
                        lie = replaced(
                            honest,
                            receipt=made.receipts[at],
                            transaction_path=InclusionProof(place, size, id_path),
                            receipt_path=InclusionProof(receipt_place, receipt_size, receipt_path),
                        )
                        with pytest.raises(InputError):
                            check_transaction_proof([KNOWN], transaction_id, lie)


def replaced(proof: Any, **changes: object) -> Any:
    return msgspec.structs.replace(proof, **changes)


def forged_header(made: Chain, **changes: object) -> bytes:
    return encode(replaced(made.header, **changes))


def test_each_lie_is_named() -> None:
    made = chain(3)
    proof = made.transaction_proof(1)
    foreign = chain(3)
    lies = {
        "header: is of chain other": replaced(proof, header=forged_header(made, chain_id="other")),
        "channel energy": replaced(proof, header=forged_header(made, channel="energy")),
        "is for another header": replaced(proof, header=forged_header(made, time_ms=11)),
        "header: ": replaced(proof, header=b"\x01"),
        "is not signed by a quorum": replaced(proof, certificate=replaced(made.certificate, votes=made.certificate.votes[:2])),
        "does not lead to the transaction root": replaced(proof, transaction_path=replaced(proof.transaction_path, path=())),
        "does not lead to the receipt root": replaced(proof, receipt=b"receipt 2"),
        "is of a tree of another size": replaced(proof, receipt_path=replaced(proof.receipt_path, size=3)),
        "belongs to another transaction": replaced(proof, receipt_path=prove_inclusion(foreign.receipts, 2)),
    }
    for reason, lie in lies.items():
        with pytest.raises(InputError, match=reason):
            check_transaction_proof([KNOWN], made.ids[1], lie)


def test_a_certificate_of_the_same_header_in_other_words_is_refused() -> None:
    made = chain(1)
    wire = encode(made.header)
    assert wire[:4] == b"\xdc\x00\x10\x02", "an array of 16, then version 2 in one byte"
    respelled = wire[:3] + b"\xcc\x02" + wire[4:]
    assert decode_header(respelled) == made.header
    with pytest.raises(InputError, match="another header"):
        check_transaction_proof([KNOWN], made.ids[0], replaced(made.transaction_proof(0), header=respelled))


def test_certificates_are_checked_against_the_validators_one_knows() -> None:
    made = chain(1)
    for strangers, reason in ((validators(4, epoch=1), "epoch"), (replaced(KNOWN, public_keys=KNOWN.public_keys[::-1]), "quorum")):
        with pytest.raises(InputError, match=reason):
            check_transaction_proof([strangers], made.ids[0], made.transaction_proof(0))


@given(st.integers(0, 4), st.data())
def test_tampering_with_any_byte_of_a_transaction_proof_is_refused(index: int, data: st.DataObject) -> None:
    made = chain(5)
    proof = made.transaction_proof(index)
    encoded = bytearray(encode(proof))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InputError):
        check_transaction_proof([KNOWN], made.ids[index], decode_transaction_proof(bytes(encoded)))


@given(st.integers(0, 25), st.data())
def test_tampering_with_any_byte_of_an_entry_proof_is_refused(number: int, data: st.DataObject) -> None:
    made = chain(1)
    proof = made.entry_proof(b"balance/%d" % number, b"%d" % number if number < 20 else None)
    assert check_entry_proof([KNOWN], proof) == made.header
    encoded = bytearray(encode(proof))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        forged = decode_entry_proof(bytes(encoded))
    except DecodeError:
        return
    if forged.key != proof.key and forged.value is None and made.tree.prove(forged.key) == proof.path:
        return  # another absent key whose path ends in the same place: still true
    with pytest.raises(InputError):
        check_entry_proof([KNOWN], forged)


def test_an_entry_proof_shows_one_value_only() -> None:
    made = chain(1)
    for value in (b"8", b"", None):
        with pytest.raises(InputError, match="state root"):
            check_entry_proof([KNOWN], made.entry_proof(b"balance/7", value))
    assert check_entry_proof([KNOWN], made.entry_proof(b"balance/7", b"7")) == made.header
    assert check_entry_proof([KNOWN], made.entry_proof(b"nobody", None)) == made.header
    with pytest.raises(InputError, match="state root"):
        check_entry_proof([KNOWN], made.entry_proof(b"nobody", b"1"))


def test_an_empty_block_proves_no_transaction() -> None:
    made = chain(0)
    assert made.header.transactions_root == merkle_root([])
    empty = InclusionProof(0, 0, ())
    with pytest.raises(InputError):
        check_transaction_proof([KNOWN], b"", TransactionProof(encode(made.header), made.certificate, b"what fell due", empty, empty))
