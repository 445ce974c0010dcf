"""A real cluster with a few households whose meters report steady powers, for tests of agents and market commands."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.lab import Lab, lab_plan
from cluster.workload import make_actors
from consensus.crypto import SEED_BYTES, Ed25519Signer
from consensus.transaction import sign_transaction
from contracts.calls import SubmitReading
from contracts.genesis import MarketRules, Meter, Participant
from node.client import GridPactClient
from node.clock import wall_ms

PERIOD_MS = 4_000
GATE_MS = 400
HISTORY_PERIODS = 30
START_PERIODS = 3
READINGS_PER_PERIOD = 4


@dataclass(frozen=True)
class Home:
    """One household: ``net_w`` is drawn (positive) or fed in (negative) all the time."""

    account: str
    net_w: int
    signer: Ed25519Signer
    meter_signer: Ed25519Signer

    @property
    def meter(self) -> str:
        return f"meter-{self.account}"

    def counters(self, since_ms: int, now_ms: int) -> tuple[int, int]:
        wh = abs(self.net_w) * (now_ms - since_ms) // 3_600_000
        return (wh, 0) if self.net_w > 0 else (0, wh)


def make_homes(**net_w: int) -> list[Home]:
    return [
        Home(account, watts, Ed25519Signer(secrets.token_bytes(SEED_BYTES)), Ed25519Signer(secrets.token_bytes(SEED_BYTES)))
        for account, watts in net_w.items()
    ]


def make_lab(homes: list[Home], folder: Path, nodes: int = 4) -> Lab:
    """Return a cluster whose first delivery period begins in some seconds."""
    now_ms = wall_ms()
    market = MarketRules(
        period_ms=PERIOD_MS,
        first_period=now_ms // PERIOD_MS + START_PERIODS,
        open_before_ms=PERIOD_MS + GATE_MS,
        gate_closure_before_ms=GATE_MS,
        metering_grace_ms=PERIOD_MS // 2,
    )

    def plan(node_plans):
        base = lab_plan(make_actors(0, 0), node_plans)
        return dataclasses.replace(
            base,
            market=market,
            participants=(
                *base.participants,
                *(Participant(home.account, "prosumer", home.signer.public_key.hex(), 10**9) for home in homes),
            ),
            meters=tuple(Meter(home.meter, home.account, home.meter_signer.public_key.hex(), 10_000_000) for home in homes),
        )

    return Lab(nodes, plan, folder)


def write_history(home: Home, since_ms: int, until_ms: int, path: Path) -> Path:
    """Write the household's own records of the time before ``until_ms``."""
    records = []
    for time_ms in range(since_ms, until_ms, PERIOD_MS):
        import_wh, export_wh = home.counters(since_ms, time_ms)
        records.append({"time_ms": time_ms, "import_wh": import_wh, "export_wh": export_wh})
    path.write_bytes(msgspec.json.encode(records))
    return path


async def report_readings(lab: Lab, homes: list[Home], since_ms: int, wanted: Callable[[], bool] = lambda: True) -> None:
    """Send every meter's readings until cancelled, as the meters' agents would, over HTTP."""
    sequence = 0
    async with GridPactClient(tuple(reversed(lab.urls)), lab.genesis) as client:
        step_ms = PERIOD_MS // READINGS_PER_PERIOD
        while wanted():
            due_ms = (wall_ms() // step_ms + 1) * step_ms
            await asyncio.sleep((due_ms - wall_ms()) / 1000)
            sequence += 1
            await client.submit_many([_reading(lab, home, sequence, since_ms, due_ms) for home in homes])


def _reading(lab: Lab, home: Home, sequence: int, since_ms: int, time_ms: int) -> bytes:
    import_wh, export_wh = home.counters(since_ms, time_ms)
    return sign_transaction(
        home.meter_signer,
        chain_id=lab.genesis.chain_id,
        channel=lab.genesis.channel,
        sender=home.meter,
        nonce=sequence,
        valid_until_ms=time_ms + 600_000,
        call=SubmitReading(sequence, time_ms, import_wh, export_wh, "ntp", "test", time_ms - since_ms),
    )
