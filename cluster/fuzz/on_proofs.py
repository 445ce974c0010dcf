"""The target `proofs`: what a meter or a member is told by a node that it does not trust."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.fuzz.chain import Chain
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.rehearsal import rehearsed
from cluster.fuzz.target import Stateless, refused
from consensus.block import Certificate
from consensus.codec import encode
from consensus.errors import InputError
from consensus.merkle import prove_inclusion
from consensus.proofs import EntryProof, TransactionProof, check_entry_proof, check_transaction_proof, decode_entry_proof
from consensus.transaction import decode_transaction
from contracts.topics import ReceiptNotice, decode_receipt_notice


class ProofsTarget(Stateless):
    """Receipt notices and entry proofs. What is believed must be so: only the validators can make a proof, and they made one chain."""

    def __init__(self, _folder: Path) -> None:
        play = rehearsed()
        self._validators = play.chain.epochs(len(play.chain.made))
        certificates = play.hosts[0].certificates
        notices = [notice for height in certificates for notice in _notices(play.chain, height, certificates[height])]
        self._true = {notice.transaction_id: notice.proof.receipt for notice in notices}
        entries = _entry_proofs(play.chain, certificates)
        self._state = play.chain.state
        self._seeds = tuple([b"t" + encode(one) for one in notices] + [b"e" + encode(one) for one in entries])

    def seeds(self) -> Sequence[bytes]:
        """Return true proofs."""
        return self._seeds

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return a proof changed; the first byte tells of what."""
        rest = mutator.gentle(data[1:]) if mutator.chance(0.5) else mutator.change(data[1:])
        return data[:1] + rest

    def run(self, data: bytes) -> str:
        """Check the proof as a client does."""
        try:
            return self._check_entry(data[1:]) if data[:1] == b"e" else self._check_receipt(data[1:])
        except InputError as error:
            return refused(error)

    def _check_receipt(self, data: bytes) -> str:
        notice = decode_receipt_notice(data)
        check_transaction_proof(self._validators, notice.transaction_id, notice.proof)
        if self._true.get(notice.transaction_id) != notice.proof.receipt:
            raise LawBrokenError(f"a receipt is believed that no block holds: {notice.proof.receipt.hex()[:200]}")
        return "accepted: receipt"

    def _check_entry(self, data: bytes) -> str:
        proof = decode_entry_proof(data)
        check_entry_proof(self._validators, proof)
        if self._state.get(proof.key) != proof.value:
            raise LawBrokenError(f"a state entry is believed that is not so: {proof.key!r}")
        return "accepted: entry" if proof.value is not None else "accepted: no entry"


def _notices(chain: Chain, height: int, certificate: Certificate) -> list[ReceiptNotice]:
    block = chain.made[height - 1].block
    ids = [decode_transaction(raw).id for raw in block.transactions]
    return [
        ReceiptNotice(
            one,
            TransactionProof(
                encode(block.header),
                certificate,
                block.receipts[position],
                prove_inclusion(ids, position),
                prove_inclusion(block.receipts, position),
            ),
        )
        for position, one in enumerate(ids)
    ]


def _entry_proofs(chain: Chain, certificates: dict[int, Certificate]) -> list[EntryProof]:
    """Return proofs of the state after the last block: of all entries, and of some that are not there."""
    header, tree = chain.made[-1].block.header, chain.application.tree
    keys = [key for key, _ in chain.state.scan(b"")] + [b"account/nobody", b"", b"meter/m-ada\x00", b"\xff" * 9]
    return [EntryProof(encode(header), certificates[header.height], key, chain.state.get(key), tree.prove(key)) for key in keys]
