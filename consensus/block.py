"""Batches, headers, blocks and their certificates.

Order first, then execute, then sign the result: a :class:`Batch` is what replicas order; executing it makes a :class:`Block`; q
signatures over the same header make its :class:`Certificate`. The sequence number of a batch is the height of its block.

The header names the view in which the batch was *first* proposed. A view change may commit the same batch in a later view on some
replicas, and they must all make the same block.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.codec import Decoder, Wire, encode
from consensus.crypto import EMPTY_DIGEST, digest
from consensus.merkle import EMPTY_ROOT, merkle_root

NULL_BATCH = b""
"""The batch of a null request: it orders nothing and makes an empty block."""
NULL_DIGEST = EMPTY_DIGEST
NO_PROPOSER = -1
VERSION = 2
"""Version of the header's layout."""


class Batch(Wire, frozen=True):
    """What a primary proposes for one sequence number.

    Fields:
        view: view in which it was first proposed.
        proposer: index of the validator that proposed it.
        time_ms: proposed block time, Unix milliseconds.
        transaction_ids: the transactions in their order of execution.
    """

    view: int
    proposer: int
    time_ms: int
    transaction_ids: tuple[bytes, ...]


class Header(Wire, frozen=True):
    """What the certificate of a block covers: order and results.

    ``next_validators`` is the digest of the validator set that certifies the next block. The counts bind the sizes of the two trees:
    without them a proof could claim another size and pass one leaf off for another.
    """

    version: int
    chain_id: str
    channel: str
    epoch: int
    height: int
    previous_hash: bytes
    batch_digest: bytes
    transactions_root: bytes
    receipts_root: bytes
    state_root: bytes
    time_ms: int
    view: int
    proposer: int
    transaction_count: int
    receipt_count: int
    next_validators: bytes

    @property
    def hash(self) -> bytes:
        """The block hash: SHA-256 over a domain tag and the encoded header."""
        return digest(b"GridPact header\x00" + encode(self))


class Block(Wire, frozen=True):
    """An executed block, without its certificate.

    Fields:
        batch: the ordered batch, as proposed (empty for a null request).
        transactions: raw envelopes that took part, in order. A transaction of the batch that had no effect at all (its nonce was
            spent, its key replaced, its time over) is named by the batch and left out here.
        receipts: encoded results, one per transaction, then one for what fell due in the block if anything did.
    """

    header: Header
    batch: bytes
    transactions: tuple[bytes, ...]
    receipts: tuple[bytes, ...]


class CertificateVote(Wire, frozen=True):
    """One validator's signature over a header."""

    validator: int
    signature: bytes


class Certificate(Wire, frozen=True):
    """q signatures over one block header: proves order and results to anybody who knows the validators of the epoch.

    Fields:
        votes: by rising validator index, each validator at most once.
    """

    epoch: int
    height: int
    header_hash: bytes
    votes: tuple[CertificateVote, ...]


class CertifiedBlock(Wire, frozen=True):
    """An encoded block with its certificate: what a lagging replica adopts."""

    block: bytes
    certificate: Certificate


decode_batch = Decoder(Batch, "batch")
decode_header = Decoder(Header, "header", 4096)
decode_block = Decoder(Block, "block", 64 * 1024 * 1024)
decode_certificate = Decoder(Certificate, "certificate", 64 * 1024)


def batch_digest(batch: bytes) -> bytes:
    """Return the digest that replicas vote on; that of a null request is all zeros."""
    return NULL_DIGEST if batch == NULL_BATCH else digest(b"GridPact batch\x00" + batch)


def genesis_header(chain_id: str, channel: str, time_ms: int, genesis_digest: bytes, state_root: bytes, validators: bytes) -> Header:
    """Return header 0, which every replica makes for itself; its previous hash is the digest of the genesis file.

    Args:
        validators: digest of the set of epoch 0.
    """
    return Header(
        VERSION, chain_id, channel, 0, 0, genesis_digest, NULL_DIGEST, EMPTY_ROOT, EMPTY_ROOT, state_root, time_ms, 0, NO_PROPOSER, 0, 0,
        validators,
    )  # fmt: skip


def make_header(
    previous: Header,
    batch: bytes,
    transaction_ids: Sequence[bytes],
    receipts: Sequence[bytes],
    state_root: bytes,
    epoch: int,
    next_validators: bytes,
) -> Header:
    """Return the header of the block after ``previous``.

    Args:
        transaction_ids: ids of the transactions that took part, in order (leaves of the transaction tree).
        receipts: encoded receipts, in order (leaves of the receipt tree).
        epoch: of the set that certifies this block.
        next_validators: digest of the set that certifies the next one.
    """
    view, proposer = previous.view, NO_PROPOSER
    if batch != NULL_BATCH:
        decoded = decode_batch(batch)
        view, proposer = decoded.view, decoded.proposer
    return Header(
        version=VERSION,
        chain_id=previous.chain_id,
        channel=previous.channel,
        epoch=epoch,
        height=previous.height + 1,
        previous_hash=previous.hash,
        batch_digest=batch_digest(batch),
        transactions_root=merkle_root(transaction_ids),
        receipts_root=merkle_root(receipts),
        state_root=state_root,
        time_ms=block_time_ms(previous, batch),
        view=view,
        proposer=proposer,
        transaction_count=len(transaction_ids),
        receipt_count=len(receipts),
        next_validators=next_validators,
    )


def block_time_ms(previous: Header, batch: bytes) -> int:
    """Return the time of the block that ``batch`` makes: never before its predecessor's; a null request adds no time."""
    return previous.time_ms if batch == NULL_BATCH else max(previous.time_ms, decode_batch(batch).time_ms)
