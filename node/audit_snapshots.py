"""The part of the audit that reads a snapshot from the shelf, to begin executing with its state."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block import Header
from consensus.codec import encode
from consensus.errors import InputError
from consensus.messages import ValidatorSet
from consensus.snapshot import chunk_objection, verify_snapshot
from node.audit_report import Findings
from node.key_value import StoreDamagedError
from node.snapshots import StoredSnapshot


def read_state(
    snapshot: StoredSnapshot, header: Header, epochs: Sequence[ValidatorSet], findings: Findings
) -> list[tuple[bytes, bytes]] | None:
    """Return the state after the block of ``header`` from a snapshot that proves it; None, and a note, if it does not.

    Args:
        epochs: the proven validator sets, from epoch 0 on.

    A bad snapshot is no fault of the store: the node finds that out itself, and drops it.
    """
    try:
        manifest = snapshot.manifest()
        verify_snapshot(epochs, manifest)
        if manifest.header != encode(header):
            raise InputError("snapshot", "is of another block than the stored one")
        entries: list[tuple[bytes, bytes]] = []
        for index in range(len(manifest.chunks)):
            chunk = snapshot.chunk(index).entries
            objection = chunk_objection(manifest, index, chunk)
            if objection is not None:
                raise InputError("snapshot", objection)
            entries += chunk
    except (InputError, StoreDamagedError) as error:
        findings.notes.append(f"the snapshot of height {snapshot.height} is of no use: {error}")
        return None
    return entries
