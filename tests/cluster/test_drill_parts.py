"""Pure parts of drill and bench: whom faults hit, what the stream holds, what the history keeps."""

from __future__ import annotations

import datetime
import itertools
import os
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from functools import partial

import plyvel
import pytest
from cryptography import x509

from cluster.bench import batch_size, crypto_bound_tps, measure_verify_us
from cluster.checkers import StoredBlock, StoredChain, find_wrong_balances, with_codes
from cluster.damage import flip_bytes, lengthen_record, newest_log
from cluster.drill_round import MAKERS
from cluster.fault_nodes import expired
from cluster.faults import FAULTS, choose_victims, fault_of_round, parse_faults, target_of_round
from cluster.history import History, Payment
from cluster.lab import lab_market, lab_plan
from cluster.lab_building import LabParts, build_lab, set_clock
from cluster.lab_meters import MeterKeys
from cluster.topology import read_topology
from cluster.usage import cores, cpu_seconds, peak_rss_mb
from cluster.workload import KINDS, make_actors, sign_range, sign_stream
from consensus.transaction import decode_transaction, signature_is_valid
from contracts.calls import SubmitReading, Transfer, decode_call
from contracts.genesis import GRID, OPERATOR, ConsensusRules, Genesis, Participant, Tariff, Validator
from node.clock import ReplayClock, wall_ms
from node.config import read_config
from node.key_value import StoreDamagedError, open_database
from node.keys import create_authority, issue_certificate
from node.leveldb_logs import FileDamageError, check_log

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


def test_faults_take_turns_and_each_hits_a_primary_and_a_backup():
    for faults in (FAULTS, FAULTS[:4], FAULTS[:1]):
        hit = defaultdict(list)
        for number in range(4 * len(faults)):
            hit[fault_of_round(faults, number)].append(target_of_round(faults, number))
        assert list(hit) == list(faults)
        for targets in hit.values():
            assert targets in (["primary", "backup"] * 2, ["backup", "primary"] * 2)
    assert [target_of_round(("kill",), number) for number in range(3)] == ["primary", "backup", "primary"]


def test_victims_are_the_primary_or_any_backup():
    for nodes in (4, 5, 6, 7):
        for primary in range(nodes):
            draw = random.Random(1)
            assert choose_victims("kill", "primary", primary, nodes, draw) == (primary,)
            hit = {one for _ in range(200) for one in choose_victims("kill", "backup", primary, nodes, draw)}
            assert hit == set(range(nodes)) - {primary}
    # A partition takes as many along as the cluster must stand: two of seven.
    assert [len(choose_victims("partition", "primary", 0, nodes, random.Random(1))) for nodes in (4, 5, 6, 7)] == [1, 1, 1, 2]
    assert choose_victims("partition", "primary", 3, 7, random.Random(1))[0] == 3
    assert 3 not in choose_victims("partition", "backup", 3, 7, random.Random(1))


def test_faults_are_named_singly_in_lists_or_all():
    assert parse_faults(["kill,wipe", "kill", " clock"]) == ("kill", "wipe", "clock")
    assert parse_faults(["broker", "all"])[0] == "broker"
    assert set(parse_faults(["all"])) == set(FAULTS) == set(MAKERS)
    with pytest.raises(ValueError, match="bomb"):
        parse_faults(["kill,bomb"])


def test_flipped_bytes_change_tables_and_logs_only_and_the_same_seed_the_same(tmp_path):
    content = bytes(range(256)) * 40
    for name in ("000003.log", "000004.ldb", "CURRENT", "000005.log"):
        (tmp_path / name).write_bytes(b"" if name == "000005.log" else content)
    chosen = flip_bytes(tmp_path, random.Random(1))
    assert [path.name for path in chosen] == ["000003.log", "000004.ldb"]
    for path in chosen:
        after = path.read_bytes()
        assert len(after) == len(content)
        assert 1 <= sum(one != other for one, other in zip(after, content, strict=True)) <= 8
    assert (tmp_path / "CURRENT").read_bytes() == content
    before = [path.read_bytes() for path in chosen]
    for path in chosen:
        path.write_bytes(content)
    flip_bytes(tmp_path, random.Random(1))
    assert [path.read_bytes() for path in chosen] == before


def test_one_bit_in_a_length_is_damage_that_leveldb_itself_does_not_notice(tmp_path):
    database = open_database(tmp_path)
    for number in range(20):
        database.write([(b"%d" % number, b"x" * 100)], sync=True)
    database.close()
    log = newest_log(tmp_path)
    before = log.read_bytes()
    check_log(log.name, before)
    assert lengthen_record(log, random.Random(1))
    after = log.read_bytes()
    assert sum((one ^ other).bit_count() for one, other in zip(after, before, strict=True)) == 1
    with pytest.raises(FileDamageError, match="wrong record length"):
        check_log(log.name, after)
    with pytest.raises(StoreDamagedError, match="wrong record length"):
        open_database(tmp_path)
    database = plyvel.DB(str(tmp_path), paranoid_checks=True)
    assert len(list(database.iterator())) < 20
    database.close()


def test_an_expired_certificate_is_the_good_one_but_for_its_time(tmp_path):
    authority = create_authority("test")
    pair = issue_certificate(authority, "node-1", ["127.0.0.1"])
    good = x509.load_pem_x509_certificate(pair.certificate)
    old = x509.load_pem_x509_certificate(expired(authority, good))
    assert old.not_valid_after_utc < datetime.datetime.now(datetime.UTC)
    assert (old.subject, old.issuer, old.public_key()) == (good.subject, good.issuer, good.public_key())
    assert list(old.extensions) == list(good.extensions)
    old.verify_directly_issued_by(authority.certificate)


def test_a_lab_leads_links_through_proxies_and_gives_every_node_a_clock(tmp_path):
    actors = make_actors(1, 1)
    keys = MeterKeys.make(2)
    parts = LabParts(proxied=True, own_clocks=True, meters=keys.names)
    places = build_lab(tmp_path, 4, partial(lab_plan, actors), parts)
    assert set(places.links) == set(itertools.permutations(range(4), 2))
    for index, node in enumerate(places.nodes):
        config = read_config(tmp_path / "nodes" / node.name)
        assert config.listen.port == node.port
        found = {name: place.port for name, place in config.peers.items()}
        assert found == {other.name: places.links[index, at][0] for at, other in enumerate(places.nodes) if at != index}
        assert all(places.links[index, at][1] == other.port for at, other in enumerate(places.nodes) if at != index)
        assert abs(ReplayClock(config.clock_file).now_ms() - wall_ms()) < 5_000
        assert config.mqtt.username == node.name
    set_clock(tmp_path / "nodes" / "node-1", 60_000)
    assert 50_000 < ReplayClock(tmp_path / "nodes" / "node-1" / "clock.json").now_ms() - wall_ms() < 70_000
    assert set(places.passwords) == {"node-1", "node-2", "node-3", "node-4", "meter-01", "meter-02"}
    assert read_topology(tmp_path).broker.url == places.broker_url


def test_what_only_a_lost_disk_has_promised_is_taken_back():
    actors = make_actors(2, 1)
    history = History()
    history.add(sign_range(genesis_of(actors), actors, "transfer", range(5), NOW_MS))
    history.note_sent(range(4), 1.0)
    for position, node in enumerate((2, 2, 1)):
        history.note_answer(position, node, "OK")
    history.note_certified(history.ids[0], 1.5)
    assert history.withdraw(2) == [1]
    assert history.open_positions() == [2]
    assert history.take_news() == [0, 2]
    history.note_answer(1, 0, "OK")
    history.note_answer(1, 3, "OK")
    assert history.take_news() == [1]
    assert history.take_news() == []
    assert history.was_sent(history.ids[3])
    assert not history.was_sent(history.ids[4])
    assert not history.was_sent(bytes(32))


def test_the_first_final_transaction_after_a_moment_is_one_that_was_sent_after_it():
    actors = make_actors(2, 1)
    history = History()
    history.add(sign_range(genesis_of(actors), actors, "transfer", range(4), NOW_MS))
    for position, sent_s in enumerate((1.0, 2.0, 3.0)):
        history.note_sent([position], sent_s)
    assert history.first_final_s(0.0) is None
    history.note_certified(history.ids[0], 2.5)
    assert history.first_final_s(1.5) is None
    history.note_certified(history.ids[2], 3.5)
    history.note_certified(history.ids[1], 3.7)
    assert history.first_final_s(1.5) == 3.5
    assert history.first_final_s(0.5) == 2.5
    assert history.first_final_s(3.1) is None


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
