"""Frames between nodes: a length (4 bytes, big endian), then the encoded :class:`Frame`. Length 0 is a keepalive.

Pure: bytes in, frames out. Anything that is not a well-formed frame raises, and the link is closed: after a bad length nothing
that follows can be trusted to start where it seems to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum

from consensus.codec import Decoder, Wire, encode
from consensus.errors import DecodeError
from consensus.messages import MAX_MESSAGE_BYTES

LENGTH_BYTES = 4
KEEPALIVE = bytes(LENGTH_BYTES)
MAX_FRAME_BYTES = MAX_MESSAGE_BYTES + 1024


class FrameKind(IntEnum):
    """What the body of a frame is."""

    CONSENSUS = 1
    """An encoded ``consensus.messages.Message``."""
    TRANSACTIONS = 2
    """An encoded tuple of raw envelopes."""
    FETCH_TRANSACTIONS = 3
    """An encoded tuple of transaction ids: please send these."""


class Frame(Wire, frozen=True):
    """One message from node to node.

    Fields:
        channel: name of the channel that it is for.
        kind: a :class:`FrameKind`.
        body: as the kind says.
    """

    channel: str
    kind: int
    body: bytes


_decode_frame = Decoder(Frame, "frame", MAX_FRAME_BYTES)
decode_items: Decoder[tuple[bytes, ...]] = Decoder(tuple[bytes, ...], "frame body", MAX_FRAME_BYTES)
"""Decodes the body of a TRANSACTIONS or FETCH_TRANSACTIONS frame."""


def pack_frame(frame: Frame) -> bytes:
    """Return the bytes of ``frame`` on the wire.

    Raises:
        DecodeError: it is over the size limit, so no peer would read it.
    """
    data = encode(frame)
    if len(data) > MAX_FRAME_BYTES:
        raise DecodeError("frame", f"{len(data)} bytes, more than the limit of {MAX_FRAME_BYTES}")
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def items_frame(channel: str, kind: FrameKind, items: Iterable[bytes]) -> Frame:
    """Return a TRANSACTIONS or FETCH_TRANSACTIONS frame."""
    return Frame(channel, int(kind), encode(tuple(items)))


class FrameSplitter:
    """Cuts a byte stream into frames.

    Args:
        max_frame_bytes: longer frames are refused as soon as their length is seen.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._needed = LENGTH_BYTES

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame | None]:
        """Take the next bytes of the stream; yield the frames that are complete now, None for a keepalive.

        The caller must exhaust the iterator before it feeds more.

        Raises:
            DecodeError: a frame is too long or malformed (those before it were yielded); the stream is of no use any more.
        """
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) >= self._needed:
            start = position + LENGTH_BYTES
            length = int.from_bytes(buffer[position:start], "big")
            if length > self._max_frame_bytes:
                raise DecodeError("frame", f"{length} bytes, more than the limit of {self._max_frame_bytes}")
            if len(buffer) < start + length:
                self._needed = start + length
                break
            yield _decode_frame(bytes(memoryview(buffer)[start : start + length])) if length else None
            position = start + length
            self._needed = position + LENGTH_BYTES
        del buffer[:position]
        self._needed -= position
