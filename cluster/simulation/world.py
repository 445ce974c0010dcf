"""The small world that every simulated cluster lives in: one market, a few members, n data-centre nodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cluster.simulation.signatures import Keys
from consensus.crypto import Signer
from consensus.messages import ValidatorSet
from contracts.genesis import (
    GRID,
    OPERATOR,
    ConsensusRules,
    Genesis,
    MarketRules,
    Meter,
    Participant,
    Role,
    Tariff,
    Validator,
    check_genesis,
)

CHAIN_ID, CHANNEL = "simulated", "main"
GENESIS_MS = 1_700_000_000_000
PERIOD_MS = 8_000
FIRST_PERIOD = GENESIS_MS // PERIOD_MS + 1
MEMBERS = ("north", "east", "south", "west")
METERS = tuple(f"meter-{member}" for member in MEMBERS[:2])
CENTRE = "centre"
RICH_MICRO = 1_000_000_000
WINDOW = 8
SNAPSHOT_EVERY = 6
VIEW_TIMEOUT_MS, MAX_VIEW_TIMEOUT_MS = 400, 6_400
MAX_DRIFT_MS = 1_500
MAX_VALIDITY_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class World:
    """What does not change in a run.

    Attributes:
        genesis: the checked agreement.
        keys: of everybody in it.
        spares: names of nodes that follow without a vote at first.
    """

    genesis: Genesis
    keys: Keys
    spares: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All nodes: the validators of epoch 0, then those that follow."""
        return (*(validator.name for validator in self.genesis.validators), *self.spares)

    @property
    def first_set(self) -> ValidatorSet:
        """The validators of epoch 0."""
        return self.genesis.validator_set


@lru_cache(maxsize=32)
def make_world(nodes: int, spares: int, *, real: bool) -> World:
    """Return the world of ``nodes`` validators.

    Args:
        spares: how many nodes follow without a vote.
        real: sign with Ed25519.
    """
    keys = Keys(real=real)

    def key(owner: str) -> str:
        return keys.signer(owner).public_key.hex()

    people: tuple[tuple[str, Role, int], ...] = (
        (GRID, "grid", 0),
        (OPERATOR, "operator", RICH_MICRO),
        (CENTRE, "data-centre", 0),
        *((member, "prosumer", RICH_MICRO) for member in MEMBERS),
    )
    genesis = Genesis(
        version=1,
        chain_id=CHAIN_ID,
        channel=CHANNEL,
        currency="SIM",
        time_ms=GENESIS_MS,
        validators=tuple(Validator(name, key(name), CENTRE) for name in (f"node-{number}" for number in range(nodes))),
        participants=tuple(Participant(name, role, key(name), balance) for name, role, balance in people),
        meters=tuple(Meter(meter, meter.removeprefix("meter-"), key(meter), 10_000) for meter in METERS),
        tariff=Tariff((300_000,) * 24, (250_000,) * 24, 80_000),
        market=MarketRules(PERIOD_MS, FIRST_PERIOD, 2 * PERIOD_MS, PERIOD_MS // 4, PERIOD_MS // 2),
        consensus=ConsensusRules(
            max_batch_transactions=4,
            max_drift_ms=MAX_DRIFT_MS,
            max_validity_ms=MAX_VALIDITY_MS,
            view_timeout_ms=VIEW_TIMEOUT_MS,
            max_view_timeout_ms=MAX_VIEW_TIMEOUT_MS,
            window=WINDOW,
            max_in_flight=3,
        ),
    )
    check_genesis(genesis)
    return World(genesis, keys, tuple(f"follower-{number}" for number in range(spares)))


def next_key_of(world: World, name: str) -> Signer:
    """Return the signer of the key that a node changes to."""
    return world.keys.signer(f"next key of {name}")
