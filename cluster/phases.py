"""For commands that work for a while: a progress bar by phases, and a clean end on Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cluster.running import run_until_stopped

T = TypeVar("T")


@contextmanager
def phase_bar() -> Iterator[Callable[[str, float, str], None]]:
    """Show a bar on standard error while the block runs, if that is a terminal; the value takes phase, share (0 to 1) and a note."""
    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=screen, disable=not screen.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=1.0, note="")

        def show(phase: str, share: float, note: str) -> None:
            bar.update(task, description=phase, completed=share, note=note)

        yield show


def run_interruptible(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end; SIGTERM and Ctrl-C cancel it, and it cleans up.

    Raises:
        click.Abort: it was stopped.
    """

    async def main(stop: asyncio.Event) -> T:
        task = asyncio.ensure_future(work())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        if task.cancelled():
            raise click.Abort
        return task.result()

    return run_until_stopped(main)
