"""What a simulated node keeps on its disk: the vote log, and the chain with its state. Reads like the stores of ``node/``."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence

from cluster.simulation.disk import Database, Write
from consensus.application import FinalizedBlock
from consensus.block import Block, Certificate, Header
from consensus.codec import encode
from consensus.effects import LogRecord
from consensus.errors import InvariantViolation
from consensus.messages import Vote
from consensus.transaction import Transaction

RecordKey = tuple[int, int, int, int]
HEAD, CUT, LOG_ID = "head", "cut", "log"


class StateReader:
    """The committed state as the application reads it (:class:`consensus.application.StateReader`).

    Args:
        rows: the table of the database.
    """

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows
        self._keys = sorted(rows)

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``."""
        return self._rows.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all pairs whose key starts with ``prefix``, by rising key, as they are at the call."""
        keys = self._keys
        found = []
        for place in range(bisect_left(keys, prefix), len(keys)):
            key = keys[place]
            if not key.startswith(prefix):
                break
            found.append((key, self._rows[key]))
        return iter(found)

    def reload(self) -> None:
        """Order the keys anew: another state took the place of this one."""
        self._keys = sorted(self._rows)

    def note(self, writes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Keep the keys in order, before ``writes`` change the table."""
        for key, value in writes:
            if value is None and key in self._rows:
                del self._keys[bisect_left(self._keys, key)]
            elif value is not None and key not in self._rows:
                insort(self._keys, key)


class VoteLog:
    """Own votes, and the bodies of the batches that they stand for.

    Args:
        database: its own one, as on a real node.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def writes(self, records: Sequence[LogRecord], bodies: Sequence[tuple[int, bytes, tuple[bytes, ...]]]) -> list[Write]:
        """Return what makes ``records`` and ``bodies`` durable."""
        found: list[Write] = [("records", record_key(record), record) for record in records]
        found += [("bodies", (sequence, digest), raws) for sequence, digest, raws in bodies]
        return found

    def truncate(self, sequence: int, epoch: int, view: int) -> None:
        """Delete what no longer matters, unsynced: up to a sequence number, and view-changes and new-views of earlier views."""
        rows, bodies = self.database.tables["records"], self.database.tables["bodies"]
        doomed: list[Write] = [
            ("records", key, None) for key in rows if (0 < key[0] <= sequence) or (key[0] == 0 and (key[1], key[2]) < (epoch, view))
        ]
        doomed += [("bodies", key, None) for key in bodies if key[0] <= sequence]
        if doomed:
            self.database.write([*doomed, ("meta", CUT, max(sequence, self.database.tables["meta"].get(CUT, 0)))], sync=False)

    def is_whole_above(self, certified: int) -> bool:
        """Tell whether this log holds all votes above the last certified block of the store; not if the store lost blocks since."""
        return certified >= int(self.database.tables["meta"].get(CUT, 0))

    @property
    def id(self) -> bytes:
        """Which log this is: empty for the first one of a node."""
        return bytes(self.database.tables["meta"].get(LOG_ID, b""))

    def begin_anew(self, log_id: bytes) -> None:
        """Forget all votes and take another id: nobody can tell any more what was signed."""
        tables = self.database.tables
        doomed: list[Write] = [(table, key, None) for table in ("records", "bodies") for key in tables[table]]
        self.database.write([*doomed, ("meta", CUT, None), ("meta", LOG_ID, log_id)], sync=True)

    def add_evidence(self, first: Vote, second: Vote) -> bool:
        """Keep two votes that contradict each other; False if there is proof for that place already."""
        place = (first.epoch, first.sender, first.kind, first.view, first.sequence)
        if place in self.database.tables["evidence"]:
            return False
        self.database.write([("evidence", place, (first, second))], sync=True)
        return True

    def evidence(self) -> Iterator[tuple[Vote, Vote]]:
        """Yield all pairs of contradicting votes."""
        for _, pair in sorted(self.database.tables["evidence"].items()):
            yield pair

    def records(self) -> tuple[LogRecord, ...]:
        """Return all records by key."""
        return tuple(record for _, record in sorted(self.database.tables["records"].items()))

    def bodies(self) -> Iterator[tuple[int, bytes, tuple[bytes, ...]]]:
        """Yield sequence, batch digest and raw transactions of every batch kept."""
        for (sequence, digest), raws in sorted(self.database.tables["bodies"].items()):
            yield sequence, digest, raws


def record_key(record: LogRecord) -> RecordKey:
    """Return where a record stands: a later one with the same key replaces it."""
    return record.sequence, record.epoch, record.view, record.kind


class ChainStore:
    """Blocks, certificates, index, state and taken-in transactions.

    Args:
        database: its own one.

    Attributes:
        state: committed state, for the application.
        durable_certificate: height of the last certificate that is on the disk for sure.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        tables = database.tables
        self._headers: dict[int, Header] = tables["headers"]
        self._blocks: dict[int, Block] = tables["blocks"]
        self._certificates: dict[int, Certificate] = tables["certificates"]
        self._places: dict[bytes, tuple[int, int]] = tables["places"]
        self.state = StateReader(tables["state"])
        self._certificate_put = self.durable_certificate = max(self._certificates, default=0)

    # ------------------------------------------------------------------------------------------------------------ reading

    def head(self) -> Header | None:
        """Return the header of the last block, None for an empty store."""
        height = self.database.tables["meta"].get(HEAD)
        return None if height is None else self._headers[height]

    @property
    def height(self) -> int:
        """Height of the last block."""
        height = self.database.tables["meta"].get(HEAD, 0)
        return int(height)

    @property
    def first_height(self) -> int:
        """Lowest height whose block is here (one above the head if none is)."""
        return min(self._blocks, default=self.height + 1)

    def reload(self) -> None:
        """Read again what is here: a snapshot took the place of everything."""
        self.state.reload()
        self._certificate_put = self.durable_certificate = max(self._certificates, default=0)

    def header(self, height: int) -> Header | None:
        """Return the header at ``height``."""
        return self._headers.get(height)

    def encoded_block(self, height: int) -> bytes | None:
        """Return the encoded block at ``height``."""
        block = self._blocks.get(height)
        return None if block is None else encode(block)

    def transactions(self, height: int) -> tuple[bytes, ...] | None:
        """Return the raw transactions of a block."""
        block = self._blocks.get(height)
        return None if block is None else block.transactions

    def certificate(self, height: int) -> Certificate | None:
        """Return the certificate of a block."""
        return self._certificates.get(height)

    def last_certificate(self) -> Certificate | None:
        """Return the certificate of the greatest height."""
        return self._certificates[max(self._certificates)] if self._certificates else None

    def locate(self, transaction_id: bytes) -> tuple[int, int] | None:
        """Return height and position of an executed transaction."""
        return self._places.get(transaction_id)

    def is_pending(self, transaction_id: bytes) -> bool:
        """Tell whether a taken-in transaction is kept here."""
        return transaction_id in self.database.tables["pending"]

    def pending(self) -> list[tuple[bytes, bytes]]:
        """Return taken-in transactions (id, raw) that are not spent."""
        return list(self.database.tables["pending"].items())

    # ------------------------------------------------------------------------------------------------------------ writing

    def begin(self, header: Header, finalized: FinalizedBlock) -> None:
        """Write height 0: header and state of genesis."""
        self.state.note(finalized.writes)
        self.database.write(
            [("headers", 0, header), ("meta", HEAD, 0), *(("state", key, value) for key, value in finalized.writes)], sync=True
        )

    def append(
        self, block: Block, transactions: Sequence[Transaction], finalized: FinalizedBlock, spent: Iterable[bytes], *, sync: bool = True
    ) -> None:
        """Write the block after the head, with everything that it changes, in one batch."""
        height = block.header.height
        writes: list[Write] = [("headers", height, block.header), ("blocks", height, block), ("meta", HEAD, height)]
        writes += [("places", one.id, (height, position)) for position, one in enumerate(transactions)]
        writes += [("state", key, value) for key, value in finalized.writes]
        writes += [("pending", transaction_id, None) for transaction_id in spent]
        certified = self._certificate_put
        self.state.note(finalized.writes)
        self.database.write(writes, sync=sync)
        if sync:
            self.durable_certificate = certified

    def put_certificate(self, certificate: Certificate, *, sync: bool) -> None:
        """Store the certificate of a block."""
        self.database.write([("certificates", certificate.height, certificate)], sync=sync)
        self._certificate_put = max(self._certificate_put, certificate.height)
        if sync:
            self.durable_certificate = self._certificate_put

    def add_pending(self, transactions: Iterable[Transaction]) -> None:
        """Keep taken-in transactions until they are spent."""
        self.database.write([("pending", one.id, one.raw) for one in transactions], sync=True)
        self.durable_certificate = self._certificate_put

    def drop_pending(self, ids: Iterable[bytes]) -> None:
        """Forget taken-in transactions that will never execute."""
        self.database.write([("pending", one, None) for one in ids], sync=False)

    def prune(self, first: int) -> None:
        """Let go of the blocks below ``first``, for sure; genesis stays, and the header and certificate that the rest hangs on.

        Raises:
            InvariantViolation: one of these is not here.
        """
        if first - 1 not in self._headers or first - 1 not in self._certificates:
            raise InvariantViolation(f"the header or the certificate of height {first - 1} is not stored")
        doomed: list[Write] = [("blocks", height, None) for height in self._blocks if height < first]
        doomed += [("headers", height, None) for height in self._headers if 0 < height < first - 1]
        doomed += [("certificates", height, None) for height in self._certificates if height < first - 1]
        doomed += [("places", one, None) for one, (height, _) in self._places.items() if height < first]
        self.database.write(doomed, sync=True)
        self.durable_certificate = self._certificate_put


class Disk:
    """Both databases of a node, and how they fail together."""

    def __init__(self) -> None:
        self.votes = Database("records", "bodies", "evidence", "meta")
        self.chain = Database("headers", "blocks", "certificates", "places", "state", "pending", "meta", "snapshots", "staged", "proofs")

    def lose(self, keep_votes: int = 0, keep_chain: int = 0) -> None:
        """The power fails; so many unsynced writes of each database were on the disk already."""
        self.votes.lose(keep_votes)
        self.chain.lose(keep_chain)
