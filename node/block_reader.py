"""Reading side of a channel's database: blocks, receipts, certificates and the transaction index (layout in :mod:`node.store_layout`)."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from consensus.block import Block, Certificate, Header, decode_block, decode_certificate, decode_header
from consensus.codec import Decoder
from consensus.crypto import digest
from consensus.errors import DecodeError
from node.key_value import Database, StoreDamagedError
from node.store_layout import (
    BASE,
    BASE_KEY,
    BODY_PREFIX,
    CERTIFICATE_PREFIX,
    EPOCH_PREFIX,
    HEADER_PREFIX,
    HEIGHT,
    INDEX_PREFIX,
    KEPT_PREFIX,
    PLACE,
    RECEIPTS_PREFIX,
    decode_body,
    decode_envelope,
    decode_kept,
    decode_receipts,
)

T = TypeVar("T")


class BlockReader:
    """Reads what is stored per height. What is below the base is not there, even while it still waits to be deleted.

    The base may move at any moment: every read looks where it is after it has read.

    Args:
        database: of the channel.

    Raises:
        StoreDamagedError: the mark of the base is malformed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._base = self._read_base()

    @property
    def base(self) -> int:
        """Height of the block that the stored chain hangs on: its header is there (and its certificate, but for genesis), not its body."""
        return self._base

    @property
    def first_height(self) -> int:
        """Height of the first whole block; from there on all are whole, up to the head (there may be none yet)."""
        return self._base + 1

    @property
    def path(self) -> Path:
        """Folder of the database."""
        return self._database.path

    def header(self, height: int) -> Header | None:
        """Return the header at ``height``, None if there is none (below the base only header 0 and the kept ones are)."""
        raw = self._at(HEADER_PREFIX, height)
        if 0 < height < self._base:
            raw = self._kept(height, 0)
        return self._decoded(decode_header, raw, height) if raw is not None else None

    def block(self, height: int) -> Block | None:
        """Return the block at ``height`` (None if there is none; height 0 has a header only)."""
        raw = self.encoded_block(height)
        return self._decoded(decode_block, raw, height) if raw is not None else None

    def encoded_block(self, height: int) -> bytes | None:
        """Return the encoded block, byte for byte as every replica encodes it, without decoding its parts."""
        body, header, receipts = (self._at(prefix, height) for prefix in (BODY_PREFIX, HEADER_PREFIX, RECEIPTS_PREFIX))
        if body is None or height <= self._base:
            return None
        if header is None or receipts is None:
            raise StoreDamagedError(self.path, f"block {height} is incomplete")
        return b"\x94" + header + body[1:] + receipts

    def receipts(self, height: int) -> tuple[bytes, ...] | None:
        """Return the encoded receipts of a block."""
        raw = self._above_base(RECEIPTS_PREFIX, height)
        return self._decoded(decode_receipts, raw, height) if raw is not None else None

    def transactions(self, height: int) -> tuple[bytes, ...] | None:
        """Return the raw transactions of a block."""
        raw = self._above_base(BODY_PREFIX, height)
        return self._decoded(decode_body, raw, height)[1] if raw is not None else None

    def transaction_ids(self, height: int) -> tuple[bytes, ...] | None:
        """Return the ids of the transactions of a block, in order (leaves of its transaction tree)."""
        raws = self.transactions(height)
        return tuple(digest(self._decoded(decode_envelope, raw, height).body) for raw in raws) if raws is not None else None

    def certificate(self, height: int) -> Certificate | None:
        """Return the certificate of a block, None if it is not stored."""
        raw = self._at(CERTIFICATE_PREFIX, height)
        if height < self._base:
            raw = self._kept(height, 1)
        return self._decoded(decode_certificate, raw, height) if raw is not None else None

    def last_certificate(self) -> Certificate | None:
        """Return the certificate of the greatest height."""
        for key, value in self._database.scan(CERTIFICATE_PREFIX, reverse=True):
            place = key[len(CERTIFICATE_PREFIX) :]
            if len(place) != HEIGHT.size:
                raise StoreDamagedError(self.path, f"a certificate stands at the malformed key {key.hex()}")
            return self._decoded(decode_certificate, value, HEIGHT.unpack(place)[0])
        return None

    def epoch_changes(self) -> tuple[bytes, ...]:
        """Return the proofs of all validator sets but the first that the chain has reached, by rising epoch."""
        return tuple(raw for _, raw in self._database.scan(EPOCH_PREFIX))

    def locate(self, transaction_id: bytes) -> tuple[int, int] | None:
        """Return height and position of an executed transaction, None if it is unknown or its block is not stored any more."""
        raw = self._database.get(INDEX_PREFIX + transaction_id)
        if raw is None:
            return None
        if len(raw) != PLACE.size:
            raise StoreDamagedError(self.path, f"index entry of transaction {transaction_id.hex()} is malformed")
        height, position = PLACE.unpack(raw)
        return (height, position) if height > self._base else None

    def _at(self, prefix: bytes, height: int) -> bytes | None:
        return self._database.get(prefix + HEIGHT.pack(height)) if 0 <= height < 2**64 else None

    def _above_base(self, prefix: bytes, height: int) -> bytes | None:
        raw = self._at(prefix, height)
        return raw if height > self._base else None

    def _kept(self, height: int, part: int) -> bytes | None:
        raw = self._at(KEPT_PREFIX, height)
        return self._decoded(decode_kept, raw, height)[part] if raw is not None else None

    def _read_base(self) -> int:
        raw = self._database.get(BASE_KEY)
        if raw is None:
            return 0
        if len(raw) != BASE.size:
            raise StoreDamagedError(self.path, "the mark of the base is malformed")
        height: int = BASE.unpack(raw)[0]
        return height

    def _decoded(self, decoder: Decoder[T], raw: bytes, height: int) -> T:
        try:
            return decoder(raw)
        except DecodeError as error:
            raise StoreDamagedError(self.path, f"height {height}: {error}") from error
