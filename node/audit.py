"""The audit of a store for ``gridpact verify``: everything is checked again from genesis, on a copy.

Nothing in the store is trusted: files and their checksums, headers and their links, batches, transactions and signatures, receipts,
certificates, index, taken-in transactions, the vote log; and all state is made again by executing every block.

A store that began with a snapshot, or whose first blocks were pruned, is checked from its base on: the certificate of that block stands
for what is below. Executing begins with the first snapshot on the shelf; without one the state is compared with the last state root.
The report says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from consensus.errors import InputError
from contracts.genesis import Genesis
from node.audit_chain import audit_chain
from node.audit_report import AuditFault, AuditReport, Findings, Progress
from node.audit_votes import audit_votes
from node.block_store import BLOCKS_FOLDER
from node.key_value import Database, StoreError, open_database
from node.leveldb_files import copy_database
from node.leveldb_logs import FileDamageError
from node.snapshots import SNAPSHOTS_FOLDER
from node.vote_log import VOTES_FOLDER

__all__ = ["AuditFault", "AuditReport", "audit"]


def audit(store_path: Path, genesis: Genesis, progress: Progress | None = None) -> AuditReport:
    """Check the store of one channel from genesis to head, without changing it; its node may be running.

    The vote log is copied first: it speaks of blocks that were stored before, so the blocks copied after it must be there.

    Args:
        store_path: the channel's folder, which holds the block store and the vote log.
        genesis: the agreement that it must follow from.
        progress: called after every block.

    Raises:
        InputError: there is no store at ``store_path``, or it cannot be read or copied.
    """
    if not (store_path / BLOCKS_FOLDER).is_dir():
        raise InputError(str(store_path), f"is no channel's store (it has no folder {BLOCKS_FOLDER})")
    findings = Findings()
    has_votes = (store_path / VOTES_FOLDER).is_dir()
    with _work_folder(store_path) as work:
        votes_copy = _opened(store_path / VOTES_FOLDER, work / VOTES_FOLDER, "vote log", findings) if has_votes else nullcontext()
        with votes_copy as votes:
            with _opened(store_path / BLOCKS_FOLDER, work / BLOCKS_FOLDER, "block store", findings) as blocks:
                if blocks is not None:
                    audit_chain(blocks, store_path / SNAPSHOTS_FOLDER, genesis, findings, progress or _no_progress)
            if not has_votes:
                findings.add(None, "vote log", "is missing")
            if votes is not None:
                audit_votes(votes, genesis, findings)
    return findings.report()


@contextmanager
def _work_folder(store_path: Path) -> Iterator[Path]:
    """Make a folder for the copy: beside the store, so that its tables can be linked; elsewhere if that cannot be written."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".audit-", dir=store_path.absolute().parent)
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix="gridpact-audit-")
    with folder as name:
        yield Path(name)


@contextmanager
def _opened(source: Path, target: Path, what: str, findings: Findings) -> Iterator[Database | None]:
    """Open a copy of a database; None, and a fault, if it is damaged. Damage found later becomes a fault as well."""
    try:
        copy_database(source, target)
        database = open_database(target, create=False, cache_bytes=8 << 20)
    except (FileDamageError, StoreError) as error:
        findings.add(None, what, str(error).replace(str(target), str(source)))
        yield None
        return
    try:
        yield database
    except StoreError as error:
        findings.add(None, what, str(error).replace(str(target), str(source)))
    finally:
        database.close()


def _no_progress(_height: int, _total: int) -> None:
    return
