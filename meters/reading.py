"""Makes signed readings: the transactions that a meter publishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from consensus.codec import Decoder, encode
from consensus.crypto import Signer
from consensus.messages import ValidatorSet
from consensus.transaction import decode_transaction, sign_transaction
from contracts.calls import SubmitReading
from contracts.genesis import Genesis
from meters.dataset import Counters

_decode_reading = Decoder(SubmitReading, "stored reading", 4096)


class CounterSource(Protocol):
    """A meter's counters: a driver of a real meter, or a replay."""

    @property
    def knows_past(self) -> bool:
        """Whether ``read`` gives the right answer for moments that have passed."""

    def read(self, now_ms: int) -> Counters:
        """Return the counters at chain time ``now_ms`` (a real meter: right now).

        Raises:
            GridPactError: they cannot be had.
            OSError: the device does not answer.
        """


@dataclass(frozen=True, slots=True)
class MeterIdentity:
    """In whose name readings are signed, for which chain.

    Attributes:
        chain_id, channel: from genesis.
        meter: the meter's id.
        signer: holds the meter's key.
        validity_ms: how long a signed reading may take to get into a block, chain time.
        validators: of genesis; from there on it is proven who signs the blocks that prove a reading.
    """

    chain_id: str
    channel: str
    meter: str
    signer: Signer
    validity_ms: int
    validators: ValidatorSet

    @classmethod
    def of(cls, genesis: Genesis, meter: str, signer: Signer) -> MeterIdentity:
        """Return the identity of a meter on the chain of ``genesis``.

        Readings are valid for seven eighths of what the chain allows, so that a meter whose clock is ahead of the chain's passes too.
        """
        validity_ms = max(1, genesis.consensus.max_validity_ms * 7 // 8)
        return cls(genesis.chain_id, genesis.channel, meter, signer, validity_ms, genesis.validator_set)


class SignedReading(NamedTuple):
    """A reading and the transaction that carries it; without one yet, ``nonce`` and ``valid_until_ms`` are 0, ``id`` and ``raw`` empty.

    Attributes:
        sequence, time_ms: as in ``call``.
        nonce, valid_until_ms: of the transaction.
        id: of the transaction.
        call: the encoded ``SubmitReading``.
        raw: the encoded envelope.
    """

    sequence: int
    time_ms: int
    nonce: int
    valid_until_ms: int
    id: bytes
    call: bytes
    raw: bytes


def sign_reading(identity: MeterIdentity, reading: SubmitReading, nonce: int, now_ms: int) -> SignedReading:
    """Sign ``reading`` as a transaction that is valid from now on.

    Args:
        nonce: number that the meter has not used before.
        now_ms: chain time.
    """
    valid_until_ms = now_ms + identity.validity_ms
    raw = sign_transaction(
        identity.signer,
        chain_id=identity.chain_id,
        channel=identity.channel,
        sender=identity.meter,
        nonce=nonce,
        valid_until_ms=valid_until_ms,
        call=reading,
    )
    return SignedReading(reading.sequence, reading.time_ms, nonce, valid_until_ms, decode_transaction(raw).id, encode(reading), raw)


def unsigned_reading(reading: SubmitReading) -> SignedReading:
    """Return a reading that is to be signed later, when it is about to be published."""
    return SignedReading(reading.sequence, reading.time_ms, 0, 0, b"", encode(reading), b"")


def sign_again(identity: MeterIdentity, old: SignedReading, nonce: int, now_ms: int) -> SignedReading:
    """Sign a stored reading: for the first time, or as a new transaction because the old one expired before it was proven.

    The chain counts (meter, sequence) once, so it does no harm if the old one was executed after all.

    Raises:
        DecodeError: the stored reading is damaged.
    """
    return sign_reading(identity, _decode_reading(old.call), nonce, now_ms)
