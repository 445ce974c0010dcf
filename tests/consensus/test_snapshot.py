"""Snapshots: every chunk checks alone, the table folds to the root, and no lie in either gets through."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.block import Certificate, Header, genesis_header
from consensus.codec import encode
from consensus.crypto import EMPTY_DIGEST, Ed25519Signer
from consensus.errors import DecodeError, InputError
from consensus.messages import MAX_MESSAGE_BYTES, Domain, Kind, ValidatorSet, make_certificate, sign_vote
from consensus.snapshot import (
    MAX_CHUNK_BYTES,
    MAX_DEPTH,
    TARGET_CHUNK_BYTES,
    Chunk,
    ChunkMark,
    SnapshotManifest,
    choose_depth,
    chunk_objection,
    chunk_of,
    decode_chunk,
    decode_manifest,
    entry_bytes,
    fold,
    make_snapshot,
    manifest_objection,
    verify_snapshot,
)
from consensus.state_tree import EMPTY_STATE_ROOT, StateTree
from consensus.validators import EpochChange
from tests.consensus.test_state_tree import naive_root

SIGNERS = [Ed25519Signer(bytes([number]) * 32) for number in range(4)]
NAMES, LOGS = ("a", "b", "c", "d"), (b"",) * 4
VALIDATORS = ValidatorSet(Domain("test", "main", 0), 0, NAMES, tuple(signer.public_key for signer in SIGNERS), LOGS)
State = dict[bytes, bytes]
states = st.dictionaries(st.binary(max_size=4), st.binary(max_size=6), max_size=40)
depths = st.integers(0, 6)


def header_of(state: State) -> Header:
    return genesis_header("test", "main", 0, EMPTY_DIGEST, StateTree.of(state.items()).root, EMPTY_DIGEST)


def snapshot(state: State, depth: int | None = None) -> tuple[SnapshotManifest, list[tuple[tuple[bytes, bytes], ...]]]:
    header = header_of(state)
    votes = tuple(sign_vote(SIGNERS[n], VALIDATORS.domain, Kind.CHECKPOINT, 0, 0, header.hash, n) for n in (0, 1, 3))
    manifest, chunks = make_snapshot(header, make_certificate(votes), state.items(), depth=depth)
    return manifest, [chunk.entries for chunk in chunks]


def altered(manifest: SnapshotManifest, index: int, **fields: object) -> SnapshotManifest:
    mark = manifest.chunks[index]
    values = {name: getattr(mark, name) for name in ChunkMark.__struct_fields__} | fields
    marks = (*manifest.chunks[:index], ChunkMark(**values), *manifest.chunks[index + 1 :])
    return SnapshotManifest(manifest.header, manifest.certificate, manifest.depth, marks, manifest.epochs)


@given(states, depths)
def test_every_chunk_checks_alone_and_the_table_folds_to_the_root(state: State, depth: int) -> None:
    manifest, chunks = snapshot(state, depth)
    assert fold(manifest.chunks) == naive_root(state) == StateTree.of(state.items()).root
    assert verify_snapshot((VALIDATORS,), manifest) == (header_of(state), (VALIDATORS,))
    assert len(chunks) == 2**depth
    for index, entries in enumerate(chunks):
        bits = "".join(f"{byte:08b}" for byte in sha256(entries[0][0]).digest())[:depth] if entries else ""
        assert not entries or int(bits or "0", 2) == index
        assert chunk_objection(manifest, index, entries) is None
        assert manifest.chunks[index].count == len(entries)
        assert decode_chunk(encode(Chunk(entries))).entries == entries
    assert sorted(entry for entries in chunks for entry in entries) == sorted(state.items())
    assert decode_manifest(encode(manifest)) == manifest


@given(states, depths)
def test_the_tree_of_the_whole_is_joined_from_the_trees_of_the_chunks(state: State, depth: int) -> None:
    _, chunks = snapshot(state, depth)
    whole, joined = StateTree.of(state.items()), StateTree.joined([StateTree.under(entries, depth) for entries in chunks])
    assert joined.root == whole.root
    assert all(joined.prove(key) == whole.prove(key) for key in [*state, b"absent"])
    changes = [(b"absent", b"new"), *((key, None) for key in list(state)[:5] if key != b"absent")]
    assert joined.apply(changes).root == whole.apply(changes).root


@given(states.filter(bool), depths, st.data())
def test_whatever_is_done_to_entries_the_right_chunk_is_blamed(state: State, depth: int, data: st.DataObject) -> None:
    manifest, chunks = snapshot(state, depth)
    key = data.draw(st.sampled_from(sorted(state)))
    home = chunk_of(key, depth)
    wrong = [list(entries) for entries in chunks]
    place = wrong[home].index((key, state[key]))
    blamed = {home}
    match data.draw(st.sampled_from(["value", "key", "missing", "added", "moved", "twice", "disordered"])):
        case "value":
            wrong[home][place] = (key, state[key] + b"x")
        case "key":
            wrong[home][place] = (key + b"longer than any", state[key])
        case "missing":
            del wrong[home][place]
        case "added":
            wrong[home] = sorted([*wrong[home], (b"longer than any", b"")])
        case "moved":
            other = data.draw(st.integers(0, len(chunks) - 1).filter(lambda index: index != home or len(chunks) == 1))
            del wrong[home][place]
            wrong[other] = sorted([*wrong[other], (key, state[key])])
            blamed = {home, other} if other != home else set()
        case "twice":
            wrong[home].insert(place, wrong[home][place])
        case "disordered":
            wrong[home].reverse()
            blamed = {home} if len(wrong[home]) > 1 else set()
    assert {index for index, entries in enumerate(wrong) if chunk_objection(manifest, index, entries) is not None} == blamed


@settings(max_examples=300)
@given(states, st.integers(0, 3), st.data())
def test_a_table_without_objection_holds_the_true_hashes(state: State, depth: int, data: st.DataObject) -> None:
    """So a chunk that does not check is its sender's fault, whoever made the manifest."""
    manifest, chunks = snapshot(state, depth)
    root = StateTree.of(state.items()).root
    pool = [EMPTY_STATE_ROOT, root, *(mark.hash for mark in manifest.chunks)]
    pool += [StateTree.under([entry for entries in chunks[at : at + 2] for entry in entries], 0).root for at in range(len(chunks))]
    leaves = [sha256(key).digest() + sha256(value).digest() for key, value in state.items()]
    lie = manifest
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(chunks) - 1))
        fields = data.draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "count": st.integers(-1, 3),
                    "hash": st.sampled_from(pool),
                    "leaf": st.sampled_from([b"", bytes(64), b"short", *leaves]),
                },
            )
        )
        lie = altered(lie, index, **fields)
    if manifest_objection(lie, root) is None:
        for index, entries in enumerate(chunks):
            assert chunk_objection(lie, index, entries) is None
            assert min(lie.chunks[index].count, 2) == min(len(entries), 2) or (lie.chunks[index].count >= 2 > len(entries))


def test_lies_that_would_make_honest_chunks_look_wrong() -> None:
    """The whole state passed off as one entry, and the only entry of the state put into another chunk."""
    state = {b"a": b"1", b"b": b"2", b"c": b"3"}
    manifest, _ = snapshot(state, 1)
    root = StateTree.of(state.items()).root
    one = ChunkMark(1, root, b"")
    for leaf in (b"", bytes(64)):
        lie = SnapshotManifest(manifest.header, manifest.certificate, 1, (ChunkMark(1, root, leaf), ChunkMark(0, bytes(32), b"")), ())
        assert fold(lie.chunks) == root
        assert manifest_objection(lie, root) is not None
    assert fold((one, ChunkMark(0, bytes(32), b""))) == root
    alone, _ = snapshot({b"a": b"1"}, 1)
    swapped = SnapshotManifest(alone.header, alone.certificate, 1, alone.chunks[::-1], ())
    assert fold(swapped.chunks) == fold(alone.chunks)
    assert "belongs to another chunk" in str(manifest_objection(swapped, fold(alone.chunks)))


@pytest.mark.parametrize("depth", range(MAX_DEPTH + 1))
@pytest.mark.parametrize("state", [{}, {b"only": b"one"}, {b"a": b"1", b"b": b"2"}], ids=["empty", "one entry", "two entries"])
def test_small_states_at_every_depth(state: State, depth: int) -> None:
    manifest, chunks = snapshot(state, depth)
    assert manifest_objection(manifest, StateTree.of(state.items()).root) is None
    assert all(chunk_objection(manifest, chunk_of(key, depth), chunks[chunk_of(key, depth)]) is None for key in state)
    assert manifest_objection(manifest, b"\x01" * 32) is not None


def test_bad_manifests_are_named() -> None:
    manifest, _ = snapshot({b"a": b"1", b"b": b"2"}, 1)
    root = fold(manifest.chunks)
    for depth, marks, words in [
        (-1, manifest.chunks, "depth: -1"),
        (17, manifest.chunks, "depth: 17"),
        (2, manifest.chunks, "there are 2, a depth of 2 makes 4"),
        (1, manifest.chunks[:1], "there are 1"),
        (1, (), "there are 0"),
    ]:
        assert words in str(manifest_objection(SnapshotManifest(b"", manifest.certificate, depth, marks, ()), root))
    for index, fields, words in [
        (1, {"hash": b"short"}, "1: the hash has 5 bytes"),
        (0, {"count": -1}, "count: -1"),
        (0, {"count": 2**63}, "out of range"),
        (0, {"count": 0, "leaf": b""}, "has no entry, but a hash"),
        (0, {"hash": b"\x01" * 32, "count": 2, "leaf": b""}, "does not fold"),
    ]:
        assert words in str(manifest_objection(altered(manifest, index, **fields), root))
    assert chunk_objection(manifest, 2, ()) == "chunk 2: there are only 2"
    assert chunk_objection(manifest, -1, ()) is not None


def test_a_manifest_of_another_chain_or_without_a_quorum_is_refused() -> None:
    manifest, _ = snapshot({b"a": b"1"})
    other = ValidatorSet(Domain("other", "main", 0), 0, NAMES, VALIDATORS.public_keys, LOGS)
    strange = ValidatorSet(VALIDATORS.domain, 0, NAMES, VALIDATORS.public_keys[::-1], LOGS)
    with pytest.raises(InputError, match=r"snapshot: header: is of chain test"):
        verify_snapshot((other,), manifest)
    with pytest.raises(InputError, match=r"snapshot: certificate: is not signed by a quorum"):
        verify_snapshot((strange,), manifest)
    with pytest.raises(InputError, match=r"snapshot: certificate: is for another header"):
        moved = encode(header_of({b"a": b"2"}))
        verify_snapshot((VALIDATORS,), SnapshotManifest(moved, manifest.certificate, 0, manifest.chunks, ()))
    with pytest.raises(InputError, match=r"snapshot: header"):
        verify_snapshot((VALIDATORS,), SnapshotManifest(b"garbage", manifest.certificate, 0, manifest.chunks, ()))
    with pytest.raises(InputError, match=r"snapshot: chunks: the table does not fold"):
        verify_snapshot((VALIDATORS,), altered(manifest, 0, count=0, hash=bytes(32), leaf=b""))


def test_a_snapshot_of_a_later_epoch_proves_its_validators() -> None:
    """Set 0 certifies block 5, which names set 1; set 1, with other keys, certifies the snapshot of block 8."""
    others = [Ed25519Signer(bytes([number]) * 32) for number in range(10, 14)]
    following = ValidatorSet(Domain("test", "main", 1), 6, NAMES, tuple(signer.public_key for signer in others), LOGS)
    state = {b"a": b"1", b"b": b"2"}

    def certified(header: Header, signers: list[Ed25519Signer], validators: ValidatorSet) -> Certificate:
        votes = (sign_vote(signers[n], validators.domain, Kind.CHECKPOINT, 0, header.height, header.hash, n) for n in (0, 2, 3))
        return make_certificate(tuple(votes))

    last = moved(header_of(state), height=5, next_validators=following.digest)
    change = encode(EpochChange(encode(last), certified(last, SIGNERS, VALIDATORS), following))
    header = moved(header_of(state), height=8, epoch=1, next_validators=following.digest)
    good = certified(header, others, following)

    def manifest(certificate: Certificate, *epochs: bytes) -> SnapshotManifest:
        return make_snapshot(header, certificate, state.items(), epochs)[0]

    assert verify_snapshot((VALIDATORS,), manifest(good, change)) == (header, (VALIDATORS, following))
    by_the_old = certified(header, SIGNERS, VALIDATORS)
    forged = encode(EpochChange(encode(last), certified(last, others, following), following))
    for certificate, epochs in (
        (good, ()),
        (by_the_old, (change,)),
        (good, (forged,)),
        (good, (b"garbage",)),
        (good, (change, change[:-1])),
    ):
        with pytest.raises(InputError, match="snapshot: "):
            verify_snapshot((VALIDATORS,), manifest(certificate, *epochs))


def moved(header: Header, **fields: object) -> Header:
    return Header(**{name: getattr(header, name) for name in Header.__struct_fields__} | fields)


# ------------------------------------------------------------------------------------------------------------------- sizes


def sizes_of(state: State) -> list[int]:
    sizes = [0] * 2**MAX_DEPTH
    for key, value in state.items():
        sizes[chunk_of(key, MAX_DEPTH)] += entry_bytes(key, value)
    return sizes


@pytest.mark.parametrize(
    ("count", "value_bytes", "depth"),
    [(0, 0, 0), (1, 0, 0), (1, MAX_CHUNK_BYTES - 15, 4), (100, 4_000, 0), (300, 4_000, 2), (6_000, 1_000, 4)],
)
def test_depth_follows_from_the_state_alone(count: int, value_bytes: int, depth: int) -> None:
    state = {b"%04d" % number: bytes(value_bytes) for number in range(count)}
    assert choose_depth(sizes_of(state)) == depth
    manifest, chunks = snapshot(state)
    assert manifest.depth == depth
    total = sum(entry_bytes(key, value) for key, value in state.items())
    assert total // 2**depth <= TARGET_CHUNK_BYTES
    assert depth == 0 or total // 2 ** (depth - 1) > TARGET_CHUNK_BYTES
    for index, entries in enumerate(chunks):
        encoded = encode(Chunk(entries))
        assert len(encoded) <= sum(entry_bytes(key, value) for key, value in entries) + 6 < MAX_MESSAGE_BYTES // 2 + 100
        assert chunk_objection(manifest, index, decode_chunk(encoded).entries) is None


def test_chunks_that_come_out_too_large_are_cut_deeper() -> None:
    """Two large entries whose hashes agree in their first bits; the average alone would not part them."""
    keys = [key for key in (b"%d" % number for number in range(100)) if chunk_of(key, 4) == 3][:2]
    state = {key: bytes(MAX_CHUNK_BYTES * 2 // 3) for key in keys}
    depth = choose_depth(sizes_of(state))
    assert 2 * MAX_CHUNK_BYTES * 2 // 3 >> 5 <= TARGET_CHUNK_BYTES
    assert depth > 4
    assert chunk_of(keys[0], depth) != chunk_of(keys[1], depth)


def test_an_entry_that_is_too_large_cannot_be_cut() -> None:
    with pytest.raises(InputError, match="cannot be cut"):
        make_snapshot(header_of({}), snapshot({})[0].certificate, [(b"k", bytes(MAX_CHUNK_BYTES))])
    manifest, _ = snapshot({b"k": b"v"})
    assert "has more than" in str(chunk_objection(manifest, 0, [(b"k", bytes(MAX_CHUNK_BYTES))]))


def test_too_much_is_refused_unread() -> None:
    with pytest.raises(DecodeError, match="snapshot chunk"):
        decode_chunk(bytes(MAX_CHUNK_BYTES + 17))
    full, _ = snapshot({b"%d" % number: b"v" for number in range(2000)}, MAX_DEPTH)
    assert decode_manifest(encode(full)) == full
