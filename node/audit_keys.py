"""The part of the audit that reads every key of a channel's database once, and the marks that say what of it counts."""

from __future__ import annotations

from dataclasses import dataclass

from node.audit_report import Findings
from node.key_value import Database
from node.store_layout import (
    BASE,
    BASE_KEY,
    BODY_PREFIX,
    CERTIFICATE_PREFIX,
    EPOCH_PREFIX,
    FORMAT,
    FORMAT_KEY,
    GENERATION_KEY,
    HEAD_KEY,
    HEADER_PREFIX,
    HEIGHT,
    INDEX_PREFIX,
    KEPT_PREFIX,
    PENDING_PREFIX,
    RECEIPTS_PREFIX,
    STATE_PREFIX,
    state_prefix,
)

_KEY_BYTES = {
    HEADER_PREFIX: HEIGHT.size,
    BODY_PREFIX: HEIGHT.size,
    RECEIPTS_PREFIX: HEIGHT.size,
    CERTIFICATE_PREFIX: HEIGHT.size,
    KEPT_PREFIX: HEIGHT.size,
    EPOCH_PREFIX: HEIGHT.size,
    INDEX_PREFIX: 32,
    PENDING_PREFIX: 32,
}
_BY_HEIGHT = (HEADER_PREFIX, BODY_PREFIX, RECEIPTS_PREFIX, CERTIFICATE_PREFIX)
_MARKS = (FORMAT_KEY, HEAD_KEY, BASE_KEY, GENERATION_KEY)
_PREFIX_BYTES = 2


@dataclass(slots=True)
class Extent:
    """What of a database counts.

    Attributes:
        base, base_hash: height of the block that the chain hangs on, and its hash according to the mark.
        head: height up to which to check.
        generation: of the state.
        index_entries: how many there are.
        kept: heights below the base that are kept for ever.
        waiting: entries that wait to be deleted, or belong to a snapshot that is being fetched.
        highest: greatest height of anything.
    """

    base: int = 0
    base_hash: bytes | None = None
    head: int = -1
    generation: int = 0
    index_entries: int = 0
    kept: tuple[int, ...] = ()
    waiting: int = 0
    highest: int = -1


def check_keys(database: Database, findings: Findings) -> Extent | None:
    """Read everything once: note stray keys and wrong marks, and the last certificate. None if there is no block at all.

    Raises:
        StoreError: a part cannot be read at all.
    """
    if database.get(FORMAT_KEY) != FORMAT:
        findings.add(None, "format", f"is not {FORMAT.decode()}")
    extent = Extent()
    _read_marks(database, extent, findings)
    for key, _ in database.scan(b"", fill_cache=False):
        _check_key(key, extent, findings)
    _check_head(database, extent, findings)
    if extent.head < 0:
        return None
    if extent.base > extent.head:
        findings.add(None, "base", f"the mark says {extent.base}, above the head {extent.head}")
        extent.base = _lowest_whole(database)
    if extent.waiting:
        findings.notes.append(f"{extent.waiting} entries wait to be deleted, or belong to a snapshot that is being fetched")
    return extent


def _read_marks(database: Database, extent: Extent, findings: Findings) -> None:
    raw = database.get(GENERATION_KEY)
    if raw is not None and len(raw) == 1:
        extent.generation = raw[0]
    else:
        findings.add(None, "state", "the mark of its generation is missing or malformed")
    raw = database.get(BASE_KEY)
    if raw is not None and len(raw) == BASE.size:
        extent.base, extent.base_hash = BASE.unpack(raw)
    elif raw is not None or database.get(HEAD_KEY) is not None:
        findings.add(None, "base", "the mark is missing or malformed")
        extent.base = _lowest_whole(database)


def _check_key(key: bytes, extent: Extent, findings: Findings) -> None:
    prefix, rest = key[:_PREFIX_BYTES], key[_PREFIX_BYTES:]
    if key in _MARKS or key.startswith(state_prefix(extent.generation)):
        return
    if key.startswith(STATE_PREFIX) and key[_PREFIX_BYTES : _PREFIX_BYTES + 1] == b"/":
        extent.waiting += 1
        return
    if _KEY_BYTES.get(prefix) != len(rest):
        findings.add(None, "key", f"{key.hex()} belongs to nothing")
        return
    extent.index_entries += prefix == INDEX_PREFIX
    if prefix == KEPT_PREFIX:
        extent.kept += (HEIGHT.unpack(rest)[0],)
    if prefix in _BY_HEIGHT:
        height = HEIGHT.unpack(rest)[0]
        extent.highest = max(extent.highest, height)
        extent.waiting += _waits(prefix, height, extent.base)
        if prefix == CERTIFICATE_PREFIX:
            findings.certified_height = height


def _waits(prefix: bytes, height: int, base: int) -> bool:
    """Tell whether an entry is left from before the base moved."""
    if prefix in (BODY_PREFIX, RECEIPTS_PREFIX):
        return 0 < height <= base
    return 0 < height < base


def _check_head(database: Database, extent: Extent, findings: Findings) -> None:
    """Find the height up to which to check: the head mark, or, if that is wrong, as far as headers go without a gap."""
    raw, highest = database.get(HEAD_KEY), extent.highest
    marked = HEIGHT.unpack(raw)[0] if raw is not None and len(raw) == HEIGHT.size else None
    if marked is not None and marked == highest:
        extent.head = highest
        return
    if marked is None and highest < 0 and raw is None:
        findings.add(None, "head", "there is no block, not even genesis")
        return
    findings.add(None, "head", f"the mark says {'nothing' if marked is None else marked}, the greatest height stored is {highest}")
    extent.head = extent.base - 1
    while database.get(HEADER_PREFIX + HEIGHT.pack(extent.head + 1)) is not None:
        extent.head += 1
    findings.certified_height = min(findings.certified_height, max(extent.head, 0))


def _lowest_whole(database: Database) -> int:
    """Return the height below the first body: what the base must be."""
    for key in database.keys(BODY_PREFIX, None):
        if key.startswith(BODY_PREFIX) and len(key) == _PREFIX_BYTES + HEIGHT.size:
            return max(int.from_bytes(key[_PREFIX_BYTES:], "big") - 1, 0)
        break
    return 0
