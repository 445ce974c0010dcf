"""The book of a drill: every planted fault is found in the round that it happens in, and nothing in a clean run."""

from __future__ import annotations

from hashlib import sha256

import pytest

from cluster.chain_book import ChainBook
from cluster.checkers import StoredBlock
from cluster.history import Payment

IDS = [sha256(bytes([number])).digest() for number in range(8)]
PAYMENTS = {key: Payment("anna", "bert", 10 + number) for number, key in enumerate(IDS)}
OPENING = {"anna": 1_000, "bert": 0}


def make_book(sent=IDS) -> ChainBook:
    return ChainBook("h0", OPENING, PAYMENTS.get, lambda one: one in sent)


def block(height, ids, *, previous=None, name=None, codes=None, readings=()):
    before = f"h{height - 1}" if previous is None else previous
    return StoredBlock(height, name or f"h{height}", before, "state", tuple(ids), codes or ("OK",) * len(ids), tuple(readings))


def kinds(found):
    return [violation.kind for violation in found]


def test_a_clean_chain_is_entered_round_by_round():
    book = make_book()
    assert book.enter("n1", [block(1, IDS[:2]), block(2, [])]) == []
    assert book.enter("n2", [block(3, IDS[2:4], readings=[("m1", 1)])]) == []
    assert (book.height, book.transactions, book.readings) == (3, 4, {"m1": {1}})
    assert book.missing([(key, "n1") for key in IDS[:4]]) == []
    assert book.compare("n3", {1: "h1", 2: "h2", 3: "h3"}, range(1, 4)) == []
    moved = sum(PAYMENTS[key].amount_micro for key in IDS[:4])
    assert book.wrong_balances("n1", {"anna": 1_000 - moved, "bert": moved}) == []
    assert book.missing_readings({"m1": {1}}) == []


def test_what_was_promised_and_is_nowhere_is_lost_with_its_id_and_node():
    book = make_book()
    book.enter("n1", [block(1, IDS[:2])])
    found = book.missing([(IDS[0], "n1"), (IDS[5], "n3")])
    assert kinds(found) == ["lost"]
    assert found[0].transaction == IDS[5].hex()
    assert found[0].text == f"transaction {IDS[5].hex()} was acknowledged by n3 and is in no block up to 1"


@pytest.mark.parametrize("ids", [[IDS[2], IDS[2]], [IDS[0]]])
def test_a_second_time_is_found_within_a_block_and_in_a_later_round(ids):
    book = make_book()
    book.enter("n1", [block(1, IDS[:2])])
    found = book.enter("n1", [block(2, ids)])
    assert kinds(found) == ["duplicated"]
    assert found[0].transaction == ids[-1].hex()


def test_a_transfer_that_counts_twice_shows_in_the_balances():
    book = make_book()
    book.enter("n1", [block(1, IDS[:1])])
    assert kinds(book.wrong_balances("n2", {"anna": 1_000 - 20, "bert": 20})) == ["balance", "balance"]
    assert book.wrong_balances("n2", {"anna": 1_000 - 10, "bert": 10}) == []


def test_a_refused_transfer_moves_nothing():
    book = make_book()
    book.enter("n1", [block(1, IDS[:1], codes=("INSUFFICIENT_FUNDS",))])
    assert book.wrong_balances("n1", OPENING) == []
    assert book.refused == 1
    assert book.missing([(IDS[0], "n1")]) == []


def test_a_transaction_that_nobody_sent_is_foreign():
    assert kinds(make_book(sent=IDS[1:]).enter("n1", [block(1, IDS[:2])])) == ["foreign"]


@pytest.mark.parametrize("wrong", [block(2, [], previous="other"), block(3, [], previous="h1"), block(1, [], previous="h0")])
def test_a_block_that_does_not_follow_ends_the_entry(wrong):
    book = make_book()
    book.enter("n1", [block(1, [])])
    assert kinds(book.enter("n1", [wrong, block(2, IDS[:1])])) == ["fork"]
    assert book.height == 1


def test_another_block_and_a_missing_one_are_found_on_their_node():
    book = make_book()
    book.enter("n1", [block(height, []) for height in (1, 2, 3)])
    found = book.compare("n4", {1: "h1", 2: "forked"}, range(1, 4))
    assert kinds(found) == ["fork", "lost"]
    assert {violation.node for violation in found} == {"n4"}
    assert "block 2" in found[0].text
    assert "block 3" in found[1].text


def test_a_reading_counts_once_and_what_was_confirmed_counts():
    book = make_book()
    assert book.enter("n1", [block(1, IDS[:2], readings=[("m1", 1), ("m2", 1)])]) == []
    assert kinds(book.enter("n1", [block(2, IDS[2:3], readings=[("m1", 1)])])) == ["duplicated"]
    lost = book.missing_readings({"m1": {1, 2}, "m3": {1}})
    assert [violation.text.split(" was")[0] for violation in lost] == ["reading 2 of m1", "reading 1 of m3"]
