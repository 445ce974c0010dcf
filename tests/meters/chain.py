"""A small real chain for the tests: four validators' keys, genesis, and blocks with certificates for given readings."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.block import Certificate, Header, genesis_header, make_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.merkle import prove_inclusion
from consensus.messages import Kind, ValidatorSet, make_certificate, sign_vote
from consensus.proofs import TransactionProof
from consensus.transaction import decode_transaction
from consensus.validators import EpochChange
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
    """Puts readings into certified blocks; every reading that it was given once counts once.

    Args:
        signers: of all validator sets, by name (``dc0``, ...); the others' keys are made from their names.
    """

    def __init__(self, genesis: Genesis, signers: Sequence[Ed25519Signer] = VALIDATORS) -> None:
        self._genesis = genesis
        self._signers = {f"dc{index}": signer for index, signer in enumerate(signers)}
        self.sets = [genesis.validator_set]
        self.changes: list[bytes] = []
        first = genesis.validator_set.digest
        self.head = genesis_header(genesis.chain_id, genesis.channel, START_MS, genesis.digest, bytes(32), first)

    def notices(self, raws: Sequence[bytes], code: str = "OK") -> list[ReceiptNotice]:
        """Return the receipts of one block that holds these readings."""
        ids = [decode_transaction(raw).id for raw in raws]
        receipts = [encode(Receipt(identity, code, "", ())) for identity in ids]
        header, certificate = self._block(ids, receipts, self.sets[-1])
        return [
            ReceiptNotice(
                identity,
                TransactionProof(
                    encode(header), certificate, receipts[place], prove_inclusion(ids, place), prove_inclusion(receipts, place)
                ),
            )
            for place, identity in enumerate(ids)
        ]

    def enter_epoch(self, names: Sequence[str]) -> bytes:
        """Go on under other validators; return the proof of their epoch."""
        last = self.sets[-1]
        domain = msgspec.structs.replace(last.domain, epoch=last.epoch + 1)
        keys = tuple(self.signer(name).public_key for name in names)
        following = ValidatorSet(domain, self.head.height + 2, tuple(names), keys, (b"",) * len(names))
        header, certificate = self._block([], [], following)
        self.sets.append(following)
        self.changes.append(encode(EpochChange(encode(header), certificate, following)))
        return self.changes[-1]

    def signer(self, name: str) -> Ed25519Signer:
        return self._signers.get(name) or meter_key(name)

    def _block(self, ids: Sequence[bytes], receipts: Sequence[bytes], following: ValidatorSet) -> tuple[Header, Certificate]:
        present = self.sets[-1]
        self.head = header = make_header(self.head, b"", ids, receipts, bytes(32), present.epoch, following.digest)
        seats = range(present.quorums.quorum)
        votes = [
            sign_vote(self.signer(present.names[seat]), present.domain, Kind.CHECKPOINT, 0, header.height, header.hash, seat)
            for seat in seats
        ]
        return header, make_certificate(tuple(votes))
