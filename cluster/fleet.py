"""The meters of a local cluster: replays the household data of a topology through one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.fleet_signal import DRAIN_SIGNAL
from cluster.planning import reading_interval_ms
from cluster.topology import Household, Topology, read_file
from consensus.errors import InputError
from contracts.genesis import Genesis
from contracts.topics import parse_broker_url
from meters.agent import AgentSettings
from meters.dataset import Counters, Dataset, read_dataset, shipped_dataset
from meters.fleet import FleetConfig, FleetMeter, run_fleet
from meters.link import BrokerLogin, tls_context
from meters.simulated import ReplayMeter
from node.clock import RealClock, ReplayClock
from node.keys import read_signer

STATUS_FILE = "status.json"


class ShiftedMeter:
    """A replayed meter that lives later than its data.

    Args:
        meter: the replay.
        offset_ms: how much later.
    """

    knows_past = True

    def __init__(self, meter: ReplayMeter, offset_ms: int) -> None:
        self._meter = meter
        self._offset_ms = offset_ms

    def read(self, now_ms: int) -> Counters:
        """Return the counters at chain time ``now_ms``.

        Raises:
            InputError: it lies before the start of the data.
        """
        return self._meter.read(now_ms - self._offset_ms)


class HoldableTime:
    """Chain time that can be stopped for one process: no reading falls due any more.

    Args:
        now_ms: the clock.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._held_ms: int | None = None

    def __call__(self) -> int:
        """Return chain time."""
        return self._now_ms() if self._held_ms is None else self._held_ms

    def hold(self) -> None:
        """Stand still from now on."""
        if self._held_ms is None:
            self._held_ms = self._now_ms()


def chain_clock(topology: Topology) -> Callable[[], int]:
    """Return the clock that a topology's processes follow.

    Raises:
        InputError: its file does not fit.
    """
    return ReplayClock(topology.clock_file).now_ms if topology.clock == "replay" else RealClock().now_ms


def read_data(topology: Topology) -> Dataset:
    """Read the household data of a topology.

    Raises:
        InputError: they cannot be read, or are not those that the cluster was made with.
    """
    return read_dataset(Path(topology.data)) if topology.data else shipped_dataset()


def broker_login(topology: Topology, username: str) -> BrokerLogin:
    """Return how a user of a topology reaches its broker.

    Raises:
        InputError: the URL or the authority's file does not fit.
    """
    place = topology.broker
    address = parse_broker_url(place.url)
    password = place.passwords.get(username, "")
    tls = tls_context(topology.path(place.ca_file) if place.ca_file else None) if address.tls else None
    return BrokerLogin(address, username if password else "", password, tls)


def fleet_config(topology: Topology, now_ms: Callable[[], int], meters: Sequence[str] = ()) -> FleetConfig:
    """Return the fleet of a topology, or of some of its meters.

    Raises:
        InputError: a meter is not in the topology, or a file does not fit.
    """
    known = {household.meter: household for household in topology.households}
    for meter in meters:
        if meter not in known:
            raise InputError(f"--meter {meter[:64]}", "is no meter of this cluster")
    genesis, dataset = topology.genesis(), read_data(topology)
    chosen = [known[meter] for meter in meters] or list(topology.households)
    interval_ms = reading_interval_ms(topology.period_ms)
    first_ms = max(genesis.time_ms, dataset.start_ms + topology.offset_ms)
    return FleetConfig(
        genesis=genesis,
        meters=tuple(_fleet_meter(topology, genesis, dataset, household) for household in chosen),
        settings=AgentSettings(interval_ms=interval_ms, first_ms=first_ms),
        now_ms=now_ms,
        status_file=topology.meters / STATUS_FILE,
    )


async def run_topology_fleet(topology: Topology, stop: asyncio.Event) -> None:
    """Run all meters of a topology until ``stop``; :data:`DRAIN_SIGNAL` ends new readings before that.

    Raises:
        InputError: a file does not fit.
    """
    time = HoldableTime(chain_clock(topology))
    asyncio.get_running_loop().add_signal_handler(DRAIN_SIGNAL, time.hold)
    await run_fleet(fleet_config(topology, time), stop)


def _fleet_meter(topology: Topology, genesis: Genesis, dataset: Dataset, household: Household) -> FleetMeter:
    signer = read_signer(topology.path(household.meter_key_file))
    registered = {meter.meter: meter.public_key for meter in genesis.meters}
    if registered.get(household.meter) != signer.public_key.hex():
        raise InputError(str(topology.path(household.meter_key_file)), f"is not the key of meter {household.meter} in the genesis")
    return FleetMeter(
        meter=household.meter,
        signer=signer,
        source=ShiftedMeter(ReplayMeter(dataset, household.column), topology.offset_ms),
        outbox=topology.meters / household.meter / "outbox.sqlite",
        login=broker_login(topology, household.meter),
    )


def read_status_file(topology: Topology) -> bytes:
    """Return the meters' status file.

    Raises:
        InputError: there is none.
    """
    return read_file(topology.meters / STATUS_FILE)
