"""Requests of the client that are more than one question and one answer: handing in, proofs, a genesis that can be believed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from consensus.block import Header
from consensus.codec import encode
from consensus.errors import InputError
from consensus.light_client import LightClient
from consensus.proofs import EntryProof, TransactionProof, decode_entry_proof, decode_transaction_proof
from consensus.quorum import quorums
from consensus.transaction import MAX_TRANSACTION_BYTES
from contracts.events import Receipt, decode_receipt
from contracts.genesis import Genesis, check_genesis
from contracts.queries import LedgerView
from contracts.views import AccountView
from node.client_epochs import EpochFollower
from node.client_pool import BadAnswer, NodePool, NodeUnreachable, read
from node.http.views import BEHIND, ProvenAccountView, SubmissionView, TransactionView

MAX_BATCH = 1_000
_MAX_BATCH_BYTES = 3 * 1024 * 1024


class Executed(NamedTuple):
    """A transaction that the chain holds for good: its result, the block's header, and the proof of both."""

    id: bytes
    receipt: Receipt
    header: Header
    proof: TransactionProof


class ProvenAccount(NamedTuple):
    """An account as it was after the block with this header, and the proof of it."""

    account: AccountView
    header: Header
    proof: EntryProof


async def post(pool: NodePool, raws: Sequence[bytes]) -> list[SubmissionView]:
    """Hand transactions to the first node that answers; if it is behind the others, the next try begins with another one."""
    causes: dict[str, str] = {}
    body = encode(tuple(raws))
    async for url in pool.attempts():
        try:
            answers = read(await pool.ask(url, "POST", "/v1/transactions/batch", body=body), list[SubmissionView])
            if answers is not None and len(answers) == len(raws):
                if any(answer.code == BEHIND for answer in answers):
                    pool.rotate(url)
                return answers
            raise BadAnswer(f"gives {len(answers or ())} answers for {len(raws)} transactions")
        except BadAnswer as error:
            causes[url] = str(error)
            pool.rotate(url)
    raise NodeUnreachable(causes)


async def proof_at(pool: NodePool, url: str, transaction_id: bytes, wait_s: float) -> TransactionProof | None:
    """Return one node's proof of a transaction, unchecked; None if it has none in time."""
    path, query = f"/v1/transactions/{transaction_id.hex()}", {"wait": f"{wait_s:.3f}"}
    found = read(await pool.ask(url, "GET", path, query=query, extra_s=wait_s), TransactionView)
    if found is None or found.proof is None:
        return None
    try:
        return decode_transaction_proof(bytes.fromhex(found.proof.encoded))
    except ValueError as error:
        raise BadAnswer(f"answers nonsense ({error})") from error


def checked(transaction_id: bytes, proof: TransactionProof, light: LightClient) -> Executed:
    """Return what a proof proves to somebody who knows what ``light`` knows.

    Raises:
        UnknownEpochError: it is of an epoch after the last known one.
        InputError: it does not prove it.
    """
    header = light.transaction(transaction_id, proof)
    return Executed(transaction_id, decode_receipt(proof.receipt), header, proof)


async def agreed_genesis(pool: NodePool) -> Genesis:
    """Return the genesis that f + 1 nodes give alike."""
    causes: dict[str, str] = {}
    votes: dict[bytes, int] = {}
    for url in pool.urls:
        try:
            genesis = read(await pool.ask(url, "GET", "/v1/genesis"), Genesis)
            if genesis is None:
                raise BadAnswer("has no genesis")
            check_genesis(genesis)
        except (BadAnswer, InputError) as error:
            causes[url] = str(error)
            continue
        votes[genesis.digest] = votes.get(genesis.digest, 0) + 1
        if votes[genesis.digest] >= min(quorums(len(genesis.validators)).weak, len(pool.urls)):
            return genesis
        causes[url] = f"gives a genesis that only {votes[genesis.digest]} of the nodes give"
    raise NodeUnreachable(causes)


def chunks(raws: Sequence[bytes]) -> Iterator[list[int]]:
    """Yield positions of transactions in portions that fit into one request.

    Raises:
        InputError: one is longer than any transaction may be.
    """
    chunk: list[int] = []
    size = 0
    for position, raw in enumerate(raws):
        if len(raw) > MAX_TRANSACTION_BYTES:
            raise InputError("transaction", f"{len(raw)} bytes, more than the limit of {MAX_TRANSACTION_BYTES}")
        if chunk and (len(chunk) == MAX_BATCH or size + len(raw) > _MAX_BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(position)
        size += len(raw)
    if chunk:
        yield chunk


class _OneEntry:
    """A state of which one entry is known."""

    def __init__(self, key: bytes, value: bytes | None) -> None:
        self._key, self._value = key, value

    def get(self, key: bytes) -> bytes | None:
        return self._value if key == self._key else None

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        if self._value is not None and self._key.startswith(prefix):
            yield self._key, self._value


def _shown(proof: EntryProof, light: LightClient) -> Header:
    return light.entry(proof)


async def proven_account(pool: NodePool, genesis: Genesis, epochs: EpochFollower, name: str) -> ProvenAccount | None:
    """Return an account as a certified block left it; None if no node knows it.

    Args:
        epochs: knows, or learns, who signs blocks.

    Raises:
        NodeUnreachable: no node gives a valid proof.
    """
    causes: dict[str, str] = {}
    async for url in pool.attempts():
        try:
            answer = read(await pool.ask(url, "GET", f"/v1/accounts/{name}", query={"proof": 1}), ProvenAccountView)
            if answer is None:
                return None
            proof = decode_entry_proof(bytes.fromhex(answer.proof or ""))
            header = await epochs.check(url, partial(_shown, proof))
            account = LedgerView(genesis, _OneEntry(proof.key, proof.value)).account(name)
            if account is not None:
                return ProvenAccount(account, header, proof)
            raise BadAnswer("gives the proof of something else")
        except (BadAnswer, InputError, ValueError) as error:
            causes[url] = str(error)
            pool.rotate(url)
    raise NodeUnreachable(causes)
