"""Shows how a long run goes: a live display on a terminal, one line per event otherwise. Always on standard error."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from cluster.display import Setting, draw
from cluster.snapshot import Snapshot

REDRAWS_PER_S = 4
NOTES = 3
EVENTS = 6


class Progress(Protocol):
    """Somebody who watches a run."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End; what was shown stays readable."""

    def waiting(self, text: str) -> None:
        """Say what the run waits for."""

    def event(self, text: str) -> None:
        """Say what happened as a matter of course; a picture of the cluster shows it anyway."""

    def note(self, text: str) -> None:
        """Say what happened and no picture shows: a restart, a refusal, a warning."""

    def show(self, snapshot: Snapshot) -> None:
        """Show how the cluster does."""


class TerminalProgress:
    """Draws the cluster again and again in place.

    Args:
        console: the terminal.
        setting: what does not change.
    """

    def __init__(self, console: Console, setting: Setting) -> None:
        self._setting = setting
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._events: deque[str] = deque(maxlen=EVENTS)
        self._snapshot: Snapshot | None = None
        self._console = console
        self._live = Live(console=console, refresh_per_second=REDRAWS_PER_S, vertical_overflow="crop")
        self._spinner: Spinner | None = None

    def __enter__(self) -> Self:
        """Take over the terminal."""
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the last picture on the terminal."""
        self._spinner = None
        self._draw()
        self._live.__exit__(kind, error, trace)

    def waiting(self, text: str) -> None:
        """Show what the run waits for, with a spinner, under the last picture."""
        if self._spinner is None:
            self._spinner = Spinner("dots", text)
        else:
            self._spinner.update(text=text)
        self._draw()

    def event(self, text: str) -> None:
        """Show it until there is a picture."""
        self._events.append(text)
        self._draw()

    def note(self, text: str) -> None:
        """Keep the last few notes under the picture."""
        self._notes.append(text)
        self._draw()

    def show(self, snapshot: Snapshot) -> None:
        """Draw the cluster."""
        self._snapshot, self._spinner = snapshot, None
        self._draw()

    def _draw(self) -> None:
        if self._snapshot is not None:
            picture = draw(self._snapshot, self._setting, tuple(self._notes), *self._console.size)
        else:
            picture = Group(
                Text("GridPact", style="bold"),
                *(Text(event) for event in self._events),
                *(Text(note, style="yellow") for note in self._notes),
            )
        self._live.update(picture if self._spinner is None else Group(picture, self._spinner), refresh=True)


class PlainProgress:
    """Writes one line per event.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._waiting_for = ""
        self._troubles: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End."""

    def waiting(self, text: str) -> None:
        """Write what the run waits for when that changes."""
        if text != self._waiting_for:
            self._waiting_for = text
            self._line(text)

    def event(self, text: str) -> None:
        """Write what happened."""
        self._line(text)

    def note(self, text: str) -> None:
        """Write what happened."""
        self._line(text)

    def show(self, snapshot: Snapshot) -> None:
        """Write what began to be wrong; the events say all else that changed."""
        for trouble in snapshot.troubles:
            if trouble not in self._troubles:
                self._line(trouble)
        self._troubles = snapshot.troubles

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def progress_for(setting: Setting) -> Progress:
    """Return the display that fits standard error."""
    console = Console(stderr=True)
    return TerminalProgress(console, setting) if console.is_terminal else PlainProgress(console)
