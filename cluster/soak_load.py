"""What a soak consists of: a small market that lives all the time, with payments, orders for the next open period, and meter readings.

Unlike the load of a bench, periods are a minute long: they clear, are delivered, and are settled while the soak runs, so that whatever a
cluster keeps for a while must also go again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from cluster.lab import lab_plan
from cluster.workload import BALANCE_MICRO, FUSE_W, PRICE_MICRO
from consensus.crypto import SEED_BYTES, Ed25519Signer
from consensus.transaction import sign_transaction
from contracts.calls import MAX_TIME_MS, Call, PlaceOrder, SubmitReading, Transfer
from contracts.genesis import Genesis, MarketRules, Meter, Participant
from node.clock import wall_ms
from node.provisioning import ClusterPlan, NodePlan

PERIOD_MS = 60_000
OPEN_PERIODS = 3
CLOSURE_MS, GRACE_MS = 5_000, 20_000
ORDER_WH = 100


@dataclass(frozen=True, slots=True)
class Sender:
    """Who signs transactions."""

    name: str
    seed: bytes

    @property
    def public_key(self) -> str:
        """The key in genesis, hex."""
        return Ed25519Signer(self.seed).public_key.hex()


@dataclass(frozen=True, slots=True)
class Cast:
    """Who sends: payers only pay each other, traders trade, and each trader has the meter of the same place."""

    payers: tuple[Sender, ...]
    traders: tuple[Sender, ...]
    meters: tuple[Sender, ...]

    @classmethod
    def make(cls, size: int) -> Cast:
        """Make ``size`` of each kind, with fresh keys."""
        kinds = [tuple(Sender(f"{kind}-{number:04d}", secrets.token_bytes(SEED_BYTES)) for number in range(size)) for kind in KINDS]
        return cls(*kinds)

    def participants(self) -> tuple[Participant, ...]:
        """Return the accounts' genesis entries."""
        return tuple(Participant(one.name, "prosumer", one.public_key, BALANCE_MICRO) for one in (*self.payers, *self.traders))

    def genesis_meters(self) -> tuple[Meter, ...]:
        """Return the meters' genesis entries."""
        pairs = zip(self.meters, self.traders, strict=True)
        return tuple(Meter(meter.name, trader.name, meter.public_key, FUSE_W) for meter, trader in pairs)


KINDS = ("payer", "trader", "meter")


def soak_plan(cast: Cast, nodes: tuple[NodePlan, ...]) -> ClusterPlan:
    """Return the plan of a soak's cluster."""
    now_ms = wall_ms()
    market = MarketRules(
        period_ms=PERIOD_MS,
        first_period=now_ms // PERIOD_MS + 2,
        open_before_ms=OPEN_PERIODS * PERIOD_MS,
        gate_closure_before_ms=CLOSURE_MS,
        metering_grace_ms=GRACE_MS,
        max_orders_per_period=100_000,
        max_orders_per_account=10_000,
    )
    return replace(lab_plan(cast, nodes), chain_id=f"soak-{secrets.token_hex(4)}", time_ms=now_ms - PERIOD_MS, market=market)


class SoakStream:
    """The signed transactions of a soak, by number.

    Args:
        genesis: of the cluster.
        cast: who sends.
    """

    def __init__(self, genesis: Genesis, cast: Cast) -> None:
        self._genesis = genesis
        self._groups = (cast.payers, cast.traders, cast.meters)
        self._signers = {one.name: Ed25519Signer(one.seed) for group in self._groups for one in group}

    def sign(self, numbers: range, now_ms: int) -> list[bytes]:
        """Return some transactions; a meter's readings must be asked for at rising times."""
        genesis = self._genesis
        valid_until_ms = min(now_ms + genesis.consensus.max_validity_ms // 2, MAX_TIME_MS)
        signed = []
        for number in numbers:
            group = self._groups[number % len(self._groups)]
            lap, index = divmod(number // len(self._groups), len(group))
            sender = group[index].name
            signed.append(
                sign_transaction(
                    self._signers[sender],
                    chain_id=genesis.chain_id,
                    channel=genesis.channel,
                    sender=sender,
                    nonce=lap + 1,
                    valid_until_ms=valid_until_ms,
                    call=self._call(KINDS[number % len(self._groups)], index, lap, now_ms),
                )
            )
        return signed

    def _call(self, kind: str, index: int, lap: int, now_ms: int) -> Call:
        payers = self._groups[0]
        is_buyer = index % 2 == 0
        if kind == "payer":
            return Transfer(payers[(index + 1) % len(payers)].name, 1 + lap % 1_000)
        if kind == "meter":
            drawn_wh, fed_wh = (lap, 0) if is_buyer else (0, lap)
            return SubmitReading(lap + 1, now_ms, drawn_wh, fed_wh, "ntp", "soak", now_ms - self._genesis.time_ms)
        period = max(self._genesis.market.first_period, now_ms // PERIOD_MS + 2)
        offset = (index * 37 + lap * 101) % 1_000
        if is_buyer:
            return PlaceOrder(period, "buy", "pv", ORDER_WH, PRICE_MICRO - offset, PRICE_MICRO + 20_000)
        return PlaceOrder(period, "sell", "pv", ORDER_WH, PRICE_MICRO + offset, PRICE_MICRO - 20_000)
