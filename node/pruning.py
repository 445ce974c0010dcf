"""What of the chain is kept, and how the rest leaves the disk.

Law. First a synced write moves the base (:mod:`node.store_layout`): from then on no reader sees what is below. Then what is below goes in
slices, in any number of steps; whatever a crash leaves of it goes when the store is opened next.
"""

from __future__ import annotations

from collections.abc import Generator

from consensus.crypto import digest
from consensus.errors import DecodeError
from node.key_value import COMPACT_BYTES, SLICE_ENTRIES, Database, Range, StoreDamagedError, Write, after_prefix
from node.store_layout import (
    BODY_PREFIX,
    CERTIFICATE_PREFIX,
    HEADER_PREFIX,
    HEIGHT,
    INDEX_PREFIX,
    RECEIPTS_PREFIX,
    decode_body,
    decode_envelope,
)


def prune_target(head: int, certified: int, retain: int, newest_snapshot_height: int, window: int) -> int:
    """Return the lowest height whose whole block is to be kept.

    Args:
        head, certified: heights of the last block, and of the last one with a certificate.
        retain: how many blocks are wanted; 0: all of them.
        newest_snapshot_height: of a snapshot that others can fetch; 0: there is none. They go on from it with the block after it,
            so that one and all later ones are kept.
        window: sequences between the water marks: replicas that are so little behind fetch blocks.
    """
    if retain <= 0:
        return 1
    return max(1, min(head - retain + 1, newest_snapshot_height + 1, certified - window + 1))


def delete_blocks(database: Database, base: int) -> Generator[int, None, list[Range]]:
    """Delete what stands below the base, slice by slice: blocks with their index entries, headers (but that of height 0), certificates.

    Yields:
        after every slice how many entries it had.

    Returns:
        where so much went that the files are worth sorting anew.

    Raises:
        StoreError: the database is damaged or closed.
    """
    base_key = HEIGHT.pack(base)
    size_bytes = sum(database.size_bytes(prefix, prefix + base_key) for prefix in (BODY_PREFIX, RECEIPTS_PREFIX))
    writes: list[Write] = []
    for key, body in database.scan(BODY_PREFIX, fill_cache=False):
        height = key[len(BODY_PREFIX) :]
        if height > base_key:
            break
        writes += [(INDEX_PREFIX + id_, None) for id_ in _ids(database, height, body)]
        writes += [(key, None), (RECEIPTS_PREFIX + height, None)]
        if len(writes) >= SLICE_ENTRIES:
            database.write(writes, sync=False)
            yield len(writes)
            writes = []
    if writes:
        database.write(writes, sync=False)
        yield len(writes)
    yield from database.delete(RECEIPTS_PREFIX, RECEIPTS_PREFIX + HEIGHT.pack(base + 1))
    yield from database.delete(HEADER_PREFIX + HEIGHT.pack(1), HEADER_PREFIX + base_key)
    yield from database.delete(CERTIFICATE_PREFIX, CERTIFICATE_PREFIX + base_key)
    if size_bytes < COMPACT_BYTES:
        return []
    by_height = (BODY_PREFIX, RECEIPTS_PREFIX, HEADER_PREFIX, CERTIFICATE_PREFIX)
    return [*((prefix, prefix + base_key) for prefix in by_height), (INDEX_PREFIX, after_prefix(INDEX_PREFIX))]


def _ids(database: Database, height: bytes, body: bytes) -> list[bytes]:
    """Return the ids of the transactions of a stored block."""
    try:
        return [digest(decode_envelope(raw).body) for raw in decode_body(body)[1]]
    except DecodeError as error:
        raise StoreDamagedError(database.path, f"height {HEIGHT.unpack(height)[0]}: {error}") from error
