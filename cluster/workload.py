"""What a load consists of: accounts and meters that exist for the test only, and their pre-signed transactions.

Transactions go round the senders, so that neighbours in the stream come from different ones, and each sender's nonces rise by one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal, NamedTuple, get_args

from consensus.crypto import SEED_BYTES, Ed25519Signer
from consensus.transaction import sign_transaction
from contracts.calls import MAX_TIME_MS, Call, PlaceOrder, SubmitReading, Transfer
from contracts.genesis import Genesis, Meter, Participant

Kind = Literal["transfer", "order", "reading", "mixed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BALANCE_MICRO = 10**12
FUSE_W = 10_000_000
READING_STEP_MS = 10
ORDER_PERIODS = 8
PRICE_MICRO = 200_000
SIGNING_CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class Actors:
    """Test senders and their secret seeds, by rising name."""

    accounts: tuple[tuple[str, bytes], ...]
    meters: tuple[tuple[str, bytes], ...]
    owner: str = "owner"

    def participants(self) -> tuple[Participant, ...]:
        """Return the genesis entries of the accounts, and of the one that owns the meters (so that no bill touches the others)."""
        keyed = [(name, Ed25519Signer(seed).public_key.hex()) for name, seed in self.accounts]
        owner = Ed25519Signer(secrets.token_bytes(SEED_BYTES)).public_key.hex()
        members = (Participant(name, "prosumer", key, BALANCE_MICRO) for name, key in keyed)
        return (*members, Participant(self.owner, "prosumer", owner, BALANCE_MICRO))

    def genesis_meters(self) -> tuple[Meter, ...]:
        """Return the genesis entries of the meters."""
        return tuple(Meter(name, self.owner, Ed25519Signer(seed).public_key.hex(), FUSE_W) for name, seed in self.meters)


class SigningJob(NamedTuple):
    """Transactions ``first`` to ``last`` (not included) of a stream; it can be sent to another process."""

    actors: Actors
    kind: Kind
    chain_id: str
    channel: str
    valid_until_ms: int
    first_period: int
    reading_ms: int
    first: int
    last: int


def make_actors(accounts: int, meters: int) -> Actors:
    """Make senders with fresh keys."""
    return Actors(
        tuple((f"load-{number:04d}", secrets.token_bytes(SEED_BYTES)) for number in range(accounts)),
        tuple((f"load-meter-{number:04d}", secrets.token_bytes(SEED_BYTES)) for number in range(meters)),
    )


def sign_range(genesis: Genesis, actors: Actors, kind: Kind, numbers: range, now_ms: int) -> list[bytes]:
    """Return some transactions of a stream, signed.

    Args:
        kind: "mixed" is a transfer, an order and a reading in turn.
        numbers: their places in the stream, from 0.
        now_ms: chain time.
    """
    return sign_job(_job(genesis, actors, kind, numbers, now_ms))


def sign_stream(genesis: Genesis, actors: Actors, kind: Kind, count: int, now_ms: int, processes: int) -> Iterator[list[bytes]]:
    """Yield the first ``count`` transactions of a stream, signed, in chunks and in order; ``processes`` sign at once."""
    jobs = [
        _job(genesis, actors, kind, range(first, min(first + SIGNING_CHUNK, count)), now_ms) for first in range(0, count, SIGNING_CHUNK)
    ]
    if processes <= 1 or len(jobs) <= 1:
        yield from map(sign_job, jobs)
        return
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(sign_job, jobs)


def _job(genesis: Genesis, actors: Actors, kind: Kind, numbers: range, now_ms: int) -> SigningJob:
    valid_until_ms = min(now_ms + genesis.consensus.max_validity_ms // 2, MAX_TIME_MS)
    first_period, reading_ms = genesis.market.first_period, genesis.time_ms
    return SigningJob(
        actors, kind, genesis.chain_id, genesis.channel, valid_until_ms, first_period, reading_ms, numbers.start, numbers.stop
    )


def sign_job(job: SigningJob) -> list[bytes]:
    """Sign the transactions of one job."""
    signers = {name: Ed25519Signer(seed) for name, seed in (*job.actors.accounts, *job.actors.meters)}
    signed = []
    for number in range(job.first, job.last):
        sender, nonce, call = make_call(job, number)
        signed.append(
            sign_transaction(
                signers[sender],
                chain_id=job.chain_id,
                channel=job.channel,
                sender=sender,
                nonce=nonce,
                valid_until_ms=job.valid_until_ms,
                call=call,
            )
        )
    return signed


def make_call(job: SigningJob, number: int) -> tuple[str, int, Call]:
    """Return sender, nonce and call of one transaction of a stream."""
    kind, turn = job.kind, number
    per_turn = 1
    if kind == "mixed":
        kind = KINDS[number % 3]
        turn, per_turn = number // 3, 2
    if kind == "reading":
        index, lap = turn % len(job.actors.meters), turn // len(job.actors.meters)
        return job.actors.meters[index][0], lap + 1, _reading(job, lap)
    accounts = job.actors.accounts
    index, lap = turn % len(accounts), turn // len(accounts)
    # In a mixed stream an account sends a transfer and an order per lap, and needs two nonces.
    nonce = lap * per_turn + 1 + (1 if per_turn == 2 and kind == "order" else 0)
    sender = accounts[index][0]
    if kind == "order":
        return sender, nonce, _order(job, index, lap)
    return sender, nonce, Transfer(accounts[(index + 1) % len(accounts)][0], 1 + lap % 1_000)


def _reading(job: SigningJob, lap: int) -> SubmitReading:
    """Return a meter's next reading: 1 Wh and 10 ms after the one before."""
    step_ms = lap * READING_STEP_MS
    return SubmitReading(lap + 1, job.reading_ms + step_ms, lap, 0, "ntp", "load", step_ms)


def _order(job: SigningJob, index: int, lap: int) -> PlaceOrder:
    """Return an account's next order: every account stands on one side, prices spread, periods in turn."""
    period = job.first_period + lap % ORDER_PERIODS
    offset = (index * 37 + lap * 101) % 1_000
    if index % 2:
        return PlaceOrder(period, "buy", "pv", 100, PRICE_MICRO - offset, PRICE_MICRO + 20_000)
    return PlaceOrder(period, "sell", "pv", 100, PRICE_MICRO + offset, PRICE_MICRO - 20_000)
