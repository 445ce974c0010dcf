"""Frames out of a byte stream that comes in any pieces, and garbage that never crashes."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import DecodeError
from node.framing import (
    KEEPALIVE,
    MAX_FRAME_BYTES,
    Frame,
    FrameKind,
    FrameSplitter,
    decode_items,
    items_frame,
    pack_frame,
)

FRAMES = st.builds(Frame, st.text(max_size=5), st.integers(0, 300), st.binary(max_size=300))


@settings(deadline=None, max_examples=100)
@given(st.lists(FRAMES | st.none(), max_size=8), st.lists(st.integers(0, 2500), max_size=10))
def test_any_cut_gives_the_same_frames(frames: list[Frame | None], cuts: list[int]) -> None:
    stream = b"".join(pack_frame(frame) if frame is not None else KEEPALIVE for frame in frames)
    splitter = FrameSplitter()
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    got: list[Frame | None] = []
    for first, last in pairwise(places):
        got += splitter.feed(stream[first:last])
    assert got == frames
    assert splitter.pending_bytes == 0


@settings(deadline=None, max_examples=100)
@given(st.lists(FRAMES, min_size=1, max_size=3), st.data())
def test_truncated_stream_gives_the_whole_frames(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(pack_frame(frame) for frame in frames)
    last = len(pack_frame(frames[-1]))
    cut = data.draw(st.integers(1, last))
    assert list(FrameSplitter().feed(stream[:-cut])) == frames[:-1]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_is_frames_or_a_decode_error(pieces: list[bytes]) -> None:
    splitter = FrameSplitter()
    try:
        for piece in pieces:
            for frame in splitter.feed(piece):
                assert frame is None or isinstance(frame, Frame)
    except DecodeError:
        pass


def test_good_frames_before_a_bad_one_count() -> None:
    frame = Frame("main", 1, b"x")
    found = []
    with pytest.raises(DecodeError):
        for one in FrameSplitter().feed(pack_frame(frame) * 2 + b"\x00\x00\x00\x01\xc1" + pack_frame(frame)):
            found.append(one)
    assert found == [frame, frame]


def test_sizes() -> None:
    with pytest.raises(DecodeError, match="more than the limit of 100"):
        list(FrameSplitter(100).feed((101).to_bytes(4, "big")))
    assert list(FrameSplitter(100).feed((100).to_bytes(4, "big"))) == []
    overhead = len(pack_frame(Frame("main", 1, bytes(MAX_FRAME_BYTES - 100)))) - (MAX_FRAME_BYTES - 100)
    fits = Frame("main", 1, bytes(MAX_FRAME_BYTES + 4 - overhead))
    assert list(FrameSplitter().feed(pack_frame(fits))) == [fits]
    with pytest.raises(DecodeError):
        pack_frame(Frame("main", 1, bytes(MAX_FRAME_BYTES + 5 - overhead)))


def test_item_frames() -> None:
    frame = items_frame("main", FrameKind.FETCH_TRANSACTIONS, [b"a" * 32, b"b" * 32])
    assert (frame.channel, frame.kind) == ("main", 3)
    assert decode_items(frame.body) == (b"a" * 32, b"b" * 32)
    with pytest.raises(DecodeError):
        decode_items(b"\x91\x05")
