"""Proofs that a client checks with nothing but the validator sets that it knows: that the chain holds a transaction, or a state entry.

The sets are those of genesis and of the epochs after it, each proven by the one before (:mod:`consensus.light_client` keeps them). A
certificate counts only if the set of its epoch signed it *and* the block lies in that epoch: what former validators sign above their
epoch proves nothing to whoever knows the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block import Certificate, Header, decode_header
from consensus.codec import Decoder, Wire, encode
from consensus.crypto import Verify, verify
from consensus.errors import InputError, UnknownEpochError
from consensus.merkle import InclusionProof, verify_inclusion
from consensus.messages import ValidatorSet
from consensus.state_tree import StateProof, verify_state
from consensus.validators import set_at


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


def certified_header(epochs: Sequence[ValidatorSet], header: bytes, certificate: Certificate, check: Verify = verify) -> Header:
    """Return the decoded header if the certificate is a quorum's signature over exactly this header.

    Args:
        epochs: known validator sets, by rising epoch without a gap.
        check: how signatures are checked.

    Raises:
        UnknownEpochError: it is of an epoch after the last known one.
        InputError: it is of another chain, channel or epoch, or not certified.
    """
    decoded, domain = decode_header(header), epochs[0].domain
    if (decoded.chain_id, decoded.channel) != (domain.chain_id, domain.channel):
        raise InputError("proof: header", f"is of chain {decoded.chain_id}, channel {decoded.channel}")
    if (certificate.height, certificate.header_hash) != (decoded.height, decoded.hash) or encode(decoded) != header:
        raise InputError("proof: certificate", "is for another header")
    validators = _validators(epochs, decoded, certificate)
    if not validators.certifies(certificate, check):
        raise InputError("proof: certificate", f"is not signed by a quorum of the validators of epoch {validators.epoch}")
    if validators.epoch < epochs[-1].epoch and decoded.next_validators != set_at(epochs, decoded.height + 1).digest:
        raise InputError(
            "proof: header", f"names other validators for block {decoded.height + 1} than the known ones: there are two chains"
        )
    return decoded


def _validators(epochs: Sequence[ValidatorSet], header: Header, certificate: Certificate) -> ValidatorSet:
    """Return the set that must have signed this header."""
    if certificate.epoch > epochs[-1].epoch:
        raise UnknownEpochError("proof: certificate", certificate.epoch, epochs[-1].epoch)
    validators = set_at(epochs, header.height)
    if certificate.epoch != validators.epoch:
        reason = f"is of epoch {certificate.epoch}, but block {header.height} is of epoch {validators.epoch}"
        raise InputError("proof: certificate", reason)
    if header.epoch != certificate.epoch:
        raise InputError("proof: header", f"says epoch {header.epoch}, its certificate epoch {certificate.epoch}")
    return validators


def check_transaction_proof(
    epochs: Sequence[ValidatorSet], transaction_id: bytes, proof: TransactionProof, check: Verify = verify
) -> Header:
    """Check that the chain holds ``transaction_id`` with the receipt in ``proof``; return the block's header.

    Args:
        epochs, check: see :func:`certified_header`.

    Raises:
        UnknownEpochError: it is of an epoch after the last known one.
        InputError: says what does not fit.
    """
    header = certified_header(epochs, proof.header, proof.certificate, check)
    if proof.transaction_path.size != header.transaction_count or proof.receipt_path.size != header.receipt_count:
        raise InputError("proof: transaction_path", "is of a tree of another size")
    if proof.transaction_path.index != proof.receipt_path.index:
        raise InputError("proof: receipt_path", "belongs to another transaction")
    if not verify_inclusion(header.transactions_root, transaction_id, proof.transaction_path):
        raise InputError("proof: transaction_path", "does not lead to the transaction root")
    if not verify_inclusion(header.receipts_root, proof.receipt, proof.receipt_path):
        raise InputError("proof: receipt_path", "does not lead to the receipt root")
    return header


def check_entry_proof(epochs: Sequence[ValidatorSet], proof: EntryProof, check: Verify = verify) -> Header:
    """Check that the state entry in ``proof`` is as it says; return the header of the block after which it was so.

    Args:
        epochs, check: see :func:`certified_header`.

    Raises:
        UnknownEpochError: it is of an epoch after the last known one.
        InputError: says what does not fit.
    """
    header = certified_header(epochs, proof.header, proof.certificate, check)
    if not verify_state(header.state_root, proof.key, proof.value, proof.path):
        raise InputError("proof: path", "does not lead to the state root")
    return header
