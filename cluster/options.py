"""Options that several commands share, their value types, and how results are written."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from consensus.errors import GridPactError, InputError
from contracts.calls import MAX_PRICE_MICRO_PER_KWH
from contracts.topics import parse_broker_url

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"^(\d{1,9})(ms|s|m|h)$")
HOME_VARIABLE = "GRIDPACT_HOME"
DEFAULT_HOME = ".gridpact"
EMBEDDED = "embedded"
MIN_SPEED, MAX_SPEED = 0.001, 1e6


class RunError(GridPactError):
    """A run that began well did not reach its goal: one line on standard error, exit status 1."""


def cannot_write(path: Path, error: OSError) -> RunError:
    """Return the error for a file that cannot be written, which names it (a full disk does not)."""
    return RunError(f"{path.absolute()}: cannot be written: {(error.strerror or str(error)).lower()}")


def duration_ms(text: str) -> int:
    """Return a length of time such as ``15m``, ``30s`` or ``1h`` in ms (a click option's ``type``).

    Raises:
        click.BadParameter: it is not one.
    """
    match = _DURATION.match(text)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"{text[:40]!r} is not a duration such as 15m, 30s or 1h")
    return int(match[1]) * _UNITS_MS[match[2]]


def chain_time_ms(text: str) -> int:
    """Return a time of the data such as ``2016-08-07T12:00`` as chain time: read as UTC, in ms (a click option's ``type``).

    Raises:
        click.BadParameter: it is not one.
    """
    for layout in ("%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"):
        try:
            moment = datetime.strptime(text, layout).replace(tzinfo=UTC)
        except ValueError:
            continue
        return int(moment.timestamp()) * 1000
    raise click.BadParameter(f"{text[:40]!r} is not a time such as 2016-08-07T12:00")


def speed(text: str) -> float:
    """Return how many times faster than real time chain time passes (a click option's ``type``).

    Raises:
        click.BadParameter: it is not a number from 0.001 to 1,000,000.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not MIN_SPEED <= value <= MAX_SPEED:
        raise click.BadParameter(f"{text[:40]!r} is not a number from {MIN_SPEED:g} to {MAX_SPEED:,.0f}")
    return value


def price_micro(text: str) -> int:
    """Return a price in currency per kWh such as ``0.125`` in micro, exact (a click option's ``type``).

    Raises:
        click.BadParameter: it is not one.
    """
    try:
        micro = Decimal(text) * 1_000_000
        exact = micro.is_finite() and 0 <= micro <= MAX_PRICE_MICRO_PER_KWH and micro == int(micro)
    except InvalidOperation:
        exact = False
    if not exact:
        raise click.BadParameter(f"{text[:40]!r} is not a price such as 0.125, with at most six decimals")
    return int(micro)


def currency(text: str) -> str:
    """Return the name of a currency such as ``EUR`` (a click option's ``type``).

    Raises:
        click.BadParameter: it is not one.
    """
    if not 1 <= len(text) <= 8 or not text.isprintable() or any(character.isspace() for character in text):
        raise click.BadParameter(f"{text[:40]!r} is not a currency such as EUR: 1 to 8 characters without spaces")
    return text


def broker_url(text: str) -> str:
    """Return an MQTT broker's URL, or ``embedded`` (a click option's ``type``).

    Raises:
        click.BadParameter: it is neither.
    """
    if text != EMBEDDED:
        try:
            parse_broker_url(text)
        except InputError as error:
            raise click.BadParameter(error.reason) from error
    return text


def home_option(command: Command) -> Command:
    """Add ``--home DIR``: the folder that holds one cluster."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_HOME,
        envvar=HOME_VARIABLE,
        show_default=True,
        help="Folder of the cluster.",
    )(command)


def tariff_options(command: Command) -> Command:
    """Add ``--currency`` and ``--feed-in``."""
    feed_in = click.option(
        "--feed-in", "feed_in_micro", type=price_micro, metavar="PRICE", help="What the grid pays per kWh.  [default: 0.08]"
    )
    return click.option("--currency", type=currency, metavar="NAME", help="What money is called.  [default: USD]")(feed_in(command))


def json_option(command: Command) -> Command:
    """Add ``--json PATH``: where the result goes as JSON, ``-`` for standard output."""
    return click.option("--json", "json_path", metavar="PATH", default=None, help="Write the result as JSON; - is standard output.")(
        command
    )


def write_json(path: str | None, value: object) -> None:
    """Write ``value`` as indented JSON to a ``--json`` path (None: do nothing). The file is written whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    if path is None:
        return
    text = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    if path == "-":
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
        return
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_bytes(text)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"--json {path}", (error.strerror or str(error)).lower()) from error


def check_json_path(path: str | None) -> None:
    """Refuse a ``--json`` path that cannot be written, before the work starts.

    Raises:
        InputError: its folder does not exist or is not writable, or it is a folder itself.
    """
    if path is None or path == "-":
        return
    target = Path(path)
    if target.is_dir():
        raise InputError(f"--json {path}", "is a folder")
    if not target.absolute().parent.is_dir():
        raise InputError(f"--json {path}", f"there is no folder {target.parent}")
    if not os.access(target.absolute().parent, os.W_OK):
        raise InputError(f"--json {path}", "the folder is not writable")
