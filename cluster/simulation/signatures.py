"""Signatures of a simulation: keyed BLAKE2b by default, because it is sixty times as fast as Ed25519; or Ed25519 itself.

The keyed hash is no signature anywhere else: whoever checks needs the secret. In a simulation the table of secrets is the only one that
checks, and a Byzantine node is given the signers of its own keys only, so nobody can forge anything.
"""

from __future__ import annotations

from hashlib import blake2b

from consensus.crypto import ED25519, SIGNATURE_BYTES, Ed25519Signer, Signer, Verify, digest, verify


class SimulatedSigner:
    """Signs with one simulated key.

    Args:
        secret: 32 bytes, known to this signer and to the table.
        public_key: 32 bytes that name it.
    """

    scheme = ED25519
    """Votes and envelopes have room for one scheme's number only; in a simulation this one stands for it."""

    def __init__(self, secret: bytes, public_key: bytes) -> None:
        self.public_key = public_key
        self._secret = secret

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message``."""
        return blake2b(message, key=self._secret, digest_size=SIGNATURE_BYTES).digest()


class Keys:
    """All keys of a simulation.

    Args:
        real: Ed25519 instead of the keyed hash.

    Attributes:
        check: checks any signature.
    """

    def __init__(self, *, real: bool = False) -> None:
        self._real = real
        self._secrets: dict[bytes, bytes] = {}
        self.check: Verify = verify if real else self._check

    def signer(self, owner: str) -> Signer:
        """Return the signer of a key that belongs to ``owner`` (the same name gives the same key)."""
        seed = digest(b"GridPact simulation key\x00" + owner.encode())
        if self._real:
            return Ed25519Signer(seed)
        public_key = digest(b"GridPact simulation public key\x00" + owner.encode())
        self._secrets[public_key] = seed
        return SimulatedSigner(seed, public_key)

    def _check(self, scheme: int, public_key: bytes, message: bytes, signature: bytes) -> bool:
        secret = self._secrets.get(public_key)
        if secret is None or scheme != ED25519:
            return False
        return blake2b(message, key=secret, digest_size=SIGNATURE_BYTES).digest() == signature
