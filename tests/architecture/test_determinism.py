"""No clock, randomness, floats, true division or order of sets in what every replica must compute the same."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.determinism import violations
from tests.project import modules, parsed, shown

PLANTED = [
    ("import time", "imports time"),
    ("import os.path as path", "imports os.path"),
    ("from datetime import datetime", "imports datetime"),
    ("from urllib import request", "imports urllib"),
    ("def f():\n    import random", "imports random"),
    ("x = 0.5", "float 0.5"),
    ("x = 1e6", "float"),
    ("x = float('1')", "float"),
    ("x = a / b", "true division"),
    ("x = 1\nx /= 2", "true division"),
    ("x = 10 ** -3", "negative power"),
    ("x = round(y)", "calls round()"),
    ("x = hash(y)", "calls hash()"),
    ("f = open('x')", "calls open()"),
    ("for x in {1, 2}: pass", "iterates over the set"),
    ("for x in set(y): pass", "iterates over the set"),
    ("x = [y for y in frozenset(z)]", "iterates over the set"),
    ("x = {y: 1 for y in a.union(b)}", "iterates over the set"),
    ("x = list({y for y in z})", "iterates over the set"),
    ("x = [*set(y)]", "iterates over the set"),
    ("x = ','.join(set(y))", "iterates over the set"),
    ("def f():\n    seen = set()\n    for x in seen: pass", "iterates over the set seen"),
    ("def f(seen: frozenset[str]):\n    return tuple(seen)", "iterates over the set seen"),
    ("class C:\n    def f(self):\n        self.a: set[int] = g()\n        for x in self.a - b: pass", "iterates over the set"),
    ("seen = set()\nx = seen.pop()", "pops from a set"),
]
HARMLESS = [
    "x = a // b",
    "x = sorted(set(y))",
    "x = len({1, 2})",
    "seen = set()\nif x in seen: seen.add(x)",
    "from consensus.codec import encode",
    "for x in [1, 2]: pass",
    "for x in {'a': 1}: pass",
    "x = 2 ** 53",
    "stack = [1]\nstack.pop()",
]


def test_consensus_and_contracts_are_deterministic() -> None:
    found = [f"{shown(path)}:{what}" for path in modules("consensus", "contracts") for what in violations(parsed(path))]
    assert found == []


@pytest.mark.parametrize(("source", "expected"), PLANTED, ids=[source for source, _ in PLANTED])
def test_a_planted_violation_is_caught(source: str, expected: str) -> None:
    assert any(expected in what for what in violations(ast.parse(source)))


@pytest.mark.parametrize("source", HARMLESS)
def test_harmless_code_is_left_alone(source: str) -> None:
    assert list(violations(ast.parse(source))) == []
