"""The door between a channel and its links: who gets what, and who is blamed."""

from collections.abc import Sequence
from pathlib import Path

from consensus.codec import encode
from consensus.errors import Suspicion
from consensus.messages import FetchBlocks, Message
from consensus.transaction import Transaction
from node.framing import Frame, FrameKind, decode_items, items_frame
from node.keys import create_authority
from node.peers import PeerDoor
from tests.node.link_nodes import Node, follower, nodes, until


class User:
    """Keeps what comes in."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.raws: list[bytes] = []
        self.faults: list[tuple[str, Suspicion, str]] = []

    async def take_message(self, peer: str, message: Message) -> None:
        self.messages.append((peer, message))

    async def take_transactions(self, raws: Sequence[bytes]) -> None:
        self.raws += raws

    def find_transaction(self, transaction_id: bytes) -> Transaction | None:
        return None

    def peer_fault(self, peer: str, code: Suspicion, detail: str) -> None:
        self.faults.append((peer, code, detail))


async def test_who_gets_what(tmp_path: Path) -> None:
    authority = create_authority("GridPact test")
    async with nodes(tmp_path, authority, count=3) as (first, second, third), follower(tmp_path, authority, first) as guest:
        await until(lambda: first.connected() and len(first.links.status()) == 3)
        door = PeerDoor("main", User())
        door.send_message("dc2", b"before it is open, everything is lost")
        door.open(first.links)
        door.send_message("follower", b"1")
        door.broadcast_message(b"2")
        door.broadcast_message(b"3", ["dc1", "dc2"])
        door.share([b"4"])
        door.share([])
        door.ask(None, [b"5"])
        door.ask("dc3", [b"6"])
        door.ask("dc3", [])

        def bodies(node: Node) -> list[object]:
            return [one.body if one.kind == FrameKind.CONSENSUS else decode_items(one.body) for _, one in node.got]

        await until(lambda: bodies(guest) == [b"1", b"2"])
        await until(lambda: bodies(second) == [b"2", b"3", (b"4",), (b"5",)])
        await until(lambda: bodies(third) == [b"2", (b"4",), (b"5",), (b"6",)])


async def test_what_comes_in_goes_to_the_user_under_the_name_of_its_sender() -> None:
    user = User()
    door = PeerDoor("main", user)
    message = FetchBlocks(1, 2)
    await door.on_frame("dc2", Frame("main", int(FrameKind.CONSENSUS), encode(message)))
    await door.on_frame("follower", items_frame("main", FrameKind.TRANSACTIONS, [b"x"]))
    await door.on_frame("follower", Frame("main", int(FrameKind.CONSENSUS), b"garbage"))
    await door.on_frame("dc3", Frame("other", int(FrameKind.CONSENSUS), encode(message)))
    assert user.messages == [("dc2", message)]
    assert user.raws == [b"x"]
    assert [(peer, code) for peer, code, _ in user.faults] == [("follower", Suspicion.MALFORMED), ("dc3", Suspicion.MALFORMED)]
