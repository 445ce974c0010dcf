"""Builds a small chain on disk in which one validator gets a new key: blocks of two epochs, each certified by its own set."""

from pathlib import Path

import msgspec

from consensus.block import Batch, Block, make_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.effects import LogRecord
from consensus.messages import Kind, ValidatorSet, Vote, VoteMessage, make_certificate, sign_vote
from consensus.state_tree import StateTree
from consensus.transaction import decode_transaction, sign_transaction
from consensus.validators import EpochChange, set_at
from contracts.application import LedgerApplication
from contracts.calls import Transfer, VoteOnValidators
from contracts.genesis import ConsensusRules, Genesis
from node.block_store import BLOCKS_FOLDER, ChannelStore
from node.genesis_block import start_store
from node.vote_log import FIRST_START, VOTES_FOLDER, VoteLog
from tests.node.audit_chain import ALICE, NODES, START_MS, STEP_MS, make_genesis

WINDOW = 4
DECIDED = 2
LAST_OF_EPOCH_0 = DECIDED + WINDOW
FRESH = Ed25519Signer(b"a fresh key of the last one.....")


def epoch_genesis() -> Genesis:
    return msgspec.structs.replace(make_genesis(), consensus=ConsensusRules(window=WINDOW))


def key_of(validators: ValidatorSet, index: int) -> Ed25519Signer:
    """The key pair of a seat."""
    return next(one for one in (*NODES, FRESH) if one.public_key == validators.public_keys[index])


def signed(genesis: Genesis, who: Ed25519Signer, sender: str, nonce: int, call: object) -> bytes:
    return sign_transaction(
        who, chain_id=genesis.chain_id, channel="main", sender=sender, nonce=nonce, valid_until_ms=START_MS + 10**7, call=call
    )


def checkpoints(validators: ValidatorSet, height: int, header_hash: bytes) -> tuple[Vote, ...]:
    """Signed by all but the first; the validator that changes its key is among them."""
    return tuple(sign_vote(key_of(validators, n), validators.domain, Kind.CHECKPOINT, 0, height, header_hash, n) for n in (1, 2, 3))


def build_epochs(folder: Path, genesis: Genesis, heights: int) -> None:
    """Write a channel's folder with certified blocks 1 to ``heights``; block 2 decides, block 7 is the first of epoch 1."""
    store = ChannelStore.open(folder / BLOCKS_FOLDER)
    start_store(genesis, store)
    (folder / FIRST_START).touch()
    votes = VoteLog.open(folder / VOTES_FOLDER)
    application = LedgerApplication(genesis, store.state, StateTree.of(store.entries()))
    head = store.head()
    assert head is not None
    call = VoteOnValidators(0, "replace", "dc4", FRESH.public_key)
    for height in range(1, heights + 1):
        time_ms = START_MS + height * STEP_MS
        raws = [signed(genesis, ALICE, "ALICE", height, Transfer("BOB", height))]
        if height == DECIDED:
            raws = [signed(genesis, NODES[n], f"dc{n + 1}", 1, call) for n in range(3)]
        named = [decode_transaction(raw) for raw in raws]
        ids = [one.id for one in named]
        batch = encode(Batch(0, 0, time_ms, tuple(ids)))
        finalized = application.finalize_block(height, time_ms, 0, named)
        assert finalized.included == tuple(range(len(named)))
        known = (*application.epochs(), *finalized.announced)
        validators, following = set_at(known, height), set_at(known, height + 1)
        header = make_header(head, batch, ids, finalized.receipts, finalized.tree.root, validators.epoch, following.digest)
        store.append(Block(header, batch, tuple(raws), finalized.receipts), finalized, [])
        application.commit()
        made = checkpoints(validators, height, header.hash)
        store.put_certificate(make_certificate(made))
        if following.epoch != validators.epoch:
            store.put_epoch_changes([encode(EpochChange(encode(header), make_certificate(made), following))])
        votes.append([LogRecord(height, validators.epoch, 0, Kind.CHECKPOINT, encode(VoteMessage(made[2])))])
        head = header
    last = set_at(application.epochs(), heights)
    pair = [sign_vote(key_of(last, 0), last.domain, Kind.PREPARE, 0, heights, digest * 32, 0) for digest in (b"a", b"b")]
    assert votes.add_evidence(pair[0], pair[1])
    store.close()
    votes.close()
