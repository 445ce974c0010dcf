"""Builds a small real chain on disk, certificates and votes included: what the audit's tests then damage."""

from pathlib import Path

from consensus.block import Batch, Block, batch_digest, block_time_ms, make_header
from consensus.codec import encode
from consensus.crypto import Ed25519Signer
from consensus.effects import LogRecord
from consensus.messages import (
    Kind,
    PreparedProof,
    PrePrepareMessage,
    ViewChangeBody,
    ViewChangeMessage,
    VoteMessage,
    body_digest,
    make_certificate,
    sign_vote,
)
from consensus.ordering import Prepared
from consensus.state_tree import StateTree
from consensus.transaction import decode_transaction, sign_transaction
from contracts.application import LedgerApplication
from contracts.calls import PlaceOrder, SubmitReading, Transfer
from contracts.genesis import ConsensusRules as Rules
from contracts.genesis import Genesis, MarketRules, Meter, Participant, Tariff, Validator, check_genesis
from node.block_store import BLOCKS_FOLDER, ChannelStore
from node.genesis_block import start_store
from node.vote_log import FIRST_START, VOTES_FOLDER, VoteLog

PERIOD_MS = 900_000
START_MS = 40 * PERIOD_MS
STEP_MS = 60_000


def signer(number: int) -> Ed25519Signer:
    return Ed25519Signer(bytes([number]) * 32)


NODES = [signer(number) for number in range(1, 5)]
GRID, OPERATOR, ALICE, BOB, METER_A, METER_B = (signer(number) for number in range(11, 17))


def make_genesis() -> Genesis:
    def key(one: Ed25519Signer) -> str:
        return one.public_key.hex()

    genesis = Genesis(
        version=1,
        chain_id="audit-test",
        channel="main",
        currency="EUR",
        time_ms=START_MS,
        validators=tuple(Validator(f"dc{n}", key(node), f"DC{n}") for n, node in enumerate(NODES, start=1)),
        participants=(
            Participant("GRID", "grid", key(GRID), 10**12),
            Participant("OPERATOR", "operator", key(OPERATOR), 0),
            Participant("ALICE", "prosumer", key(ALICE), 10**9),
            Participant("BOB", "consumer", key(BOB), 10**9),
            *(Participant(f"DC{n}", "data-centre", key(node), 0) for n, node in enumerate(NODES, start=1)),
        ),
        meters=(Meter("METER-A", "ALICE", key(METER_A), 20_000), Meter("METER-B", "BOB", key(METER_B), 20_000)),
        tariff=Tariff((200_000,) * 24, (100_000,) * 24, 50_000),
        market=MarketRules(PERIOD_MS, 41, 2 * PERIOD_MS, STEP_MS, 2 * STEP_MS),
        consensus=Rules(),
    )
    check_genesis(genesis)
    return genesis


def transactions_of(genesis: Genesis, height: int, time_ms: int) -> list[bytes]:
    """Transfers in every block, and the orders and readings that make the first periods trade and settle."""

    def sign(who: Ed25519Signer, sender: str, nonce: int, call: object) -> bytes:
        return sign_transaction(
            who, chain_id=genesis.chain_id, channel="main", sender=sender, nonce=nonce, valid_until_ms=time_ms + 3_600_000, call=call
        )

    raws = [sign(ALICE, "ALICE", 2 * height, Transfer("BOB", 1_000 + height, f"block {height}"))]
    if height == 1:
        raws.append(sign(ALICE, "ALICE", 1, PlaceOrder(42, "sell", "pv", 1_000, 80_000, 70_000)))
        raws.append(sign(BOB, "BOB", 1, PlaceOrder(42, "buy", "pv", 900, 90_000, 95_000)))
    if time_ms % PERIOD_MS == 0:
        number = time_ms // PERIOD_MS - 40
        raws.append(
            sign(METER_A, "METER-A", number, SubmitReading(number, time_ms, 100 * number, 900 * number, "ntp", "boot", 1_000 * number))
        )
        raws.append(sign(METER_B, "METER-B", number, SubmitReading(number, time_ms, 800 * number, 0, "ntp", "boot", 1_000 * number)))
    return raws


def build_chain(folder: Path, genesis: Genesis, heights: int, certified: int) -> None:
    """Write a channel's folder: blocks 1 to ``heights`` with certificates up to ``certified``, and votes for what is above."""
    store = ChannelStore.open(folder / BLOCKS_FOLDER)
    start_store(genesis, store)
    application = LedgerApplication(genesis, store.state, StateTree.of(store.entries()))
    head = store.head()
    assert head is not None
    (folder / FIRST_START).touch()
    votes = VoteLog.open(folder / VOTES_FOLDER)
    domain = genesis.validator_set.domain
    for height in range(1, heights + 1):
        time_ms = START_MS + height * STEP_MS
        raws = transactions_of(genesis, height, time_ms)
        named = [decode_transaction(raw) for raw in raws]
        void = decode_transaction(raws[0][:-1] + bytes([raws[0][-1] ^ 1]))
        ids = tuple(transaction.id for transaction in named)
        batch = encode(Batch(0, 0, time_ms, ids)) if height != 3 else b""
        if height == 3:
            named, raws = [], []
        store.add_pending([(transaction.id, transaction.raw) for transaction in named])
        finalized = application.finalize_block(height, block_time_ms(head, batch), 0 if batch else -1, named)
        included = [named[position] for position in finalized.included]
        ids = tuple(one.id for one in included)
        header = make_header(head, batch, ids, finalized.receipts, finalized.tree.root, 0, genesis.validator_set.digest)
        block = Block(header, batch, tuple(one.raw for one in included), finalized.receipts)
        store.append(block, finalized, [*(one.id for one in named), void.id])
        application.commit()
        checkpoints = tuple(sign_vote(NODES[n], domain, Kind.CHECKPOINT, 0, height, header.hash, n) for n in range(3))
        if height <= certified:
            store.put_certificate(make_certificate(checkpoints))
        _log_votes(votes, genesis, height, batch, tuple(raws), VoteMessage(checkpoints[1]))
        head = header
    votes.truncate(certified, 0, 0)
    waiting = sign_transaction(
        BOB, chain_id=genesis.chain_id, channel="main", sender="BOB", nonce=50, valid_until_ms=10**9, call=Transfer("ALICE", 7)
    )
    store.add_pending([(decode_transaction(waiting).id, waiting)])
    store.close()
    votes.close()


def _log_votes(votes: VoteLog, genesis: Genesis, height: int, batch: bytes, raws: tuple[bytes, ...], checkpoint: VoteMessage) -> None:
    """What validator 1 logs for one height of view 0."""
    domain = genesis.validator_set.domain
    digest = batch_digest(batch)
    pre_prepare = sign_vote(NODES[0], domain, Kind.PRE_PREPARE, 0, height, digest, 0)
    prepares = tuple(sign_vote(NODES[n], domain, Kind.PREPARE, 0, height, digest, n) for n in (1, 2))
    commit = sign_vote(NODES[1], domain, Kind.COMMIT, 0, height, digest, 1)
    body = ViewChangeBody(height, None, (PreparedProof(pre_prepare, prepares),))
    change = sign_vote(NODES[1], domain, Kind.VIEW_CHANGE, height, 0, body_digest(body), 1)
    records = [
        LogRecord(height, 0, 0, Kind.PRE_PREPARE, encode(PrePrepareMessage(pre_prepare, batch)), digest if batch else b""),
        LogRecord(height, 0, 0, Kind.PREPARE, encode(VoteMessage(prepares[0]))),
        LogRecord(height, 0, 0, Kind.COMMIT, encode(Prepared(commit, PreparedProof(pre_prepare, prepares)))),
        LogRecord(height, 0, 0, Kind.CHECKPOINT, encode(checkpoint)),
        LogRecord(0, 0, height, Kind.VIEW_CHANGE, encode(ViewChangeMessage(change, encode(body)))),
    ]
    votes.append(records, [(height, digest, raws)] if batch else [])
