"""Making blocks: what executing a batch gives, and what speaks against a block that others made. Pure; the simulator uses the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from consensus.application import Application, FinalizedBlock
from consensus.block import (
    NO_PROPOSER,
    NULL_BATCH,
    Block,
    CertifiedBlock,
    Header,
    batch_digest,
    block_time_ms,
    decode_batch,
    make_header,
)
from consensus.codec import encode
from consensus.merkle import merkle_root
from consensus.messages import ValidatorSet
from consensus.transaction import Transaction
from consensus.validators import set_at


def make_block(
    application: Application, head: Header, batch: bytes, named: Sequence[Transaction], epochs: Sequence[ValidatorSet]
) -> tuple[Block, FinalizedBlock]:
    """Execute a batch on the committed state and return its block.

    Args:
        head: of the last block.
        named: the transactions that the batch names, in its order.
        epochs: all validator sets that the committed state knows, by rising epoch.
    """
    height = head.height + 1
    proposer = NO_PROPOSER if batch == NULL_BATCH else decode_batch(batch).proposer
    finalized = application.finalize_block(height, block_time_ms(head, batch), proposer, named)
    included = [named[position] for position in finalized.included]
    ids = [transaction.id for transaction in included]
    following = set_at((*epochs, *finalized.announced), height + 1)
    epoch = set_at(epochs, height).epoch
    header = make_header(head, batch, ids, finalized.receipts, finalized.tree.root, epoch, following.digest)
    return Block(header, batch, tuple(transaction.raw for transaction in included), finalized.receipts), finalized


def objection(
    head: Header, block: Block, transactions: Sequence[Transaction], certified: CertifiedBlock, key_of: Callable[[str], bytes | None]
) -> str | None:
    """Tell what in a peer's block does not fit its certified header; None if everything does (signatures are the caller's business).

    Args:
        head: of the last block here.
        transactions: the block's, decoded.
        key_of: tells a sender's key after the last block.
    """
    header = block.header
    if header.hash != certified.certificate.header_hash or encode(block) != certified.block:
        return "the header is not the certified one"
    if header.previous_hash != head.hash:
        return "it does not follow this replica's head"
    if header.batch_digest != batch_digest(block.batch):
        return "the batch is not the one of the header"
    if header.transactions_root != merkle_root([transaction.id for transaction in transactions]):
        return "the transactions are not the ones of the header"
    if header.receipts_root != merkle_root(block.receipts):
        return "the receipts are not the ones of the header"
    if any(key_of(one.body.sender) != one.envelope.public_key for one in transactions):
        return "a transaction is signed with a key that is not its sender's"
    return None
