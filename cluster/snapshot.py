"""What `gridpact up` and `gridpact status` know of a running cluster at one moment: values to show, taken from the nodes' HTTP API."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.events import Billed
from contracts.genesis import GRID, Genesis
from contracts.views import LedgerTotals, MarketView


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node.

    Attributes:
        state: "healthy", "starting", "no quorum", "cut off", "diverged", "not reachable" or "stopped"; ``reason`` says more.
        primary: name of the primary that it follows.
        voting: whether it is a validator of the present epoch; if not, it follows.
        peers: to how many of the ``others``, the validators of the present epoch, it is connected.
        pending: transactions that wait to be ordered.
    """

    name: str
    url: str
    state: str
    reason: str = ""
    height: int = 0
    view: int = 0
    primary: str = ""
    voting: bool = True
    peers: int = 0
    others: int = 0
    pending: int = 0
    time_ms: int = 0
    head_hash: str = ""
    state_root: str = ""

    @property
    def healthy(self) -> bool:
        """Whether the node can make progress."""
        return self.state == "healthy"


@dataclass(frozen=True, slots=True)
class MeterCounts:
    """All meters together: how many there are, are connected, and what became of their readings."""

    meters: int = 0
    connected: int = 0
    published: int = 0
    proven: int = 0
    refused: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One cluster at one moment; what could not be had is None or empty. ``troubles`` are lines about what is wrong now."""

    chain_ms: int
    speed: float
    nodes: tuple[NodeState, ...]
    meters: MeterCounts = MeterCounts()
    totals: LedgerTotals | None = None
    trading: MarketView | None = None
    delivering: MarketView | None = None
    settled: MarketView | None = None
    bills: tuple[Billed, ...] = ()
    troubles: tuple[str, ...] = ()

    @property
    def all_healthy(self) -> bool:
        """Whether every node is healthy."""
        return all(node.healthy for node in self.nodes)

    @property
    def agreed(self) -> bool:
        """Whether all nodes answer and have the same head and the same state at the same height."""
        heads = {(node.height, node.head_hash, node.state_root) for node in self.nodes}
        return len(heads) == 1 and all(node.head_hash for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Saving:
    """What members paid, and what they would have paid if everything had been traded with the grid (1e-6 currency)."""

    net_micro: int
    grid_only_micro: int

    @property
    def saving_micro(self) -> int:
        """How much less the members paid."""
        return self.grid_only_micro - self.net_micro


def member_accounts(genesis: Genesis) -> frozenset[str]:
    """Return the accounts that have a meter of their own."""
    return frozenset(meter.account for meter in genesis.meters)


def saving_of(bills: tuple[Billed, ...], members: frozenset[str]) -> Saving:
    """Add up the members' bills. The grid's own bill is no member's."""
    mine = [bill for bill in bills if bill.account in members and bill.account != GRID]
    saving = sum(bill.saving_micro for bill in mine)
    net = sum(bill.paid_micro + bill.penalty_micro + bill.fee_micro - bill.earned_micro for bill in mine)
    return Saving(net, net + saving)
