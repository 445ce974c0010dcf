"""Logging set-up: one JSON line per event for machines, one readable line on a terminal.

Events, not transactions: nothing is logged per transaction, so a log stays small under load; the file is rotated, so that it stays
small for months.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from consensus.errors import InputError

MAX_FILE_BYTES = 20 * 1024 * 1024
KEPT_FILES = 5
LEVELS: Mapping[str, int] = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
QUIET_LIBRARIES = ("aiohttp.access", "amqtt", "transitions")
"""These log every request or packet at their lower levels."""


def set_up_logging(level: str, file: Path | None = None, **context: str) -> None:
    """Send everything that is logged, by this program and by libraries, to one place. A second call replaces the first.

    Args:
        level: debug, info, warning or error.
        file: where to; None for standard error, with colours if that is a terminal.
        context: stands in every line (``node="dc1"``).

    Raises:
        InputError: unknown level, or the file cannot be written.
    """
    if level not in LEVELS:
        raise InputError("log.level", f"{level!r} is none of {', '.join(LEVELS)}")
    handler = _handler(file)
    readable = file is None and sys.stderr.isatty()
    handler.setFormatter(_formatter(readable, context))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.WARNING))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_shared(context), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _handler(file: Path | None) -> logging.Handler:
    if file is None:
        return logging.StreamHandler(sys.stderr)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return logging.handlers.RotatingFileHandler(file, maxBytes=MAX_FILE_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    except OSError as error:
        raise InputError(str(file), error.strerror or str(error)) from error


def _shared(context: Mapping[str, str]) -> list[Processor]:
    """What happens to every event, whoever logged it."""

    def add_context(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for key, value in context.items():
            event.setdefault(key, value)
        return event

    return [
        add_context,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _formatter(readable: bool, context: Mapping[str, str]) -> logging.Formatter:
    last: list[Processor] = [structlog.processors.format_exc_info, _json_line]
    if readable:
        last = [structlog.dev.ConsoleRenderer(colors=True)]
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        foreign_pre_chain=_shared(context),
    )


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return one line of JSON, time and event first; bytes as hexadecimal digits, other values as their text."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return msgspec.json.encode({str(key): _plain(value) for key, value in {**first, **event}.items()}, enc_hook=str).decode()


def _plain(value: object) -> object:
    """Turn what JSON has no form for into text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value)
