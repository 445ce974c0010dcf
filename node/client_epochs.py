"""How a client follows the validators of a chain: a proof of an epoch that it does not know waits until that epoch is proven to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from consensus.errors import InputError, UnknownEpochError
from consensus.light_client import LightClient
from consensus.messages import ValidatorSet
from contracts.genesis import Genesis
from node.client_pool import BadAnswer, NodePool, NodeUnreachable, Refused, read
from node.http.views import EpochsView

T = TypeVar("T")


class EpochFollower:
    """What one client knows of the validators, from genesis on, and where it learns of the next ones: from any node, by proof.

    Args:
        pool: reaches the nodes.
        genesis: returns the genesis of the chain.
        saved: what :meth:`save` returned in an earlier life; empty: nothing.
    """

    def __init__(self, pool: NodePool, genesis: Callable[[], Awaitable[Genesis]], saved: bytes = b"") -> None:
        self._pool = pool
        self._genesis = genesis
        self._saved = saved
        self._light: LightClient | None = None
        self._lock = asyncio.Lock()

    async def known(self) -> LightClient:
        """Return what was proven so far.

        Raises:
            InputError: what was saved is damaged, or of another chain.
            NodeUnreachable: the genesis is not known, and too few nodes give the same one.
        """
        if self._light is None:
            genesis = await self._genesis()
            if self._light is None:
                validators = genesis.validator_set
                self._light = LightClient.restore(validators, self._saved) if self._saved else LightClient(validators)
        return self._light

    async def save(self) -> bytes:
        """Return all that was proven so far, for another client to begin with: it is checked again then."""
        return (await self.known()).save()

    async def check(self, url: str, examine: Callable[[LightClient], T]) -> T:
        """Return what ``examine`` makes of an answer; if it needs an epoch that is not known yet, learn of it and examine again.

        Args:
            url: node that gave the answer; it is the first to be asked for the proof of its epoch.

        Raises:
            InputError: ``examine`` does not believe the answer.
            BadAnswer: it is of an epoch that no node proves.
        """
        light = await self.known()
        try:
            return examine(light)
        except UnknownEpochError as error:
            await self._learn(light, url, error.epoch)
        return examine(light)

    async def update(self) -> tuple[ValidatorSet, ...]:
        """Ask every node for later epochs; return all validator sets that are proven now.

        Raises:
            NodeUnreachable: no node answers, or none with proofs that check.
        """
        light, causes = await self.known(), dict[str, str]()
        async with self._lock:
            for url in self._pool.urls:
                try:
                    await self._learn_from(light, url)
                except (BadAnswer, InputError, Refused) as error:
                    causes[url] = str(error)
        if len(causes) == len(set(self._pool.urls)):
            raise NodeUnreachable(causes)
        return light.epochs

    async def _learn(self, light: LightClient, first: str, epoch: int) -> None:
        """Learn of an epoch from the node that spoke of it, else from the others."""
        causes: dict[str, str] = {}
        async with self._lock:
            for url in dict.fromkeys((first, *self._pool.urls)):
                if light.epoch >= epoch:
                    return
                try:
                    await self._learn_from(light, url)
                except (BadAnswer, InputError, Refused) as error:
                    causes[url] = str(error)
        if light.epoch < epoch:
            reason = causes.get(first, "which it does not prove itself")
            raise BadAnswer(f"answers with a proof of epoch {epoch}, and no node proves that epoch ({reason})")

    async def _learn_from(self, light: LightClient, url: str) -> None:
        """Learn of all epochs that one node proves."""
        while True:
            known = light.epoch
            page = read(await self._pool.ask(url, "GET", "/v1/epochs", query={"after": known}), EpochsView)
            if page is None:
                raise BadAnswer("has no epochs")
            try:
                changes = [bytes.fromhex(one.change) for one in page.epochs]
            except ValueError as error:
                raise BadAnswer(f"answers nonsense ({error})") from error
            light.learn(changes)
            if light.epoch == known or not page.next_after:
                return
