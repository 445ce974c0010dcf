"""Folders of four nodes, and blocks that are put into their stores without running them."""

import shutil

from consensus.block import Batch, Block, make_header
from consensus.codec import encode
from consensus.messages import Kind, make_certificate, sign_vote
from consensus.snapshot import make_snapshot
from consensus.state_tree import StateTree
from consensus.transaction import decode_transaction
from contracts.application import LedgerApplication
from node.block_store import ChannelStore
from node.config import load_genesis, read_config
from node.genesis_block import start_store
from node.keys import read_signer
from node.vote_log import VoteLog
from tests.node.running_cluster import RunningCluster


class OfflineNodes:
    """Four nodes that do not run."""

    def __init__(self, home):
        self.cluster = RunningCluster(home)
        self.folders = [home / "nodes" / f"node-{number}" for number in range(4)]
        self.genesis = load_genesis(read_config(self.folders[0]))
        self.signers = [read_signer(read_config(folder).validator_keys[0]) for folder in self.folders]

    def blocks(self, number):
        return read_config(self.folders[number]).blocks_folder("main")

    def channel(self, number):
        return read_config(self.folders[number]).channel_folder("main")

    def open(self, number):
        return ChannelStore.open(self.blocks(number))

    def wipe(self, number):
        shutil.rmtree(read_config(self.folders[number]).data, ignore_errors=True)

    def certificate(self, header, signers=(0, 1, 2)):
        domain = self.genesis.validator_set.domain
        votes = tuple(sign_vote(self.signers[n], domain, Kind.CHECKPOINT, 0, header.height, header.hash, n) for n in signers)
        return make_certificate(votes)

    def grow(self, number, blocks, uncertified=0):
        """Append blocks of one transfer each; the last ones have no certificate."""
        store = self.open(number)
        start_store(self.genesis, store)
        application = LedgerApplication(self.genesis, store.state, StateTree.of(store.entries()))
        head = store.head()
        last = head.height + blocks
        for height in range(head.height + 1, last + 1):
            transaction = decode_transaction(self.cluster.transfer(height))
            time_ms = self.genesis.time_ms + height
            finalized = application.finalize_block(height, time_ms, 0, [transaction])
            batch = encode(Batch(0, 0, time_ms, (transaction.id,)))
            header = make_header(head, batch, [transaction.id], finalized.receipts, finalized.tree.root, 0, head.next_validators)
            store.append(Block(header, batch, (transaction.raw,), finalized.receipts), finalized, [])
            application.commit()
            if height <= last - uncertified:
                store.put_certificate(self.certificate(header))
            head = header
        store.close()
        VoteLog.open(read_config(self.folders[number]).votes_folder("main")).close()
        return head

    def state(self, number):
        store = self.open(number)
        try:
            return store.head(), store.base, dict(store.entries())
        finally:
            store.close()

    def snapshot(self, number, **changed):
        """The snapshot of a node's head as (manifest, chunks), signed by ``signers`` or with other ``entries``."""
        head, _, entries = self.state(number)
        header = changed.get("header", head)
        certificate = self.certificate(header, changed.get("signers", (0, 1, 2)))
        return make_snapshot(header, certificate, changed.get("entries", entries).items(), depth=changed.get("depth", 2))
