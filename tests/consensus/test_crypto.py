"""Ed25519 and SHA-256 against RFC 8032, against another library, and under garbage."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from consensus.crypto import ED25519, Ed25519Signer, digest, verify
from consensus.errors import InputError

RFC_8032 = {
    "test 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "test 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "test 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "test SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize("name", RFC_8032)
def test_rfc_8032_section_7_1(name: str) -> None:
    seed, public, message, signature = (bytes.fromhex(text) for text in RFC_8032[name])
    signer = Ed25519Signer(seed)
    assert signer.public_key == public
    assert signer.sign(message) == signature
    assert verify(ED25519, public, message, signature)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_another_library_signs_the_same_and_accepts_ours(seed: bytes, message: bytes) -> None:
    ours, other = Ed25519Signer(seed), Ed25519PrivateKey.from_private_bytes(seed)
    assert other.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) == ours.public_key
    assert other.sign(message) == ours.sign(message)
    Ed25519PublicKey.from_public_bytes(ours.public_key).verify(ours.sign(message), message)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.data())
def test_one_flipped_bit_anywhere_spoils_it_for_both_libraries(seed: bytes, message: bytes, data: st.DataObject) -> None:
    signer = Ed25519Signer(seed)
    parts = [bytearray(signer.public_key), bytearray(message), bytearray(signer.sign(message))]
    which = data.draw(st.sampled_from([index for index, part in enumerate(parts) if part]))
    bit = data.draw(st.integers(0, len(parts[which]) * 8 - 1))
    parts[which][bit // 8] ^= 1 << bit % 8
    key, text, signature = map(bytes, parts)
    assert not verify(ED25519, key, text, signature)
    with pytest.raises((InvalidSignature, ValueError)):
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)


def test_a_signature_has_one_form_only() -> None:
    signer = Ed25519Signer(bytes(32))
    signature = signer.sign(b"pay")
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    assert not verify(ED25519, signer.public_key, b"pay", signature[:32] + scalar.to_bytes(32, "little"))


def test_a_key_of_small_order_signs_nothing() -> None:
    identity = b"\x01" + bytes(31)
    assert not verify(ED25519, identity, b"anything", identity + bytes(32))


@given(st.integers(-1, 300), st.binary(max_size=70), st.binary(max_size=70), st.binary(max_size=70))
def test_garbage_is_no_signature_and_no_crash(scheme: int, key: bytes, message: bytes, signature: bytes) -> None:
    assert verify(scheme, key, message, signature) is False


@pytest.mark.parametrize("moved", [-5, -1, 1, 5, 64])
def test_signature_and_message_cannot_trade_bytes(moved: int) -> None:
    """The library sees both as one string: the border must stay where it is."""
    signer = Ed25519Signer(bytes(32))
    whole = signer.sign(b"a message") + b"a message"
    assert verify(ED25519, signer.public_key, whole[64:], whole[:64])
    assert not verify(ED25519, signer.public_key, whole[64 - moved :], whole[: 64 - moved])


def test_an_unknown_scheme_is_refused() -> None:
    signer = Ed25519Signer(bytes(32))
    signature = signer.sign(b"x")
    assert verify(ED25519, signer.public_key, b"x", signature)
    assert not verify(ED25519 + 1, signer.public_key, b"x", signature)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"{size} bytes, an Ed25519 seed has 32"):
        Ed25519Signer(bytes(size))


def test_a_signer_never_shows_its_secret() -> None:
    seed = bytes(range(32))
    assert seed.hex() not in repr(Ed25519Signer(seed))


@given(st.binary(max_size=200))
def test_digest_is_sha_256(data: bytes) -> None:
    assert digest(data) == hashlib.sha256(data).digest()
