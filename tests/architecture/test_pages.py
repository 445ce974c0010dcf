"""Every command that a page tells people to run is a command, with these options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cluster.cli import cli
from tests.project import files, shown

LINE = re.compile(
    r"`((?:\.venv/bin/)?gridpact [^`]+|\./cluster/launch\.sh[^`]*)`|^\s*((?:\.venv/bin/)?gridpact .+|\./cluster/launch\.sh.*)$",
    re.MULTILINE,
)
NOT_BUILT = "do not exist|is refused"


def commands_on(path: Path) -> Iterator[str]:
    """Yield the command lines on a page, without comments; lines that say that something is not there are left out."""
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        if not re.search(NOT_BUILT, line):
            for groups in LINE.findall(line):
                yield next(group for group in groups if group).split(" #")[0].strip()


def problem(line: str) -> str:
    """Return what is wrong with a command line, or nothing."""
    words = shlex.split(line)
    words = ["up", *words[1:]] if words[0].endswith("launch.sh") else words[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"{line}: there is no command {words[0]}"
        command, words = found, words[1:]
    known = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"{line}: there is no option {unknown[0]}" if unknown else ""


PAGES = [path for path in files(".md") if any(commands_on(path))]


@pytest.mark.parametrize("path", PAGES, ids=shown)
def test_commands_on_pages_exist(path: Path) -> None:
    assert [found for found in map(problem, commands_on(path)) if found] == []


def test_the_front_page_is_among_them() -> None:
    assert "README.md" in map(shown, PAGES)


@pytest.mark.parametrize("line", ["gridpact fly", "gridpact market sell-all", "gridpact up --warp 9", "./cluster/launch.sh --warp"])
def test_a_planted_command_is_caught(line: str) -> None:
    assert problem(line)


@pytest.mark.parametrize(
    "line", ["gridpact up --periods 4", "gridpact market bills --account B01", "./cluster/launch.sh", "gridpact --help"]
)
def test_real_commands_are_left_alone(line: str) -> None:
    assert not problem(line)
