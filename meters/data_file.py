"""Reads household data from a CSV file, and refuses everything that does not fit, naming file, line and column.

The columns are documented in the README of this folder. Powers become integers (mW) right here: no float goes any further.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from consensus.errors import InputError

MAX_FILE_BYTES = 128 * 1024 * 1024
MAX_ROWS = 4_000_000
MAX_POWER_KW = 10_000
MAX_PRICE_PER_KWH = 1_000
PRICE_COLUMNS = ("price_usd_per_kwh", "price_per_kwh")
REQUIRED_COLUMNS = ("timestamp", "meter_id", "load_kw", "pv_kw")
UNUSED_COLUMNS = ("carbon_kg_per_kwh", "load_kvar")
_MAX_UNUSED = 10_000_000
_MICRO = Decimal(1_000_000)
_NUMBER = re.compile(r"[+-]?(\d{1,15}(\.\d{0,15})?|\.\d{1,15})([eE][+-]?\d{1,2})?", re.ASCII)
_TIMESTAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d)(?::(\d\d))?", re.ASCII)
_METER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Row(NamedTuple):
    """One meter in one interval; ``price_micro_per_kwh`` is None, and ``price_column`` empty, without a price column."""

    line: int
    time_ms: int
    meter: str
    load_mw: int
    pv_mw: int
    price_micro_per_kwh: int | None
    price_column: str = ""


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of ``path`` (.csv or .csv.gz) in their order, each checked by itself.

    Raises:
        InputError: the file cannot be read, is too large, is not UTF-8 CSV with the documented columns, or a value does not fit.
    """
    name = str(path)
    reader = csv.reader(io.StringIO(_text(path, name), newline=""), strict=True)
    header: dict[str, int] | None = None
    stamps: tuple[str, int] = ("", 0)
    count = 0
    for fields in _records(reader, name):
        if not fields:
            continue
        line = reader.line_num
        if header is None:
            header = _header(fields, f"{name}: line {line}")
            continue
        count += 1
        if count > MAX_ROWS:
            raise InputError(f"{name}: line {line}", f"more than {MAX_ROWS} rows")
        if len(fields) != len(header):
            raise InputError(f"{name}: line {line}", f"{len(fields)} fields, the header has {len(header)}")
        stamp = fields[header["timestamp"]]
        if stamp != stamps[0]:
            stamps = (stamp, _time_ms(stamp, f"{name}: line {line}: timestamp"))
        yield _row(fields, header, stamps[1], line, name)
    if header is None:
        raise InputError(name, "is empty")
    if not count:
        raise InputError(name, "has a header and no rows")


def _records(reader: Iterator[list[str]], name: str) -> Iterator[list[str]]:
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{name}: line {getattr(reader, 'line_num', 0)}", f"is not CSV: {error}") from error
        yield fields


def _text(path: Path, name: str) -> str:
    """Read and decode the whole file, at most :data:`MAX_FILE_BYTES` of it, unpacked."""
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path, "rb") as packed:
                data = packed.read(MAX_FILE_BYTES + 1)
        else:
            with path.open("rb") as plain:
                data = plain.read(MAX_FILE_BYTES + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(name, f"is not a whole gzip file: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise InputError(name, f"is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}: line {line}", "is not UTF-8 text") from error


def _header(fields: list[str], where: str) -> dict[str, int]:
    """Return the column positions by name."""
    positions: dict[str, int] = {}
    for position, column in enumerate(fields):
        if column in positions:
            raise InputError(f"{where}: {column}", "the column occurs twice")
        if column not in (*REQUIRED_COLUMNS, *PRICE_COLUMNS, *UNUSED_COLUMNS):
            if ";" in column and len(fields) == 1:
                raise InputError(f"{where}: header", "separate columns by commas, not by ';' (and write decimals with a point)")
            known = ", ".join((*REQUIRED_COLUMNS, *PRICE_COLUMNS, *UNUSED_COLUMNS))
            raise InputError(f"{where}: {column[:64]!r}", f"unknown column; known are {known}")
        positions[column] = position
    missing = [column for column in REQUIRED_COLUMNS if column not in positions]
    if missing:
        raise InputError(f"{where}: header", f"column {missing[0]} is missing")
    if all(column in positions for column in PRICE_COLUMNS):
        raise InputError(f"{where}: header", f"give one of {' and '.join(PRICE_COLUMNS)}")
    return positions


def _row(fields: list[str], header: Mapping[str, int], time_ms: int, line: int, name: str) -> Row:
    where = f"{name}: line {line}"
    meter = fields[header["meter_id"]]
    if not _METER.fullmatch(meter):
        raise InputError(f"{where}: meter_id", f"{meter[:64]!r} is not a name of letters, digits, '.', '_' and '-' (at most 64)")
    price, price_column = None, ""
    for column in PRICE_COLUMNS:
        if column in header:
            price_column = column
            price = _micro(fields[header[column]], f"{where}: {column}", MAX_PRICE_PER_KWH)
    for column in UNUSED_COLUMNS:
        if column in header:
            _number(fields[header[column]], f"{where}: {column}", -_MAX_UNUSED, _MAX_UNUSED)
    load_mw = _micro(fields[header["load_kw"]], f"{where}: load_kw", MAX_POWER_KW)
    pv_mw = _micro(fields[header["pv_kw"]], f"{where}: pv_kw", MAX_POWER_KW)
    return Row(line, time_ms, meter, load_mw, pv_mw, price, price_column)


def _micro(text: str, where: str, maximum: int) -> int:
    """Return a number from 0 to ``maximum``, times a million, rounded to an integer (kW to mW, price to micro)."""
    return int((_number(text, where, 0, maximum) * _MICRO).to_integral_value())


def _number(text: str, where: str, minimum: int, maximum: int) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise InputError(where, f"{text[:40]!r} is not a number")
    value = Decimal(text)
    if value < minimum:
        raise InputError(where, f"{text[:40]} is negative" if minimum == 0 else f"{text[:40]} is below {minimum}")
    if value > maximum:
        raise InputError(where, f"{text[:40]} is more than {maximum}")
    return value


def _time_ms(text: str, where: str) -> int:
    """Return Unix milliseconds of a local time stamp, read as UTC."""
    match = _TIMESTAMP.fullmatch(text)
    if not match:
        raise InputError(where, f"{text[:40]!r} is not YYYY-MM-DD HH:MM[:SS]")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise InputError(where, f"{text[:40]!r} is no date: {error}") from error
    if moment.year < 1970:
        raise InputError(where, f"{text[:40]!r} lies before 1970")
    return int(moment.timestamp()) * 1000
