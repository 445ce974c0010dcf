"""What a meter or a trading agent loads runs where no store, server or numbers are installed."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys

import pytest

from tests.project import ROOT, modules, shown

MODULE_OF = {
    "PyNaCl": "nacl",
    "plyvel-ci": "plyvel",
    "prometheus-client": "prometheus_client",
    "pytest-asyncio": "pytest_asyncio",
    "pytest-cov": "pytest_cov",
    "pytest-xdist": "xdist",
    "import-linter": "importlinter",
}
SERVERS = {"aiohttp.web", "numpy", "scipy", "highspy", "plyvel", "uvloop", "amqtt"}
HOSTS = {
    f"node.{name}"
    for name in ("channel", "driver", "service", "http_api", "block_store", "vote_log", "key_value", "transport", "meter_feed")
}
"""The running process: no business of a meter or an agent, even where its libraries are installed."""
BLOCK = """
import importlib, importlib.abc, sys
blocked = set(sys.argv[2].split(","))
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == bad or name.startswith(bad + ".") for bad in blocked):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
        return None
sys.meta_path.insert(0, Refuse())
for name in sys.argv[1].split(","):
    importlib.import_module(name)
loaded = sorted(name for name in sys.modules if name.split(".")[0] in ("node", "cluster", "dispatch"))
print(",".join(loaded))
"""


def requirements() -> dict[str, set[str]]:
    """Return the modules that each extra of setup.cfg installs, and those of the whole project under ''."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {extra: {_module(line) for line in text.splitlines() if line.strip() and line[0] != "#"} for extra, text in lists.items()}


def _module(requirement: str) -> str:
    name = re.split(r"[<>=!~;\[ ]", requirement.strip())[0]
    return MODULE_OF.get(name, name.replace("-", "_"))


def imported(names: list[str], blocked: set[str]) -> subprocess.CompletedProcess[str]:
    """Import modules in a process of their own in which others do not exist."""
    command = [sys.executable, "-c", BLOCK, ",".join(names), ",".join(sorted(blocked))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["node.client", "contracts.topics", "meters.agent", "meters.simulated"])
def test_the_edge_needs_the_meter_extra_only(name: str) -> None:
    wanted = requirements()
    blocked = set().union(*wanted.values()) - wanted["meter"] | SERVERS
    result = imported([name], blocked)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.strip().split(","))
    assert loaded & HOSTS == set(), "loads the node itself"
    assert not [module for module in loaded if module.startswith(("cluster", "dispatch"))]


def test_the_pure_packages_need_msgspec_and_signatures_only() -> None:
    names = [shown(path)[:-3].replace("/__init__", "").replace("/", ".") for path in modules("consensus", "contracts")]
    blocked = set().union(*requirements().values()) - {"msgspec", "nacl"} | SERVERS | {"node", "meters", "cluster", "dispatch", "asyncio"}
    result = imported(names, blocked)
    assert result.returncode == 0, result.stderr


def test_the_block_itself_works() -> None:
    result = imported(["msgspec"], {"msgspec"})
    assert result.returncode == 1
    assert "msgspec is not installed here" in result.stderr
