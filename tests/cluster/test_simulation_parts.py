"""Parts of the virtual world: disk, network, clocks, signatures."""

from __future__ import annotations

import random

from cluster.simulation.clock import NodeClock
from cluster.simulation.disk import Database
from cluster.simulation.network import Network
from cluster.simulation.schedule import Fault
from cluster.simulation.signatures import Keys


def test_a_power_failure_takes_the_later_part_of_what_was_not_synced() -> None:
    database = Database("a", "b")
    database.write([("a", 1, "one"), ("b", 1, "eins")], sync=True)
    database.write([("a", 1, "changed"), ("b", 2, "zwei")], sync=False)
    database.write([("a", 1, None)], sync=False)
    assert database.unsynced == 2
    database.lose(keep=1)
    assert database.tables == {"a": {1: "changed"}, "b": {1: "eins", 2: "zwei"}}
    database.write([("b", 2, None), ("a", 2, "two")], sync=False)
    database.lose()
    assert database.tables == {"a": {1: "changed"}, "b": {1: "eins", 2: "zwei"}}


def test_a_synced_write_takes_everything_before_it_along() -> None:
    database = Database("a")
    database.write([("a", 1, "one")], sync=False)
    database.write([("a", 2, "two")], sync=True)
    database.write([("a", 3, "three")], sync=False)
    database.lose()
    assert database.tables["a"] == {1: "one", 2: "two"}


class End:
    """An endpoint that writes down what arrives."""

    def __init__(self, place: int, name: str) -> None:
        self.place, self.name, self.session, self.got = place, name, object(), []

    def arrive(self, sender: str, message: object) -> None:
        self.got.append((sender, message))


class Wires:
    """Three endpoints and the queue between them."""

    def __init__(self) -> None:
        self.now_ms, self.queue = 0, []
        self.network = Network(self.at, lambda: self.now_ms, random.Random(1), 5)
        self.ends = [End(place, name) for place, name in enumerate("abc")]
        for end in self.ends:
            self.network.join(end)

    def at(self, when_ms: int, action, *arguments) -> None:
        self.queue.append((when_ms, len(self.queue), action, arguments))

    def run(self) -> None:
        for when_ms, _, action, arguments in sorted(self.queue, key=lambda one: one[:2]):
            self.now_ms = when_ms
            action(*arguments)
        self.queue.clear()


def test_a_good_link_delivers_everything_in_order() -> None:
    wires = Wires()
    for number in range(50):
        wires.network.send(wires.ends[0], "b", number)
    wires.run()
    assert wires.ends[1].got == [("a", number) for number in range(50)]


def test_faults_of_links() -> None:
    wires = Wires()
    a, b, c = wires.ends
    wires.network.weather([Fault("partition", 0, 1, (0,)), Fault("one-way", 0, 1, (2,), words=("deaf",))])
    for sender in wires.ends:
        for receiver in wires.ends:
            wires.network.send(sender, receiver.name, "hello")
    wires.run()
    assert {sender for sender, _ in b.got} == {"b", "c"}
    assert c.got == []
    assert {sender for sender, _ in a.got} == {"a"}
    wires.network.weather([Fault("loss", 0, 1, amount=1_000)])
    wires.network.send(b, "a", "lost")
    wires.network.weather([Fault("duplication", 0, 1, amount=1_000)])
    wires.network.send(b, "a", "twice")
    wires.run()
    assert [message for _, message in a.got] == ["hello", "twice", "twice"]


def test_what_is_under_way_is_lost_with_either_end() -> None:
    wires = Wires()
    a, b, _ = wires.ends
    wires.network.send(a, "b", "to somebody who restarts")
    b.session = object()
    wires.run()
    wires.network.send(a, "b", "from somebody who restarts")
    a.session = object()
    wires.run()
    assert b.got == []
    assert wires.network.lost == 2


def test_reordering_reorders_and_delay_delays() -> None:
    wires = Wires()
    wires.network.weather([Fault("reordering", 0, 1, amount=100)])
    for number in range(50):
        wires.network.send(wires.ends[0], "b", number)
    wires.run()
    numbers = [message for _, message in wires.ends[1].got]
    assert sorted(numbers) == list(range(50)) != numbers
    wires.network.weather([Fault("delay", 0, 1, (1,), amount=500)])
    began_ms = wires.now_ms
    wires.network.send(wires.ends[0], "b", "late")
    wires.run()
    assert wires.now_ms - began_ms >= 500


def test_a_clock_shows_its_time_not_before_it_says() -> None:
    now = 0
    clock = NodeClock(lambda: now, 123_456, 250)
    for due in (123_456, 123_457, 124_000, 200_003, 5_000_000):
        now = clock.world_ms_at(due)
        assert clock.monotonic_ms() >= due
        now -= 1
        assert clock.monotonic_ms() < due


def test_nobody_signs_for_another() -> None:
    keys = Keys()
    mine, yours = keys.signer("me"), keys.signer("you")
    assert keys.check(1, mine.public_key, b"text", mine.sign(b"text"))
    assert not keys.check(1, mine.public_key, b"text", yours.sign(b"text"))
    assert not keys.check(1, mine.public_key, b"other", mine.sign(b"text"))
    assert not keys.check(1, bytes(32), b"text", mine.sign(b"text"))
    assert keys.signer("me").public_key == mine.public_key
