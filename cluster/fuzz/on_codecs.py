"""Targets that only decode: the stream of frames between nodes, and contract calls."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import NUMBERS, Mutator
from cluster.fuzz.rehearsal import rehearsed
from cluster.fuzz.target import Stateless, refused
from cluster.fuzz.world import ALL_CALLS, history, make_genesis
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.messages import decode_message
from consensus.transaction import decode_transaction
from contracts.calls import decode_call
from node.framing import (
    KEEPALIVE,
    LENGTH_BYTES,
    MAX_FRAME_BYTES,
    Frame,
    FrameKind,
    FrameSplitter,
    decode_items,
    items_frame,
    pack_frame,
)

MAX_PIECES = 12
Parsed = tuple[list[Frame | None], str]


class FramesTarget(Stateless):
    """A byte stream from a peer, in one piece and in random pieces: both give the same frames and the same end."""

    def __init__(self, _folder: Path) -> None:
        self._seeds = tuple(_streams())

    def seeds(self) -> Sequence[bytes]:
        """Return streams of real frames."""
        return self._seeds

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return the stream with one frame changed, or changed as bytes."""
        frames = _cut(data)
        if not frames or mutator.chance(0.25):
            return mutator.raw(data)
        place = mutator.pick(range(len(frames)))
        changed = mutator.change(frames[place])
        length = len(changed) if mutator.chance(0.85) else max(0, mutator.pick(NUMBERS)) & 0xFFFFFFFF
        parts = [len(frame).to_bytes(LENGTH_BYTES, "big") + frame for frame in frames]
        parts[place] = length.to_bytes(LENGTH_BYTES, "big") + changed
        if mutator.chance(0.2):
            parts.insert(place, KEEPALIVE)
        return b"".join(parts)

    def run(self, data: bytes) -> str:
        """Parse the stream twice, and decode what the frames hold."""
        frames, error = _parsed((data,))
        if _parsed(_pieces(data)) != (frames, error):
            raise LawBrokenError("another result when the stream comes in pieces")
        kinds = "".join(_body(frame) for frame in frames if frame is not None)
        for frame in frames:
            if frame is not None and _parsed((pack_frame(frame),)) != ([frame], ""):
                raise LawBrokenError("a frame that was read is not read again when it is written")
        return f"refused: {error} after {kinds[:4]}" if error else f"accepted: {kinds[:6]}"


def _streams() -> list[bytes]:
    play = rehearsed()
    bodies = [encode(message) for message in (*(one.message for one in play.said), *play.snapshot_messages())]
    consensus = [pack_frame(Frame("main", int(FrameKind.CONSENSUS), body)) for body in dict.fromkeys(bodies)]
    raws = [raw for _, (_, raws) in zip(range(6), history(make_genesis()), strict=False) for raw in raws]
    shared = pack_frame(items_frame("main", FrameKind.TRANSACTIONS, raws[:5]))
    asked = pack_frame(items_frame("main", FrameKind.FETCH_TRANSACTIONS, [decode_transaction(raw).id for raw in raws[:5]]))
    step = max(1, len(consensus) // 40)
    streams = [b"".join((KEEPALIVE, *consensus[start : start + 3])) for start in range(0, len(consensus), step)]
    return [KEEPALIVE, shared, asked, shared + KEEPALIVE + asked, *streams]


def _parsed(pieces: Sequence[bytes]) -> Parsed:
    """Return what a splitter makes of a stream: its frames, and the error that ends it.

    Raises:
        LawBrokenError: it keeps more than one frame.
    """
    splitter = FrameSplitter()
    frames: list[Frame | None] = []
    try:
        for piece in pieces:
            frames.extend(splitter.feed(piece))
    except DecodeError as error:
        return frames, str(error)
    if splitter.pending_bytes > MAX_FRAME_BYTES + LENGTH_BYTES:
        raise LawBrokenError(f"{splitter.pending_bytes} bytes are kept for one frame")
    return frames, ""


def _pieces(data: bytes) -> list[bytes]:
    """Cut a stream where its own checksum says, so that the same stream is always cut in the same way."""
    chance = Random(zlib.crc32(data))  # noqa: S311  no secret
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(MAX_PIECES)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _cut(data: bytes) -> list[bytes]:
    """Return the bodies of a stream's frames, as far as its lengths are right."""
    frames: list[bytes] = []
    position = 0
    while position + LENGTH_BYTES <= len(data) and len(frames) < 50:
        length = int.from_bytes(data[position : position + LENGTH_BYTES], "big")
        frames.append(data[position + LENGTH_BYTES : position + LENGTH_BYTES + length])
        position += LENGTH_BYTES + length
    return frames


def _body(frame: Frame) -> str:
    """Decode a frame's body as its kind says; return a letter for the kind, ``-`` if the body is refused, ``?`` for an unknown kind."""
    try:
        match frame.kind:
            case FrameKind.CONSENSUS:
                decode_message(frame.body)
                return "c"
            case FrameKind.TRANSACTIONS | FrameKind.FETCH_TRANSACTIONS:
                decode_items(frame.body)
                return "i"
            case _:
                return "?"
    except DecodeError:
        return "-"


class CallsTarget(Stateless):
    """Encoded contract calls."""

    def __init__(self, _folder: Path) -> None:
        raws = [raw for _, (_, raws) in zip(range(ALL_CALLS), history(make_genesis()), strict=False) for raw in raws]
        self._seeds = tuple(dict.fromkeys(bytes(decode_transaction(raw).body.call) for raw in raws))

    def seeds(self) -> Sequence[bytes]:
        """Return a call of every kind, and more."""
        return self._seeds

    def run(self, data: bytes) -> str:
        """Decode, encode, decode."""
        try:
            call = decode_call(data)
        except DecodeError as error:
            return refused(error)
        if decode_call(encode(call)) != call:
            raise LawBrokenError(f"{call} is another call when it is encoded and decoded")
        return f"accepted: {type(call).__name__}"
