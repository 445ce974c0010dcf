"""What a fuzzing run found, put together from its shifts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cluster.fuzz.shift import Found, Progress

ACCEPTED = "accepted"


class TargetResult(msgspec.Struct, frozen=True):
    """One target, over all processes.

    Fields:
        accepted: inputs that were not refused.
        outcomes: different outcomes.
        crashes: different crashes.
        corpus: inputs that did something new.
        cpu_s, inputs_per_cpu_s: processor time of all processes, and what one core does in a second, however busy the machine is.
        rss_start_mb, rss_warm_mb, rss_end_mb: resident memory before the first input, after a quarter of the run, and at its end; of the
            process that grew most since it was warm.
        rss_growth_mb, rss_slope_mb_per_min: largest of any process, over the last half of its run.
    """

    inputs: int
    inputs_per_s: float
    cpu_s: float
    inputs_per_cpu_s: float
    accepted: int
    crashes: int
    outcomes: int
    corpus: int
    rss_start_mb: float
    rss_warm_mb: float
    rss_end_mb: float
    rss_growth_mb: float
    rss_slope_mb_per_min: float


class FuzzResult(msgspec.Struct, frozen=True):
    """The whole run.

    Fields:
        engine: which one was used, and why if another was wanted.
        found: every crash, with its file.
    """

    engine: str
    seed: int
    jobs: int
    targets: dict[str, TargetResult]
    inputs: int
    crashes: int
    wall_s: float
    cpu_s: float
    found: tuple[Found, ...]


def merged(engine: str, seed: int, jobs: int, wall_s: float, shifts: Mapping[str, Sequence[Progress]]) -> FuzzResult:
    """Put the last words of all shifts together.

    Args:
        shifts: by target.
    """
    targets = {target: _merged_target(done) for target, done in shifts.items()}
    found = tuple(_distinct(one for done in shifts.values() for progress in done for one in progress.crashes))
    inputs = sum(target.inputs for target in targets.values())
    cpu_s = round(sum(target.cpu_s for target in targets.values()), 2)
    return FuzzResult(engine, seed, jobs, targets, inputs, len(found), round(wall_s, 2), cpu_s, found)


def _merged_target(done: Sequence[Progress]) -> TargetResult:
    inputs, running_s = sum(one.inputs for one in done), max((one.running_s for one in done), default=0.0)
    cpu_s = sum(one.cpu_s for one in done)
    largest = max(done, key=lambda one: one.rss_end_mb - one.rss_warm_mb)
    outcomes: dict[str, int] = {}
    for progress in done:
        for outcome, count in progress.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    return TargetResult(
        inputs=inputs,
        inputs_per_s=round(inputs / max(running_s, 1e-3), 1),
        cpu_s=round(cpu_s, 4),
        inputs_per_cpu_s=round(inputs / max(cpu_s, 1e-3), 1),
        accepted=sum(count for outcome, count in outcomes.items() if outcome.startswith(ACCEPTED)),
        crashes=len(_distinct(one for progress in done for one in progress.crashes)),
        outcomes=len(outcomes),
        corpus=len({digest for progress in done for digest in progress.corpus}),
        rss_start_mb=round(largest.rss_start_mb, 1),
        rss_warm_mb=round(largest.rss_warm_mb, 1),
        rss_end_mb=round(largest.rss_end_mb, 1),
        rss_growth_mb=round(max((one.rss_growth_mb for one in done), default=0.0), 2),
        rss_slope_mb_per_min=round(max((one.rss_slope_mb_per_min for one in done), default=0.0), 2),
    )


def _distinct(found: Iterable[Found]) -> list[Found]:
    """Return the first of every crash that several processes found."""
    return list({(one.target, one.mark): one for one in reversed(list(found))}.values())[::-1]
