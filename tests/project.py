"""Where the project's own files are: what the architecture tests read."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("consensus", "contracts", "node", "meters", "dispatch", "cluster")
_NOT_OURS = {"build", "dist", "htmlcov", "node_modules", "__pycache__"}


def files(*suffixes: str) -> Iterator[Path]:
    """Yield the project's files with one of these suffixes, sorted; nothing hidden, nothing built."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(
            name for name in folders if name not in _NOT_OURS and not name.startswith(".") and not name.endswith(".egg-info")
        )
        for name in sorted(names):
            path = Path(folder) / name
            if path.suffix in suffixes:
                yield path


def modules(*folders: str) -> list[Path]:
    """Return the Python files of some top-level folders."""
    return [path for path in files(".py") if path.relative_to(ROOT).parts[0] in folders]


def shown(path: Path) -> str:
    """Return a path as people name it: from the root of the project."""
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
