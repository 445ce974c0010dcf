"""The mempool: bounded, in order of arrival, nothing dropped in silence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.crypto import Ed25519Signer
from consensus.mempool import ADDED, FULL, KNOWN, NONCE_IN_USE, Mempool, MempoolLimits
from consensus.transaction import Transaction, decode_transaction, sign_transaction

SIGNER = Ed25519Signer(b"m" * 32)


def make(sender: str, nonce: int, memo: str = "", valid_until_ms: int = 10_000) -> Transaction:
    return decode_transaction(
        sign_transaction(SIGNER, chain_id="c", channel="main", sender=sender, nonce=nonce, valid_until_ms=valid_until_ms, call=memo)
    )


def test_transactions_come_out_in_the_order_in_which_they_came() -> None:
    pool = Mempool()
    wanted = [make("a", nonce) for nonce in (5, 1, 3)]
    for when, transaction in enumerate(wanted):
        assert pool.add(transaction, when) == ADDED
    assert pool.select(10, 10_000) == wanted
    assert pool.select(2, 10_000) == wanted[:2]
    assert pool.select(10, len(wanted[0].raw)) == wanted[:1]


def test_what_does_not_fit_is_refused_by_count_bytes_and_sender() -> None:
    first, second, third = make("a", 1), make("a", 2), make("b", 1)
    by_count = Mempool(MempoolLimits(max_transactions=1))
    by_bytes = Mempool(MempoolLimits(max_bytes=len(first.raw) + 5))
    by_sender = Mempool(MempoolLimits(max_per_sender=1))
    for pool in (by_count, by_bytes, by_sender):
        assert pool.add(first, 0) == ADDED
        assert pool.add(first, 0) == KNOWN
        assert pool.add(second, 0) == FULL
        assert second.id not in pool
    assert by_sender.add(third, 0) == ADDED
    assert by_count.add(second, 0, forced=True) == ADDED


def test_two_transactions_with_one_nonce_cannot_both_wait() -> None:
    pool = Mempool()
    first, second = make("a", 1, "one"), make("a", 1, "two")
    assert pool.add(first, 0) == ADDED
    assert pool.add(second, 0) == NONCE_IN_USE
    assert pool.add(second, 0, forced=True) == ADDED
    assert pool.drop_spent([("a", 1)]) == [first.id]
    assert second.id in pool


def test_reserved_transactions_are_not_selected_until_released() -> None:
    pool = Mempool()
    first, second = make("a", 1), make("a", 2)
    pool.add(first, 0)
    pool.add(second, 5)
    pool.reserve([first.id], 7)
    assert pool.select(10, 10_000) == [second]
    assert pool.reserved_elsewhere([first.id], 8) and not pool.reserved_elsewhere([first.id], 7)
    assert pool.waiting(100, 0) == (5, False)
    pool.release_all()
    assert pool.select(10, 10_000) == [first, second]


def test_one_that_expired_waits_for_nothing() -> None:
    pool = Mempool()
    pool.add(make("a", 1, valid_until_ms=100), 1)
    pool.add(make("a", 2, valid_until_ms=900), 2)
    assert pool.waiting(50, 100) == (1, False)
    assert pool.waiting(50, 101) == (2, False)
    assert pool.waiting(50, 901) == (None, False)


def test_a_transaction_left_out_while_much_later_ones_execute_is_overtaken() -> None:
    pool = Mempool()
    victim, soon, late = make("a", 1), make("b", 1), make("b", 2)
    pool.add(victim, 0)
    pool.add(soon, 40)
    pool.executed([soon.id])
    assert pool.waiting(50, 0) == (0, False)
    pool.add(late, 60)
    pool.executed([late.id])
    assert pool.waiting(50, 0) == (0, True)


@given(st.lists(st.tuples(st.sampled_from(["add", "forced", "executed", "discard", "spent"]), st.integers(0, 9)), max_size=60))
def test_counts_stay_right_whatever_happens(steps: list[tuple[str, int]]) -> None:
    pool = Mempool(MempoolLimits(max_transactions=5))
    model: dict[bytes, Transaction] = {}
    known = [make("ab"[number % 2], number // 4, str(number)) for number in range(10)]
    for action, number in steps:
        transaction = known[number]
        if action in ("add", "forced"):
            if pool.add(transaction, 0, forced=action == "forced") == ADDED:
                model[transaction.id] = transaction
        elif action == "spent":
            for gone in pool.drop_spent([(transaction.body.sender, transaction.body.nonce)]):
                del model[gone]
        else:
            (pool.executed if action == "executed" else pool.discard)([transaction.id])
            model.pop(transaction.id, None)
        assert len(pool) == len(model)
        assert pool.size_bytes == sum(len(one.raw) for one in model.values())
        assert {one.id for one in pool.select(100, 10**9)} == set(model)
