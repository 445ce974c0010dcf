"""How many replicas are enough, for every purpose that has a name.

For n replicas at most f = floor((n - 1) / 3) may be faulty (Castro and Liskov 1999, section 3). Any two quorums must meet in
at least f + 1 replicas, hence q = ceil((n + f + 1) / 2). The often printed 2f + 1 equals q only for n = 3f + 1.
"""

from __future__ import annotations

from consensus.codec import Wire
from consensus.errors import InputError

MIN_REPLICAS = 4


class Quorums(Wire, frozen=True):
    """The thresholds for one number of replicas; make it with :func:`quorums`."""

    replicas: int
    faulty: int
    quorum: int

    @property
    def weak(self) -> int:
        """F + 1: at least one of them is honest."""
        return self.faulty + 1

    @property
    def prepares(self) -> int:
        """Prepares that, with the pre-prepare, make a prepared certificate: q - 1, since the pre-prepare is the primary's."""
        return self.quorum - 1


def quorums(replicas: int) -> Quorums:
    """Return the thresholds for ``replicas`` validators.

    Raises:
        InputError: fewer than four.
    """
    if replicas < MIN_REPLICAS:
        raise InputError("nodes", f"{replicas} data-centre nodes cannot tolerate a fault; at least {MIN_REPLICAS} are needed")
    faulty = (replicas - 1) // 3
    return Quorums(replicas, faulty, (replicas + faulty + 2) // 2)
