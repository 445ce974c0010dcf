"""Small files, functions and classes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.project import PACKAGES, ROOT, files, modules, parsed, shown

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_METHODS = 20
ALLOWED: frozenset[str] = frozenset()
"""What may be larger. It is empty, and that is the point."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines_of(function: Function) -> int:
    """Lines from ``def`` (decorators not counted) to the last one."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def methods_of(class_: ast.ClassDef) -> int:
    """Methods and properties; an overload counts with its function, a setter with its property."""
    return len({child.name for child in class_.body if isinstance(child, Function)})


def too_large(tree: ast.Module) -> Iterator[str]:
    """Yield what is over the limits in one module."""
    for node in ast.walk(tree):
        if isinstance(node, Function) and lines_of(node) > MAX_FUNCTION_LINES:
            yield f"{node.name}: {lines_of(node)} lines"
        if isinstance(node, ast.ClassDef) and methods_of(node) > MAX_METHODS:
            yield f"{node.name}: {methods_of(node)} methods"


def test_functions_and_classes_are_small() -> None:
    found = {f"{shown(path)}: {what}" for path in modules(*PACKAGES, "tests") for what in too_large(parsed(path))}
    assert sorted(found - ALLOWED) == []


def test_files_are_short() -> None:
    found = {}
    for path in files(".py", ".sh", ".js", ".css"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES and shown(path) not in ALLOWED:
            found[shown(path)] = lines
    assert found == {}


def test_readmes_fit_on_a_page_or_two() -> None:
    found = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("*/README.md")}
    assert {name: lines for name, lines in found.items() if lines > 120} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f():\n" + "    x = 1\n" * 49, []),
        ("def f():\n" + "    x = 1\n" * 50, ["f: 51 lines"]),
        ("class C:\n    async def g(self):\n" + "        x = 1\n" * 50, ["g: 51 lines"]),
        ("class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(20)), []),
        ("class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(21)), ["C: 21 methods"]),
    ],
)
def test_the_measure_itself(source: str, expected: list[str]) -> None:
    assert list(too_large(ast.parse(source))) == expected
