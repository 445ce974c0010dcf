"""House rules that tools hold: types, lint, docstrings, exceptions, module-level state."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.project import PACKAGES, ROOT, modules, parsed, shown

LOGGING = frozenset({"exception", "error", "warning", "critical"})


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run one tool in the project's root."""
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_types_are_strict() -> None:
    result = run("mypy", "--strict")
    assert result.returncode == 0, result.stdout + result.stderr


def test_lint_and_docstrings() -> None:
    result = run("ruff", "check", ".")
    assert result.returncode == 0, result.stdout + result.stderr


def test_format() -> None:
    result = run("ruff", "format", "--check", ".")
    assert result.returncode == 0, result.stdout + result.stderr


def swallowed(tree: ast.Module) -> Iterator[str]:
    """Yield handlers that catch everything and neither raise again nor write a log line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and _catches_all(node) and not _tells(node):
            yield f"{node.lineno}: except {ast.unparse(node.type) if node.type else ''}".rstrip()


def _catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in kinds)


def _tells(handler: ast.ExceptHandler) -> bool:
    for node in ast.walk(handler):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOGGING:
            return True
    return False


def test_nothing_is_swallowed() -> None:
    assert [f"{shown(path)}:{what}" for path in modules(*PACKAGES) for what in swallowed(parsed(path))] == []


@pytest.mark.parametrize(
    ("body", "caught"),
    [
        ("except:\n    pass", True),
        ("except Exception:\n    x = 1", True),
        ("except (ValueError, BaseException):\n    return", True),
        ("except Exception:\n    raise", False),
        ("except Exception as error:\n    log.exception('x')", False),
        ("except ValueError:\n    pass", False),
    ],
)
def test_the_search_for_swallowed_exceptions_itself(body: str, caught: bool) -> None:
    assert bool(list(swallowed(ast.parse("def f():\n  try:\n    x()\n  " + body.replace("\n", "\n  "))))) == caught


def test_no_assert_outside_tests() -> None:
    found = [
        f"{shown(path)}:{node.lineno}" for path in modules(*PACKAGES) for node in ast.walk(parsed(path)) if isinstance(node, ast.Assert)
    ]
    assert found == []


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Yield the public module, classes, functions and methods without a docstring."""
    if ast.get_docstring(tree) is None:
        yield "the module"
    yield from _undocumented_in(tree)


def _undocumented_in(parent: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in parent.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None and not _is_overload_or_setter(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{name}" for name in _undocumented_in(node))


def _is_overload_or_setter(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).endswith(("overload", ".setter")) for decorator in node.decorator_list)


def test_everything_public_says_what_it_is_for() -> None:
    assert [f"{shown(path)}: {name}" for path in modules(*PACKAGES) for name in undocumented(parsed(path))] == []


def changed_at_run_time(tree: ast.Module) -> Iterator[str]:
    """Yield what makes module-level state: ``global`` statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"{node.lineno}: global {', '.join(node.names)}"


def test_no_module_changes_its_own_globals() -> None:
    assert [f"{shown(path)}:{what}" for path in modules(*PACKAGES) for what in changed_at_run_time(parsed(path))] == []
