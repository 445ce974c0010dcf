"""Runs an asynchronous main function until SIGTERM or Ctrl-C, which it is told of through an event."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop

Result = TypeVar("Result")


def run_until_stopped(main: Callable[[asyncio.Event], Awaitable[Result]]) -> Result:
    """Run ``main(stop)`` on uvloop; SIGTERM and Ctrl-C set ``stop``, and ``main`` returns when it has ended cleanly."""

    async def runner() -> Result:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        return loop.run(runner())


def log_to_stderr() -> None:
    """Let a process without a terminal write its log lines to standard error, with real time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("transitions", "amqtt"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
