"""The validator sets that this node knows, for whoever makes or reads headers."""

from __future__ import annotations

from consensus.block import NO_PROPOSER
from consensus.messages import ValidatorSet
from consensus.validators import set_at


class EpochBook:
    """All validator sets of one channel, by rising epoch.

    Args:
        epochs: those that the committed state knows.
    """

    def __init__(self, epochs: tuple[ValidatorSet, ...]) -> None:
        self._epochs = epochs

    @property
    def all(self) -> tuple[ValidatorSet, ...]:
        """Every set, the announced ones included."""
        return self._epochs

    @property
    def latest(self) -> ValidatorSet:
        """The last set that was announced."""
        return self._epochs[-1]

    def at(self, height: int) -> ValidatorSet:
        """Return the set that certifies the block at ``height``."""
        return set_at(self._epochs, height)

    def proposer(self, height: int, index: int) -> str:
        """Return the name of a block's proposer, "" if it has none."""
        names = self.at(height).names
        return "" if index == NO_PROPOSER or not 0 <= index < len(names) else names[index]

    def announce(self, announced: tuple[ValidatorSet, ...]) -> None:
        """Add what a block announced."""
        self._epochs += announced

    def reset(self, epochs: tuple[ValidatorSet, ...]) -> None:
        """Know what another state knows: a snapshot took the place of the own one."""
        self._epochs = epochs
