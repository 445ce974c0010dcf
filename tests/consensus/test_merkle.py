"""Merkle trees against RFC 6962: published vectors, and a recursive implementation written from its section 2.1."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import Decoder, encode
from consensus.errors import DecodeError
from consensus.merkle import EMPTY_ROOT, InclusionProof, leaf_hash, merkle_root, node_hash, prove_inclusion, verify_inclusion

# The eight inputs of the certificate-transparency reference implementation, the roots of their first 0..8, and some of its audit paths.
LEAVES = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}

leaf_lists = st.lists(st.binary(max_size=70), max_size=40)


def rfc_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = largest_power_below(len(leaves))
    return sha256(b"\x01" + rfc_root(leaves[:split]) + rfc_root(leaves[split:])).digest()


def rfc_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1, word by word."""
    if len(leaves) == 1:
        return []
    split = largest_power_below(len(leaves))
    if index < split:
        return [*rfc_path(index, leaves[:split]), rfc_root(leaves[split:])]
    return [*rfc_path(index - split, leaves[split:]), rfc_root(leaves[:split])]


def largest_power_below(size: int) -> int:
    power = 1
    while power * 2 < size:
        power *= 2
    return power


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert merkle_root(LEAVES[:size]).hex() == ROOTS[size]
    assert rfc_root(LEAVES[:size]).hex() == ROOTS[size], "the oracle itself"


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_published_audit_paths(index: int, size: int) -> None:
    proof = prove_inclusion(LEAVES[:size], index)
    assert [part.hex() for part in proof.path] == PATHS[index, size]
    assert verify_inclusion(bytes.fromhex(ROOTS[size]), LEAVES[index], proof)


@given(leaf_lists)
def test_root_and_every_path_equal_the_rfc(leaves: list[bytes]) -> None:
    root = merkle_root(leaves)
    assert root == rfc_root(leaves)
    for index, leaf in enumerate(leaves):
        proof = prove_inclusion(leaves, index)
        assert (proof.index, proof.size, list(proof.path)) == (index, len(leaves), rfc_path(index, leaves))
        assert verify_inclusion(root, leaf, proof)


@pytest.mark.parametrize("size", range(1, 34))
def test_a_proof_is_for_one_leaf_one_place_and_one_size(size: int) -> None:
    leaves = [bytes([number]) for number in range(size)]
    root = merkle_root(leaves)
    for index in range(size):
        proof = prove_inclusion(leaves, index)
        assert not verify_inclusion(root, b"other", proof)
        for other in range(size):
            if other != index:
                assert not verify_inclusion(root, leaves[other], proof)
                assert not verify_inclusion(root, leaves[index], InclusionProof(other, size, proof.path))


def test_the_size_is_not_in_the_root_so_it_must_be_known_from_elsewhere() -> None:
    """Leaf 2 of 3 passes for leaf 1 of 2: that is why a header counts the leaves of both its trees (see test_proofs)."""
    leaves = [b"first", b"second", b"third"]
    forged = InclusionProof(1, 2, (merkle_root(leaves[:2]),))
    assert verify_inclusion(merkle_root(leaves), b"third", forged)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20, unique=True), st.data())
def test_tampering_with_any_byte_is_refused(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = prove_inclusion(leaves, index)
    encoded = bytearray(encode(InclusionProof(proof.index, proof.size, proof.path)))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        forged = Decoder(InclusionProof, "proof")(bytes(encoded))
    except DecodeError:
        return
    if forged.size == proof.size and forged != proof:
        assert not verify_inclusion(merkle_root(leaves), leaves[index], forged)


@given(st.integers(-3, 40), st.integers(-3, 40), st.lists(st.binary(max_size=33), max_size=8).map(tuple))
def test_garbage_proves_nothing(index: int, size: int, path: tuple[bytes, ...]) -> None:
    leaves = [bytes([number]) for number in range(11)]
    assert not verify_inclusion(merkle_root(leaves), b"not there", InclusionProof(index, size, path))


@given(st.lists(st.binary(max_size=40), min_size=2, max_size=20), st.data())
def test_longer_and_shorter_paths_are_refused(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof, root = prove_inclusion(leaves, index), merkle_root(leaves)
    for path in (proof.path[:-1], proof.path[1:], (*proof.path, bytes(32)), (*proof.path, root)):
        assert not verify_inclusion(root, leaves[index], InclusionProof(index, len(leaves), path))


@pytest.mark.parametrize("size", range(2, 12))
def test_a_claimed_size_fixes_the_length_of_the_path(size: int) -> None:
    """Else the last leaf of any tree would pass for the only one of a tree of one."""
    leaves = [bytes([number]) for number in range(size)]
    for index, leaf in enumerate(leaves):
        path = prove_inclusion(leaves, index).path
        assert not verify_inclusion(merkle_root(leaves), leaf, InclusionProof(0, 1, path))
        for claimed in range(1, 24):
            for place in range(claimed):
                if len(rfc_path(place, [b""] * claimed)) != len(path):
                    assert not verify_inclusion(merkle_root(leaves), leaf, InclusionProof(place, claimed, path))


def test_an_inner_node_cannot_pass_for_a_leaf() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
    assert not verify_inclusion(merkle_root([b"a", b"b"]), left + right, InclusionProof(0, 1, ()))


@pytest.mark.parametrize("index", [-1, 3, 4])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError):
        prove_inclusion([b"a", b"b", b"c"], index)


def test_an_empty_tree_proves_nothing() -> None:
    assert not verify_inclusion(EMPTY_ROOT, b"", InclusionProof(0, 0, ()))
