"""The state commitment against a naive one built from the whole state, with proofs of everything that is and is not there."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consensus.codec import Decoder, encode
from consensus.errors import DecodeError
from consensus.state_tree import EMPTY_STATE_ROOT, StateProof, StateTree, verify_state

keys = st.integers(0, 60).map(lambda number: b"key/%d" % number)
entries = st.binary(max_size=20)
states = st.dictionaries(keys, entries, max_size=40)


def naive_root(state: dict[bytes, bytes]) -> bytes:
    """The definition of the module's docstring, word by word, on strings of bits."""
    leaves = {}
    for key, value in state.items():
        key_hash = sha256(key).digest()
        bits = "".join(f"{byte:08b}" for byte in key_hash)
        leaves[bits] = sha256(b"\x00" + key_hash + sha256(value).digest()).digest()
    return _subtree(leaves, 0)


def _subtree(leaves: dict[str, bytes], depth: int) -> bytes:
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        return next(iter(leaves.values()))
    left = {bits: leaf for bits, leaf in leaves.items() if bits[depth] == "0"}
    right = {bits: leaf for bits, leaf in leaves.items() if bits[depth] == "1"}
    return sha256(b"\x01" + _subtree(left, depth + 1) + _subtree(right, depth + 1)).digest()


class TreeAgainstDict(RuleBasedStateMachine):
    """Batches of changes; the tree must equal the one built from scratch, and older trees must not change."""

    @initialize()
    def start(self) -> None:
        self.state: dict[bytes, bytes] = {}
        self.tree = StateTree()
        self.earlier: list[tuple[StateTree, bytes]] = []

    @rule(changes=st.dictionaries(keys, st.none() | entries, max_size=12), order=st.randoms(use_true_random=False))
    def apply(self, changes: dict[bytes, bytes | None], order) -> None:  # type: ignore[no-untyped-def]
        self.earlier.append((self.tree, self.tree.root))
        shuffled = list(changes.items())
        order.shuffle(shuffled)
        self.tree = self.tree.apply(shuffled)
        for key, value in changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    @rule()
    def clear(self) -> None:
        self.tree = self.tree.apply([(key, None) for key in self.state])
        self.state = {}
        assert self.tree.root == EMPTY_STATE_ROOT

    @invariant()
    def root_is_that_of_the_whole_state(self) -> None:
        if hasattr(self, "tree"):
            assert self.tree.root == naive_root(self.state)
            assert self.tree.root == StateTree.of(self.state.items()).root

    @invariant()
    def earlier_trees_are_untouched(self) -> None:
        for tree, root in getattr(self, "earlier", [])[-5:]:
            assert tree.root == root

    @rule(key=keys)
    def prove(self, key: bytes) -> None:
        value, proof = self.state.get(key), self.tree.prove(key)
        assert verify_state(self.tree.root, key, value, proof)
        assert not verify_state(self.tree.root, key, b"another value, longer than any", proof)
        if value is not None:
            assert not verify_state(self.tree.root, key, None, proof)


TestTreeAgainstDict = TreeAgainstDict.TestCase
TestTreeAgainstDict.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@given(states, keys)
def test_every_key_has_exactly_one_provable_answer(state: dict[bytes, bytes], key: bytes) -> None:
    tree = StateTree.of(state.items())
    for candidate in {None, b"", b"x", *state.values()}:
        assert verify_state(tree.root, key, candidate, tree.prove(key)) == (candidate == state.get(key))


@given(states, keys, keys)
def test_a_proof_is_for_one_key(state: dict[bytes, bytes], key: bytes, other: bytes) -> None:
    tree = StateTree.of(state.items())
    if key in state and other != key:
        assert not verify_state(tree.root, other, state[key], tree.prove(key))
        assert not verify_state(tree.root, key, None, tree.prove(other)), "a present key cannot be proven absent"


@given(states, keys, st.data())
def test_tampering_with_any_byte_of_a_proof_is_refused(state: dict[bytes, bytes], key: bytes, data: st.DataObject) -> None:
    tree = StateTree.of(state.items())
    proof, value = tree.prove(key), state.get(key)
    encoded = bytearray(encode(proof))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        forged = Decoder(StateProof, "proof")(bytes(encoded))
    except DecodeError:
        return
    assert forged != proof
    assert not verify_state(tree.root, key, value, forged)


@given(states, keys, st.data())
def test_no_mixture_of_proof_parts_proves_a_present_key_absent(state: dict[bytes, bytes], key: bytes, data: st.DataObject) -> None:
    state[key] = b"here"
    tree = StateTree.of(state.items())
    parts = [tree.prove(other) for other in [*state, b"absent", b"absent too"]]
    siblings = data.draw(st.sampled_from(parts)).siblings
    cut = data.draw(st.integers(0, len(siblings)))
    other = data.draw(st.sampled_from(parts)).other
    own = sha256(key).digest() + sha256(b"here").digest()
    for ending in (other, b"", own, other[:32], own + b"\x00"):
        assert not verify_state(tree.root, key, None, StateProof(siblings[:cut], ending))


@given(st.lists(st.binary(max_size=40), max_size=300).map(tuple), st.binary(max_size=70), st.none() | st.binary(max_size=5))
def test_garbage_proves_nothing(siblings: tuple[bytes, ...], other: bytes, value: bytes | None) -> None:
    tree = StateTree.of([(b"a", b"1"), (b"b", b"2")])
    assert not verify_state(tree.root, b"c", value if value is not None else b"", StateProof(siblings, other))
    assert not verify_state(tree.root, b"a", None, StateProof(siblings, other))


def test_a_path_longer_than_a_hash_is_refused() -> None:
    assert not verify_state(bytes(32), b"k", None, StateProof((bytes(32),) * 257))


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_deleting_everything_gives_the_empty_root(count: int) -> None:
    names = [b"%d" % number for number in range(count)]
    full = StateTree.of((name, b"value") for name in names)
    assert full.apply([(name, None) for name in names]).root == EMPTY_STATE_ROOT
    assert full.apply([(b"never there", None)]).root == full.root


def test_one_entry_is_its_leaf_and_an_absent_key_shows_it() -> None:
    tree = StateTree.of([(b"k", b"v")])
    key_hash, value_hash = sha256(b"k").digest(), sha256(b"v").digest()
    assert tree.root == sha256(b"\x00" + key_hash + value_hash).digest()
    assert tree.prove(b"k") == StateProof(())
    assert tree.prove(b"other") == StateProof((), key_hash + value_hash)
    assert verify_state(tree.root, b"other", None, tree.prove(b"other"))
    assert not verify_state(tree.root, b"k", b"v", StateProof((), key_hash + value_hash)), "a presence proof names no other entry"


def test_an_empty_state_proves_every_absence() -> None:
    assert verify_state(StateTree().root, b"k", None, StateTree().prove(b"k"))
    assert not verify_state(StateTree().root, b"k", b"", StateTree().prove(b"k"))
