"""Peers that are added, removed, moved and promoted while frames flow."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from node.keys import Authority, create_authority
from node.transport import LinkTimes, PeerAddress
from tests.node.link_nodes import NOWHERE, Node, follower, frame, nodes, number_of, read_tls, started, tls_files, until


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority("GridPact test")


class Traffic:
    """Numbered frames from one node to another, as fast as the loop allows."""

    def __init__(self, source: Node, target: str) -> None:
        self.source, self.target = source, target
        self.taken: list[int] = []
        self.sent = 0

    async def run(self) -> None:
        while True:
            if self.source.links.send(self.target, frame(self.sent, 500)):
                self.taken.append(self.sent)
            self.sent += 1
            await asyncio.sleep(0)

    async def more(self, count: int = 200) -> None:
        """Wait until so many further frames were taken."""
        enough = len(self.taken) + count
        await until(lambda: len(self.taken) >= enough)


@asynccontextmanager
async def traffic(source: Node, target: str) -> AsyncIterator[Traffic]:
    flow = Traffic(source, target)
    task = asyncio.create_task(flow.run())
    try:
        yield flow
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_peer_joins_and_leaves_while_the_others_talk(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=3) as (first, second, third):
        first.dial(second)
        await until(lambda: first.connected() and second.connected() and third.connected())
        refused = {node.name: node.links.refused() for node in (first, second)}
        async with traffic(first, "dc2") as flow:
            await flow.more()
            first.dial(second, third)
            await until(lambda: first.status("dc3").connected and not first.status("dc3").guest)
            assert first.links.send("dc3", frame(1))
            await until(lambda: third.numbers("dc1") == [1])
            await flow.more()
            first.dial(second)
            await flow.more()
        assert flow.taken == list(range(flow.sent))
        await until(lambda: second.numbers("dc1") == flow.taken)
        assert {node.name: node.links.refused() for node in (first, second)} == refused, "no connection between the two has ended"


async def test_a_removed_peer_stays_as_a_guest_while_it_dials(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority) as (first, second):
        await until(lambda: first.connected() and second.connected())
        first.dial()
        assert first.guests() == {"dc2"}
        assert second.links.send("dc1", frame(1))
        assert first.links.send("dc2", frame(2))
        first.links.broadcast(frame(3))
        await until(lambda: first.numbers("dc2") == [1] and second.numbers("dc1") == [2, 3])
        second.dial()
        await until(lambda: not first.links.status())
        assert not first.links.send("dc2", frame(4))
        assert first.refused("unknown node") == 1


async def test_removed_peers_past_the_limit_of_guests_have_to_go(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=4, max_guests=1) as (first, *others):
        await until(lambda: all(node.connected() for node in (first, *others)))
        first.dial(others[0])
        await until(lambda: first.refused("too many guests") > 1 and len(first.guests()) == 1)
        (kept,) = first.guests()
        first.links.broadcast(frame(1))
        await until(lambda: {node.name for node in others if node.numbers("dc1") == [1]} == {"dc2", kept})
        assert first.refused("unknown node") == 0


async def test_what_waits_for_a_removed_peer_is_dropped(tmp_path: Path, authority: Authority) -> None:
    patient = LinkTimes(handshake_ms=3_600_000)
    frozen = await asyncio.start_server(lambda _r, _w: asyncio.Event().wait(), "127.0.0.1", 0)
    async with frozen, started(Node("dc1", tls_files(tmp_path / "dc1", authority, "dc1"), patient)) as (first,):
        first.links.set_peers({"dc2": PeerAddress("127.0.0.1", frozen.sockets[0].getsockname()[1])})
        assert first.links.send("dc2", frame(1))
        await asyncio.sleep(0)
        first.links.set_peers({})
        assert first.links.status() == []
        await until(lambda: not any(task.get_name() == "link to dc2" for task in asyncio.all_tasks()))
        async with started(Node("dc2", tls_files(tmp_path / "dc2", authority, "dc2"))) as (second,):
            first.dial(second)
            await until(first.connected)
            assert first.links.send("dc2", frame(2))
            await until(lambda: second.numbers("dc1") == [2])


async def test_a_peer_that_moves_is_followed(tmp_path: Path, authority: Authority) -> None:
    """Everything that the old place took arrived there, and the new one gets the rest: nothing twice."""
    async with nodes(tmp_path, authority, count=3) as (first, second, third):
        await until(lambda: first.connected() and third.connected())
        async with (
            started(Node("dc2", read_tls(tmp_path / "dc2"))) as (moved,),
            traffic(first, "dc2") as flow,
            traffic(first, "dc3") as other,
        ):
            await flow.more()
            first.dial(moved, third)
            await until(lambda: bool(moved.got))
            await flow.more()
            await until(lambda: moved.numbers("dc1")[-1] > flow.taken[-50])
        arrived = second.numbers("dc1") + moved.numbers("dc1")
        assert arrived == sorted(set(arrived))
        await until(lambda: third.numbers("dc1") == other.taken == list(range(other.sent)))


async def test_a_new_address_is_dialled_at_once(tmp_path: Path, authority: Authority) -> None:
    """Neither a handshake that hangs nor an hour's pause is waited for; what was queued goes to the new place."""
    sleepy = LinkTimes(handshake_ms=3_600_000, backoff_ms=3_600_000, max_backoff_ms=3_600_000)
    frozen = await asyncio.start_server(lambda _r, _w: asyncio.Event().wait(), "127.0.0.1", 0)
    async with (
        frozen,
        started(
            Node("dc1", tls_files(tmp_path / "dc1", authority, "dc1"), sleepy), Node("dc2", tls_files(tmp_path / "dc2", authority, "dc2"))
        ) as (first, second),
    ):
        first.links.set_peers({"dc2": PeerAddress("127.0.0.1", frozen.sockets[0].getsockname()[1])})
        assert first.links.send("dc2", frame(1))
        await asyncio.sleep(0)
        first.dial(second)
        await until(first.connected)
        await until(lambda: second.numbers("dc1") == [1])
        first.links.set_peers({"dc2": NOWHERE})
        await until(lambda: "cannot connect" in str(first.status("dc2").last_error))
        assert first.status("dc2").last_error == "cannot connect: Connection refused"
        first.dial(second)
        first.dial(second)
        await until(first.connected)
        assert first.refused("address changed") == 3


async def test_a_guest_that_is_promoted_misses_nothing_and_gets_nothing_twice(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=1) as (first,), follower(tmp_path, authority, first) as guest:
        await until(lambda: first.guests() == {"follower"})
        async with traffic(first, "follower") as out, traffic(guest, "dc1") as back:
            await out.more()
            first.dial(guest)
            assert first.guests() == set()
            await until(lambda: first.links._links["follower"].connected)
            await out.more()
            await back.more()
        await until(lambda: sorted(guest.numbers("dc1")) == out.taken == list(range(out.sent)))
        await until(lambda: first.numbers("follower") == back.taken == list(range(back.sent)))


async def test_a_node_goes_from_guest_to_peer_and_back_again_and_again(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=1) as (first,), follower(tmp_path, authority, first) as guest:
        async with traffic(first, "follower") as out, traffic(guest, "dc1") as back:
            for turn in range(6):
                if turn % 2:
                    first.dial(guest)
                    await until(lambda: first.links._links["follower"].connected)
                else:
                    first.dial()
                seen = len(guest.got)
                await out.more(50)
                await until(lambda seen=seen: len(guest.got) > seen + 50)
        got = guest.numbers("dc1")
        assert len(got) == len(set(got)), "twice"
        await until(lambda: first.numbers("follower") == back.taken == list(range(back.sent)))


async def test_a_promoted_guest_that_cannot_be_dialled_still_gets_its_frames(tmp_path: Path, authority: Authority) -> None:
    async with nodes(tmp_path, authority, count=1) as (first,), follower(tmp_path, authority, first) as guest:
        await until(lambda: first.guests() == {"follower"})
        first.links.set_peers({"follower": NOWHERE})
        await until(lambda: "cannot connect" in str(first.status("follower").last_error))
        status = first.status("follower")
        assert (status.guest, status.connected) == (False, True)
        assert first.links.send("follower", frame(1))
        first.links.broadcast(frame(2))
        await until(lambda: guest.numbers("dc1") == [1, 2])
        await guest.links.stop()
        await until(lambda: not first.connected() and not first.links.send("follower", frame(3)))


async def test_any_changes_in_any_order_leave_whole_links_and_no_tasks(tmp_path: Path, authority: Authority) -> None:
    before = len(asyncio.all_tasks())
    dice = random.Random(7)
    async with nodes(tmp_path, authority, count=4) as made:
        places: list[Callable[[Node], PeerAddress]] = [lambda node: node.address, lambda _: NOWHERE]
        for step in range(60):
            node = dice.choice(made)
            chosen = {other.name: dice.choice(places)(other) for other in made if dice.random() < 0.6}
            node.links.set_peers(chosen)
            assert set(node.links.peers) == set(chosen) - {node.name}
            node.links.broadcast(frame(step))
            await asyncio.sleep(dice.choice((0, 0, 0.01)))
        for node in made:
            node.dial(*made)
        await until(lambda: all(node.connected() and len(node.links.peers) == 3 for node in made))
        for node in made:
            others = [other for other in made if other is not node]

            def reached(node: Node = node, others: Sequence[Node] = others) -> bool:
                node.links.broadcast(frame(99))
                return all(99 in other.numbers(node.name) for other in others)

            await until(reached)
        for node in made:
            assert node.guests() == set()
            old = [(peer, number_of(got)) for peer, got in node.got if number_of(got) != 99]
            assert len(old) == len(set(old)), "twice"
        expected = before + 4 * (3 * 3 + 2 * 3)
        await until(lambda: len(asyncio.all_tasks()) <= expected)
    await until(lambda: len(asyncio.all_tasks()) == before)


UNDER_UVLOOP = (
    test_a_removed_peer_stays_as_a_guest_while_it_dials,
    test_a_new_address_is_dialled_at_once,
    test_a_guest_that_is_promoted_misses_nothing_and_gets_nothing_twice,
)


@pytest.mark.parametrize("scenario", UNDER_UVLOOP)
def test_the_same_under_uvloop(
    tmp_path: Path, authority: Authority, scenario: Callable[[Path, Authority], Coroutine[None, None, None]]
) -> None:
    uvloop.run(scenario(tmp_path, authority))
