"""Reading side of a channel's database: blocks, receipts, certificates and the transaction index (layout in :mod:`node.block_store`)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TypeVar

from consensus.block import Block, Certificate, Header, decode_block, decode_certificate, decode_header
from consensus.codec import Decoder
from consensus.crypto import digest
from consensus.errors import DecodeError
from consensus.transaction import MAX_TRANSACTION_BYTES, Envelope
from node.key_value import Database, StoreDamagedError

HEADER_PREFIX, BODY_PREFIX, RECEIPTS_PREFIX = b"h/", b"b/", b"r/"
CERTIFICATE_PREFIX, INDEX_PREFIX = b"c/", b"i/"
HEIGHT = struct.Struct(">Q")
PLACE = struct.Struct(">QI")

T = TypeVar("T")

decode_envelope = Decoder(Envelope, "transaction", MAX_TRANSACTION_BYTES)
_decode_body: Decoder[tuple[bytes, tuple[bytes, ...]]] = Decoder(tuple[bytes, tuple[bytes, ...]], "block body", 64 * 1024 * 1024)
_decode_receipts: Decoder[tuple[bytes, ...]] = Decoder(tuple[bytes, ...], "receipts", 64 * 1024 * 1024)


class BlockReader:
    """Reads what is stored per height.

    Args:
        database: of the channel.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def path(self) -> Path:
        """Folder of the database."""
        return self._database.path

    def header(self, height: int) -> Header | None:
        """Return the header at ``height``, None if there is none."""
        raw = self._at(HEADER_PREFIX, height)
        return self._decoded(decode_header, raw, height) if raw is not None else None

    def block(self, height: int) -> Block | None:
        """Return the block at ``height`` (None if there is none; height 0 has a header only)."""
        raw = self.encoded_block(height)
        return self._decoded(decode_block, raw, height) if raw is not None else None

    def encoded_block(self, height: int) -> bytes | None:
        """Return the encoded block, byte for byte as every replica encodes it, without decoding its parts."""
        body = self._at(BODY_PREFIX, height)
        if body is None:
            return None
        header, receipts = self._at(HEADER_PREFIX, height), self._at(RECEIPTS_PREFIX, height)
        if header is None or receipts is None:
            raise StoreDamagedError(self.path, f"block {height} is incomplete")
        return b"\x94" + header + body[1:] + receipts

    def receipts(self, height: int) -> tuple[bytes, ...] | None:
        """Return the encoded receipts of a block."""
        raw = self._at(RECEIPTS_PREFIX, height)
        return self._decoded(_decode_receipts, raw, height) if raw is not None else None

    def transactions(self, height: int) -> tuple[bytes, ...] | None:
        """Return the raw transactions of a block."""
        raw = self._at(BODY_PREFIX, height)
        return self._decoded(_decode_body, raw, height)[1] if raw is not None else None

    def transaction_ids(self, height: int) -> tuple[bytes, ...] | None:
        """Return the ids of the transactions of a block, in order (leaves of its transaction tree)."""
        raws = self.transactions(height)
        return tuple(digest(self._decoded(decode_envelope, raw, height).body) for raw in raws) if raws is not None else None

    def certificate(self, height: int) -> Certificate | None:
        """Return the certificate of a block, None if it is not stored."""
        raw = self._at(CERTIFICATE_PREFIX, height)
        return self._decoded(decode_certificate, raw, height) if raw is not None else None

    def last_certificate(self) -> Certificate | None:
        """Return the certificate of the greatest height."""
        for key, value in self._database.scan(CERTIFICATE_PREFIX, reverse=True):
            return self._decoded(decode_certificate, value, HEIGHT.unpack(key[len(CERTIFICATE_PREFIX) :])[0])
        return None

    def locate(self, transaction_id: bytes) -> tuple[int, int] | None:
        """Return height and position of an executed transaction."""
        raw = self._database.get(INDEX_PREFIX + transaction_id)
        if raw is None:
            return None
        if len(raw) != PLACE.size:
            raise StoreDamagedError(self.path, f"index entry of transaction {transaction_id.hex()} is malformed")
        height, position = PLACE.unpack(raw)
        return height, position

    def _at(self, prefix: bytes, height: int) -> bytes | None:
        return self._database.get(prefix + HEIGHT.pack(height)) if 0 <= height < 2**64 else None

    def _decoded(self, decoder: Decoder[T], raw: bytes, height: int) -> T:
        try:
            return decoder(raw)
        except DecodeError as error:
            raise StoreDamagedError(self.path, f"height {height}: {error}") from error
