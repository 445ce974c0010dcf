"""Proofs that a client checks with nothing but genesis: that the chain holds a transaction, or a state entry."""

from __future__ import annotations

from consensus.block import Certificate, Header, decode_header
from consensus.codec import Decoder, Wire, encode
from consensus.errors import InputError
from consensus.merkle import InclusionProof, verify_inclusion
from consensus.messages import ValidatorSet
from consensus.state_tree import StateProof, verify_state


class TransactionProof(Wire, frozen=True):
    """That a block holds a transaction, with this result, and that a quorum signed the block.

    Fields:
        header: encoded header of the block.
        certificate: of that block.
        receipt: encoded receipt of the transaction.
        transaction_path: place of the transaction's id under the header's transaction root.
        receipt_path: place of the receipt under the header's receipt root; the index is the same.
    """

    header: bytes
    certificate: Certificate
    receipt: bytes
    transaction_path: InclusionProof
    receipt_path: InclusionProof


class EntryProof(Wire, frozen=True):
    """That a state entry had this value (None: was absent) after a block that a quorum signed."""

    header: bytes
    certificate: Certificate
    key: bytes
    value: bytes | None
    path: StateProof


decode_transaction_proof = Decoder(TransactionProof, "proof", 256 * 1024)
decode_entry_proof = Decoder(EntryProof, "proof", 1024 * 1024)


def certified_header(validators: ValidatorSet, header: bytes, certificate: Certificate) -> Header:
    """Return the decoded header if the certificate is a quorum's signature over exactly this header.

    Raises:
        InputError: it is of another chain or channel, or not certified.
    """
    decoded = decode_header(header)
    if (decoded.chain_id, decoded.channel) != (validators.domain.chain_id, validators.domain.channel):
        raise InputError("proof: header", f"is of chain {decoded.chain_id}, channel {decoded.channel}")
    if (certificate.height, certificate.header_hash) != (decoded.height, decoded.hash) or encode(decoded) != header:
        raise InputError("proof: certificate", "is for another header")
    if not validators.certifies(certificate):
        raise InputError("proof: certificate", "is not signed by a quorum of the validators")
    return decoded


def check_transaction_proof(validators: ValidatorSet, transaction_id: bytes, proof: TransactionProof) -> Header:
    """Check that the chain holds ``transaction_id`` with the receipt in ``proof``; return the block's header.

    Raises:
        InputError: says what does not fit.
    """
    header = certified_header(validators, proof.header, proof.certificate)
    if proof.transaction_path.size != header.transaction_count or proof.receipt_path.size != header.receipt_count:
        raise InputError("proof: transaction_path", "is of a tree of another size")
    if proof.transaction_path.index != proof.receipt_path.index:
        raise InputError("proof: receipt_path", "belongs to another transaction")
    if not verify_inclusion(header.transactions_root, transaction_id, proof.transaction_path):
        raise InputError("proof: transaction_path", "does not lead to the transaction root")
    if not verify_inclusion(header.receipts_root, proof.receipt, proof.receipt_path):
        raise InputError("proof: receipt_path", "does not lead to the receipt root")
    return header


def check_entry_proof(validators: ValidatorSet, proof: EntryProof) -> Header:
    """Check that the state entry in ``proof`` is as it says; return the header of the block after which it was so.

    Raises:
        InputError: says what does not fit.
    """
    header = certified_header(validators, proof.header, proof.certificate)
    if not verify_state(header.state_root, proof.key, proof.value, proof.path):
        raise InputError("proof: path", "does not lead to the state root")
    return header
