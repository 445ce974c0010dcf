"""The signed envelope: what meters publish, agents post, nodes share and blocks hold, byte for byte the same.

A transaction is a body and a signature over exactly the body's bytes. Its id is SHA-256 of the body. Nothing re-encodes it on the way.

Domain separation: a body is a MessagePack array of six (first byte 0x96); what validators sign starts with the letter ``G``
(:mod:`consensus.messages`), so a signature made in one place means nothing in the other. The body names chain and channel, so it
means nothing on another chain either.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from consensus.codec import Decoder, Wire, encode
from consensus.crypto import Signer, digest, verify
from consensus.errors import DecodeError

MAX_TRANSACTION_BYTES = 64 * 1024


class Body(Wire, frozen=True):
    """What the sender signs.

    Fields:
        chain_id: chain that the transaction is for.
        channel: channel of that chain.
        sender: account, meter or node id in whose name it is sent.
        nonce: number that the sender uses once (see ``contracts.accounts`` for the window that must hold it).
        valid_until_ms: block time after which it no longer executes.
        call: one tagged contract call, still encoded (the core knows no contract).
    """

    chain_id: str
    channel: str
    sender: str
    nonce: int
    valid_until_ms: int
    call: msgspec.Raw


class Envelope(Wire, frozen=True):
    """A body with its signature.

    Fields:
        scheme: number of the signature scheme (:data:`consensus.crypto.ED25519`).
        public_key: key that the signature checks with; the registry says whether it is the sender's.
        body: encoded :class:`Body`.
        signature: over exactly ``body``.
    """

    scheme: int
    public_key: bytes
    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Transaction:
    """A decoded transaction beside its bytes; whether the signature was checked is the holder's business.

    Attributes:
        id: SHA-256 of the body.
        raw: the encoded :class:`Envelope`, as received.
        envelope: decoded ``raw``.
        body: decoded ``envelope.body``.
    """

    id: bytes
    raw: bytes
    envelope: Envelope
    body: Body


_decode_envelope = Decoder(Envelope, "transaction", MAX_TRANSACTION_BYTES)
_decode_body = Decoder(Body, "transaction body", MAX_TRANSACTION_BYTES)


def decode_transaction(raw: bytes) -> Transaction:
    """Decode an envelope and its body (not the call, not the signature).

    Raises:
        DecodeError: it is too long, not a transaction, or its envelope is not encoded in the one shortest way (else anybody could make
            other bytes of the same transaction).
    """
    envelope = _decode_envelope(raw)
    if encode(envelope) != raw:
        raise DecodeError("transaction", "the envelope is not encoded in the shortest way")
    return Transaction(digest(envelope.body), raw, envelope, _decode_body(envelope.body))


def signature_is_valid(transaction: Transaction) -> bool:
    """Tell whether the envelope's signature checks under the envelope's own key. Safe to call from any thread."""
    envelope = transaction.envelope
    return verify(envelope.scheme, envelope.public_key, envelope.body, envelope.signature)


def sign_transaction(signer: Signer, *, chain_id: str, channel: str, sender: str, nonce: int, valid_until_ms: int, call: object) -> bytes:
    """Return the signed envelope, encoded.

    Args:
        signer: holds the sender's key.
        call: one contract call (a tagged struct of ``contracts.calls``).
    """
    body = encode(Body(chain_id, channel, sender, nonce, valid_until_ms, msgspec.Raw(encode(call))))
    return encode(Envelope(signer.scheme, signer.public_key, body, signer.sign(body)))
