"""How JSON and TOML are changed: as values, as lines, as bytes."""

from __future__ import annotations

import json
from typing import Any

from cluster.fuzz.mutation import NUMBERS, TEXTS, Mutator

FRAGMENTS = (
    "NaN", "Infinity", "-0", "1e400", "1E2", "0x10", "01", "1_000", "123456789012345678901234567890", "-" + "9" * 5_000, "1.0", "1e-7",
    "[" * 100, "[" * 20_000, '{"a":' * 20_000, "{}", "[]", '"\\ud800"', '"\\u0000"', '"\x01"', '"', "'a'", "true", "null", "", "\ufeff",
    "\x00",
)  # fmt: skip
TOML_LINES = (
    "", "#", "[", "]", "[]", "[[peers]]", "[peers]", "[a.b.c]", "=", "a", "a =", "a = 1", 'name = "x"', "port = 99999", "port = -1",
    'host = ""', "peers = 1", "[mqtt]", 'url = "mqtt://h:70000"', 'url = "mqtts://[::1"', 'url = "x://"', "a.b = 1", '"" = 1',
    "mode = 1979-05-27", 'mode = "replay"', 'file = "\\u0000"', "tls = []", "x = " + "[" * 5_000, "x = " + "{a=" * 500, 'a = """',
    "a = inf", "a = 0xfffffffffffffffff",
)  # fmt: skip
_STAY = 0.3


class Fragment(str):
    """Text that stands in the output as it is."""

    __slots__ = ()


def change_json(data: bytes, mutator: Mutator) -> bytes:
    """Return a JSON text with a value in it changed, or changed as bytes."""
    if mutator.chance(0.2):
        return mutator.raw(data)
    try:
        holder = [json.loads(data)]
    except (ValueError, RecursionError):
        return mutator.raw(data)
    stay = 0.0 if mutator.chance(0.6) else _STAY
    for _ in range(mutator.pick((1, 1, 1, 2, 4))):
        _change_somewhere(holder, mutator, stay)
    try:
        return _json(holder[0]).encode("utf-8", "surrogatepass")
    except RecursionError:
        return mutator.raw(data)


def _change_somewhere(holder: list[Any], mutator: Mutator, stay: float) -> None:
    """Walk down at random and change what is there; ``stay`` is how likely the walk stops at each step (0: at a leaf only)."""
    items: Any = holder
    place: Any = 0
    while mutator.random.random() >= stay and isinstance(items[place], list | dict) and items[place]:
        items = items[place]
        place = mutator.pick(list(items)) if isinstance(items, dict) else mutator.pick(range(len(items)))
    if stay and isinstance(items, dict) and mutator.chance(0.15):
        _change_key(items, place, mutator)
    else:
        items[place] = _changed(items[place], mutator)


def _change_key(items: dict[str, Any], key: str, mutator: Mutator) -> None:
    value = items.pop(key)
    if mutator.chance(0.5):
        items[mutator.text(key)] = value
    if mutator.chance(0.2):
        items[Fragment(f'"{key}"')] = value
        items[key] = value


def _changed(value: Any, mutator: Mutator) -> Any:  # noqa: ANN401 (any JSON value)
    if isinstance(value, bool) or mutator.chance(0.05):
        return _strange(mutator)
    if isinstance(value, int):
        return value + mutator.pick((-1, 1, 10, 1000)) if mutator.chance(0.5) else mutator.number(value)
    if isinstance(value, str):
        return mutator.text(value)
    if isinstance(value, list) and value:
        place = mutator.pick(range(len(value)))
        return mutator.pick((value[:place], value[place:], value + value[place:], value * 3, value[::-1]))
    return _strange(mutator)


def _strange(mutator: Mutator) -> Any:  # noqa: ANN401 (any JSON value)
    if mutator.chance(0.5):
        return Fragment(mutator.pick(FRAGMENTS))
    return mutator.pick((mutator.pick(NUMBERS), mutator.pick(TEXTS), None, True, [], {}, 0.5, [[]], {"": 0}))


def _json(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    if isinstance(value, Fragment):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(key)}:{_json(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def change_toml(data: bytes, mutator: Mutator) -> bytes:
    """Return a TOML text with lines changed, or changed as bytes."""
    if mutator.chance(0.3):
        return mutator.raw(data)
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(mutator.pick((1, 1, 1, 2, 4))):
        place = mutator.pick(range(len(lines)))
        _change_line(lines, place, mutator)
    return "\n".join(lines).encode("utf-8", "surrogatepass" if mutator.chance(0.5) else "replace")


def _change_line(lines: list[str], place: int, mutator: Mutator) -> None:
    key, equals, value = lines[place].partition("=")
    match int(mutator.random.random() * 6):
        case 0:
            lines.insert(place, mutator.pick(TOML_LINES))
        case 1 if len(lines) > 1:
            del lines[place]
        case 2:
            lines.insert(place, lines[mutator.pick(range(len(lines)))])
        case 3 if equals:
            lines[place] = f"{key}= {mutator.pick(FRAGMENTS)}"
        case 4 if equals:
            text = mutator.pick(TEXTS).encode("utf-8", "replace").decode()
            lines[place] = f"{key}= {mutator.pick((str(mutator.pick(NUMBERS)), json.dumps(text)))}"
        case _:
            lines[place] = mutator.text(key) + equals + value
