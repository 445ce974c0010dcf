"""How many entries every table has that something holds: what the bounds of a replica are checked with."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import msgspec


def table_sizes(root: object) -> dict[str, int]:
    """Return the number of entries of every table that ``root`` holds, by the names that lead to it (of several slots: the largest)."""
    sizes: dict[str, int] = {}
    _measure(root, "", sizes, set())
    return sizes


def _measure(value: Any, path: str, sizes: dict[str, int], seen: set[int]) -> None:  # noqa: ANN401 (looks into anything)
    if id(value) in seen or isinstance(value, str | bytes | int | msgspec.Struct | type):
        return
    seen.add(id(value))
    if isinstance(value, dict | list | set | frozenset | tuple) or hasattr(value, "popleft"):
        sizes[path] = max(sizes.get(path, 0), len(value))
        for part in value.values() if isinstance(value, dict) else value:
            _measure(part, f"{path}[]", sizes, seen)
        return
    names = [field.name for field in fields(value)] if is_dataclass(value) else list(getattr(value, "__dict__", {}))
    for name in names:
        _measure(getattr(value, name), f"{path}.{name}".lstrip("."), sizes, seen)
