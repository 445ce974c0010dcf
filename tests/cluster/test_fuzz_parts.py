"""The parts that fuzzing is made of: encodings, the journal, crash files, growth, what a failure is called."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import msgpack
import pytest

from cluster.fuzz.crashes import Crash, read_crash, smaller, write_crash
from cluster.fuzz.journal import Journal, read_journal
from cluster.fuzz.law import Failure, LawBrokenError, Watch, outcome_class
from cluster.fuzz.memory import LEAST_S, Growth, resident_mb
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.novelty import MAX_OUTCOMES, Novelty
from cluster.fuzz.on_messages import MAX_TABLE, MessagesTarget
from cluster.fuzz.on_mqtt import may_be_published
from cluster.fuzz.requests import frame
from cluster.fuzz.sizes import table_sizes
from cluster.fuzz.targets import TABLE, shared
from cluster.fuzz.trees import Literal, Miscounted, Nested, read, write
from consensus.codec import encode
from consensus.errors import InputError
from consensus.transaction import decode_transaction
from tests.project import ROOT

VALUE = ["vote", [1, 0, 300, b"\x01" * 40, -7, "é"], None, True, 2**63, -(2**40), {"a": [1.5]}, b"", "x" * 40, list(range(20)), b"y" * 300]


def test_trees_write_what_was_read_and_see_into_bytes() -> None:
    data = encode([VALUE, encode([1, encode(["inner"])])])
    tree = read(data)
    assert isinstance(tree, list)
    assert tree[1] == Nested([1, Nested(["inner"])])
    assert write(tree) == data


def test_longer_encodings_mean_the_same_to_another_reader() -> None:
    made = {write(VALUE, Random(seed)) for seed in range(200)}  # type: ignore[arg-type]
    assert len(made) > 150
    for data in made:
        assert msgpack.unpackb(data, strict_map_key=False) == VALUE


def test_trees_can_lie() -> None:
    with pytest.raises(ValueError, match="incomplete input"):
        msgpack.unpackb(write(Miscounted([1, 2], 3)))
    assert write([Literal(b"\xc1")]) == b"\x91\xc1"
    assert read(b"\xc1") is None
    assert read(b"\x91" * 20_000 + b"\xc0") is None


def test_changes_are_many_small_and_large() -> None:
    data = encode(VALUE)
    random = Random(1)
    mutator = Mutator(random, lambda: data)
    changed = [mutator.change(data) for _ in range(3_000)]
    readable = [one for one in changed if read(one) is not None]
    assert len(set(changed)) > 2_000
    assert 1_000 < len(readable) < 3_000
    assert max(map(len, changed)) > 10_000
    gentle = [read(mutator.gentle(data)) for _ in range(300)]
    assert sum(isinstance(one, list) and len(one) == len(VALUE) for one in gentle) > 250


def test_the_journal_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert read_journal(path) == []
    code = (
        "import os, sys; from pathlib import Path; from cluster.fuzz.journal import Journal; journal = Journal(Path(sys.argv[1]));"
        "journal.add(b'old'); journal.clear(); journal.add(b'one'); journal.add(b''); journal.add(b'x' * 70000); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert read_journal(path) == [b"one", b"", b"x" * 70_000]


def test_the_journal_says_when_it_is_full(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    count = 0
    while journal.add(bytes(1 << 20)):
        count += 1
    assert count == 15
    assert len(journal.inputs()) == 15
    journal.clear()
    assert journal.add(b"again")
    assert journal.inputs() == [b"again"]
    journal.close()


def test_crash_files_are_small_and_read_back(tmp_path: Path) -> None:
    inputs = tuple(b"%d" % number for number in range(40))

    def fails(tried: tuple[bytes, ...]) -> bool:
        return any(b"7" in one for one in tried) and any(b"2" in one for one in tried[:-1])

    kept = smaller(inputs, fails)  # type: ignore[arg-type]
    assert fails(kept)
    assert len(kept) == 2
    assert sum(map(len, kept)) <= 3
    crash = Crash("frames", Failure("KeyError", "KeyError: 'x'", "node/framing.py:1"), kept)
    path = write_crash(tmp_path / "new", crash)
    assert write_crash(tmp_path / "new", crash) == path
    file = read_crash(path)
    assert (file.target, file.error, file.place) == ("frames", "KeyError: 'x'", "node/framing.py:1")
    assert tuple(bytes.fromhex(one) for one in file.inputs) == kept


def test_what_does_not_fail_again_is_kept_whole() -> None:
    inputs = (b"first", b"second")
    assert smaller(inputs, lambda _tried: False) == inputs


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"format": 1, "target": "x", "error": "", "place": "", "inputs": ["zz"]}']
)
def test_another_file_is_no_crash_file(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(InputError, match=r"x\.json"):
        read_crash(tmp_path / "x.json")


def samples(*sizes_mb: float) -> Growth:
    growth = Growth()
    for number, size_mb in enumerate(sizes_mb):
        growth.add(number * LEAST_S / (len(sizes_mb) - 1), size_mb)
    return growth


def test_growth_is_what_goes_on() -> None:
    rising = [50 + 2.0 * number for number in range(20)]
    assert samples(*rising).is_growing
    assert samples(*rising).last_half_mb == pytest.approx(18, abs=3)
    warming_up = [*rising[:10], *[rising[10]] * 10]
    assert not samples(*warming_up).is_growing
    once = [*[50.0] * 12, *[80.0] * 8]
    assert samples(*once).last_half_mb == 30
    assert not samples(*once).is_growing
    assert (samples(*warming_up).start_mb, samples(*warming_up).warm_mb, samples(*warming_up).end_mb) == (50, 60, 70)
    assert not Growth().is_growing
    assert (Growth().start_mb, Growth().warm_mb, Growth().end_mb) == (0, 0, 0)
    assert resident_mb() > 5


def test_inputs_are_shared_by_all_targets() -> None:
    for total in (10_000_000, 1_234, 50):
        inputs = shared(total, tuple(TABLE))
        assert sum(inputs.values()) == total
        assert min(inputs.values()) >= 1
    assert shared(10, ("files", "calls"))["calls"] > shared(10, ("files", "calls"))["files"]
    assert shared(7, ("http",)) == {"http": 7}


def test_a_watch_names_the_line_of_the_project(tmp_path: Path) -> None:
    watch = Watch(5.0)
    with watch:
        decode_transaction(b"\x01" if tmp_path else None)  # type: ignore[arg-type]
    assert watch.failure is not None
    assert watch.failure.kind == "DecodeError"
    assert watch.failure.place.startswith("consensus/codec.py:")
    with watch:
        pass
    assert watch.failure is None


def test_a_watch_ends_what_takes_too_long() -> None:
    watch = Watch(0.1)
    began = time.process_time()
    with watch:
        while time.process_time() < began + 60:
            try:
                sum(range(1_000))
            except Exception:  # noqa: BLE001, S112  what is watched may catch everything
                continue
    assert watch.failure is not None
    assert watch.failure.kind == "hang"


def test_a_broken_promise_is_told_from_another() -> None:
    watch = Watch(5.0)
    marks = []
    for text in ("status 500 after 3", "status 500 after 4", "not acknowledged"):
        with watch:
            raise LawBrokenError(text)
        assert watch.failure is not None
        marks.append(watch.failure.mark)
    assert marks[0] == marks[1] != marks[2]


def test_outcomes_lose_their_particulars() -> None:
    assert outcome_class("refused: 12 bytes, 'x 1' and 'y") == outcome_class("refused: 4444 bytes, 'z'")
    assert outcome_class("Object contains unknown field `a`") == outcome_class("Object contains unknown field `b` c`")
    assert outcome_class("Expected `int`, got `str`") != outcome_class("Expected `int`, got `array`")


def test_novelty_is_a_new_outcome_or_a_new_line() -> None:
    novelty = Novelty()
    try:
        assert novelty.is_new("accepted")
        novelty.is_new("accepted")
        assert not novelty.is_new("accepted")
        code = compile("def fresh(n):\n    x = n\n    return x\n", f"{ROOT}/consensus/fresh.py", "exec")
        space: dict[str, object] = {}
        exec(code, space)  # noqa: S102
        space["fresh"](1)  # type: ignore[operator]
        assert novelty.is_new("accepted") == (sys.version_info >= (3, 12))
        assert not novelty.is_new("accepted")
        for number in range(MAX_OUTCOMES + 10):
            novelty.is_new(str(number))
        assert len(novelty.outcomes) == MAX_OUTCOMES
        assert not novelty.is_new("one too many")
    finally:
        novelty.close()


def test_tables_of_a_replica_are_measured(tmp_path: Path) -> None:
    target = MessagesTarget(tmp_path)
    target.check()
    sizes = table_sizes(target)
    assert any("slots" in name for name in sizes)
    replica = target._replica
    replica._state.bodies.update({number.to_bytes(32, "big"): b"" for number in range(MAX_TABLE + 1)})
    with pytest.raises(LawBrokenError, match="bodies"):
        target.check()


def test_frames_of_a_client_and_topics_of_a_broker() -> None:
    assert frame(9, b"ab", mask=b"\x00\x01\x00\x00") == b"\x89\x82\x00\x01\x00\x00ac"
    assert frame(2, bytes(300))[:4] == b"\x82\xfe\x01\x2c"
    assert may_be_published(b"a/b")
    assert not any(map(may_be_published, (b"", b"a/+", b"#", b"\xff")))
