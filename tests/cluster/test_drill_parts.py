"""Pure parts of drill and bench: whom faults hit, what the stream holds, what the history keeps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from cluster.bench import batch_size, crypto_bound_tps, measure_verify_us
from cluster.checkers import StoredBlock, StoredChain, find_wrong_balances, with_codes
from cluster.faults import FAULTS, choose_victim, fault_of_round, target_of_round
from cluster.history import History, Payment
from cluster.lab import lab_market
from cluster.usage import cores, cpu_seconds, peak_rss_mb
from cluster.workload import KINDS, make_actors, sign_range, sign_stream
from consensus.transaction import decode_transaction, signature_is_valid
from contracts.calls import SubmitReading, Transfer, decode_call
from contracts.genesis import GRID, OPERATOR, ConsensusRules, Genesis, Participant, Tariff, Validator

NOW_MS = 1_700_000_000_000


def genesis_of(actors) -> Genesis:
    key = "00" * 32
    return Genesis(
        version=1,
        chain_id="test",
        channel="main",
        currency="USD",
        time_ms=NOW_MS,
        validators=tuple(Validator(f"n{number}", f"{number:064x}", OPERATOR) for number in range(4)),
        participants=(Participant(GRID, "grid", key, 0), Participant(OPERATOR, "operator", key, 0), *actors.participants()),
        meters=actors.genesis_meters(),
        tariff=Tariff((300_000,) * 24, (300_000,) * 24, 80_000),
        market=lab_market(NOW_MS),
        consensus=ConsensusRules(),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_streams_use_every_nonce_once_and_in_order(kind):
    actors = make_actors(7, 5)
    genesis = genesis_of(actors)
    nonces = defaultdict(list)
    tags = Counter()
    for raw in sign_range(genesis, actors, kind, range(300), NOW_MS):
        transaction = decode_transaction(raw)
        assert signature_is_valid(transaction)
        nonces[transaction.body.sender].append(transaction.body.nonce)
        tags[type(decode_call(transaction.body.call)).__name__] += 1
    for used in nonces.values():
        assert sorted(used) == list(range(1, len(used) + 1))
    assert len(tags) == (3 if kind == "mixed" else 1)
    if kind == "mixed":
        assert set(tags.values()) == {100}


def test_stream_is_the_same_in_several_processes_and_in_portions():
    actors = make_actors(4, 4)
    genesis = genesis_of(actors)
    alone = [raw for chunk in sign_stream(genesis, actors, "mixed", 4_100, NOW_MS, 1) for raw in chunk]
    together = [raw for chunk in sign_stream(genesis, actors, "mixed", 4_100, NOW_MS, 2) for raw in chunk]
    assert alone == together
    assert sign_range(genesis, actors, "mixed", range(2_500, 2_520), NOW_MS) == alone[2_500:2_520]
    assert len({decode_transaction(raw).id for raw in alone}) == 4_100


def test_readings_rise_and_transfers_go_to_others():
    actors = make_actors(3, 2)
    genesis = genesis_of(actors)
    readings = [decode_call(decode_transaction(raw).body.call) for raw in sign_range(genesis, actors, "reading", range(10), NOW_MS)]
    assert all(isinstance(reading, SubmitReading) for reading in readings)
    assert [reading.import_wh for reading in readings[::2]] == [0, 1, 2, 3, 4]
    assert [reading.sequence for reading in readings[::2]] == [1, 2, 3, 4, 5]
    for raw in sign_range(genesis, actors, "transfer", range(10), NOW_MS):
        body = decode_transaction(raw).body
        call = decode_call(body.call)
        assert isinstance(call, Transfer)
        assert call.to != body.sender


def test_every_round_has_its_target_and_backups_take_turns():
    assert [target_of_round(number) for number in range(4)] == ["primary", "backup", "primary", "backup"]
    for nodes in (4, 5, 6, 7):
        for primary in range(nodes):
            assert choose_victim("primary", primary, nodes, 0) == primary
            hit = {choose_victim("backup", primary, nodes, number) for number in range(1, 2 * nodes, 2)}
            assert hit == set(range(nodes)) - {primary}
    assert [fault_of_round(FAULTS, number) for number in range(6)] == ["kill", "kill", "pause", "pause", "kill", "kill"]
    assert {fault_of_round(("pause",), number) for number in range(6)} == {"pause"}


def test_history_keeps_first_sending_first_sight_and_last_word():
    actors = make_actors(2, 1)
    history = History()
    positions = history.add(sign_range(genesis_of(actors), actors, "transfer", range(4), NOW_MS))
    assert list(positions) == [0, 1, 2, 3]
    assert history.payments[0] == Payment("load-0000", "load-0001", 1)
    history.note_sent([0, 1, 2], 10.0)
    history.note_sent([1], 11.0)
    assert (history.sent_count, history.resent, history.sent_s[1]) == (3, 1, 10.0)
    history.note_answer(0, 2, "OK")
    history.note_answer(1, 0, "OK")
    history.note_answer(2, 0, "NONCE_SPENT")
    assert history.acknowledged_ids() == set(history.ids[:2])
    assert history.sent_ids() == set(history.ids[:3])
    assert history.refusals == {2: "NONCE_SPENT"}
    assert history.note_certified(history.ids[0], 10.5)
    assert not history.note_certified(history.ids[0], 99.0)
    assert not history.note_certified(bytes(32), 10.5)
    assert history.open_positions() == [1]
    assert history.latencies_ms() == [500.0]
    assert (history.certified_count, history.last_certified_s()) == (1, 10.5)


def test_results_of_one_chain_hold_for_equal_blocks():
    ids = (bytes(32), bytes([1]) * 32)
    payments = {ids[0]: Payment("a", "b", 5), ids[1]: Payment("a", "b", 7)}
    told = StoredChain("n1", (StoredBlock(1, "h1", "g", "s", ids, ("OK", "INSUFFICIENT_FUNDS")),), {"a": 95, "b": 5})
    silent = StoredChain("n2", (StoredBlock(1, "h1", "g", "s", ids),), {"a": 95, "b": 5})
    assert find_wrong_balances([silent], payments, {"a": 100, "b": 0})
    assert find_wrong_balances(with_codes([told, silent]), payments, {"a": 100, "b": 0}) == ()


def test_bound_and_measure_of_signature_checks():
    actors = make_actors(2, 1)
    raws = sign_range(genesis_of(actors), actors, "transfer", range(200), NOW_MS)
    assert 5 < measure_verify_us(raws) < 5_000
    assert crypto_bound_tps(2, 4, 50.0) == pytest.approx(10_000)


def test_batches_are_small_at_low_rates():
    assert [batch_size(rate) for rate in (1, 100, 1_000, 50_000, None)] == [1, 2, 20, 100, 100]


def test_usage_of_a_process_is_read_while_it_runs():
    assert cores() >= 1
    child = subprocess.Popen([sys.executable, "-c", "sum(range(10**7)); input()"], stdin=subprocess.PIPE)
    try:
        while cpu_seconds(child.pid) == 0.0:
            assert child.poll() is None
        assert 1 < peak_rss_mb(child.pid) < 1_000
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    assert cpu_seconds(child.pid) == 0.0
    assert peak_rss_mb(child.pid) == 0.0
