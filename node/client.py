"""The client: what agents and tools use to talk to the nodes of one channel. It needs no database, no server, no numbers,
and ``aiohttp`` only once a request is made.

It believes no single node about what matters: a receipt counts with its proof against the validators of its epoch, these are proven
from genesis on (:mod:`consensus.light_client` says what that trusts), and a genesis that was not given by the user must come from enough
nodes that one of them is honest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from consensus.application import OK
from consensus.crypto import Signer
from consensus.errors import InputError
from consensus.transaction import decode_transaction, sign_transaction
from contracts.genesis import Genesis
from node.client_calls import Executed, ProvenAccount, agreed_genesis, checked, chunks, post, proof_at, proven_account
from node.client_epochs import EpochFollower
from node.client_pool import BadAnswer, NodePool, NodeUnreachable, Refused, as_message
from node.client_queries import Queries
from node.http.views import PASSING, SubmissionView

__all__ = ["Executed", "GridPactClient", "Member", "NodeUnreachable", "ProvenAccount", "Refused", "SignedCall"]

_WAIT_S = 20.0
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 5.0


class GridPactClient(Queries):
    """Talks to the nodes of one channel; use it with ``async with``, or close it.

    Args:
        urls: of the nodes; the client goes on with the next when one fails.
        genesis: what the participants agreed on; None: ask the nodes for it (enough of them must say the same).
        channel: None for the nodes' default channel.
        timeout_s: for one attempt at one node.
        patience_s: how long to retry while the nodes have no room for more transactions, or are behind.
        proven: what ``epochs.save()`` of an earlier client returned: who knows the newest validators is not fooled by former ones.

    Attributes:
        epochs: the validators of the chain, as far as they were proven to this client.
    """

    def __init__(
        self,
        urls: Sequence[str],
        genesis: Genesis | None = None,
        *,
        channel: str | None = None,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        proven: bytes = b"",
    ) -> None:
        super().__init__(NodePool(urls, genesis.channel if genesis and channel is None else channel, timeout_s))
        self._genesis = genesis
        self._patience_s = patience_s
        self.epochs = EpochFollower(self._pool, self.genesis, proven)

    async def __aenter__(self) -> GridPactClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    # ---------------------------------------------------------------------------------------------------- transactions

    async def submit(self, raw: bytes) -> str:
        """Hand in one signed transaction and return its id in hex. To do so twice is harmless: it executes once.

        Raises:
            Refused: the node refuses it (FULL, BEHIND: still no room, or still behind, after all patience).
            NodeUnreachable: no node answers.
        """
        (answer,) = await self.submit_many([raw])
        if answer.code != OK:
            raise Refused(answer.code, answer.detail, answer.id)
        return answer.id

    async def submit_many(self, raws: Sequence[bytes]) -> list[SubmissionView]:
        """Hand in signed transactions and return what became of each, in order. Refusals that pass are retried.

        Raises:
            InputError: one is longer than any transaction may be.
            NodeUnreachable: no node answers.
        """
        answers: list[SubmissionView] = [SubmissionView("", "")] * len(raws)
        for chunk in chunks(raws):
            waiting, pause_s, waited_s = list(chunk), _FIRST_PAUSE_S, 0.0
            while waiting:
                for position, answer in zip(waiting, await post(self._pool, [raws[position] for position in waiting]), strict=True):
                    answers[position] = answer
                waiting = [position for position in waiting if answers[position].code in PASSING]
                if waiting and waited_s >= self._patience_s:
                    break
                if waiting:
                    await asyncio.sleep(pause_s)
                    waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, _MAX_PAUSE_S)
        return answers

    async def wait_receipt(self, transaction_id: bytes, timeout_s: float = 30.0) -> Executed:
        """Wait until the chain holds the transaction, check the proof and return its result (which may be a refusal).

        Raises:
            TimeoutError: it is not there yet; it may still come.
            NodeUnreachable: no node answers, or none with a valid proof.
        """
        await self.epochs.known()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            causes: dict[str, str] = {}
            async for url in self._pool.attempts():
                asked = loop.time()
                wait_s = min(max(deadline - asked, 0.0), _WAIT_S)
                try:
                    proof = await proof_at(self._pool, url, transaction_id, wait_s)
                    if proof is not None:
                        return await self.epochs.check(url, partial(checked, transaction_id, proof))
                    causes.pop(url, None)
                except (BadAnswer, InputError) as error:
                    causes[url] = str(error)
                    self._pool.rotate(url)
                if loop.time() >= deadline:
                    break
                await asyncio.sleep(max(min(_FIRST_PAUSE_S, wait_s) - (loop.time() - asked), 0.0))
            if len(causes) == len(self._pool.urls):
                raise NodeUnreachable(causes)
            if loop.time() >= deadline:
                raise TimeoutError(f"transaction {transaction_id.hex()} is not executed after {timeout_s:g} s")

    # ------------------------------------------------------------------------------------------- what needs no single node's word

    async def genesis(self) -> Genesis:
        """Return the genesis; if none was given, one that f + 1 nodes agree on (all given nodes, if they are fewer).

        Raises:
            NodeUnreachable: too few nodes give the same one.
        """
        if self._genesis is not None:
            return self._genesis
        self._genesis = await agreed_genesis(self._pool)
        return self._genesis

    async def proven_account(self, name: str) -> ProvenAccount | None:
        """Return one account with the proof of it, checked against the validators of its epoch; None if no node knows it.

        Raises:
            NodeUnreachable: no node gives a valid proof.
        """
        return await proven_account(self._pool, await self.genesis(), self.epochs, name)

    # ---------------------------------------------------------------------------------------------------------- events

    async def events(self, kinds: Iterable[str] | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield events for ever, going on with another node when one fails.

        After every (re)connection comes a "hello" event with the node's height; between two of them events may have been missed.
        """
        from aiohttp import ClientError, WSMsgType  # noqa: PLC0415 (lazy: see the module's docstring)

        query = {} if kinds is None else {"kinds": ",".join(kinds)}
        pause_s = _FIRST_PAUSE_S
        while True:
            url = self._pool.preferred
            try:
                async with self._pool.session().ws_connect(
                    url + "/v1/events", params=self._pool.parameters(query), heartbeat=20.0, max_msg_size=1024 * 1024
                ) as socket:
                    async for message in socket:
                        if message.type is not WSMsgType.TEXT:
                            break
                        yield as_message(message.data)
                        pause_s = _FIRST_PAUSE_S
            except (ClientError, TimeoutError, OSError, BadAnswer):
                pass  # the same as a closed stream: the next node is tried after a pause
            self._pool.rotate(url)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)


class SignedCall(NamedTuple):
    """A call, signed: its transaction's id and bytes, and the nonce that it uses."""

    id: bytes
    raw: bytes
    nonce: int


class Member:
    """Signs calls in the name of one account and keeps count of its nonces.

    The next nonce is asked for once and counted on from there; use one ``Member`` per key at a time.

    Args:
        client: reaches the nodes.
        account: in whose name.
        signer: holds the account's key.
        now_ms: chain time; None: ask the nodes.
        validity_ms: how long a call may wait to be executed (chain time); None: half of what the chain allows.
    """

    def __init__(
        self,
        client: GridPactClient,
        account: str,
        signer: Signer,
        *,
        now_ms: Callable[[], int] | None = None,
        validity_ms: int | None = None,
    ) -> None:
        self.client = client
        self.account = account
        self._signer = signer
        self._now_ms = now_ms
        self._validity_ms = validity_ms
        self._next_nonce: int | None = None
        self._lock = asyncio.Lock()

    async def sign(self, call: object) -> SignedCall:
        """Sign one call (a tagged struct of ``contracts.calls``) with the next nonce.

        Raises:
            Refused: the account does not exist (NO_SUCH_ACCOUNT).
            NodeUnreachable: no node answers.
        """
        genesis = await self.client.genesis()
        now_ms = self._now_ms() if self._now_ms is not None else (await self.client.status()).clock_ms
        validity_ms = self._validity_ms or max(genesis.consensus.max_validity_ms // 2, 1)
        nonce = await self._take_nonce()
        raw = sign_transaction(
            self._signer,
            chain_id=genesis.chain_id,
            channel=genesis.channel,
            sender=self.account,
            nonce=nonce,
            valid_until_ms=now_ms + validity_ms,
            call=call,
        )
        return SignedCall(decode_transaction(raw).id, raw, nonce)

    async def submit(self, call: object) -> SignedCall:
        """Sign and hand in one call.

        Raises:
            Refused: the node refuses it. Its nonce is used again unless it was spent.
            NodeUnreachable: no node answers; the call may still have come through.
        """
        signed = await self.sign(call)
        try:
            await self.client.submit(signed.raw)
        except Refused as error:
            await self._give_back(signed.nonce, error.code)
            raise
        return signed

    async def execute(self, call: object, timeout_s: float = 30.0) -> Executed:
        """Sign and hand in one call and wait for its proven result.

        Raises:
            Refused: the node refuses it, or it is executed with a code other than OK.
            TimeoutError: it is not executed yet; it may still be.
            NodeUnreachable: no node answers.
        """
        signed = await self.submit(call)
        executed = await self.client.wait_receipt(signed.id, timeout_s)
        if executed.receipt.code != OK:
            raise Refused(executed.receipt.code, executed.receipt.detail, signed.id.hex())
        return executed

    async def _take_nonce(self) -> int:
        async with self._lock:
            if self._next_nonce is None:
                self._next_nonce = await self._asked_nonce()
            nonce = self._next_nonce
            self._next_nonce = nonce + 1
            return nonce

    async def _give_back(self, nonce: int, code: str) -> None:
        """Count on from the right place after a refusal: a spent nonce means that somebody else used the key."""
        async with self._lock:
            if code in ("NONCE_SPENT", "NONCE_IN_USE"):
                self._next_nonce = max(self._next_nonce or 0, await self._asked_nonce())
            elif self._next_nonce == nonce + 1:
                self._next_nonce = nonce

    async def _asked_nonce(self) -> int:
        account = await self.client.account(self.account)
        if account is None:
            raise Refused("NO_SUCH_ACCOUNT", f"account {self.account} does not exist")
        return account.next_nonce
