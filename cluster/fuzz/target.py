"""What the engines need to know of a target, and what most targets share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cluster.fuzz.mutation import Mutator


class Target(Protocol):
    """Something that takes bytes from outside.

    Attributes:
        stateful: what an input leads to depends on those before it.
        renew_after: inputs after which a stateful target is made anew.
    """

    stateful: bool
    renew_after: int

    def seeds(self) -> Sequence[bytes]:
        """Return valid inputs of every kind."""

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return ``data`` changed."""

    def run(self, data: bytes) -> str:
        """Give an input to the code under test; return what it led to: ``accepted`` or ``refused``, a colon, and more.

        Raises:
            LawBrokenError: to what it must not lead to. Every other exception that leaves this method is a failure too.
        """

    def check(self) -> None:
        """Check what must hold at any time, such as the sizes of tables; called now and then.

        Raises:
            LawBrokenError: it does not.
        """

    def close(self) -> None:
        """Give everything back."""


MakeTarget = Callable[[Path], Target]
"""Makes a target; the folder is for its files."""


class Stateless:
    """Base of targets whose inputs know nothing of each other."""

    stateful = False
    renew_after = 0

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return ``data`` changed, as MessagePack or as bytes."""
        return mutator.change(data)

    def check(self) -> None:
        """Nothing can have grown."""

    def close(self) -> None:
        """Nothing is open."""


def refused(error: Exception) -> str:
    """Return the outcome of an input that got a documented error."""
    return f"refused: {error}"
