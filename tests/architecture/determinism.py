"""What may not stand in code that every replica must compute byte for byte the same: found by reading the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

FORBIDDEN_MODULES = frozenset(
    {
        "asyncio",
        "concurrent",
        "datetime",
        "decimal",
        "io",
        "locale",
        "multiprocessing",
        "numpy",
        "os",
        "pathlib",
        "platform",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "urllib.request",
        "uuid",
    }
)
FORBIDDEN_CALLS = frozenset({"float", "hash", "id", "input", "open", "round", "vars", "globals", "complex"})
"""Built-ins that are inexact, differ between processes, or reach outside."""
ORDERED_USES = frozenset({"sorted", "len", "min", "max", "any", "all", "set", "frozenset", "isinstance", "bool"})
"""Functions whose result does not depend on the order in which a set yields its members."""
SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference"})


def violations(tree: ast.Module) -> Iterator[str]:
    """Yield every violation as ``line: what``."""
    names = _names_of_sets(tree)
    for node in ast.walk(tree):
        for what in (*_imports(node), *_numbers(node), *_calls(node), *_iterations(node, names)):
            yield f"{getattr(node, 'lineno', 0)}: {what}"


def _imports(node: ast.AST) -> Iterator[str]:
    wanted: list[str] = []
    if isinstance(node, ast.Import):
        wanted = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        wanted = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    for name in wanted:
        parts = name.split(".")
        if any(".".join(parts[:size]) in FORBIDDEN_MODULES for size in range(1, len(parts) + 1)):
            yield f"imports {name}"
            return


def _numbers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
        yield f"float {node.value}"
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
        yield "true division"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.right, ast.UnaryOp):
        yield "negative power"
    if isinstance(node, ast.Name) and node.id == "float":
        yield "float"


def _calls(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS - {"float"}:
        yield f"calls {node.func.id}()"


def _names_of_sets(tree: ast.Module) -> frozenset[str]:
    """Names and attributes that are annotated as sets or get a set assigned anywhere in the module."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and _is_set_annotation(node.annotation):
            found.append(_name(node.target))
        elif isinstance(node, ast.arg) and node.annotation is not None and _is_set_annotation(node.annotation):
            found.append(node.arg)
        elif isinstance(node, ast.Assign) and _is_set(node.value, frozenset()):
            found += [_name(target) for target in node.targets]
    return frozenset(name for name in found if name)


def _is_set_annotation(annotation: ast.expr) -> bool:
    text = ast.unparse(annotation).strip("'\"")
    return text.startswith(("set[", "frozenset[", "AbstractSet[", "Set[")) or text in ("set", "frozenset")


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _is_set(node: ast.expr, names: frozenset[str]) -> bool:
    """Whether an expression is a set as far as one can see."""
    if isinstance(node, ast.Set | ast.SetComp) or _name(node) in names:
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return _is_set(node.left, names) or _is_set(node.right, names)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id in ("set", "frozenset")
        return isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS
    return False


def _iterations(node: ast.AST, names: frozenset[str]) -> Iterator[str]:
    iterated: list[ast.expr] = []
    if isinstance(node, ast.For | ast.comprehension):
        iterated = [node.iter]
    elif isinstance(node, ast.Starred):
        iterated = [node.value]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in ORDERED_USES:
        iterated = [*node.args]
        if node.func.id not in (
            "list",
            "tuple",
            "iter",
            "next",
            "enumerate",
            "map",
            "filter",
            "zip",
            "sum",
            "reversed",
            "dict",
            "bytes",
            "reduce",
        ):
            iterated = []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("join", "extend", "fromkeys", "update", "chain", "from_iterable"):
            iterated = [*node.args]
        elif node.func.attr == "pop" and not node.args and _is_set(node.func.value, names):
            yield "pops from a set"
    for expression in iterated:
        if _is_set(expression, names):
            yield f"iterates over the set {ast.unparse(expression)}"
