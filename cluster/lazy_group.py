"""A click group that knows its commands by name and imports one only when it is called.

``gridpact --help`` shows a table without importing anything, and ``gridpact node run`` loads only what a node needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """One command of a lazy group.

    Attributes:
        target: ``module:attribute`` of the click command.
        help: one line for the table.
        hidden: left out of the table (processes that ``up`` starts for itself).
    """

    target: str
    help: str
    hidden: bool = False


class LazyGroup(click.Group):
    """A group whose commands stand in a table of :class:`Entry`."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:  # noqa: ANN401 - click's own signature
        super().__init__(*args, **kwargs)
        self._entries = dict(entries)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return [*self._entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None when there is none of that name."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry.target.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing the commands."""
        rows = [(name, entry.help) for name, entry in self._entries.items() if not entry.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
