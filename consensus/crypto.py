"""Digests and signatures.

SHA-256 for every digest, Ed25519 (RFC 8032) through libsodium for every signature. A signature scheme has a number, which
stands in every signed envelope, so that others (secure elements speak ECDSA P-256 only) can be added without a new format.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

from nacl.bindings import (
    crypto_sign,
    crypto_sign_BYTES,
    crypto_sign_open,
    crypto_sign_PUBLICKEYBYTES,
    crypto_sign_seed_keypair,
    crypto_sign_SEEDBYTES,
)
from nacl.exceptions import CryptoError

from consensus.errors import InputError

ED25519 = 1
DIGEST_BYTES = 32
SIGNATURE_BYTES = crypto_sign_BYTES
PUBLIC_KEY_BYTES = crypto_sign_PUBLICKEYBYTES
SEED_BYTES = crypto_sign_SEEDBYTES
EMPTY_DIGEST = bytes(DIGEST_BYTES)


def digest(data: bytes) -> bytes:
    """Return the SHA-256 digest of ``data``, 32 bytes."""
    return sha256(data).digest()


def verify(scheme: int, public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` is ``public_key``'s signature over exactly ``message``.

    Never raises: an unknown scheme or a malformed key or signature is simply not a valid signature.
    """
    if scheme != ED25519 or len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except CryptoError:
        return False
    return True


Verify = Callable[[int, bytes, bytes, bytes], bool]
"""How signatures are checked: (scheme, public key, message, signature). Always :func:`verify`, but in simulations."""


class Signer(Protocol):
    """Somebody who can sign: holds a private key and never shows it."""

    @property
    def scheme(self) -> int:
        """Number of the signature scheme."""

    @property
    def public_key(self) -> bytes:
        """The key that others check with."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature over exactly ``message``."""


class Ed25519Signer:
    """Signs with one Ed25519 key pair.

    Args:
        seed: the 32 secret bytes (RFC 8032, section 5.1.5) that the key pair is derived from.

    Raises:
        InputError: the seed does not have 32 bytes.
    """

    scheme = ED25519

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise InputError("key", f"{len(seed)} bytes, an Ed25519 seed has {SEED_BYTES}")
        self.public_key, self._secret_key = crypto_sign_seed_keypair(seed)

    def __repr__(self) -> str:
        return f"Ed25519Signer({self.public_key.hex()[:16]}...)"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over ``message``."""
        return crypto_sign(message, self._secret_key)[:SIGNATURE_BYTES]
