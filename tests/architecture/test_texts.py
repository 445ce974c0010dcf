"""Texts for strangers: no path of somebody's machine, no loose ends, a page per folder, links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import PACKAGES, ROOT, files, shown

TEXTS = (".py", ".md", ".sh", ".cfg", ".toml", ".json", ".js", ".html", ".css", ".svg", ".txt", ".yml", ".yaml")
NOT_FOR_STRANGERS = {
    "a path of one machine": r"(?<![\w.:])/(?:home|Users|mnt|media)/\w+/",
    "a loose end": r"\b(?:TODO|FIXME|XXX|HACK)\b",
}
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)|<img[^>]*src=\"([^\"]+)\"|srcset=\"([^\"]+)\"")


def violations(text: str) -> Iterator[str]:
    """Yield what strangers should not find in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        for what, pattern in NOT_FOR_STRANGERS.items():
            found = re.search(pattern, line)
            if found:
                yield f"{number}: {what}: {found.group()}"


def test_texts_are_for_strangers() -> None:
    mine = Path(__file__).resolve()
    found = [f"{shown(path)}:{what}" for path in files(*TEXTS) if path != mine for what in violations(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize("line", ["see /mnt/disk/x", "cd /Users/ann/x", "cd /home/ann/x", "# TODO: later"])
def test_a_planted_text_is_caught(line: str) -> None:
    assert list(violations(line))


@pytest.mark.parametrize("line", ["a network/home/day/", "https://x.org/home/", "the todo list"])
def test_harmless_text_is_left_alone(line: str) -> None:
    assert not list(violations(line))


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_every_folder_has_a_page(folder: str) -> None:
    page = ROOT / folder / "README.md"
    assert page.exists(), f"{folder}/README.md is missing"
    assert page.read_text(encoding="utf-8").startswith("# "), "begins with a heading"


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"])
def test_the_project_has_its_papers(name: str) -> None:
    assert (ROOT / name).stat().st_size > 500


def test_links_between_files_lead_somewhere() -> None:
    dead = []
    for path in files(".md"):
        for groups in LINK.findall(path.read_text(encoding="utf-8")):
            target = next(group for group in groups if group)
            if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists():
                dead.append(f"{shown(path)}: {target}")
    assert dead == []


def test_pages_name_only_commands_that_exist() -> None:
    """Every ``./path/to/script`` that a page tells people to run is there and may be executed."""
    missing = []
    for path in files(".md"):
        for script in re.findall(r"(?<![\w/])\./([\w./-]+\.sh)", path.read_text(encoding="utf-8")):
            if not (ROOT / script).exists() or not (ROOT / script).stat().st_mode & 0o100:
                missing.append(f"{shown(path)}: {script}")
    assert missing == []
