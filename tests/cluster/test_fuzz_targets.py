"""Every target for a short while, and every input that once brought one down."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.commands.fuzz import replay_crash
from cluster.fuzz.crashes import read_crash
from cluster.fuzz.crew import work_folder
from cluster.fuzz.law import LawBrokenError
from cluster.fuzz.mutation import Mutator
from cluster.fuzz.shift import run_here
from cluster.fuzz.target import Stateless
from cluster.fuzz.targets import TABLE, TARGETS

CORPUS = Path(__file__).parent / "fuzz_corpus"
INPUTS = {
    "frames": 1_500,
    "messages": 2_500,
    "member": 1_000,
    "transactions": 1_500,
    "calls": 3_000,
    "proofs": 1_000,
    "records": 250,
    "files": 60,
    "genesis": 1_000,
    "config": 300,
    "cases": 500,
    "data": 400,
    "http": 250,
    "mqtt": 250,
}


REACHED = {
    "messages": (
        "StageSnapshot", "StageChunk", "AdoptSnapshot", "BAD_SNAPSHOT", "ServeSnapshot", "ServeChunk", "Adopt", "ServeBlocks",
        "BAD_CERTIFICATE", "Execute", "Certified", "ViewEntered", "EpochEntered",
    ),
    "member": (
        "Evidence", "EQUIVOCATION", "ViewEntered", "Certified", "ServeBlocks", "BAD_CERTIFICATE", "BAD_VIEW_CHANGE", "BAD_NEW_VIEW",
        "BAD_PREPARED_PROOF", "NOT_PRIMARY", "SnapshotMessage", "ChunkMessage", "BatchMessage", "restart", "plot",
    ),
}  # fmt: skip
"""Words that must occur in the outcomes: without them a part of the code is not fed at all."""


@pytest.mark.parametrize("target", TABLE)
def test_target_bears_everything(target: str, tmp_path: Path) -> None:
    with work_folder() as work:
        crashes = str(tmp_path / "crashes")
        result = run_here(target, TARGETS, seed="suite", inputs=INPUTS[target], work=work, crashes=crashes, smaller_s=0.0)
    assert list(result.crashes) == []
    assert result.inputs == INPUTS[target]
    accepted = sum(count for outcome, count in result.outcomes.items() if outcome.startswith("accepted"))
    refused = sum(count for outcome, count in result.outcomes.items() if outcome.startswith("refused"))
    assert accepted > INPUTS[target] // 50, "most of what is fed must get somewhere"
    assert refused > 0
    assert len(result.corpus) > 5
    words = {word for outcome in result.outcomes for word in re.split("[^A-Za-z_]+", outcome)}
    assert set(REACHED.get(target, ())) <= words


class Planted(Stateless):
    """A target with a fault of each kind."""

    def __init__(self, _folder: Path) -> None:
        self.left: list[bytes] = []

    def seeds(self) -> list[bytes]:
        return [b"hang", b"lie", b"harmless"]

    def run(self, data: bytes) -> str:
        if data == b"hang":
            while True:
                self.left = []
        if data == b"lie":
            raise LawBrokenError("it lies")
        return "accepted: nothing"


class Forgetful(Planted):
    """A target that fails at the third input that is not empty, or when it is checked after the second."""

    stateful = True
    renew_after = 1_000

    def seeds(self) -> list[bytes]:
        return [b"x"]

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        return mutator.pick((b"", b"", b"y", b"zz"))

    def run(self, data: bytes) -> str:
        self.left += [data] if data else []
        if len(self.left) > 2:
            raise KeyError(len(self.left))
        return f"accepted: {len(self.left)}"

    def check(self) -> None:
        if len(self.left) == 2:
            raise LawBrokenError("it grew")


def test_planted_hang_and_lie_are_found_in_this_process(tmp_path: Path) -> None:
    result = run_here("planted", {"planted": Planted}, seed="1", inputs=30, work=str(tmp_path), crashes=str(tmp_path), limit_s=0.2)
    assert {crash.error for crash in result.crashes} == {"more than 0.2 s of processor time", "LawBrokenError: it lies"}
    assert {crash.file.endswith(".json") for crash in result.crashes} == {True}


def test_a_failure_that_needs_several_inputs_is_made_small(tmp_path: Path) -> None:
    found = run_here("planted", {"planted": Forgetful}, seed="1", inputs=200, work=str(tmp_path), crashes=str(tmp_path)).crashes
    by_error = {crash.error: read_crash(Path(crash.file)).inputs for crash in found}
    assert len(by_error["KeyError: 3"]) == 3
    assert len(by_error["LawBrokenError: it grew"]) == 2


def test_every_target_has_its_share() -> None:
    assert set(INPUTS) == set(TABLE)


@pytest.mark.parametrize("target", ["messages", "member", "transactions", "frames"])
def test_one_seed_gives_one_run(target: str, tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        with work_folder() as work:
            results.append(run_here(target, TARGETS, seed="same", inputs=400, work=work, crashes=str(tmp_path / "crashes")))
    assert results[0].outcomes == results[1].outcomes
    assert results[0].corpus == results[1].corpus


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_known_crasher(path: Path) -> None:
    _, failure = replay_crash(read_crash(path))
    assert failure is None, failure.trace
