"""Quorums, by brute force."""

from __future__ import annotations

from itertools import combinations

import pytest

from consensus.errors import InputError
from consensus.quorum import Quorums, quorums


@pytest.mark.parametrize(("replicas", "faulty", "quorum"), [(4, 1, 3), (5, 1, 4), (6, 1, 4), (7, 2, 5), (10, 3, 7)])
def test_the_table_of_the_paper(replicas: int, faulty: int, quorum: int) -> None:
    found = quorums(replicas)
    assert found == Quorums(replicas, faulty, quorum)
    assert found.weak == faulty + 1
    assert found.prepares == quorum - 1


def smallest_meeting(replicas: int, size: int) -> int:
    """The fewest members that two sets of ``size`` out of ``replicas`` share. By symmetry the first one may be fixed."""
    first = set(range(size))
    if replicas <= 12:
        return min(len(first.intersection(second)) for second in combinations(range(replicas), size))
    second = set(sorted(range(replicas), key=lambda member: member in first)[:size])
    return len(first & second)


@pytest.mark.parametrize("replicas", range(4, 13))
def test_the_short_cut_of_the_oracle_equals_the_enumeration(replicas: int) -> None:
    for size in range(1, replicas + 1):
        first = set(range(size))
        second = set(sorted(range(replicas), key=lambda member: member in first)[:size])
        assert len(first & second) == smallest_meeting(replicas, size)


@pytest.mark.parametrize("replicas", range(4, 31))
def test_two_quorums_share_an_honest_replica_and_one_fewer_would_not_do(replicas: int) -> None:
    found = quorums(replicas)
    assert 3 * found.faulty < replicas <= 3 * (found.faulty + 1)
    assert smallest_meeting(replicas, found.quorum) >= found.faulty + 1
    assert smallest_meeting(replicas, found.quorum - 1) <= found.faulty
    assert replicas - found.faulty >= found.quorum, "the honest ones alone are a quorum"


@pytest.mark.parametrize("replicas", [5, 6])
def test_twice_f_plus_1_is_too_few_unless_n_is_3f_plus_1(replicas: int) -> None:
    found = quorums(replicas)
    assert smallest_meeting(replicas, 2 * found.faulty + 1) <= found.faulty
    assert found.quorum == 2 * found.faulty + 2


@pytest.mark.parametrize("replicas", [3, 1, 0, -4])
def test_fewer_than_four_are_refused(replicas: int) -> None:
    with pytest.raises(InputError, match="at least 4 are needed"):
        quorums(replicas)
