"""A channel's folder on disk, as a node leaves it that took part in the rehearsal; and a database in memory, to damage it quickly."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.fuzz.rehearsal import Host, Rehearsal
from cluster.fuzz.world import GENESIS_MS, Pens
from consensus.transaction import decode_transaction
from contracts.calls import Transfer
from node.block_store import BLOCKS_FOLDER, ChannelStore
from node.key_value import Database, open_database
from node.vote_log import BIRTH_KEY, BIRTH_MARK, FIRST_START, VOTES_FOLDER, VoteLog

BACKUP = 2
"""The replica whose disk it is."""


def build_folder(folder: Path, play: Rehearsal, uncertified: int = 0) -> None:
    """Write the databases of one channel: the chain of the rehearsal, one backup's vote log, and a transaction that waits.

    Args:
        uncertified: so many of the last blocks have no certificate yet.
    """
    genesis, chain, host = play.genesis, play.chain, play.hosts[BACKUP]
    store = ChannelStore.open(folder / BLOCKS_FOLDER)
    store.start(chain.headers[0], chain.first)
    certified = len(chain.made) - uncertified
    for made in chain.made:
        height = made.block.header.height
        store.append(made.block, made.finalized, ())
        if height <= certified:
            store.put_certificate(host.certificates[height])
    store.put_epoch_changes(chain.epoch_changes(host.certificates))
    waiting = Pens(genesis).sign("cleo", Transfer("ada", 7), GENESIS_MS)
    store.add_pending([(decode_transaction(waiting).id, waiting)])
    store.close()
    _write_votes(folder / VOTES_FOLDER, play, host, certified)


def _write_votes(folder: Path, play: Rehearsal, host: Host, certified: int) -> None:
    (folder.parent / FIRST_START).touch()
    votes = VoteLog.open(folder)
    bodies = [
        (made.block.header.height, made.block.header.batch_digest, made.block.transactions)
        for made in play.chain.made
        if made.block.header.height > certified
    ]
    votes.append(host.records, bodies)
    votes.truncate(certified, host.replica.committee.epoch, host.replica.view)
    votes.close()


def forget_birth(folder: Path) -> None:
    """Make the vote log of a channel's folder one that was never marked, so that a copy of it is not begun anew when it is opened."""
    database = open_database(folder / VOTES_FOLDER, create=False)
    database.write([(BIRTH_KEY, None)], sync=True)
    database.close()
    (folder / VOTES_FOLDER / BIRTH_MARK).unlink()


def dump(folder: Path) -> dict[bytes, bytes]:
    """Return everything in a database."""
    database = open_database(folder, create=False)
    try:
        return dict(database.scan(b""))
    finally:
        database.close()


class MemoryReader:
    """Entries in memory, read as those of LevelDB are.

    Args:
        entries: they may change as long as nobody reads.
    """

    def __init__(self, entries: Mapping[bytes, bytes]) -> None:
        self._entries = entries
        self._keys = sorted(entries)

    def get(self, key: bytes, *, verify_checksums: bool = True) -> bytes | None:
        """Return the value at ``key``."""
        return self._entries.get(key)

    def iterator(
        self,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        prefix: bytes | None = None,
        reverse: bool = False,
        verify_checksums: bool = True,
        fill_cache: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield entries in order."""
        first = bisect_left(self._keys, start or prefix or b"")
        last = len(self._keys) if stop is None else bisect_left(self._keys, stop)
        keys = self._keys[first:last]
        return ((key, self._entries[key]) for key in (reversed(keys) if reverse else keys))

    def snapshot(self) -> MemoryReader:
        """Return what is there now."""
        return self

    def close(self) -> None:
        """Nothing is open."""


def memory_database(path: Path, entries: Mapping[bytes, bytes]) -> Database:
    """Return a database that only reads, with these entries.

    Args:
        path: what errors name.
    """
    return Database(path, MemoryReader(entries))
