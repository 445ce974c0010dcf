"""Where everything stands in the database of one channel.

Numbers are big endian, so that keys sort by height.

| key | value |
| --- | --- |
| ``m/format`` | :data:`FORMAT` |
| ``m/head`` | height of the last block, 8 bytes |
| ``m/base`` | height of the base (8 bytes), hash of its header (32 bytes) |
| ``m/state`` | generation of the state that counts, 1 byte |
| ``h/`` height | encoded header |
| ``b/`` height | encoded pair: batch, raw transactions |
| ``r/`` height | encoded tuple of receipts |
| ``c/`` height | encoded certificate |
| ``i/`` transaction id | height (8 bytes), position in the block (4 bytes) |
| ``k/`` height | encoded pair: header, certificate, of a height below the base that is kept for ever |
| ``e/`` epoch | encoded ``EpochChange``: the proof of this epoch's validator set, from epoch 1 on |
| ``s`` generation ``/`` state key | state value |
| ``p/`` transaction id | raw transaction that was taken in and is not executed yet |

The **base** is the block that the stored chain hangs on: its header is there, its body is not. It is genesis, the block of the
snapshot that the store began with, or (after pruning) the last block whose body is gone. Above it everything is whole, up to the head.
Below it only header 0 and what stands under ``k/`` count; anything else there waits to be deleted, and no reader sees it.

The state stands under a **generation**. A snapshot is written under the next one, entry by entry, while the present one stays as it is;
a single write then makes the next one count. Entries of any other generation wait to be deleted.
"""

from __future__ import annotations

import struct

from consensus.codec import Decoder
from consensus.transaction import MAX_TRANSACTION_BYTES, Envelope

FORMAT = b"GridPact store 2"
OLDER_FORMATS = (b"GridPact store 1",)

META_PREFIX = b"m/"
FORMAT_KEY, HEAD_KEY, BASE_KEY, GENERATION_KEY = b"m/format", b"m/head", b"m/base", b"m/state"
HEADER_PREFIX, BODY_PREFIX, RECEIPTS_PREFIX, CERTIFICATE_PREFIX = b"h/", b"b/", b"r/", b"c/"
INDEX_PREFIX, KEPT_PREFIX, PENDING_PREFIX, EPOCH_PREFIX = b"i/", b"k/", b"p/", b"e/"
STATE_PREFIX = b"s"
GENERATIONS = 256

HEIGHT = struct.Struct(">Q")
PLACE = struct.Struct(">QI")
BASE = struct.Struct(">Q32s")

decode_envelope = Decoder(Envelope, "transaction", MAX_TRANSACTION_BYTES)
decode_body: Decoder[tuple[bytes, tuple[bytes, ...]]] = Decoder(tuple[bytes, tuple[bytes, ...]], "block body", 64 * 1024 * 1024)
decode_receipts: Decoder[tuple[bytes, ...]] = Decoder(tuple[bytes, ...], "receipts", 64 * 1024 * 1024)
decode_kept: Decoder[tuple[bytes, bytes]] = Decoder(tuple[bytes, bytes], "kept header", 128 * 1024)


def state_prefix(generation: int) -> bytes:
    """Return what the keys of one generation of the state begin with."""
    return STATE_PREFIX + bytes([generation]) + b"/"


def next_generation(generation: int) -> int:
    """Return the generation under which a snapshot is written while ``generation`` counts."""
    return (generation + 1) % GENERATIONS
