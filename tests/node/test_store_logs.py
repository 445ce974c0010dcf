"""What ends up in a log."""

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from consensus.errors import InputError
from node.logs import set_up_logging

PROGRAM = """
import structlog, sys
from node.logs import set_up_logging
set_up_logging("info", None, node="dc1")
structlog.get_logger("test").info("link up", peer="dc2")
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    for handler in handlers:
        if handler not in root.handlers:
            root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_json_line_per_event_with_context(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "node.log"
    set_up_logging("info", path, node="dc1")
    log = structlog.get_logger("node.test")
    log.info("block", height=5, hash=b"\x01\xff", parts=(1, {"a": b"\x02"}), path=path, text="two\nlines")
    log.debug("not this")
    log.warning("link down", peer="dc2")
    logging.getLogger("library").warning("from %s", "a library")
    logging.getLogger("library").info("with braces {x}")
    logging.getLogger("aiohttp.access").info("GET /")
    try:
        raise ValueError("reason")
    except ValueError:
        log.exception("failed")
    found = lines(path)
    assert [line["event"] for line in found] == ["block", "link down", "from a library", "with braces {x}", "failed"]
    assert [line["level"] for line in found] == ["info", "warning", "warning", "info", "error"]
    assert all(line["node"] == "dc1" and str(line["timestamp"]).endswith("Z") for line in found)
    assert (
        found[0] | {"hash": "01ff", "parts": [1, {"a": "02"}], "text": "two\nlines", "path": str(path), "logger": "node.test"} == found[0]
    )
    assert "ValueError: reason" in str(found[-1]["exception"])
    assert list(found[0])[:3] == ["timestamp", "level", "event"]


def test_level_and_second_call(tmp_path: Path) -> None:
    set_up_logging("debug", tmp_path / "first.log")
    structlog.get_logger().debug("one")
    set_up_logging("error", tmp_path / "second.log")
    structlog.get_logger().warning("two")
    structlog.get_logger().error("three")
    assert [line["event"] for line in lines(tmp_path / "first.log")] == ["one"]
    assert [line["event"] for line in lines(tmp_path / "second.log")] == ["three"]


def test_wrong_set_up_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"log\.level: 'loud' is none of debug, info"):
        set_up_logging("loud")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        set_up_logging("info", tmp_path / "file" / "node.log")


def test_pipe_gets_json_and_terminal_gets_text() -> None:
    piped = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert piped.stdout == ""
    assert json.loads(piped.stderr)["event"] == "link up"
    main, terminal = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, stderr=terminal, check=True, timeout=60)
        seen = os.read(main, 4096).decode()
    finally:
        os.close(main)
        os.close(terminal)
    assert "link up" in seen
    assert "\x1b[" in seen
    assert not seen.startswith("{")
