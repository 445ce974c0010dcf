"""The door of the ledger: what is void, refused and executed, and that every replica does the same."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.errors import DecodeError, InvariantViolation
from consensus.state_tree import StateTree, verify_state
from consensus.transaction import Body, Envelope, Transaction, decode_transaction
from contracts.application import LedgerApplication
from contracts.calls import CancelOrder, PlaceOrder, ResetMeter, SubmitReading, Transfer
from contracts.events import Billed, Traded
from contracts.records import Account
from contracts.window import WINDOW
from tests.contracts.world import FIRST, GENESIS_MS, PERIOD_MS, RICH, World, signer

READING = SubmitReading(1, GENESIS_MS, 1_000, 500, "ntp", "b", 0)


def garbage_call(sender: str, call: bytes, nonce: int = 1) -> Transaction:
    body = encode(Body("test", "main", sender, nonce, GENESIS_MS + 1_000, msgspec.Raw(call)))
    return decode_transaction(encode(Envelope(1, signer(sender).public_key, body, signer(sender).sign(body))))


def test_a_reading_and_an_order_walk_through_to_a_bill() -> None:
    world = World()
    world.block(time_ms=world.start() - 2 * PERIOD_MS)
    assert world.order("A", "sell", 1_000, 400_000).code == "OK"
    assert world.order("B", "buy", 1_000, 500_000).code == "OK"
    world.block(time_ms=world.at_gate())
    assert [(t.buyer, t.seller, t.energy_wh, t.price_micro_per_kwh) for t in world.events_of(Traded)] == [("B", "A", 1_000, 450_000)]
    start, end = world.start(), world.start(FIRST + 1)
    world.block(*(world.read(name, start, 0, 0) for name in "ABC"), time_ms=start)
    world.block(world.read("A", end, 0, 1_500), world.read("B", end, 1_200, 0), world.read("C", end, 300, 0), time_ms=end)
    bills = {bill.account: bill for bill in world.events_of(Billed)}
    assert sum(bill.net_micro for bill in bills.values()) == 0
    assert bills["A"].sold_wh == 1_000 and bills["A"].grid_sold_wh == 500
    assert bills["B"].bought_wh == 1_000 and bills["B"].grid_bought_wh == 200
    assert bills["A"].earned_micro == 450_000 + 155_000
    assert bills["B"].paid_micro == 450_000 + 118_000
    assert bills["DC0"].fee_micro == -2 * 2_250
    assert bills["A"].saving_micro == 1_000 * (450 - 310) - 2_250
    assert bills["GRID"].saving_micro == -1_000 * (590 - 310)
    totals = world.view.totals(world.time_ms)
    assert totals.supply_conserved and totals.periods_settled == 1
    assert world.view.account("A").locked_micro == 0


@pytest.mark.parametrize(
    ("sender", "changes", "code"),
    [
        ("nobody", {}, "UNKNOWN_SENDER"),
        ("A", {"by": "B"}, "WRONG_KEY"),
        ("A", {"chain_id": "other"}, "WRONG_CHAIN"),
        ("A", {"channel": "other"}, "WRONG_CHAIN"),
        ("A", {"valid_until_ms": GENESIS_MS - 1}, "EXPIRED"),
        ("A", {"nonce": 0}, "NONCE_SPENT"),
        ("A", {"nonce": -5}, "NONCE_SPENT"),
        ("A", {"nonce": WINDOW + 1}, "NONCE_TOO_FAR"),
        ("m-A", {"by": "m-B"}, "WRONG_KEY"),
        ("m-A", {"nonce": WINDOW + 1}, "NONCE_TOO_FAR"),
    ],
)
def test_a_void_transaction_has_no_effect_and_a_code_at_the_door(sender: str, changes: dict[str, object], code: str) -> None:
    world = World()
    before = dict(world.store.entries)
    transaction = world.transaction(sender, READING if sender.startswith("m-") else Transfer("B", 5), **changes)
    assert world.application.check_transaction(transaction, GENESIS_MS).code == code
    assert world.block(transaction) == [] and world.last.included == ()
    assert {key: value for key, value in world.store.entries.items() if key != b"market/"} == {
        key: value for key, value in before.items() if key != b"market/"
    }
    proposal = world.application.process_proposal([transaction], GENESIS_MS).code
    assert proposal == ("OK" if code == "NONCE_TOO_FAR" else code)


@pytest.mark.parametrize("call", [b"\xc0", b"\x90", b"\x92\xa8transfer\x01", b"\x93\xa8transfer\xa1B\x00", b"\x91\xa5steal", b"\xa1x"])
def test_a_call_that_is_none_is_void(call: bytes) -> None:
    world = World()
    transaction = garbage_call("A", call)
    assert world.application.check_transaction(transaction, GENESIS_MS).code == "BAD_CALL"
    assert world.application.process_proposal([transaction], GENESIS_MS).code == "BAD_CALL"
    assert world.block(transaction) == []
    assert world.view.account("A").next_nonce == 1


@given(st.binary(max_size=60))
def test_garbage_calls_never_raise(call: bytes) -> None:
    world = World()
    try:
        transaction = garbage_call("A", call)
    except DecodeError:  # the body itself is not MessagePack any more
        return
    world.application.check_transaction(transaction, GENESIS_MS)
    world.block(transaction)
    assert world.view.totals(GENESIS_MS).supply_conserved


def test_too_long_a_validity_is_refused_at_the_door_only() -> None:
    world = World()
    transaction = world.transaction("A", Transfer("B", 5), valid_until_ms=GENESIS_MS + 86_400_001)
    assert world.application.check_transaction(transaction, GENESIS_MS).code == "VALID_TOO_LONG"
    assert world.application.check_transaction(transaction, GENESIS_MS + 1).ok


@pytest.mark.parametrize(
    ("sender", "call", "code"),
    [
        ("A", Transfer("nobody", 1), "NO_SUCH_ACCOUNT"),
        ("A", Transfer("m-A", 1), "NO_SUCH_ACCOUNT"),
        ("A", Transfer("A", 1), "SAME_ACCOUNT"),
        ("A", Transfer("B", RICH + 1), "INSUFFICIENT_FUNDS"),
        ("GRID", Transfer("B", 1), "INSUFFICIENT_FUNDS"),
        ("A", READING, "NOT_A_METER"),
        ("m-A", Transfer("B", 1), "NOT_AN_ACCOUNT"),
        ("m-A", PlaceOrder(FIRST, "buy", "pv", 1, 1, 1), "NOT_AN_ACCOUNT"),
        ("m-A", ResetMeter("m-A", 0, 0, "mine"), "NOT_AN_ACCOUNT"),
        ("A", ResetMeter("m-A", 0, 0, "mine"), "NOT_THE_OPERATOR"),
    ],
)
def test_a_refused_call_has_a_receipt_and_changes_only_its_nonce(sender: str, call: object, code: str) -> None:
    world = World()
    before = {account.account: account for account in world.view.accounts()}
    transaction = world.transaction(sender, call)
    assert world.application.check_transaction(transaction, GENESIS_MS).code == code
    receipt = world.block(transaction)[0]
    assert (receipt.code, receipt.events) == (code, ()) and receipt.detail
    assert receipt.transaction_id == transaction.id
    for account in world.view.accounts():
        expected = before[account.account]
        nonce = expected.next_nonce + (account.account == sender)
        assert account == msgspec.structs.replace(expected, next_nonce=nonce)
    assert world.block(transaction) == []


def test_a_transfer_moves_money_and_a_replay_does_not() -> None:
    world = World()
    transaction = world.transaction("A", Transfer("B", 7))
    receipts = world.block(transaction, transaction)
    assert [receipt.code for receipt in receipts] == ["OK"] and world.last.included == (0,)
    assert world.block(transaction) == []
    assert world.view.account("A").balance_micro == RICH - 7 and world.view.account("B").balance_micro == RICH + 7


def test_a_proposal_with_one_nonce_twice_is_refused() -> None:
    world = World()
    pair = [world.transaction("A", Transfer("B", amount), nonce=3) for amount in (1, 2)]
    assert world.application.process_proposal(pair, GENESIS_MS).code == "NONCE_TWICE"
    assert pair[1].id.hex() in world.application.process_proposal(pair, GENESIS_MS).detail
    assert world.application.process_proposal(pair[:1], GENESIS_MS).ok


def test_the_door_refuses_a_closed_gate_but_never_what_a_meter_says() -> None:
    world = World()
    late = world.transaction("A", PlaceOrder(FIRST, "buy", "pv", 1, 1, 1), valid_until_ms=world.at_gate() + 10)
    assert world.application.check_transaction(late, world.at_gate()).code == "GATE_CLOSED"
    assert world.application.check_transaction(late, world.at_gate() - 1).ok
    early = world.transaction("A", PlaceOrder(FIRST + 50, "buy", "pv", 1, 1, 1))
    assert world.application.check_transaction(early, GENESIS_MS).ok
    mad = world.transaction("m-A", SubmitReading(1, 2**53, 0, 0, "ntp", "b", 0))
    assert world.application.check_transaction(mad, GENESIS_MS).ok
    assert world.application.check_transaction(world.transaction("A", CancelOrder(bytes(32))), GENESIS_MS).ok


def test_nothing_shows_before_commit_and_a_second_finalize_replaces_the_first() -> None:
    world = World()
    application = world.application
    first, second = world.transaction("A", Transfer("B", 1)), world.transaction("A", Transfer("B", 2))
    root = application.tree.root
    application.finalize_block(1, GENESIS_MS, 0, [first])
    assert application.check_transaction(first, GENESIS_MS).ok and application.tree.root == root
    finalized = application.finalize_block(1, GENESIS_MS, 0, [second])
    world.store.write(finalized)
    application.commit()
    assert application.tree.root == finalized.tree.root != root
    assert application.check_transaction(first, GENESIS_MS).ok
    assert application.check_transaction(second, GENESIS_MS).code == "NONCE_SPENT"
    assert world.view.account("B").balance_micro == RICH + 2


@pytest.mark.parametrize("height", [0, 2, 3, 5])
def test_a_block_out_of_order_is_our_own_fault(height: int) -> None:
    world = World()
    world.advance_to(4)
    with pytest.raises(InvariantViolation, match="4 is the next one"):
        world.application.finalize_block(height, GENESIS_MS, 0, [])


def test_commit_without_a_block_is_our_own_fault() -> None:
    with pytest.raises(InvariantViolation):
        World().application.commit()


def test_an_account_can_be_proven_under_the_state_root() -> None:
    world = World()
    world.pay("A", "B", 5)
    key = world.view.state_key_of_account("B")
    value = world.store.get(key)
    assert verify_state(world.application.tree.root, key, value, world.application.tree.prove(key))
    assert StateTree.of(world.store.entries.items()).root == world.application.tree.root


def test_a_restarted_application_goes_on_from_the_store() -> None:
    world = World()
    world.pay("A", "B", 5)
    again = LedgerApplication(world.genesis, world.store, StateTree.of(world.store.entries.items()))
    assert again.epochs() == world.application.epochs()
    assert again.next_deadline_ms() == world.application.next_deadline_ms()
    transaction = world.transaction("B", Transfer("C", 6))
    one = world.application.finalize_block(2, GENESIS_MS + 5, 1, [transaction])
    other = again.finalize_block(2, GENESIS_MS + 5, 1, [transaction])
    assert (one.writes, one.receipts, one.tree.root) == (other.writes, other.receipts, other.tree.root)


def test_an_empty_store_has_no_deadline_and_no_answers() -> None:
    world = World()
    empty = LedgerApplication(world.genesis, type(world.store)())
    assert empty.next_deadline_ms() is None
    view = empty.view
    assert view.account("A") is None and view.meter("m-A") is None and view.market(FIRST) is None and view.bills("A") is None
    assert view.accounts() == () and view.meters() == () and not view.totals(GENESIS_MS).supply_conserved


def test_sender_keys() -> None:
    application = World().application
    assert application.sender_key("A") == signer("A").public_key
    assert application.sender_key("m-A") == signer("m-A").public_key
    assert application.sender_key("x") is None


MEMBERS = st.sampled_from(["A", "B", "C"])
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("pay"), MEMBERS, MEMBERS, st.integers(1, 2 * RICH)),
        st.tuples(st.just("order"), MEMBERS, st.booleans(), st.integers(-5, 9_000), st.integers(-5, 900_000), st.integers(0, 900_000)),
        st.tuples(st.just("cancel"), MEMBERS, st.integers(0, 30)),
        st.tuples(st.just("read"), MEMBERS, st.integers(-2_000_000, 10_000), st.integers(-50, 4_000), st.integers(-50, 4_000)),
        st.tuples(st.just("reset"), MEMBERS, st.integers(0, 5_000), st.integers(0, 5_000)),
        st.tuples(st.just("wait"), st.integers(1, 3_000_000)),
    ),
    max_size=60,
)


class Script:
    """Plays random actions in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.orders: list[bytes] = []
        self.counters = {name: [0, 0] for name in "ABC"}
        self.waiting: list[Transaction] = []

    def play(self, action: tuple) -> None:
        world = self.world
        match action:
            case ("pay", payer, payee, amount):
                self.waiting.append(world.transaction(payer, Transfer(payee, amount)))
            case ("order", member, is_buy, energy, price, move):
                period = (world.time_ms + 300_000) // PERIOD_MS + 1
                reserve = price + move if is_buy else max(0, price - move)
                order = world.transaction(member, PlaceOrder(period, "buy" if is_buy else "sell", "pv", energy, price, reserve))
                self.orders.append(order.id)
                self.waiting.append(order)
            case ("cancel", member, number) if number < len(self.orders):
                self.waiting.append(world.transaction(member, CancelOrder(self.orders[number])))
            case ("read", member, shift, more_import, more_export):
                counters = self.counters[member]
                counters[0], counters[1] = max(0, counters[0] + more_import), max(0, counters[1] + more_export)
                self.waiting.append(world.read(member, max(0, world.time_ms + shift), *counters))
            case ("reset", member, import_wh, export_wh):
                self.waiting.append(world.transaction("OPERATOR", ResetMeter(f"m-{member}", import_wh, export_wh, "test")))
            case ("wait", duration_ms):
                world.block(*self.waiting, time_ms=world.time_ms + duration_ms, proposer=duration_ms % 5 - 1)
                self.waiting = []
                self.check()

    def check(self) -> None:
        totals = self.world.view.totals(self.world.time_ms)
        assert totals.supply_conserved
        for account in self.world.view.accounts():
            assert account.locked_micro >= 0
        locked = sum(account.locked_micro for account in self.world.view.accounts())
        assert locked == sum(position.locked_micro for _, position in self.world.application._ledger.state.positions.scan())


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_random_histories_conserve_money_energy_and_deposits_and_every_replica_agrees(actions: list[tuple]) -> None:
    script = Script(World())
    world = script.world
    replica = LedgerApplication(world.genesis, twin := type(world.store)())
    twin.write(replica.init_chain())
    replica.commit()
    execute = world.application.finalize_block

    def execute_twice(height: int, time_ms: int, proposer: int, transactions: list[Transaction]):
        one, other = execute(height, time_ms, proposer, transactions), replica.finalize_block(height, time_ms, proposer, transactions)
        assert one.tree.root == other.tree.root and one.receipts == other.receipts and one.included == other.included
        twin.write(other)
        replica.commit()
        return one

    world.application.finalize_block = execute_twice
    for action in [("wait", world.start() - 2 * PERIOD_MS - GENESIS_MS), *actions, ("wait", 1)]:
        script.play(action)
    for _ in range(6):
        script.play(("wait", 4 * PERIOD_MS))
    assert StateTree.of(world.store.entries.items()).root == world.application.tree.root
    billed = {bill.period: 0 for bill in world.events_of(Billed)}
    for bill in world.events_of(Billed):
        billed[bill.period] += bill.net_micro
    assert len(billed) == world.view.totals(world.time_ms).periods_settled > 0 and not any(billed.values())


def test_a_block_that_makes_money_stops_the_replica() -> None:
    world = World()
    accounts = world.application._ledger.state.accounts
    world.application._ledger.state.discard()
    original = accounts.discard

    def counterfeit() -> None:
        original()
        accounts.put(b"A", Account(RICH + 1))

    accounts.discard = counterfeit
    with pytest.raises(InvariantViolation, match="sum of money"):
        world.application.finalize_block(1, GENESIS_MS, 0, [])


@pytest.mark.parametrize(
    ("record", "rule"),
    [(Account(RICH + 5, -5), "locked"), (Account(-1, RICH + 1), "without a settlement"), (Account(RICH - 5, 5), "deposits")],
)
def test_a_block_that_breaks_an_account_stops_the_replica(record: Account, rule: str) -> None:
    world = World()
    accounts = world.application._ledger.state.accounts
    original = accounts.discard

    def break_it() -> None:
        original()
        accounts.put(b"A", record)

    accounts.discard = break_it
    with pytest.raises(InvariantViolation, match=rule):
        world.application.finalize_block(1, GENESIS_MS, 0, [])
