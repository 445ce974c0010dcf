"""Damage in a node's store that is found only while the node runs: it ends with status 3 and one line that says what to do."""

import asyncio
import sys

from cluster.processes import EXIT_KEEP_DISK
from consensus.transaction import decode_transaction
from node.config import read_config
from node.framing import FrameKind, items_frame
from node.keys import load_tls
from node.transport import PeerAddress, PeerLinks
from tests.cluster.offline_node import OfflineNodes


async def test_damage_found_for_a_peer_ends_the_node_with_a_clear_line(tmp_path):
    nodes = OfflineNodes(tmp_path)
    nodes.grow(1, 40)
    store = nodes.open(1)
    old = decode_transaction(store.transactions(5)[0])
    store._database.compact()
    store.close()
    signature = old.envelope.signature[:16]
    (table,) = [path for path in nodes.blocks(1).glob("*.ldb") if signature in path.read_bytes()]
    data = table.read_bytes()
    table.write_bytes(data.replace(signature, bytes(16)))

    config, own = read_config(nodes.folders[2]), read_config(nodes.folders[1])
    tls = load_tls(config.tls.certificate, config.tls.key, config.tls.authority)
    peers = {own.name: PeerAddress(own.listen.host, own.listen.port)}
    links = PeerLinks(name=config.name, listen=("127.0.0.1", 0), peers=peers, tls=tls, on_frame=_ignore)
    node = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster", "node", "run", "--home", str(nodes.folders[1])), stderr=asyncio.subprocess.PIPE
    )
    await links.start()
    try:
        links.send(own.name, items_frame("main", FrameKind.FETCH_TRANSACTIONS, [old.id]))
        _, said = await asyncio.wait_for(node.communicate(), 60)
    finally:
        if node.returncode is None:
            node.kill()
        await links.stop()
    line = said.decode().splitlines()[-1]
    assert node.returncode == EXIT_KEEP_DISK, line
    assert line.startswith(f"gridpact: its store is damaged ({nodes.blocks(1)}: is damaged (Corruption: ")
    assert line.endswith(f"move {own.data} away, keep it, and start again: the node catches up from the others")


async def _ignore(_name, _frame):
    return
