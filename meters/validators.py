"""What one meter knows of the chain's validators: genesis, and what nodes proved over MQTT since; kept in its outbox.

A meter has no other line to the chain than the broker, and trusts neither it nor any node: every epoch is proven by the one before.
"""

from __future__ import annotations

import logging

from consensus.errors import InputError
from consensus.light_client import LightClient
from consensus.messages import ValidatorSet
from consensus.validators import decode_epoch_change
from contracts.topics import decode_epochs_page
from meters.outbox import Outbox

MAX_AHEAD = 64
"""So many pages are put aside that continue where others, which come later, end."""


class EpochWatch:
    """Learns of new validators; blocking, use it from one thread at a time.

    Args:
        meter: its name, for the log.
        validators: of genesis.
        outbox: where what was proven is kept.

    Attributes:
        light: checks proofs.
    """

    def __init__(self, meter: str, validators: ValidatorSet, outbox: Outbox) -> None:
        self._meter = meter
        self._outbox = outbox
        self._logger = logging.getLogger("gridpact.meters")
        self._ahead: dict[str, bytes] = {}
        self.light = LightClient(validators)
        if outbox.epochs:
            try:
                self.light = LightClient.restore(validators, outbox.epochs)
            except InputError as error:
                self._logger.warning("%s: what is kept about validators is worthless, so it is asked for again: %s", meter, error)

    def take(self, topic: str, payload: bytes) -> bool:
        """Learn from one page; tell whether a new epoch is known now (it is on disk then).

        Pages may come in any order: one that leaves a gap waits for those before it.

        Args:
            topic: that the page came by.

        Raises:
            InputError: it is no page, or it does not prove what it says; nothing was learned.
            OutboxError: the disk failed.
        """
        known = self.light.epoch
        self._learn(topic, payload)
        if self.light.epoch == known:
            return False
        while self._continue():
            pass
        self._outbox.keep_epochs(self.light.save())
        self._logger.info("%s: knows the validators up to epoch %d", self._meter, self.light.epoch)
        return True

    def _learn(self, topic: str, payload: bytes) -> None:
        """Learn from one page, or put it aside."""
        self._ahead.pop(topic, None)
        changes = decode_epochs_page(payload)
        first = decode_epoch_change(changes[0]).validators.epoch if changes else 0
        if first <= self.light.epoch + 1:
            self.light.learn(changes)
        elif len(self._ahead) < MAX_AHEAD:
            self._ahead[topic] = payload

    def _continue(self) -> bool:
        """Look again at what was put aside; tell whether something came of it."""
        known = self.light.epoch
        for topic, payload in list(self._ahead.items()):
            try:
                self._learn(topic, payload)
            except InputError as error:
                self._logger.warning("%s: a proof of an epoch is worthless: %s: %s", self._meter, topic, error)
        return self.light.epoch > known
