"""A small real chain for the tests: four validators' keys, genesis, and blocks with certificates for given readings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from consensus.block import genesis_header, make_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.merkle import prove_inclusion
from consensus.messages import Kind, make_certificate, sign_vote
from consensus.proofs import TransactionProof
from consensus.transaction import decode_transaction
from contracts.events import Receipt
from contracts.genesis import ConsensusRules, Genesis, MarketRules, Meter, Participant, Tariff, Validator, check_genesis
from contracts.topics import ReceiptNotice

START_MS = 1_470_549_600_000
PERIOD_MS = 900_000
VALIDATORS = tuple(Ed25519Signer(bytes([10 + index]) * 32) for index in range(4))


def meter_key(name: str) -> Ed25519Signer:
    return Ed25519Signer(name.encode().ljust(32, b"."))


def make_genesis(meters: Sequence[str], max_validity_ms: int = 86_400_000) -> Genesis:
    member = Ed25519Signer(b"m" * 32).public_key.hex()
    genesis = Genesis(
        version=1,
        chain_id="test",
        channel="main",
        currency="USD",
        time_ms=START_MS,
        validators=tuple(Validator(f"dc{index}", key.public_key.hex(), "OPERATOR") for index, key in enumerate(VALIDATORS)),
        participants=(
            Participant("GRID", "grid", member, 0),
            Participant("OPERATOR", "operator", member, 0),
            *(Participant(f"home-{meter}", "prosumer", member, 0) for meter in meters),
        ),
        meters=tuple(Meter(meter, f"home-{meter}", meter_key(meter).public_key.hex(), 20_000) for meter in meters),
        tariff=Tariff((220_000,) * 24, (220_000,) * 24, 80_000),
        market=MarketRules(PERIOD_MS, START_MS // PERIOD_MS, 3_600_000, 300_000, 300_000),
        consensus=ConsensusRules(max_validity_ms=max_validity_ms),
    )
    check_genesis(genesis)
    return genesis


class Chain:
    """Puts readings into certified blocks; every reading that it was given once counts once."""

    def __init__(self, genesis: Genesis, signers: Sequence[Ed25519Signer] = VALIDATORS) -> None:
        self._domain = genesis.validator_set.domain
        self._signers = signers
        self._heights = itertools.count(1)
        self._genesis = genesis

    def notices(self, raws: Sequence[bytes], code: str = "OK") -> list[ReceiptNotice]:
        ids = [decode_transaction(raw).id for raw in raws]
        receipts = [encode(Receipt(identity, code, "", ())) for identity in ids]
        previous = genesis_header(self._genesis.chain_id, self._genesis.channel, START_MS, self._genesis.digest, bytes(32))
        header = make_header(previous, b"", ids, receipts, bytes(32), START_MS + next(self._heights))
        votes = tuple(
            sign_vote(signer, self._domain, Kind.CHECKPOINT, 0, header.height, header.hash, index)
            for index, signer in enumerate(self._signers[:3])
        )
        certificate = make_certificate(0, votes)
        return [
            ReceiptNotice(
                identity,
                TransactionProof(
                    encode(header), certificate, receipts[place], prove_inclusion(ids, place), prove_inclusion(receipts, place)
                ),
            )
            for place, identity in enumerate(ids)
        ]
