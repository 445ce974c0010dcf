"""Planting a bug: snippets of modules are replaced when this process imports the modules. No file is changed.

Only the standard library is imported here, so that a worker can plant before it imports anything that the bug is to be in.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


class PlantError(Exception):
    """A bug cannot be planted: its module is imported already, or its snippet is not there exactly once."""


def replaced(source: str, old: str, new: str, module: str) -> str:
    """Return ``source`` with the bug in it.

    Raises:
        PlantError: ``old`` does not stand in it exactly once.
    """
    if source.count(old) != 1:
        raise PlantError(f"{module}: the snippet stands in the source {source.count(old)} times, not once: {old!r}")
    return source.replace(old, new)


class _PlantedLoader(SourceFileLoader):
    """Compiles the module's source with the replacements; never from or to a cache."""

    def __init__(self, module: str, path: str, edits: Sequence[tuple[str, str]]) -> None:
        super().__init__(module, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        source = self.get_data(path).decode()
        for old, new in self._edits:
            source = replaced(source, old, new, fullname)
        return compile(source, path, "exec", dont_inherit=True)


class _PlantedFinder(MetaPathFinder):
    def __init__(self) -> None:
        self.edits: dict[str, list[tuple[str, str]]] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in self.edits:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _PlantedLoader(fullname, spec.origin, self.edits[fullname])
        return spec


def plant(edits: Sequence[tuple[str, str, str]]) -> None:
    """Let this process import modules with snippets replaced.

    Args:
        edits: module, snippet, and what stands in its place.

    Raises:
        PlantError: a module has been imported already.
    """
    finder = _PlantedFinder()
    for module, old, new in edits:
        if module in sys.modules:
            raise PlantError(f"{module} is imported already")
        finder.edits.setdefault(module, []).append((old, new))
    sys.meta_path.insert(0, finder)
