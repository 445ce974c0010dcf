"""Every checker must find the fault that is planted for it, and nothing in a clean run."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.checkers import (
    StoredBlock,
    StoredChain,
    check_chains,
    find_duplicated,
    find_foreign,
    find_forks,
    find_lost,
    find_wrong_balances,
    heads_agree,
    percentile,
)
from cluster.history import Payment

IDS = [sha256(bytes([number])).digest() for number in range(6)]
PAYMENTS = {key: Payment("anna", "bert", 10 + number) for number, key in enumerate(IDS)}
OPENING = {"anna": 1_000, "bert": 0}
TOTAL = sum(payment.amount_micro for payment in PAYMENTS.values())


def chain(node: str = "n1", *, batches: list[list[bytes]] | None = None, salt: dict[int, str] | None = None) -> StoredChain:
    """Return a chain that executes ``batches`` (default: all ids in three blocks) and the right balances."""
    batches = [IDS[0:2], IDS[2:4], IDS[4:6]] if batches is None else batches
    blocks = []
    previous = "genesis"
    for height, batch in enumerate(batches, 1):
        name = f"h{height}{(salt or {}).get(height, '')}"
        blocks.append(StoredBlock(height, name, previous, "root" + name, tuple(batch), ("OK",) * len(batch)))
        previous = name
    moved = sum(PAYMENTS[key].amount_micro for key in {key for batch in batches for key in batch})
    return StoredChain(node, tuple(blocks), {"anna": 1_000 - moved, "bert": moved})


def check(chains, acknowledged=IDS, sent=IDS):
    return check_chains(chains, acknowledged=acknowledged, sent=sent, payments=PAYMENTS, opening_balances=OPENING)


def test_clean_run_is_good():
    findings = check([chain("n1"), chain("n2"), chain("n3")])
    assert findings.good
    assert findings == (frozenset(), frozenset(), frozenset(), (), (), True)


def test_lost_on_one_node_is_found():
    short = chain("n2", batches=[IDS[0:2], IDS[2:4]])
    assert find_lost([chain("n1"), short], IDS) == frozenset(IDS[4:6])
    assert not check([chain("n1"), short]).good
    # What no node acknowledged is not lost.
    assert find_lost([short], IDS[:4]) == frozenset()


@pytest.mark.parametrize("batches", [[IDS[0:2], IDS[1:3]], [[IDS[0], IDS[0]]]])
def test_duplicate_is_found_across_blocks_and_within_one(batches):
    findings = check([chain("n1", batches=batches)], acknowledged=[], sent=IDS)
    assert findings.duplicated == find_duplicated([chain(batches=batches)]) != frozenset()
    assert findings.duplicated_count >= 1
    assert not findings.good


def test_double_effect_is_found_in_the_balances():
    clean = chain("n1")
    twice = clean._replace(balances={"anna": 1_000 - TOTAL - 10, "bert": TOTAL + 10})
    wrong = find_wrong_balances([clean, twice], PAYMENTS, OPENING)
    assert {(one.account, one.found_micro - one.expected_micro) for one in wrong} == {("anna", -10), ("bert", 10)}
    assert check([twice]).duplicated_count == 2


def test_refused_transfer_moves_nothing():
    clean = chain("n1")
    blocks = (*clean.blocks[:2], clean.blocks[2]._replace(codes=("OK", "INSUFFICIENT_FUNDS")))
    moved = TOTAL - PAYMENTS[IDS[5]].amount_micro
    assert find_wrong_balances([StoredChain("n1", blocks, {"anna": 1_000 - moved, "bert": moved})], PAYMENTS, OPENING) == ()
    assert len(find_wrong_balances([StoredChain("n1", blocks, clean.balances)], PAYMENTS, OPENING)) == 2


def test_fork_is_found_with_its_height_and_nodes():
    forked = chain("n2", salt={2: "x"})
    forks = find_forks([chain("n1"), forked])
    assert [fork.height for fork in forks] == [2]
    assert forks[0].hashes == {"n1": "h2", "n2": "h2x"}
    assert not check([chain("n1"), forked]).good


def test_broken_link_and_missing_block_are_forks():
    clean = chain("n1")
    broken = clean._replace(blocks=(clean.blocks[0], clean.blocks[1]._replace(previous_hash="other"), clean.blocks[2]))
    assert [fork.height for fork in find_forks([broken])] == [2]
    gap = clean._replace(blocks=(clean.blocks[0], clean.blocks[2]))
    assert [fork.height for fork in find_forks([gap])] == [3]


def test_foreign_transaction_is_found():
    assert find_foreign([chain()], IDS[1:]) == frozenset(IDS[:1])
    assert not check([chain()], acknowledged=IDS[1:], sent=IDS[1:]).good


def test_heads_must_agree_in_height_hash_and_state():
    clean = chain("n1")
    assert heads_agree([clean, chain("n2")])
    assert not heads_agree([clean, chain("n2", batches=[IDS[0:2], IDS[2:4]])])
    other_state = clean._replace(blocks=(*clean.blocks[:2], clean.blocks[2]._replace(state_root="other")))
    assert not heads_agree([clean, other_state])


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1))
def test_percentile_covers_its_share(values, share):
    values.sort()
    limit = percentile(values, share)
    assert limit in values
    assert sum(value <= limit for value in values) >= share * len(values) - 1e-6
    assert percentile([], share) == 0.0
