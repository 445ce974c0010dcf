from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.errors import DecodeError
from contracts.records import Credit, LedgerState
from contracts.state import Table
from tests.contracts.world import MemoryStore

KEYS = st.sampled_from([b"", b"a", b"ab", b"b", b"b\x00", b"c"])
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(0, 9))), max_size=12)


@given(st.lists(st.tuples(CHANGES, st.booleans()), max_size=6), st.integers(0, 3))
def test_a_table_behaves_like_a_dictionary_with_blocks(blocks: list[tuple[list[tuple[bytes, int | None]], bool]], cached: int) -> None:
    store = MemoryStore()
    table = Table(store, b"t/", Credit, cached)
    committed: dict[bytes, Credit] = {}
    for changes, is_committed in blocks:
        model = dict(committed)
        for key, score in changes:
            if score is None:
                table.delete(key)
                model.pop(key, None)
            else:
                table.put(key, Credit(score))
                model[key] = Credit(score)
            assert table.get(key) == model.get(key)
            assert table.committed(key) == committed.get(key)
        for prefix in (b"", b"a", b"b"):
            assert table.scan(prefix) == sorted((key, value) for key, value in model.items() if key.startswith(prefix))
        assert dict(table.scan_committed()) == committed
        assert {key: new for key, _, new in table.changed()} == {key: model.get(key) for key, _ in changes}
        writes = table.writes()
        if is_committed:
            for key, value in writes:
                store.entries[key] = value
                if value is None:
                    del store.entries[key]
            table.commit()
            committed = model
        else:
            table.discard()
    assert store.entries == {b"t/" + key: encode(value) for key, value in committed.items()}


def test_deleting_what_is_not_there_writes_nothing() -> None:
    table = Table(MemoryStore(), b"t/", Credit)
    table.put(b"a", Credit())
    table.delete(b"a")
    assert table.writes() == []


def test_a_damaged_record_is_an_error_not_a_guess() -> None:
    store = MemoryStore()
    store.entries[b"t/a"] = b"\x91"
    with pytest.raises(DecodeError, match="state t/"):
        Table(store, b"t/", Credit).get(b"a")


def test_writes_of_all_tables_come_by_rising_key() -> None:
    state = LedgerState(MemoryStore(), caching=True)
    state.credits.put(b"z", Credit())
    state.credits.put(b"a", Credit())
    state.orders.delete(b"none")
    assert [key for key, _ in state.writes()] == [b"credit/a", b"credit/z"]
    state.discard()
    assert state.writes() == ()
