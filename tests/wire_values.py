"""Hypothesis strategies for every wire type, made from the types themselves; and every decoder of the pure packages."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as kinds

import consensus
import contracts
from consensus.codec import Decoder, Wire

_INT64 = 2**63


def _integers(kind: kinds.IntType) -> st.SearchStrategy[int]:
    low = kind.ge if kind.ge is not None else (kind.gt + 1 if kind.gt is not None else -_INT64)
    high = kind.le if kind.le is not None else (kind.lt - 1 if kind.lt is not None else 2 * _INT64 - 1)
    return st.integers(low, high)


def _texts(kind: kinds.StrType) -> st.SearchStrategy[str]:
    if kind.pattern is not None:
        return st.from_regex(kind.pattern, fullmatch=True).filter(lambda text: not text.endswith("\n"))
    letters = st.characters(exclude_categories=["Cs"])
    return st.text(letters, min_size=kind.min_length or 0, max_size=kind.max_length or 40)


def _of(kind: kinds.Type) -> st.SearchStrategy[Any]:
    match kind:
        case kinds.IntType():
            return _integers(kind)
        case kinds.StrType():
            return _texts(kind)
        case kinds.BytesType():
            return st.binary(min_size=kind.min_length or 0, max_size=kind.max_length or 70)
        case kinds.BoolType():
            return st.booleans()
        case kinds.NoneType():
            return st.none()
        case kinds.LiteralType():
            return st.sampled_from(kind.values)
        case kinds.RawType():
            return st.binary(max_size=30).map(lambda data: msgspec.Raw(msgspec.msgpack.encode(data)))
        case kinds.VarTupleType():
            return st.lists(_of(kind.item_type), max_size=4).map(tuple)
        case kinds.TupleType():
            return st.tuples(*map(_of, kind.item_types))
        case kinds.UnionType():
            return st.one_of(*map(_of, kind.types))
        case kinds.StructType():
            return st.builds(kind.cls, *(_of(field.type) for field in kind.fields))
        case _:
            raise NotImplementedError(f"a strategy for {kind}")


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for all values of one wire type (or union of them)."""
    return _of(kinds.type_info(kind))


def _pure_modules() -> list[Any]:
    found = []
    for package in (consensus, contracts):
        found += [importlib.import_module(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]
    return found


def wire_types() -> list[type[Wire]]:
    """Return every concrete wire type of consensus/ and contracts/, by name."""
    found = {}
    for module in _pure_modules():
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Wire) and value.__struct_fields__:
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return [found[name] for name in sorted(found)]


def decoders() -> list[tuple[str, Decoder[Any]]]:
    """Return every decoder of consensus/ and contracts/, by name."""
    found = {}
    for module in _pure_modules():
        for name, value in vars(module).items():
            if isinstance(value, Decoder):
                found.setdefault(id(value), (f"{module.__name__}.{name}", value))
    return sorted(found.values(), key=lambda pair: pair[0])
